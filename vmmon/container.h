/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tenant's container of one watched guest or on this host: its engine, and the way to it.
 * Trust: runs in vmmon; reads SSH and a container engine's answers of a guest, which its tenant
 * owns; the answers of an engine on this host.
 */
#pragma once

#include "vmmon/engine/engine.h"
#include "vmmon/engine/link_ssh.h"
#include "vmmon/engine/link_unix.h"

struct container_config {
	struct event_base *base;
	void *ctx;            /* passed to both */
	const char *instance; /* whose it is on this host; borrowed; NULL: a guest's */
	const char *socket;   /* on this host: of the engine; borrowed */
	bool rootful;         /* on this host: an engine that runs as root will do */
	bool unlimited;       /* on this host: an engine that cannot limit containers will do */
	uint32_t reserve_mib; /* on this host: as in struct engine_config */
	/* In a guest: begins a session to it as session_start() does. */
	int (*start)(void *ctx, const struct session_handler *handler,
		     struct session **ret_session);
	/* Tells of a new status; the newest is enough, so not more than a few in a second. */
	void (*announce)(void *ctx, const struct engine_status *status);
	/* As that of struct login_config. */
	void (*on_keys)(void *ctx);
};

struct container;

/* NULL: out of memory. */
struct container *container_new(const struct container_config *config);

/* NULL is fine. Reads of the log in progress get -ECANCELED. */
void container_free(struct container *c);

/* Can the guest be logged in to? */
void container_set_up(struct container *c, bool up);

/* Sets what is wanted, as engine_set_wish() does, and announces the status in any case. */
void container_set_wish(struct container *c, struct wish *wish);

/* As engine_set_keys() and engine_keys_busy(). */
int container_set_keys(struct container *c, const char *text, size_t len);
bool container_keys_busy(const struct container *c);

/* As engine_stop() and engine_remove(). */
void container_stop(struct container *c, uint32_t grace_s);
void container_remove(struct container *c);

const struct engine_status *container_status(const struct container *c);

/* As engine_logs(). */
int container_logs(struct container *c, unsigned int lines, engine_logs_fn *fn, void *arg);
