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

static void answer_held(struct host_container *h, enum proto_status status)
{
	size_t n = h->n_held;

	h->n_held = 0;
	for (size_t i = 0; i < n; i++)
		h->env->reply(h->env->ctx, &h->held[i].ticket, status, h->held[i].n_keys);
}

static void on_keys(void *ctx)
{
	answer_held(ctx, PROTO_OK);
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
		.reserve_mib = env->reserve_mib,
		.announce = on_status,
		.on_keys = on_keys,
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
	answer_held(h, PROTO_UNREACHABLE);
	container_free(h->container);
	free(h);
}

void host_container_run(struct host_container *h, struct wish *wish)
{
	(void)snprintf(h->gpus, sizeof(h->gpus), "%s", wish->gpu_names);
	container_set_wish(h->container, wish);
}

int host_container_set_keys(struct host_container *h, const char *text, size_t len, uint32_t n_keys,
			    const struct ticket *ticket)
{
	if (h->n_held == ARRAY_LEN(h->held))
		return PROTO_BUSY;
	if (container_set_keys(h->container, text, len) < 0)
		return PROTO_FAILED;
	if (!container_keys_busy(h->container))
		return PROTO_OK;
	h->held[h->n_held].ticket = *ticket;
	h->held[h->n_held++].n_keys = n_keys;
	return PROTO_DEFERRED;
}

static bool names_gpu(const char *gpus, const char *name, size_t len)
{
	while (*gpus) {
		size_t n = strcspn(gpus, ",");

		if (gpuname_may_be_one(gpus, n, name, len))
			return true;
		gpus += n + (gpus[n] == ',');
	}
	return false;
}

bool host_container_has_gpu(const struct host_container *h, const char *gpus)
{
	while (*gpus) {
		size_t n = strcspn(gpus, ",");

		if (names_gpu(h->gpus, gpus, n))
			return true;
		gpus += n + (gpus[n] == ',');
	}
	return false;
}

bool host_container_is_gone(const struct host_container *h)
{
	return container_status(h->container)->state == PROTO_CONTAINER_GONE;
}
