/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What GPUs are called: pci.ids, opened before the process is confined and read when a pair of ids
 * is seen for the first time.
 * Trust: runs inside agentd; reads a file of the system.
 */
#pragma once

#include "agentd/gpus.h"
#include "agentd/pciids.h"

struct gpu_names {
	int fd;                    /* owned; negative: there is no such file */
	struct pciids_name *known; /* owned */
	size_t n;
};

/* Opens @path. Its absence is no error: then nothing has a name. */
void gpu_names_open(struct gpu_names *ret_names, const char *path);
void gpu_names_done(struct gpu_names *names);

/* Makes sure that all GPUs of @gpus have been looked up. */
void gpu_names_learn(struct gpu_names *names, const struct gpus *gpus);

/* What is known of the pair; NULL when it has not been looked up. */
const struct pciids_name *gpu_names_get(const struct gpu_names *names, uint32_t vendor,
					uint32_t device);
