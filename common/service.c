/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon that serves agentd from an event loop.
 * Trust: runs inside vmmon and frp-supervisor; hands agentd's messages to common/server.c.
 */
#include "common/service.h"

#include "common/ipc.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/priv.h"

#include <grp.h>
#include <pwd.h>
#include <signal.h>

#define MAX_CONNECTIONS 4 /* of agentd: two while it is being replaced, and some to spare */

/* Who is connected. */

struct watch {
	struct service *service;
	struct peer *peer;
	struct event *event;
};

static void on_peer(evutil_socket_t fd, short what, void *arg)
{
	struct watch w = *(struct watch *)arg; /* which ends with the connection */

	(void)fd;
	(void)what;
	server_receive(&w.service->server, w.peer);
}

static void watch_end(struct watch *w)
{
	if (w->event)
		event_free(w->event);
	free(w);
}

static int watch_begin(struct service *s, struct peer *peer)
{
	struct watch *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->service = s;
	w->peer = peer;
	w->event = event_new(s->base, peer->fd, EV_READ | EV_PERSIST, on_peer, w);
	if (!w->event || event_add(w->event, NULL) < 0) {
		watch_end(w);
		return -ENOMEM;
	}
	peer->watch = w;
	return 0;
}

static int watch_peer(void *ctx, struct peer *peer, bool on)
{
	if (peer->watch)
		watch_end(TAKE_PTR(peer->watch));
	return on ? watch_begin(ctx, peer) : 0;
}

static void on_refused(void *ctx, const struct peer *peer, enum server_refusal why, int detail)
{
	(void)ctx;
	log_event(LOG_WARNING, "peer refused", LOG_NUM("PEER_UID", peer->uid),
		  LOG_NUM("PEER_PID", peer->pid), LOG_NUM("WHY", why), LOG_ERRNO(detail));
}

static int on_request(void *ctx, struct peer *peer, const struct proto_op *op,
		      const union proto_body *req, union proto_body *rep, struct fdlist *fds)
{
	const struct service_config *config = &((struct service *)ctx)->config;

	return config->dispatch(config->ctx, peer, op, req, rep, fds);
}

/* Start. */

static int open_server(struct service *s, struct err *reterr)
{
	const struct passwd *agentd = getpwnam(s->config.agentd_user);

	if (!agentd)
		return err_set(reterr, -ENOENT, "there is no user %s (see agentd_user)",
			       s->config.agentd_user);
	server_init(&s->server, &(const struct server_config){
					.self = s->config.self,
					.roles = {{agentd->pw_uid, PROTO_AGENTD}},
					.n_roles = 1,
					.max_per_role = MAX_CONNECTIONS,
					.ctx = s,
					.dispatch = on_request,
					.watch = watch_peer,
					.refused = on_refused,
				});
	return 0;
}

static int open_socket(struct service *s, struct err *reterr)
{
	const struct group *group = getgrnam(s->config.socket_group);
	struct ipc_place place = {.name = s->config.name,
				  .path = s->config.socket,
				  .type = SOCK_SEQPACKET,
				  .mode = 0660,
				  .uid = IPC_KEEP_UID};

	if (!group)
		return err_set(reterr, -ENOENT, "there is no group %s (see socket_group)",
			       s->config.socket_group);
	place.gid = group->gr_gid;
	s->listen_fd = ipc_take(&place, reterr);
	notify_listen_done();
	return s->listen_fd < 0 ? s->listen_fd : 0;
}

static void on_listening(evutil_socket_t fd, short what, void *arg)
{
	struct service *s = arg;

	(void)what;
	server_accept(&s->server, fd);
}

static void on_terminate(evutil_socket_t number, short what, void *arg)
{
	struct service *s = arg;

	(void)what;
	if (s->config.ended)
		s->config.ended(s->config.ctx, number);
	(void)event_base_loopbreak(s->base);
}

static int open_loop(struct service *s, struct err *reterr)
{
	struct event_config *config = event_config_new();

	if (config &&
	    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV) == 0)
		s->base = event_base_new_with_config(config);
	if (config)
		event_config_free(config);
	if (!s->base)
		return err_set(reterr, -ENOMEM, "cannot make an event loop");
	s->listening = event_new(s->base, s->listen_fd, EV_READ | EV_PERSIST, on_listening, s);
	s->terminate[0] = evsignal_new(s->base, SIGTERM, on_terminate, s);
	s->terminate[1] = evsignal_new(s->base, SIGINT, on_terminate, s);
	if (!s->listening || !s->terminate[0] || !s->terminate[1] ||
	    event_add(s->terminate[0], NULL) < 0 || event_add(s->terminate[1], NULL) < 0)
		return err_set(reterr, -ENOMEM, "cannot watch signals and sockets");
	return 0;
}

void service_init(struct service *s)
{
	*s = (struct service){.listen_fd = -EBADF};
	for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
		s->server.peers[i].fd = -EBADF;
}

int service_open(struct service *s, const struct service_config *config, struct err *reterr)
{
	int r;

	s->config = *config;
	r = open_server(s, reterr);
	if (r == 0)
		r = open_socket(s, reterr);
	return r == 0 ? open_loop(s, reterr) : r;
}

int service_listen(struct service *s, struct err *reterr)
{
	stage_assert_running();
	if (event_add(s->listening, NULL) < 0)
		return err_set(reterr, -ENOMEM, "cannot watch the socket");
	return 0;
}

int service_run(struct service *s, struct err *reterr)
{
	int r = event_base_dispatch(s->base);

	notify_stopping();
	return r < 0 ? err_set(reterr, -EIO, "the event loop failed") : 0;
}

void service_done(struct service *s)
{
	server_done(&s->server);
	if (s->listening)
		event_free(s->listening);
	for (size_t i = 0; i < ARRAY_LEN(s->terminate); i++)
		if (s->terminate[i])
			event_free(s->terminate[i]);
	if (s->base)
		event_base_free(s->base);
	s->listen_fd = safe_close(s->listen_fd);
}
