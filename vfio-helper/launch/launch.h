/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm-launch: the one program that the spawner execs, as the VM's user. It turns a fixed-size spec
 * into a command line and becomes QEMU, passt or qemu-img.
 */
#pragma once

#include "common/err.h"
#include "vfio-helper/spec.h"

#define ARGS_MAX      128
#define ARGS_TEXT_MAX 8192
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

/*
 * Builds the command line of a checked spec. @image is that of QEMU and qemu-img. -E2BIG never
 * happens for a checked one.
 */
int spec_args(const struct spawn_spec *spec, const struct spawn_setup *setup,
	      const struct image *image, struct args *ret_args);

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
