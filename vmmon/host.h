/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The container of one instance on this host: known to vmmon since agentd has asked for it, until
 * it is removed.
 * Trust: runs in vmmon; reads answers of this host's container engine.
 */
#pragma once

#include "common/base.h"
#include "vmmon/container.h"
#include "vmmon/guest_keys.h"

/* What all of them share; borrowed. */
struct host_env {
	struct event_base *base;
	const char *socket;     /* of the engine */
	bool rootful;           /* one that runs as root will do */
	bool unlimited;         /* one that cannot limit containers will do */
	uint32_t reserve_mib;   /* as in struct engine_config */
	const char *registries; /* as registry_allowed() has them */
	void *ctx;              /* passed to the functions */
	/* The container's status; not more than a few times in a second. */
	void (*on_container)(void *ctx, const char *instance, const struct engine_status *status);
	/* The answer to a deferred request. */
	void (*reply)(void *ctx, struct ticket *ticket, enum proto_status status, uint32_t n_keys);
};

struct host_container {
	const struct host_env *env; /* borrowed */
	char instance[PROTO_NAME_SIZE];
	char gpus[WISH_GPUS_SIZE];   /* that it was told to have, with commas between */
	struct container *container; /* owned */
	struct {
		struct ticket ticket;
		uint32_t n_keys;
	} held[GUEST_KEYS_WAITERS]; /* answers that wait for the keys in the container */
	size_t n_held;
};

/* NULL: out of memory. Nothing is done yet. */
struct host_container *host_container_new(const struct host_env *env, const char *instance);

/*
 * Leaves the container itself as it is; deferred requests are answered with PROTO_UNREACHABLE. NULL
 * is fine.
 */
void host_container_free(struct host_container *h);

/* Sets what is wanted; takes over what @wish holds. */
void host_container_run(struct host_container *h, struct wish *wish);

/*
 * Sets the list of keys (copied; checked) for those who log in to the container. PROTO_OK when it
 * is there, or will be as soon as the container runs; PROTO_DEFERRED; PROTO_BUSY when too many
 * wait; PROTO_FAILED.
 */
int host_container_set_keys(struct host_container *h, const char *text, size_t len, uint32_t n_keys,
			    const struct ticket *ticket);

/* Has it been told to have one of these GPUs (names, with commas between)? */
bool host_container_has_gpu(const struct host_container *h, const char *gpus);

/* Was it removed, so that there is nothing left to know? */
bool host_container_is_gone(const struct host_container *h);
