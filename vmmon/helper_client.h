/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmmon as a client of vfio-helper: hands over seeds, connecting when there is something to say.
 * Trust: runs in vmmon; reads answers of a process of higher trust.
 */
#pragma once

#include "common/base.h"
#include "common/rpc.h"

#include <event2/event.h>

struct helper_client {
	struct event_base *base; /* borrowed, as the next */
	const char *path;
	struct rpc rpc;
	struct event *readable; /* owned, as the next */
	struct event *deadline;
};

/* Readies @h without connecting; @h must not move afterwards. */
int helper_client_init(struct helper_client *h, struct event_base *base, const char *path);

/* Ends the connection; pending calls end with PROTO_UNREACHABLE. */
void helper_client_done(struct helper_client *h);

/*
 * Sends the seed of @vm, the sealed memfd @seed_fd, which stays the caller's. Returns 0 and later
 * calls @fn with the outcome, or returns a negative errno and never does.
 */
int helper_client_send_seed(struct helper_client *h, const char *vm, int seed_fd, rpc_reply_fn *fn,
			    void *arg);
