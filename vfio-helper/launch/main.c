/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm-launch: takes the spec from its descriptor, waits at the gate, becomes the program.
 * Trust: runs as a VM's user, started by vfio-helper; reads a sealed struct, root's
 * image.conf and firmware, sysfs and, from the gate, one byte of the helper.
 */
#include "vfio-helper/launch/launch.h"

#include "common/fd.h"
#include "common/priv.h"
#include "vm-qemu-img.filter.h"
#include "vm-qemu.filter.h"

#include <fcntl.h>

_noreturn_ static void give_up(const char *what, int r)
{
	(void)dprintf(STDERR_FILENO, "vm-launch: %s: %s\n", what, strerrordesc_np(-r));
	_exit(126);
}

static int take_launch(struct launch *ret_launch)
{
	ssize_t size = fd_memfd_check(LAUNCH_FD, sizeof(*ret_launch));

	if (size != sizeof(*ret_launch))
		return size < 0 ? (int)size : -EBADMSG;
	if (pread(LAUNCH_FD, ret_launch, sizeof(*ret_launch), 0) != size)
		return -EIO;
	(void)close(LAUNCH_FD);
	if (ret_launch->setup.version != SPAWN_VERSION)
		return -EPROTO;
	return spec_check(&ret_launch->spec, &ret_launch->setup);
}

/* Tells that we are here, and waits until the helper has written down who we are: after a crash of
 * it nobody starts. */
static void pass_gate(const struct launch *l)
{
	char byte = 'I';
	int r = 0;

	if (l->spec.program == PROGRAM_PASST && l->setup.require_isolation)
		r = isolation_check();
	if (r < 0)
		give_up("a guest could reach this host's loopback; is the packet filter for the "
			"VMs' users loaded?",
			r);
	if (write(CHILD_FD(FD_GATE), &byte, 1) != 1)
		give_up("gate", -errno);
	if (read(CHILD_FD(FD_GATE), &byte, 1) != 1)
		_exit(125);
	(void)close(CHILD_FD(FD_GATE));
}

static void take_image(const struct launch *l, struct image *ret_image)
{
	uint32_t mib = l->spec.disk_mib;
	struct err err = {0};

	if (!(l->spec.roles & FD_BIT(FD_IMAGE)))
		return;
	if (image_read(CHILD_FD(FD_IMAGE), ret_image, &err) < 0)
		give_up(err.text, -EINVAL);
	(void)close(CHILD_FD(FD_IMAGE));
	if (l->spec.program == PROGRAM_QEMU &&
	    (disk_check(CHILD_FD(FD_DISK), IMAGE_QCOW2) < 0 ||
	     disk_check(CHILD_FD(FD_BASE), ret_image->format) < 0))
		give_up("a disk is no image of its format, or its header names another file",
			-EINVAL);
	if (l->spec.program != PROGRAM_QEMU_IMG)
		return;
	if (mib != 0 && mib < ret_image->min_disk_mib)
		_exit(LAUNCH_TOO_SMALL);
	if (mib == 0 && ret_image->min_disk_mib > l->setup.max_disk_mib)
		give_up("the image's min_disk_mib is over max_disk_mib", -ERANGE);
}

/* What a guest's machine needs of this host, before the filter closes. */
static void take_machine(const struct spawn_spec *spec, const struct spawn_setup *setup,
			 struct machine *ret_machine)
{
	struct err err = {0};
	struct host host;
	int r;

	if (spec->program != PROGRAM_QEMU)
		return;
	host_read(spec, &host);
	if (layout_fit(spec, &host, ret_machine, &err) < 0) {
		(void)dprintf(STDERR_FILENO, "vm-launch: %s\n", err.text);
		_exit(LAUNCH_NO_ROOM);
	}
	if (firmware_prepare(spec, setup, ret_machine, &err) < 0) {
		(void)dprintf(STDERR_FILENO, "vm-launch: %s\n", err.text);
		_exit(126);
	}
	r = host_open_devices(spec);
	if (r < 0)
		give_up("/dev/vfio/devices", r);
	host_prefer_node(spec);
}

/* passt closes a filter of its own, and needs what these forbid to get that far. */
static void confine(const struct spawn_spec *spec)
{
	struct err err;
	int r = 0;

	if (spec->program == PROGRAM_QEMU_IMG)
		r = priv_enter_filter("qemu-img", filter_vm_qemu_img, filter_vm_qemu_img_len, &err);
	else if (spec->program != PROGRAM_PASST)
		r = priv_enter_filter("QEMU", filter_vm_qemu, filter_vm_qemu_len, &err);
	if (r < 0)
		give_up(err.text, -EPERM);
}

int main(void)
{
	static struct launch launch;
	static struct image image;
	static struct machine machine;
	static struct args args;
	enum launch_exit result = LAUNCH_SILENT;
	int r;

	if (geteuid() == 0 || getuid() == 0)
		give_up("started as root", -EPERM);
	r = take_launch(&launch);
	if (r < 0)
		give_up("no spec of vfio-helper's", r);
	take_image(&launch, &image);
	take_machine(&launch.spec, &launch.setup, &machine);
	r = spec_args(&launch.spec, &launch.setup, &image, &machine, &args);
	if (r < 0)
		give_up("the command line", r);
	if (launch.spec.program == PROGRAM_TRIAL) {
		r = trial_run(&args, launch.setup.kvm_trial_seconds, &result);
		if (r < 0)
			give_up("the trial of KVM", r);
		_exit((int)result);
	}
	if (launch.spec.roles & FD_BIT(FD_GATE))
		pass_gate(&launch);
	confine(&launch.spec);
	(void)execv(args.argv[0], args.argv);
	give_up(args.argv[0], -errno);
}
