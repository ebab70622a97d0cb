/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to another daemon of the suite.
 * Trust: runs in agentd and vmmon; reads answers of a peer that may be hostile.
 */
#include "common/rpc.h"

#include "common/ipc.h"

#include <time.h>

void rpc_init(struct rpc *rpc, const struct rpc_config *config)
{
	memset(rpc, 0, sizeof(*rpc));
	rpc->config = *config;
	rpc->conn.self = config->self;
	rpc->conn.peer = config->peer;
	rpc->fd = -EBADF;
	rpc->next_id = 1;
}

int rpc_connect(struct rpc *rpc, const char *path)
{
	int fd;

	if (rpc->fd >= 0)
		return -EISCONN;
	if (rpc->closing)
		return -EBUSY;
	fd = ipc_connect(path, SOCK_SEQPACKET);
	if (fd < 0)
		return fd;
	rpc->fd = fd;
	return 0;
}

int rpc_fd(const struct rpc *rpc)
{
	return rpc->fd;
}

uint64_t rpc_now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MSEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000000;
}

static void finish(struct rpc_pending *p, enum proto_status status, const void *rep,
		   struct fdlist *fds)
{
	struct rpc_pending done = *p;

	p->request_id = 0; /* first, so that the callback may call again */
	done.fn(done.arg, status, status == PROTO_OK ? rep : NULL, fds);
	fdlist_done(fds);
}

void rpc_close(struct rpc *rpc)
{
	struct fdlist none = {0};

	if (rpc->fd < 0)
		return;
	rpc->fd = fd_close_foreign(rpc->fd);
	rpc->closing = true;
	for (size_t i = 0; i < RPC_MAX_PENDING; i++)
		if (rpc->pending[i].request_id != 0)
			finish(&rpc->pending[i], PROTO_UNREACHABLE, NULL, &none);
	rpc->closing = false;
	if (rpc->config.on_close)
		rpc->config.on_close(rpc->config.ctx);
}

static struct rpc_pending *find_pending(struct rpc *rpc, uint32_t request_id)
{
	for (size_t i = 0; i < RPC_MAX_PENDING; i++)
		if (rpc->pending[i].request_id == request_id)
			return &rpc->pending[i];
	return NULL;
}

static uint32_t take_id(struct rpc *rpc)
{
	uint32_t id = rpc->next_id++;

	if (rpc->next_id == 0)
		rpc->next_id = 1;
	return id;
}

int rpc_call(struct rpc *rpc, uint32_t op_number, const void *req, int fd, uint32_t timeout_ms,
	     rpc_reply_fn *fn, void *arg)
{
	const struct proto_op *op = proto_find(op_number);
	struct rpc_pending *slot = find_pending(rpc, 0);
	struct proto_header header = {.op = op_number, .kind = PROTO_REQUEST};
	int r;

	if (rpc->fd < 0)
		return -ENOTCONN;
	if (!slot)
		return -EBUSY;
	if (!op || op->is_event || op->from != rpc->conn.self || op->to != rpc->conn.peer)
		return -EBADMSG;
	if (op->req_fds != (fd >= 0 ? 1 : 0) || op->check_req(req) < 0)
		return -EBADMSG;
	header.len = (uint32_t)op->req_size;
	header.request_id = take_id(rpc);
	r = ipc_send(rpc->fd, &header, req, &fd, op->req_fds);
	if (r < 0)
		return r;
	*slot = (struct rpc_pending){
		.request_id = header.request_id,
		.op_number = op_number,
		.deadline_ms = rpc_now_ms() + timeout_ms,
		.fn = fn,
		.arg = arg,
	};
	return 0;
}

void rpc_receive(struct rpc *rpc)
{
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	struct proto_header header;
	const struct proto_op *op;
	struct rpc_pending *p;
	union proto_body body;
	uint8_t buf[PROTO_MSG_MAX];
	ssize_t n = ipc_recv(rpc->fd, buf, sizeof(buf), &fds);

	if (n == -EAGAIN)
		return;
	if (n <= 0 ||
	    proto_decode_answer(&rpc->conn, buf, (size_t)n, fds.n, &op, &header, &body) < 0) {
		rpc_close(rpc);
		return;
	}
	if (op->is_event) {
		if (rpc->config.on_event)
			rpc->config.on_event(rpc->config.ctx, op->number, &body);
		return;
	}
	p = find_pending(rpc, header.request_id);
	if (!p)
		return; /* an answer that came after its deadline */
	if (p->op_number != op->number) {
		rpc_close(rpc);
		return;
	}
	finish(p, (enum proto_status)header.status, &body, &fds);
}

void rpc_expire(struct rpc *rpc)
{
	uint64_t now = rpc_now_ms();
	struct fdlist none = {0};

	for (size_t i = 0; i < RPC_MAX_PENDING; i++)
		if (rpc->pending[i].request_id != 0 && rpc->pending[i].deadline_ms <= now)
			finish(&rpc->pending[i], PROTO_TIMEOUT, NULL, &none);
}

uint64_t rpc_next_deadline_ms(const struct rpc *rpc)
{
	uint64_t next = UINT64_MAX;

	for (size_t i = 0; i < RPC_MAX_PENDING; i++)
		if (rpc->pending[i].request_id != 0 && rpc->pending[i].deadline_ms < next)
			next = rpc->pending[i].deadline_ms;
	return next;
}
