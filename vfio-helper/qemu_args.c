/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a typed description to a command line. Pure: no I/O, no state.
 * Trust: runs as root in both halves of the helper; every number and name in a spec is checked here
 * once more, whoever wrote it. Nothing that came over IPC but numbers and a NAME gets into an
 * argument; the kernel's command line is the image's own, from root's image.conf.
 */
#include "vfio-helper/helper.h"

#include <stdarg.h>

/* What each program must be given and may be given besides. */
static const struct {
	uint32_t must, may;
} program_roles[] = {
	[PROGRAM_QEMU] = {FD_BIT(FD_STDERR) | FD_BIT(FD_GATE) | FD_BIT(FD_NET) |
				  FD_BIT(FD_CONSOLE) | FD_BIT(FD_DISK) | FD_BIT(FD_BASE) |
				  FD_BIT(FD_SEED) | FD_BIT(FD_QMP) | FD_BIT(FD_READY),
			  FD_BIT(FD_CGROUP) | FD_BIT(FD_KERNEL) | FD_BIT(FD_INITRD)},
	[PROGRAM_PASST] = {FD_BIT(FD_STDERR) | FD_BIT(FD_GATE) | FD_BIT(FD_NET), FD_BIT(FD_CGROUP)},
	[PROGRAM_QEMU_IMG] = {FD_BIT(FD_STDERR) | FD_BIT(FD_DISK), 0},
	[PROGRAM_TRIAL] = {FD_BIT(FD_STDERR) | FD_BIT(FD_CONSOLE) | FD_BIT(FD_KERNEL), 0},
};

static bool within(uint32_t value, uint32_t low, uint32_t high)
{
	return value >= low && value <= high;
}

/* Printable, ended, and the rest of the field zero. */
static bool text_ok(const char *text, size_t size)
{
	size_t len = strnlen(text, size);

	if (len == size)
		return false;
	for (size_t i = 0; i < size; i++)
		if (i < len ? text[i] < 0x20 || text[i] > 0x7e : text[i] != 0)
			return false;
	return true;
}

static bool vm_ok(const struct spawn_spec *s, const struct config *c)
{
	size_t n = proto_ports_count(s->ports);

	for (size_t i = 0; i < n; i++)
		if (!within(s->ports[i].host, c->port_low, c->port_high) || s->ports[i].guest == 0)
			return false;
	return within(s->cpus, 1, c->max_cpus) && within(s->memory_mib, 128, c->max_memory_mib) &&
	       within(s->accel, PROTO_ACCEL_KVM, PROTO_ACCEL_TCG) &&
	       within((uint32_t)s->base_format, IMAGE_QCOW2, IMAGE_RAW);
}

int spec_check(const struct spawn_spec *s, const struct config *c)
{
	if (!within(s->program, PROGRAM_QEMU, PROGRAM_TRIAL) || s->slot >= c->max_vms)
		return -EINVAL;
	if ((s->roles & program_roles[s->program].must) != program_roles[s->program].must ||
	    (s->roles & ~(program_roles[s->program].must | program_roles[s->program].may)))
		return -EINVAL;
	if (!text_ok(s->vm, sizeof(s->vm)) || !text_ok(s->append, sizeof(s->append)))
		return -EINVAL;
	if (s->program == PROGRAM_TRIAL)
		return 0;
	if (!proto_name_valid(s->vm))
		return -EINVAL;
	if (s->program == PROGRAM_QEMU_IMG)
		return within(s->disk_mib, 1, c->max_disk_mib) ? 0 : -EINVAL;
	return vm_ok(s, c) ? 0 : -EINVAL;
}

static void _printf_(2, 0) add_va(struct args *a, const char *format, va_list ap)
{
	size_t room = sizeof(a->text) - a->used;
	int n = vsnprintf(a->text + a->used, room, format, ap);

	if (a->n == ARGS_MAX || n < 0 || (size_t)n >= room) {
		a->overflow = true;
		return;
	}
	a->argv[a->n++] = a->text + a->used;
	a->used += (size_t)n + 1;
}

static void _printf_(2, 3) add(struct args *a, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	add_va(a, format, ap);
	va_end(ap);
}

/* An option and its value. */
static void _printf_(3, 4) opt(struct args *a, const char *name, const char *format, ...)
{
	va_list ap;

	add(a, "%s", name);
	va_start(ap, format);
	add_va(a, format, ap);
	va_end(ap);
}

static void add_all(struct args *a, const char *const *words)
{
	for (; *words; words++)
		add(a, "%s", *words);
}

static const char *const confined[] = {
	"-sandbox",    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	"-nodefaults", "-no-user-config",
	"-display",    "none",
	NULL};

static void add_disk(struct args *a, const char *node, const char *driver, enum fd_role role,
		     const char *options, const char *file_options)
{
	opt(a, "-add-fd", "set=%d,fd=%d", CHILD_FD(role), CHILD_FD(role));
	opt(a, "-blockdev",
	    "driver=%s,node-name=%s,%s,file.driver=file,file.filename=/dev/fdset/%d,%s", driver,
	    node, options, CHILD_FD(role), file_options);
}

static void add_chardev(struct args *a, const char *id, enum fd_role role)
{
	opt(a, "-chardev", "socket,id=%s,fd=%d,server=on,wait=off", id, CHILD_FD(role));
}

