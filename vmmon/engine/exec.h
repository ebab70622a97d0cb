/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One program run in the container, to its end.
 * Trust: runs in vmmon; reads answers of a container engine in a guest, and what a program of the
 * tenant's image prints.
 */
#pragma once

#include "common/base.h"
#include "vmmon/engine/link.h"

#include <event2/event.h>

#define EXEC_OUTPUT_MAX 4096 /* bytes of what it prints that are kept: the last */

struct exec_request {
	unsigned int version;    /* of the engine's API */
	const char *container;   /* its id */
	const char *const *argv; /* ends with NULL. Constants: never a text of a request */
	uint32_t limit_ms;       /* then it is given up, though it may go on in the container */
	void *arg;
	/*
	 * The end, once, unless it is freed before. @r: 0, with its exit code and what it printed;
	 * otherwise why it could not be run: -ECONNREFUSED, -EPIPE, -ETIMEDOUT, -EBADMSG, -EFBIG,
	 * or -EIO (the engine refuses). The exec must then be freed: here, or later.
	 */
	void (*on_done)(void *arg, int r, unsigned int exit_code, const char *output, size_t len);
};

struct exec;

/* Begins. on_done is never called from within. @request is not needed any more afterwards. */
int exec_start(struct event_base *base, struct engine_link *link,
	       const struct exec_request *request, struct exec **ret_exec);

/* Waits for it no longer. NULL is fine. */
void exec_free(struct exec *x);
