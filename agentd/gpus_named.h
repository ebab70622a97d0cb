/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This host's GPUs as containers without VMs get them: by the names that container engines know.
 * Each is one instance's at a time.
 * Trust: runs inside agentd; reads procfs and the administrator's list.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "common/gpuname.h"
#include "proto/proto.h"

#define GPU_NAME_SIZE (GPUNAME_MAX + 1)

struct gpu_named {
	char name[GPU_NAME_SIZE];
	uint64_t address; /* of PCI; 0: not known */
	bool taken;       /* the caller's: some instance has it */
};

struct gpus_named {
	struct gpu_named gpus[PROTO_MAX_GPUS]; /* in the order in which they are given */
	size_t n;
};

/*
 * Reads @list, names with commas between, as the administrator gives them: all numbers or none, as
 * both may mean the same GPU. -EINVAL with the reason.
 */
int gpus_named_parse(const char *list, struct gpus_named *ret_gpus, struct err *reterr);

/*
 * Those that NVIDIA's driver has, by their UUIDs and in the order of their addresses; none without
 * that driver. @proc_fd: /proc.
 */
void gpus_named_find(int proc_fd, struct gpus_named *ret_gpus);

/*
 * Takes the first @count that are not taken, or just those at @addresses (ascending, the rest zero)
 * when there are any: marks them and writes their names. Returns 0; -ENODEV when this host does not
 * have such or as many, -EBUSY when they are taken, with the reason.
 */
int gpus_named_take(struct gpus_named *gpus, uint32_t count,
		    const uint64_t addresses[static PROTO_MAX_GPUS],
		    char ret_names[static PROTO_MAX_GPUS][GPU_NAME_SIZE], struct err *reterr);
