/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One handler per operation that agentd may ask for.
 * Trust: runs in frp-supervisor; reads decoded messages of agentd, which may be hostile.
 */
#include "common/fd.h"
#include "common/ipc.h"
#include "common/log.h"
#include "frp-supervisor/supervisor.h"

#define PROTO_CTX struct supervisor
#define PROTO_SERVE_FRP
#define PROTO_DISPATCH
#include "proto/dispatch.inc"

#define RECORD_SIZE (sizeof(struct proto_header) + sizeof(struct frp_proxy_ev))

int supervisor_dispatch(void *ctx, struct peer *peer, const struct proto_op *op,
			const union proto_body *req, union proto_body *rep, struct fdlist *fds)
{
	return proto_dispatch(ctx, peer, op, req, rep, fds);
}

static int status_of(int r)
{
	switch (r) {
	case -EINVAL:
		return PROTO_INVALID;
	case -EPERM:
		return PROTO_DENIED;
	case -EEXIST:
		return PROTO_CONFLICT;
	case -ENOSPC:
		return PROTO_LIMIT;
	default:
		return r < 0 ? PROTO_FAILED : PROTO_OK;
	}
}

/*
 * What is wanted has changed: frpc is told, and while it reads, it is written down; then it is
 * answered. Whoever takes frpc over after a crash in between tells it what is written.
 */
static int changed(struct supervisor *s)
{
	int r;

	s->watch.dirty = true;
	life_kick(s);
	r = wanted_save(&s->wanted, s->run_fd);
	if (r < 0)
		log_event(LOG_ERR, "the tunnels cannot be written down", LOG_ERRNO(r));
	tell(s);
	return r < 0 ? PROTO_FAILED : PROTO_OK;
}

int on_frp_hello(struct supervisor *ctx, struct peer *peer, const struct frp_hello_req *req,
		 struct frp_hello_rep *rep, struct fdlist *fds)
{
	(void)ctx;
	(void)fds;
	if (req->version != PROTO_VERSION)
		return PROTO_MISMATCH;
	peer->conn.state = PROTO_ST_READY;
	peer->subscribed = true;
	tell_again(ctx);
	rep->version = PROTO_VERSION;
	return PROTO_OK;
}

int on_frp_status(struct supervisor *ctx, struct peer *peer, const struct frp_status_req *req,
		  struct frp_status_rep *rep, struct fdlist *fds)
{
	struct frp_state_ev ev;

	(void)peer;
	(void)req;
	(void)fds;
	tell_state(ctx, &ev);
	rep->state = ev.state;
	rep->proxies = ev.proxies;
	rep->running = ev.running;
	rep->starts = ctx->frpc.starts;
	memcpy(rep->detail, ev.detail, sizeof(rep->detail));
	proto_text_set(rep->version, sizeof(rep->version), ctx->frpc.version);
	return PROTO_OK;
}

/* The one line of the memfd, without its end. */
static int read_token(int fd, char ret_token[static PROTO_TOKEN_MAX + 1])
{
	ssize_t size = fd_memfd_check(fd, PROTO_TOKEN_MAX);
	char *end;

	if (size < 0)
		return -EINVAL;
	if (pread(fd, ret_token, (size_t)size, 0) != size)
		return -EINVAL;
	ret_token[size] = '\0';
	end = memchr(ret_token, '\n', (size_t)size);
	if (!end || end != ret_token + size - 1 || strlen(ret_token) != (size_t)size)
		return -EINVAL;
	*end = '\0';
	return 0;
}

int on_frp_configure(struct supervisor *ctx, struct peer *peer, const struct frp_configure_req *req,
		     struct frp_configure_rep *rep, struct fdlist *fds)
{
	_cleanup_close_foreign_ int fd = fdlist_take(fds);
	char token[PROTO_TOKEN_MAX + 1] = {0};
	int r = read_token(fd, token);

	(void)peer;
	if (r == 0)
		r = wanted_configure(&ctx->wanted, &ctx->config.policy, req, token);
	explicit_bzero(token, sizeof(token));
	if (r < 0)
		log_event(LOG_WARNING, "server refused", LOG_ERRNO(r));
	if (r <= 0)
		return status_of(r);
	log_event(LOG_NOTICE, "server configured", LOG_STR("SERVER", req->server),
		  LOG_NUM("PORT", req->port), LOG_NUM("TLS", req->tls));
	ctx->frpc.retry_ms = 0; /* whatever was wrong may be right now */
	rep->changed = 1;
	return changed(ctx);
}

