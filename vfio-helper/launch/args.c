/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a checked description to a command line. Pure: no I/O, no state.
 * Trust: runs as a VM's user. Nothing that came over IPC but numbers and a NAME gets into an
 * argument; the kernel's command line is the image's own, from root's image.conf.
 */
#include "vfio-helper/launch/launch.h"

#include "vfio-helper/pci/pci.h"

#include <stdarg.h>

#define FIRST_PORT_SLOT 8 /* of the root ports on pcie.0; QEMU gives others out from 1 on */
/* Not locked: who may only read it could keep every other VM from it by a lock of their own. */
#define SHARED_FILE     "file.read-only=on,file.locking=off"

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

static void add_firmware(struct args *a)
{
	add_disk(a, "firmware", "raw", FD_FIRMWARE, "read-only=on", SHARED_FILE);
	add_disk(a, "vars", "raw", FD_VARS, "read-only=off", "file.read-only=off");
}

static bool has_flag(const struct spawn_spec *s, uint32_t flag)
{
	uint32_t flags = 0;

	for (uint32_t i = 0; i < s->n_devices; i++)
		flags |= s->devices[i].flags;
	return flags & flag;
}

/*
 * Guests with devices see as many address bits as CPU and IOMMU have. kvm=off takes KVM's signature
 * out of CPUID, which is what a driver looks for; hv_vendor_id would only rename Hyper-V's, and
 * without its features there is none.
 */
static void add_cpu(struct args *a, const struct spawn_spec *s, const struct machine *m)
{
	bool hide = has_flag(s, LAUNCH_DEVICE_HIDE_VM);
	char limit[40] = "";

	if (m->address_limit != 0)
		(void)snprintf(limit, sizeof(limit), ",host-phys-bits-limit=%u", m->address_limit);
	if (s->accel != PROTO_ACCEL_KVM)
		opt(a, "-cpu", "max");
	else if (s->n_devices == 0)
		opt(a, "-cpu", "host");
	else
		opt(a, "-cpu", "host,host-phys-bits=on%s%s", limit, hide ? ",kvm=off" : "");
}

/* Room for the BARs: QEMU announces it to the guest, OVMF uses it. */
static void add_window(struct args *a, const struct machine *m)
{
	if (m->window_bytes == 0)
		return;
	opt(a, "-global", "q35-pcihost.pci-hole64-size=%lluG",
	    (unsigned long long)(m->hole_bytes >> 30));
	if (m->uefi) {
		opt(a, "-fw_cfg", "name=opt/ovmf/X-PciMmio64Mb,string=%llu",
		    (unsigned long long)(m->window_bytes >> 20));
	}
}

/* sysfsdev= rather than host=, which knows no domain above ffff. */
static void add_device(struct args *a, const struct spawn_spec *s, uint32_t i)
{
	const struct launch_device *d = &s->devices[i];
	char where[80], address[PCI_TEXT_SIZE];

	pci_addr_text(d->address, address);
	if (d->cdev != UINT32_MAX)
		(void)snprintf(where, sizeof(where), "iommufd=iommufd0,fd=%d", CDEV_FD(i));
	else
		(void)snprintf(where, sizeof(where), "sysfsdev=/sys/bus/pci/devices/%s", address);
	opt(a, "-device", "vfio-pci,id=gpu%u-%u,%s,bus=port%u,addr=0.%u%s%s", d->card, d->function,
	    where, d->card, d->function, d->function == 0 ? ",multifunction=on" : "",
	    d->flags & LAUNCH_DEVICE_NO_ROM ? ",rombar=0" : "");
}

/*
 * A card is behind a root port of its own, as on a board: drivers want to see a PCIe link, and the
 * functions stay together. The slots are fixed, so that a guest finds its GPUs where they were.
 * The firmware sizes the ports' windows by what is there at boot; nothing is plugged in later.
 */
static void add_devices(struct args *a, const struct spawn_spec *s)
{
	/* Not "iommufd": devices have a member of that name, and QEMU would find both. */
	if (s->roles & FD_BIT(FD_IOMMU)) {
		opt(a, "-object", "iommufd,id=iommufd0,fd=%d", CHILD_FD(FD_IOMMU));
	}
	for (uint32_t i = 0; i < s->n_devices; i++)
		if (s->devices[i].function == 0) {
			uint32_t card = s->devices[i].card;

			opt(a, "-device",
			    "pcie-root-port,id=port%u,bus=pcie.0,addr=0x%x,chassis=%u,slot=%u,"
			    "hotplug=off",
			    card, FIRST_PORT_SLOT + card, card + 1, card + 1);
		}
	for (uint32_t i = 0; i < s->n_devices; i++)
		add_device(a, s, i);
}

static void qemu_args(const struct spawn_spec *s, const struct spawn_setup *c,
		      const struct image *image, const struct machine *m, struct args *a)
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
	    "q35,usb=off,sata=off,smbus=off,hpet=off,vmport=off,graphics=off,dump-guest-core=off%s",
	    m->uefi ? ",pflash0=firmware,pflash1=vars" : "");
	opt(a, "-accel", "%s", kvm ? "kvm" : "tcg,thread=multi");
	add_cpu(a, s, m);
	opt(a, "-smp", "%u", s->cpus);
	opt(a, "-m", "%u", s->memory_mib);
	add_disk(a, "base", image->format == IMAGE_RAW ? "raw" : "qcow2", FD_BASE, "read-only=on",
		 SHARED_FILE);
	add_disk(a, "root", "qcow2", FD_DISK, "discard=unmap,detect-zeroes=unmap,backing=base",
		 "file.discard=unmap");
	add_disk(a, "seed", "raw", FD_SEED, "read-only=on", "file.read-only=on");
	if (m->uefi)
		add_firmware(a);
	add_window(a, m);
	add_chardev(a, "qmp", FD_QMP);
	add_chardev(a, "console", FD_CONSOLE);
	add_chardev(a, "ready", FD_READY);
	opt(a, "-netdev", "stream,id=net,server=off,addr.type=fd,addr.str=%d", CHILD_FD(FD_NET));
	opt(a, "-device", "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:51:44:%02x", s->slot);
	add_all(a, devices);
	add_devices(a, s);
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
	      const struct image *image, const struct machine *machine, struct args *ret_args)
{
	struct args *a = ret_args;

	a->n = a->used = 0;
	a->overflow = false;
	switch ((enum program)spec->program) {
	case PROGRAM_QEMU:
		qemu_args(spec, setup, image, machine, a);
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
