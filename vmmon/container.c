/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine of a guest or of this host, with its link and its announcements.
 * Trust: runs in vmmon; reads SSH and a container engine's answers of a guest, which its tenant
 * owns; the answers of an engine on this host.
 */
#include "vmmon/container.h"

#include "common/rpc.h"

#define ANNOUNCE_PAUSE_MS 150
#define STEADY_MS         10000 /* as long as Docker itself waits before it calls a start good */
#define ENGINE_WAIT_MS                                                                             \
	90000             /* from a guest's sshd to its engine's socket, emulated, on a busy host */
#define HOST_WAIT_MS 5000 /* for one that is being restarted */

struct container {
	struct container_config config;
	struct engine_link *link; /* owned, as all that follow */
	struct engine *engine;
	struct event *timer; /* an announcement that was put off */
	uint64_t announced_ms;
};

static void announce(struct container *c)
{
	c->announced_ms = rpc_now_ms();
	c->config.announce(c->config.ctx, engine_status(c->engine));
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	announce(arg);
}

static void on_keys(void *ctx)
{
	const struct container *c = ctx;

	c->config.on_keys(c->config.ctx);
}

static void on_status(void *ctx, const struct engine_status *status)
{
	struct container *c = ctx;
	uint64_t now = rpc_now_ms(), due = c->announced_ms + ANNOUNCE_PAUSE_MS;
	const struct timeval tv = {.tv_usec = (suseconds_t)(now < due ? (due - now) * 1000 : 0)};

	(void)status;
	if (!event_pending(c->timer, EV_TIMEOUT, NULL))
		(void)event_add(c->timer, &tv);
}

static struct engine_link *new_link(const struct container_config *config)
{
	const struct link_ssh_config in_guest = {
		.socket = LINK_SSH_SOCKET,
		.ctx = config->ctx,
		.start = config->start,
	};
	const struct link_unix_config on_host = {
		.base = config->base,
		.path = config->socket,
		.rootful = config->rootful,
	};

	return config->instance ? link_unix_new(&on_host) : link_ssh_new(&in_guest);
}

struct container *container_new(const struct container_config *config)
{
	struct container *c = calloc(1, sizeof(*c));
	struct engine_config engine = {
		.base = config->base,
		.ctx = c,
		.on_status = on_status,
		.on_keys = on_keys,
		.wait_ms = config->instance ? HOST_WAIT_MS : ENGINE_WAIT_MS,
		.steady_ms = STEADY_MS,
		.instance = config->instance,
		.socket = config->socket,
		.unlimited = config->unlimited,
		.reserve_mib = config->reserve_mib,
	};

	if (!c)
		return NULL;
	c->config = *config;
	c->timer = event_new(config->base, -1, 0, on_timer, c);
	c->link = engine.link = new_link(config);
	c->engine = c->link ? engine_new(&engine) : NULL;
	if (!c->timer || !c->engine) {
		container_free(c);
		return NULL;
	}
	return c;
}

void container_free(struct container *c)
{
	if (!c)
		return;
	engine_free(c->engine);
	if (c->config.instance)
		link_unix_free(c->link);
	else
		link_ssh_free(c->link);
	if (c->timer)
		event_free(c->timer);
	free(c);
}

void container_set_up(struct container *c, bool up)
{
	engine_set_up(c->engine, up);
	if (!up && !c->config.instance)
		link_ssh_disconnect(c->link);
}

void container_set_wish(struct container *c, struct wish *wish)
{
	engine_set_wish(c->engine, wish);
	on_status(c, engine_status(c->engine));
}

int container_set_keys(struct container *c, const char *text, size_t len)
{
	return engine_set_keys(c->engine, text, len);
}

bool container_keys_busy(const struct container *c)
{
	return engine_keys_busy(c->engine);
}

void container_stop(struct container *c, uint32_t grace_s)
{
	engine_stop(c->engine, grace_s);
	on_status(c, engine_status(c->engine));
}

void container_remove(struct container *c)
{
	engine_remove(c->engine);
	on_status(c, engine_status(c->engine));
}

const struct engine_status *container_status(const struct container *c)
{
	return engine_status(c->engine);
}

int container_logs(struct container *c, unsigned int lines, engine_logs_fn *fn, void *arg)
{
	return engine_logs(c->engine, lines, PROTO_LOG_BYTES_MAX, fn, arg);
}
