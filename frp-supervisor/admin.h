/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request at a time to frpc's admin API, over loopback.
 * Trust: runs in frp-supervisor; reads bytes of frpc, which reads a server's.
 */
#pragma once

#include "common/base.h"
#include "frp-supervisor/answer.h"
#include "frp-supervisor/render.h"

#include <event2/event.h>

/*
 * The request has ended. @answer is whole, or NULL with @error a negative errno: -ETIMEDOUT,
 * -ECONNREFUSED, -EBADMSG…
 */
typedef void admin_fn(void *arg, const struct answer_http *answer, int error);

struct admin {
	struct event_base *base; /* borrowed */
	int fd;                  /* -EBADF: idle */
	uint64_t deadline_ms;
	struct event *ready; /* owned; while a request is under way */
	char request[256];   /* holds the password: wiped when sent */
	size_t request_len, sent;
	char *buf; /* owned */
	size_t used, size;
	admin_fn *fn;
	void *arg;
};

#define ADMIN_INIT ((struct admin){.fd = -EBADF})

/* Asks for @path. Returns 0 and later calls @fn, -EBUSY while another request is under way, or
 * another negative errno. */
int admin_get(struct admin *a, struct event_base *base, const struct render_admin *where,
	      const char *path, uint32_t timeout_ms, admin_fn *fn, void *arg);

/* Ends a request without calling. Harmless when idle. */
void admin_cancel(struct admin *a);
