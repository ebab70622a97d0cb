/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who this agent is to the world outside, and secrets that the administrator keeps in files.
 * Trust: runs inside agentd before it is confined; reads files of its own and the administrator's.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"

#define IDENTITY_FILE "agent_id"
#define IDENTITY_SIZE 40 /* a UUID with its NUL, padded */

/*
 * Reads the agent's UUID from IDENTITY_FILE in @data_fd, making one the first time. The control
 * plane and the tunnels' server know us by it. -EINVAL when the file holds something else.
 */
int identity_load(int data_fd, char ret_id[static IDENTITY_SIZE], struct err *reterr);

/*
 * The first line of the file @path, which nobody else may read; @what names it in errors, which
 * never hold a byte of it.
 */
int identity_read_secret(const char *path, const char *what, char *ret_text, size_t size,
			 struct err *reterr);
