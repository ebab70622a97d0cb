/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to a guest's container engine: channels of one SSH session, forwarded to the engine's
 * Unix socket. The session is made with the first connection and again after it has ended.
 * Trust: runs in vmmon; reads SSH of a guest, which its tenant owns.
 */
#pragma once

#include "vmmon/engine/link.h"
#include "vmmon/session.h"

#define LINK_SSH_SOCKET "/var/run/docker.sock"

struct link_ssh_config {
	const char *socket; /* in the guest; borrowed */
	void *ctx;
	/* Begins a session as session_start() does. */
	int (*start)(void *ctx, const struct session_handler *handler,
		     struct session **ret_session);
};

/* NULL: out of memory. */
struct engine_link *link_ssh_new(const struct link_ssh_config *config);

/* Ends the session. No connection may be open. */
void link_ssh_disconnect(struct engine_link *link);

/* The same, for good. NULL is fine. */
void link_ssh_free(struct engine_link *link);
