/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a checked description to a command line. Pure: no I/O, no state.
 * Trust: runs as a VM's user. Nothing that came over IPC but numbers and a NAME gets into an
 * argument; the kernel's command line is the image's own, from root's image.conf.
 */
#include "vfio-helper/launch/launch.h"

#include <stdarg.h>

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
static void add_kernel(struct args *a, const struct spawn_spec *s, const struct image *image)
{
	if (!(s->roles & FD_BIT(FD_KERNEL)))
		return;
	opt(a, "-kernel", "/proc/self/fd/%d", CHILD_FD(FD_KERNEL));
	if (s->roles & FD_BIT(FD_INITRD)) {
		opt(a, "-initrd", "/proc/self/fd/%d", CHILD_FD(FD_INITRD));
	}
	if (image->append[0] != '\0') {
		opt(a, "-append", "%s", image->append);
	}
}

static void qemu_args(const struct spawn_spec *s, const struct spawn_setup *c,
		      const struct image *image, struct args *a)
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
	add_disk(a, "base", image->format == IMAGE_RAW ? "raw" : "qcow2", FD_BASE, "read-only=on",
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
	add_kernel(a, s, image);
}

/*
 * An address of its own for the guest and the loopback as named interface: passt then starts
 * whatever the host's network looks like, and takes no address of the host. One -t per port: passt
 * takes a port in use for fatal only then.
 */
static void passt_args(const struct spawn_spec *s, const struct spawn_setup *c, struct args *a)
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

static void qemu_img_args(const struct spawn_spec *s, const struct spawn_setup *c,
			  const struct image *image, struct args *a)
{
	static const char *const fixed[] = {"create", "-q", "-f", "qcow2", NULL};

	add(a, "%s", c->qemu_img_binary);
	add_all(a, fixed);
	add(a, "/proc/self/fd/%d", CHILD_FD(FD_DISK));
	add(a, "%uM", s->disk_mib != 0 ? s->disk_mib : image->min_disk_mib);
}

static void trial_args(const struct spawn_setup *c, struct args *a)
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
	opt(a, "-chardev", "socket,id=serial,fd=%d", CHILD_FD(FD_CONSOLE)); /* trial.c makes it */
	opt(a, "-serial", "chardev:serial");
}

int spec_args(const struct spawn_spec *spec, const struct spawn_setup *setup,
	      const struct image *image, struct args *ret_args)
{
	struct args *a = ret_args;

	a->n = a->used = 0;
	a->overflow = false;
	switch ((enum program)spec->program) {
	case PROGRAM_QEMU:
		qemu_args(spec, setup, image, a);
		break;
	case PROGRAM_PASST:
		passt_args(spec, setup, a);
		break;
	case PROGRAM_QEMU_IMG:
		qemu_img_args(spec, setup, image, a);
		break;
	case PROGRAM_TRIAL:
		trial_args(setup, a);
		break;
	}
	a->argv[a->n] = NULL;
	return a->overflow ? -E2BIG : 0;
}
