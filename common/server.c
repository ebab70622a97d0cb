/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections of the serving side.
 * Trust: runs in vfio-helper (root), vmmon and frp-supervisor; reads datagrams of agentd and vmmon,
 * either of which may be hostile.
 */
#include "common/server.h"

#include "common/ipc.h"

void server_init(struct server *s, const struct server_config *config)
{
	memset(s, 0, sizeof(*s));
	s->config = *config;
	s->next_serial = 1;
	for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
		s->peers[i].fd = -EBADF;
}

void server_done(struct server *s)
{
	for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
		if (s->peers[i].fd >= 0)
			server_drop(s, &s->peers[i]);
}

void server_drop(struct server *s, struct peer *peer)
{
	(void)s->config.watch(s->config.ctx, peer, false);
	peer->fd = fd_close_foreign(peer->fd);
	peer->serial = 0;
}

static enum proto_role role_of(const struct server *s, uid_t uid)
{
	for (size_t i = 0; i < s->config.n_roles; i++)
		if (s->config.roles[i].uid == uid)
			return s->config.roles[i].role;
	return 0;
}

static size_t connections_of(const struct server *s, enum proto_role role)
{
	size_t n = 0;

	for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
		if (s->peers[i].fd >= 0 && s->peers[i].conn.peer == role)
			n++;
	return n;
}

static struct peer *free_slot(struct server *s)
{
	for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
		if (s->peers[i].fd < 0)
			return &s->peers[i];
	return NULL;
}

static uint32_t take_serial(struct server *s)
{
	uint32_t serial = s->next_serial++;

	if (s->next_serial == 0) /* 0 means "no ticket" */
		s->next_serial = 1;
	return serial;
}

void server_accept(struct server *s, int listen_fd)
{
	struct ucred cred = {0};
	_cleanup_close_ int fd = ipc_accept(listen_fd, &cred);
	struct peer stranger = {.fd = -EBADF, .uid = cred.uid, .pid = cred.pid};
	struct peer *peer;
	enum proto_role role;

	if (fd < 0)
		return;
	role = role_of(s, cred.uid);
	if (role == 0) {
		s->config.refused(s->config.ctx, &stranger, SERVER_UNKNOWN_UID, -EACCES);
		return;
	}
	peer = free_slot(s);
	if (!peer || connections_of(s, role) >= s->config.max_per_role) {
		s->config.refused(s->config.ctx, &stranger, SERVER_TOO_MANY, -EUSERS);
		return;
	}
	*peer = (struct peer){
		.fd = TAKE_FD(fd),
		.serial = take_serial(s),
		.uid = cred.uid,
		.pid = cred.pid,
		.conn = {.self = s->config.self, .peer = role, .state = PROTO_ST_NEW},
	};
	if (s->config.watch(s->config.ctx, peer, true) < 0)
		server_drop(s, peer);
}

static void send_or_drop(struct server *s, struct peer *peer, const struct proto_header *header,
			 const void *body, const struct fdlist *fds)
{
	int r = ipc_send(peer->fd, header, body, fds->fds, fds->n);

	if (r == 0)
		return;
	if (r == -EAGAIN)
		s->config.refused(s->config.ctx, peer, SERVER_NOT_READING, r);
	server_drop(s, peer);
}

static void answer(struct server *s, struct peer *peer, const struct ticket *ticket,
		   enum proto_status status, const void *rep, struct fdlist *fds)
{
	const struct proto_op *op = proto_find(ticket->op_number);
	bool ok = status == PROTO_OK && fds->n == op->rep_fds && op->check_rep(rep) == 0;
	struct proto_header header = {
		.op = ticket->op_number,
		.kind = PROTO_REPLY,
		.status = (uint16_t)status,
		.request_id = ticket->request_id,
		.len = ok ? (uint32_t)op->rep_size : 0,
	};

	/* A reply against its own row is the handler's mistake; the peer gets no part of it. */
	if (!ok && (status == PROTO_OK || status >= PROTO_STATUS_COUNT))
		header.status = PROTO_FAILED;
	if (!ok)
		fdlist_done(fds);
	send_or_drop(s, peer, &header, rep, fds);
	fdlist_done(fds);
}

void server_receive(struct server *s, struct peer *peer)
{
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	union proto_body req, rep;
	struct proto_header header;
	const struct proto_op *op;
	struct ticket ticket;
	uint8_t buf[PROTO_MSG_MAX];
	ssize_t n = ipc_recv(peer->fd, buf, sizeof(buf), &fds);
	int r;

	if (n == -EAGAIN)
		return;
	if (n == 0 || (n < 0 && n != -EBADMSG)) {
		server_drop(s, peer);
		return;
	}
	r = n < 0 ? (int)n
		  : proto_decode_request(&peer->conn, buf, (size_t)n, fds.n, &op, &header, &req);
	if (r < 0) {
		s->config.refused(s->config.ctx, peer, SERVER_MALFORMED, r);
		server_drop(s, peer);
		return;
	}
	peer->request_id = header.request_id;
	peer->op_number = header.op;
	ticket = server_defer(peer);
	memset(&rep, 0, op->rep_size);
	r = s->config.dispatch(s->config.ctx, peer, op, &req, &rep, &fds);
	/* A handler may have dropped the connection, for example by an event that was not read. */
	if (r != PROTO_DEFERRED && peer->serial == ticket.serial)
		answer(s, peer, &ticket, (enum proto_status)r, &rep, &fds);
}

struct ticket server_defer(const struct peer *peer)
{
	return (struct ticket){
		.serial = peer->serial,
		.request_id = peer->request_id,
		.op_number = peer->op_number,
	};
}

void server_reply(struct server *s, struct ticket *ticket, enum proto_status status,
		  const void *rep, struct fdlist *fds)
{
	struct ticket t = *ticket;

	ticket->serial = 0;
	for (size_t i = 0; i < SERVER_MAX_PEERS && t.serial != 0; i++)
		if (s->peers[i].fd >= 0 && s->peers[i].serial == t.serial) {
			answer(s, &s->peers[i], &t, status, rep, fds);
			return;
		}
	fdlist_done(fds);
}

void server_event(struct server *s, enum proto_role role, uint32_t op_number, const void *body)
{
	const struct proto_op *op = proto_find(op_number);
	struct proto_header header = {
		.op = op_number, .kind = PROTO_EVENT, .len = (uint32_t)op->req_size};
	const struct fdlist none = {0};

	for (size_t i = 0; i < SERVER_MAX_PEERS; i++) {
		struct peer *peer = &s->peers[i];

		if (peer->fd >= 0 && peer->subscribed && peer->conn.peer == role)
			send_or_drop(s, peer, &header, body, &none);
	}
}
