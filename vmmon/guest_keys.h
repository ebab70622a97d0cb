/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Installing lists of tenant keys in one guest: one session at a time; a newer list replaces one
 * that has not begun, and whoever asked for either is answered by the newer one's outcome.
 * Trust: runs in vmmon; holds lists that were checked.
 */
#pragma once

#include "common/base.h"
#include "common/server.h"
#include "vmmon/ssh.h"

#define GUEST_KEYS_WAITERS 4 /* requests that one list may answer */

struct keys_list {
	char *text; /* owned; NULL: no list */
	size_t len;
	uint32_t n_keys;
	struct ticket waiters[GUEST_KEYS_WAITERS];
	size_t n_waiters;
};

struct guest_keys {
	void *ctx; /* passed to both */
	/* Begins a session that ends with guest_keys_done(). A negative errno when it cannot. */
	int (*start)(void *ctx, const struct keys_list *list, ssh_done_fn *fn, void *arg,
		     struct ssh_job **ret_job);
	void (*reply)(void *ctx, struct ticket *ticket, enum proto_status status, uint32_t n_keys);
	struct ssh_job *job; /* owned; NULL: nothing is being installed */
	struct keys_list current, next;
};

/*
 * Takes over @text (allocated, @len bytes, @n_keys keys). Returns PROTO_DEFERRED, or PROTO_BUSY
 * when too many wait.
 */
int guest_keys_set(struct guest_keys *k, char *text, size_t len, uint32_t n_keys,
		   const struct ticket *ticket);

/* Gives up what runs and what waits; everyone is answered with @status. */
void guest_keys_cancel(struct guest_keys *k, enum proto_status status);
