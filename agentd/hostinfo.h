/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this host is and how busy it is, as far as an ordinary user can read it. What cannot be
 * known is left unknown, never guessed.
 * Trust: runs inside agentd; reads procfs, sysfs and udev's records.
 */
#pragma once

#include "agentd/control/control.h"
#include "common/err.h"

/* Descriptors of /proc, /sys and /run/udev/data (or of made-up ones, for tests); owned. */
struct hostinfo {
	int proc_fd, sys_fd;
	int udev_fd;                  /* negative: there is none, as in a container */
	uint64_t cpu_busy, cpu_total; /* of the previous sample, in ticks */
};

int hostinfo_open(struct hostinfo *ret_info, struct err *reterr);
void hostinfo_done(struct hostinfo *info);

/* Fills what describes the machine; GPUs and location are the caller's. @data_fd: disk of. */
void hostinfo_describe(const struct hostinfo *info, int data_fd, struct control_host *ret_host);

/*
 * Fills CPU, memory and network; the rest is unknown. CPU use is since the previous call, unknown
 * at the first.
 */
void hostinfo_sample(struct hostinfo *info, struct control_stats *ret_stats);

/*
 * The highest CUDA version that NVIDIA driver @version ("550.54.14") supports, "" when unknown.
 * Source: NVIDIA, CUDA Toolkit release notes, table of toolkit and minimum driver versions.
 */
const char *hostinfo_cuda_of_driver(const char *version);

/*
 * Memory of the GPU at @address ("0000:01:00.0"), in MiB: from its driver where that tells
 * (amdgpu), else from @name where that names it ("A100 PCIe 80GB"). CONTROL_UNKNOWN otherwise: the
 * size of a BAR is no answer. @sys_fd: /sys.
 */
uint32_t hostinfo_vram_mib(int sys_fd, const char *address, const char *name);
