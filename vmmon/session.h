/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An SSH connection to a guest, up to the point where channels can be opened. The server must show
 * the pinned host key; the client offers the management key and nothing else.
 * Trust: runs in vmmon; reads SSH of a guest, which its tenant owns.
 */
#pragma once

#include "common/base.h"

#include <event2/event.h>
#include <libssh/libssh.h>

#define SESSION_LINE_SIZE   128
#define SESSION_BYTES_PER_S (4u << 20) /* beyond it, reading pauses; empty packets count, too */

struct session_target {
	struct event_base *base;
	uint16_t port; /* on 127.0.0.1 */
	const char *user;
	const char *host_key;   /* the pinned public line; copied */
	ssh_key management_key; /* belongs to the session from then on, also on failure */
};

struct session_handler {
	void *arg;
	/* Logged in, or something has moved since: see to the channels, and never wait. */
	void (*on_step)(void *arg);
	/* It could not be made, or has ended. Once; nothing is called afterwards. */
	void (*on_end)(void *arg);
};

struct session;

/* Begins to connect. Nothing is called from within. */
int session_start(const struct session_target *target, const struct session_handler *handler,
		  struct session **ret_session);

/* Disconnects; channels go with it. From any callback but on_step(). NULL is fine. */
void session_free(struct session *s);

/* Is the other side logged in to? */
bool session_is_up(const struct session *s);

/* For channels. */
ssh_session session_ssh(const struct session *s);

/* Calls on_step() soon: something is to be sent, or was left unread. */
void session_kick(struct session *s);

/* Ends it from within on_step(): on_end() is called at once when that has returned. */
void session_fail(struct session *s);

/* How far it came before it was logged in, and why not further: for the log. */
unsigned int session_phase(const struct session *s);