int on_frp_off(struct supervisor *ctx, struct peer *peer, const struct frp_off_req *req,
	       struct frp_off_rep *rep, struct fdlist *fds)
{
	(void)peer;
	(void)req;
	(void)rep;
	(void)fds;
	if (!ctx->wanted.configured)
		return PROTO_OK;
	log_event(LOG_NOTICE, "tunnels switched off");
	wanted_clear(&ctx->wanted);
	return changed(ctx);
}

static bool names_admin_port(const struct supervisor *s, const struct frp_set_req *req)
{
	for (size_t i = 0; i < proto_proxies_count(req->proxies); i++)
		if (s->frpc.admin.port != 0 && req->proxies[i].local == s->frpc.admin.port)
			return true;
	return false;
}

int on_frp_set(struct supervisor *ctx, struct peer *peer, const struct frp_set_req *req,
	       struct frp_set_rep *rep, struct fdlist *fds)
{
	int r;

	(void)peer;
	(void)fds;
	if (!ctx->wanted.configured)
		return PROTO_INVALID;
	r = names_admin_port(ctx, req) ? -EPERM
				       : wanted_set(&ctx->wanted, &ctx->config.policy, req);
	if (r < 0)
		log_event(LOG_WARNING, "tunnels refused", LOG_STR("OWNER", req->owner),
			  LOG_ERRNO(r));
	if (r <= 0)
		return status_of(r);
	log_event(LOG_INFO, "tunnels set", LOG_STR("OWNER", req->owner),
		  LOG_NUM("TUNNELS", proto_proxies_count(req->proxies)));
	rep->changed = 1;
	return changed(ctx);
}

int on_frp_remove(struct supervisor *ctx, struct peer *peer, const struct frp_remove_req *req,
		  struct frp_remove_rep *rep, struct fdlist *fds)
{
	(void)peer;
	(void)rep;
	(void)fds;
	if (wanted_remove(&ctx->wanted, req->owner) == 0)
		return PROTO_NOT_FOUND;
	log_event(LOG_INFO, "tunnels removed", LOG_STR("OWNER", req->owner));
	return changed(ctx);
}

int on_frp_keep(struct supervisor *ctx, struct peer *peer, const struct frp_keep_req *req,
		struct frp_keep_rep *rep, struct fdlist *fds)
{
	(void)peer;
	(void)fds;
	rep->removed = (uint32_t)wanted_keep(&ctx->wanted, req->owners);
	return rep->removed > 0 ? changed(ctx) : PROTO_OK;
}

static size_t put_records(const struct wanted *w, char *buf)
{
	const struct proto_header header = {
		.op = OP_FRP_PROXY, .kind = PROTO_EVENT, .len = sizeof(struct frp_proxy_ev)};
	struct frp_proxy_ev ev;
	size_t n = 0;

	for (size_t i = 0; i < w->n_owners; i++)
		for (size_t j = 0; j < w->owners[i].n; j++, n++) {
			tell_proxy(&w->owners[i], &w->owners[i].tunnels[j], &ev);
			memcpy(buf + n * RECORD_SIZE, &header, sizeof(header));
			memcpy(buf + n * RECORD_SIZE + sizeof(header), &ev, sizeof(ev));
		}
	return n;
}

int on_frp_list(struct supervisor *ctx, struct peer *peer, const struct frp_list_req *req,
		struct frp_list_rep *rep, struct fdlist *fds)
{
	static char buf[PROTO_MAX_PROXIES * RECORD_SIZE];
	size_t n = put_records(&ctx->wanted, buf);
	int fd = fd_memfd_sealed("tunnels", buf, n * RECORD_SIZE);

	(void)peer;
	(void)req;
	if (fd < 0)
		return PROTO_FAILED;
	rep->proxies = (uint32_t)n;
	rep->bytes = (uint32_t)(n * RECORD_SIZE);
	return fdlist_add(fds, fd) < 0 ? PROTO_FAILED : PROTO_OK;
}
