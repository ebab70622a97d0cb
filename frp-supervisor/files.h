/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of the run directory: what outlives the supervisor, and nothing that has to outlive the
 * host. Trust: runs in frp-supervisor; reads its own files and /proc.
 */
#pragma once

#include "common/base.h"
#include "frp-supervisor/render.h"
#include "frp-supervisor/spawner/spawn.h"

#include <sys/types.h>

/*
 * Replaces the file @name, mode 0600, in one step for whoever reads it. Not durable, on purpose: a
 * host that has crashed has no frpc to be taken over, and frpc waits for this file at each change.
 */
int files_replace(int dirfd, const char *name, const void *data, size_t len);

/* A running frpc, for the supervisor's successor. */
struct run_record {
	uint32_t pid;
	char start[SPAWN_TIME_SIZE]; /* see spawn_start_time() */
	uint32_t port;
	char password[RENDER_PASSWORD_SIZE];
	char digest[RENDER_DIGEST_SIZE];
	char version[24];
};

int files_write_record(int run_fd, const struct run_record *record);
/* Returns 0 when there is one and it makes sense, else a negative errno. */
int files_read_record(const char *run_dir, struct run_record *ret_record);
void files_drop_record(int run_fd);
