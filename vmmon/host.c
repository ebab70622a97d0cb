/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Containers on this host.
 * Trust: runs in vmmon; reads answers of this host's container engine.
 */
#include "vmmon/host.h"

static void on_status(void *ctx, const struct engine_status *status)
{
	const struct host_container *h = ctx;

	h->env->on_container(h->env->ctx, h->instance, status);
}

struct host_container *host_container_new(const struct host_env *env, const char *instance)
{
	struct host_container *h = calloc(1, sizeof(*h));
	struct container_config config = {
		.base = env->base,
		.ctx = h,
		.socket = env->socket,
		.rootful = env->rootful,
		.unlimited = env->unlimited,
		.announce = on_status,
	};

	if (!h || proto_name_set(h->instance, instance) < 0) {
		free(h);
		return NULL;
	}
	h->env = env;
	config.instance = h->instance;
	h->container = container_new(&config);
	if (!h->container) {
		free(h);
		return NULL;
	}
	container_set_up(h->container, true);
	return h;
}

void host_container_free(struct host_container *h)
{
	if (!h)
		return;
	container_free(h->container);
	free(h);
}

bool host_container_is_gone(const struct host_container *h)
{
	return container_status(h->container)->state == PROTO_CONTAINER_GONE;
}
