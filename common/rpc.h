/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asking side of the protocol: requests with callbacks, events, deadlines. It owns no event
 * loop: the daemon watches rpc_fd() for reading and calls rpc_receive(), and calls rpc_expire()
 * when rpc_next_deadline_ms() has passed.
 */
#pragma once

#include "common/base.h"
#include "common/fd.h"
#include "proto/proto.h"

#define RPC_MAX_PENDING 64

struct rpc;

/*
 * The answer to a request. @status is PROTO_OK and @rep the reply's body, or @rep is NULL: any
 * other status, PROTO_TIMEOUT after the deadline, PROTO_UNREACHABLE when the connection ended
 * first. @fds is emptied after the call. Called exactly once for every successful rpc_call().
 */
typedef void rpc_reply_fn(void *arg, enum proto_status status, const void *rep, struct fdlist *fds);

struct rpc_config {
	enum proto_role self;
	enum proto_role peer;
	void *ctx;
	/* An event arrived; @body is of the type that @op_number declares. */
	void (*on_event)(void *ctx, uint32_t op_number, const void *body);
	/* The connection has ended, after all pending callbacks ran; rpc_fd() is -EBADF. */
	void (*on_close)(void *ctx);
};

struct rpc_pending {
	uint32_t request_id; /* 0: free */
	uint32_t op_number;
	uint64_t deadline_ms;
	rpc_reply_fn *fn;
	void *arg;
};

struct rpc {
	struct rpc_config config;
	struct proto_conn conn;
	int fd;
	bool closing; /* the pending callbacks of the old connection still run */
	uint32_t next_id;
	struct rpc_pending pending[RPC_MAX_PENDING];
};

void rpc_init(struct rpc *rpc, const struct rpc_config *config);

/*
 * Connects to the peer's socket. A negative errno when nobody listens there; -EBUSY in a callback
 * that runs because the connection ended (connect again in or after on_close).
 */
int rpc_connect(struct rpc *rpc, const char *path);

/* Ends the connection: every pending callback runs with PROTO_UNREACHABLE, then on_close. */
void rpc_close(struct rpc *rpc);

/* The descriptor to watch for reading; negative while there is no connection. */
int rpc_fd(const struct rpc *rpc);

/*
 * Sends a request. @req is of the type that @op_number declares, @fd a descriptor to go along or
 * negative (it stays the caller's). Returns 0 and later calls @fn, or returns a negative errno and
 * never does: -ENOTCONN, -EBUSY (too many pending), -EBADMSG (@req breaks its own declaration, or
 * the operation is none that this process may ask of that peer).
 */
int rpc_call(struct rpc *rpc, uint32_t op_number, const void *req, int fd, uint32_t timeout_ms,
	     rpc_reply_fn *fn, void *arg);

/*
 * Handles one datagram; a peer that breaks the protocol is disconnected. A well-formed reply that
 * no request waits for is taken for a late one and ignored.
 */
void rpc_receive(struct rpc *rpc);

/* Fails the requests whose deadline has passed. Late answers to them are ignored. */
void rpc_expire(struct rpc *rpc);

/* CLOCK_MONOTONIC milliseconds of the earliest deadline, UINT64_MAX when nothing is pending. */
uint64_t rpc_next_deadline_ms(const struct rpc *rpc);

/* CLOCK_MONOTONIC now, in milliseconds. */
uint64_t rpc_now_ms(void);