/* QEMU opens these by name only; the descriptor is opened again, read-only, as the VM's user. */
static void add_kernel(struct args *a, const struct spawn_spec *s)
{
	if (!(s->roles & FD_BIT(FD_KERNEL)))
		return;
	opt(a, "-kernel", "/proc/self/fd/%d", CHILD_FD(FD_KERNEL));
	if (s->roles & FD_BIT(FD_INITRD)) {
		opt(a, "-initrd", "/proc/self/fd/%d", CHILD_FD(FD_INITRD));
	}
	if (s->append[0] != '\0') {
		opt(a, "-append", "%s", s->append);
	}
}

static void qemu_args(const struct spawn_spec *s, const struct config *c, struct args *a)
{
	static const char *const devices[] = {
		"-device", "virtio-blk-pci,drive=root,bootindex=1",
		"-device", "virtio-blk-pci,drive=seed",
		"-device", "virtio-rng-pci",
		"-device", "isa-serial,chardev=console",
		"-device", "virtio-serial-pci",
		"-device", "virtserialport,chardev=ready,name=org.qudata.ready.0",
		"-mon",    "chardev=qmp,mode=control",
		NULL};
	bool kvm = s->accel == PROTO_ACCEL_KVM;

	add(a, "%s", c->qemu_binary);
	add_all(a, confined);
	opt(a, "-name", "guest=%s", s->vm);
	opt(a, "-machine",
	    "q35,usb=off,sata=off,smbus=off,hpet=off,vmport=off,graphics=off,dump-guest-core=off");
	opt(a, "-accel", "%s", kvm ? "kvm" : "tcg,thread=multi");
	opt(a, "-cpu", "%s", kvm ? "host" : "max");
	opt(a, "-smp", "%u", s->cpus);
	opt(a, "-m", "%u", s->memory_mib);
	add_disk(a, "base", s->base_format == IMAGE_RAW ? "raw" : "qcow2", FD_BASE, "read-only=on",
		 "file.read-only=on");
	add_disk(a, "root", "qcow2", FD_DISK, "discard=unmap,detect-zeroes=unmap,backing=base",
		 "file.discard=unmap");
	add_disk(a, "seed", "raw", FD_SEED, "read-only=on", "file.read-only=on");
	add_chardev(a, "qmp", FD_QMP);
	add_chardev(a, "console", FD_CONSOLE);
	add_chardev(a, "ready", FD_READY);
	opt(a, "-netdev", "stream,id=net,server=off,addr.type=fd,addr.str=%d", CHILD_FD(FD_NET));
	opt(a, "-device", "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:51:44:%02x", s->slot);
	add_all(a, devices);
	add_kernel(a, s);
}

/*
 * An address of its own for the guest and the loopback as named interface: passt then starts
 * whatever the host's network looks like, and takes no address of the host. One -t per port: passt
 * takes a port in use for fatal only then.
 */
static void passt_args(const struct spawn_spec *s, const struct config *c, struct args *a)
{
	static const char *const fixed[] = {
		"--foreground", "--quiet",   "--stderr",  "--ipv4-only", "--no-map-gw",
		"--interface",  "lo",        "--address", "10.0.2.15",   "--netmask",
		"24",           "--gateway", "10.0.2.2",  "--mac-addr",  "52:54:00:51:44:ff",
		"--udp-ports",  "none",      NULL};
	size_t n = proto_ports_count(s->ports);

	add(a, "%s", c->passt_binary);
	add_all(a, fixed);
	opt(a, "--dns", "%s", c->dns);
	opt(a, "--fd", "%d", CHILD_FD(FD_NET));
	if (n == 0) {
		opt(a, "--tcp-ports", "none");
	}
	for (size_t i = 0; i < n; i++) {
		opt(a, "--tcp-ports", "127.0.0.1/%u:%u", s->ports[i].host, s->ports[i].guest);
	}
}

static void qemu_img_args(const struct spawn_spec *s, const struct config *c, struct args *a)
{
	static const char *const fixed[] = {"create", "-q", "-f", "qcow2", NULL};

	add(a, "%s", c->qemu_img_binary);
	add_all(a, fixed);
	add(a, "/proc/self/fd/%d", CHILD_FD(FD_DISK));
	add(a, "%uM", s->disk_mib);
}

static void trial_args(const struct config *c, struct args *a)
{
	static const char *const fixed[] = {
		"-machine",
		"microvm",
		"-accel",
		"kvm",
		"-cpu",
		"host",
		"-m",
		"128",
		"-no-reboot",
		"-append",
		"console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1",
		NULL};

	add(a, "%s", c->qemu_binary);
	add_all(a, confined);
	add_all(a, fixed);
	opt(a, "-kernel", "/proc/self/fd/%d", CHILD_FD(FD_KERNEL));
	opt(a, "-chardev", "socket,id=serial,fd=%d", CHILD_FD(FD_CONSOLE));
	opt(a, "-serial", "chardev:serial");
}

int spec_args(const struct spawn_spec *spec, const struct config *config, struct args *ret_args)
{
	struct args *a = ret_args;

	a->n = a->used = 0;
	a->overflow = false;
	switch ((enum program)spec->program) {
	case PROGRAM_QEMU:
		qemu_args(spec, config, a);
		break;
	case PROGRAM_PASST:
		passt_args(spec, config, a);
		break;
	case PROGRAM_QEMU_IMG:
		qemu_img_args(spec, config, a);
		break;
	case PROGRAM_TRIAL:
		trial_args(config, a);
		break;
	}
	a->argv[a->n] = NULL;
	return a->overflow ? -E2BIG : 0;
}
