/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm-launch: the one program that vfio-helper execs as a VM's user. It turns a fixed-size spec
 * into a command line and becomes QEMU, passt or qemu-img.
 */
#pragma once

#include "common/err.h"
#include "vfio-helper/spec.h"

#define ARGS_MAX      320 /* two for each device and for each root port, and what all have */
#define ARGS_TEXT_MAX 24576
struct args {
	char *argv[ARGS_MAX + 1]; /* point into text */
	size_t n, used;
	bool overflow;
	char text[ARGS_TEXT_MAX];
};

enum image_format {
	IMAGE_QCOW2,
	IMAGE_RAW,
};

#define APPEND_MAX 512
struct image {
	int format; /* enum image_format */
	uint32_t min_disk_mib;
	char append[APPEND_MAX]; /* the kernel's command line */
};

/* Reads image.conf from @fd. */
int image_read(int fd, struct image *ret_image, struct err *reterr);
/* 0 when the disk is of @format and stands for itself; -EINVAL, -EPERM when it names other files.
 */
int disk_check(int fd, int format);

/* How wide a guest's addresses may be here, and what QEMU makes of it. */
struct host {
	uint32_t cpu_bits;   /* of the CPU that the guest sees */
	uint32_t iommu_bits; /* the least of the IOMMUs before its devices; 0: they do not say */
	bool is_amd;         /* its CPU: QEMU keeps the last 12 GiB below 1 TiB free */
};

/* What a guest's machine takes from this host. All zero without firmware and devices. */
struct machine {
	bool uefi;              /* OVMF: code at CHILD_FD(FD_FIRMWARE), variables at FD_VARS */
	uint32_t address_limit; /* bits; 0: as many as the CPU has */
	uint64_t window_bytes;  /* the firmware's window for 64-bit BARs; whole GiB */
	uint64_t hole_bytes;    /* what QEMU keeps free above the memory for it; whole GiB */
};

/* Asks the CPU, and the kernel for the IOMMUs of the spec's devices. */
void host_read(const struct spawn_spec *spec, struct host *ret_host);
/* Prefers memory of the devices' NUMA node, when they are all on one, for this process. */
void host_prefer_node(const struct spawn_spec *spec);
/* With iommufd: opens the spec's i-th device at CDEV_FD(i). 0 or a negative errno. */
int host_open_devices(const struct spawn_spec *spec);
#define CDEV_FD(i) (LAUNCH_FD + 1 + (int)(i))

/*
 * Finds a window that takes the BARs of the spec's devices, above its memory, in the address space
 * of @host, and writes address_limit, window_bytes and hole_bytes. -ERANGE, with the figures in
 * @reterr, when there is none. Pure.
 */
int layout_fit(const struct spawn_spec *spec, const struct host *host, struct machine *machine,
	       struct err *reterr);

/*
 * Decides between OVMF and QEMU's BIOS and writes @machine->uefi. For OVMF its code is then open at
 * CHILD_FD(FD_FIRMWARE), and the variables at CHILD_FD(FD_VARS) are filled from the template if
 * they were not. @reterr names the remedy.
 */
int firmware_prepare(const struct spawn_spec *spec, const struct spawn_setup *setup,
		     struct machine *machine, struct err *reterr);

/*
 * Builds the command line of a checked spec. @image is that of QEMU and qemu-img, @machine QEMU's.
 * -E2BIG never happens for a checked one.
 */
int spec_args(const struct spawn_spec *spec, const struct spawn_setup *setup,
	      const struct image *image, const struct machine *machine, struct args *ret_args);

/*
 * Returns 0 when the host's loopback refuses TCP and UDP of the calling user, IPv4 and IPv6;
 * -EISCONN when it does not, another negative errno when that cannot be found out.
 */
int isolation_check(void);

/*
 * Runs the QEMU of @args, whose console is CHILD_FD(FD_CONSOLE), until a kernel has said its first
 * words or @seconds have passed, and ends it. A negative errno when QEMU ends by itself.
 */
int trial_run(const struct args *args, uint32_t seconds, enum launch_exit *ret_result);
