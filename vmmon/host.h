/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The container of one instance on this host: known to vmmon since agentd has asked for it, until
 * it is removed.
 * Trust: runs in vmmon; reads answers of this host's container engine.
 */
#pragma once

#include "common/base.h"
#include "vmmon/container.h"

/* What all of them share; borrowed. */
struct host_env {
	struct event_base *base;
	const char *socket; /* of the engine */
	bool rootful;       /* one that runs as root will do */
	bool unlimited;     /* one that cannot limit containers will do */
	void *ctx;          /* passed to the function */
	/* The container's status; not more than a few times in a second. */
	void (*on_container)(void *ctx, const char *instance, const struct engine_status *status);
};

struct host_container {
	const struct host_env *env; /* borrowed */
	char instance[PROTO_NAME_SIZE];
	struct container *container; /* owned */
};

/* NULL: out of memory. Nothing is done yet. */
struct host_container *host_container_new(const struct host_env *env, const char *instance);

/* Leaves the container itself as it is. NULL is fine. */
void host_container_free(struct host_container *h);

/* Was it removed, so that there is nothing left to know? */
bool host_container_is_gone(const struct host_container *h);
