/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The serving side of the protocol: accepts the uids that have a role, decodes strictly, calls the
 * handler of the row, answers every request once (a reply that breaks its own declaration goes out
 * as PROTO_FAILED). It owns no event loop: the daemon watches the descriptors and calls in. A peer
 * that breaks a rule, or does not read its answers, loses its connection and nothing else.
 */
#pragma once

#include "common/base.h"
#include "common/fd.h"
#include "proto/proto.h"

#include <sys/types.h>

#define SERVER_MAX_PEERS 8
#define SERVER_MAX_ROLES 4

struct server;

/* One accepted connection. */
struct peer {
	int fd;          /* -EBADF: the slot is free */
	uint32_t serial; /* never repeats, names the connection in a ticket */
	uid_t uid;
	pid_t pid; /* for the log only */
	struct proto_conn conn;
	uint32_t request_id; /* of the request being handled */
	uint32_t op_number;
	bool subscribed; /* wants events; set by a handler */
	void *watch;     /* the daemon's, for its event loop */
};

/* Names a request whose answer comes later; outlives its connection harmlessly. */
struct ticket {
	uint32_t serial; /* 0: no ticket */
	uint32_t request_id;
	uint32_t op_number;
};

/* Why a message or connection was refused, for the log and the audit. */
enum server_refusal {
	SERVER_UNKNOWN_UID = 1,
	SERVER_TOO_MANY,
	SERVER_MALFORMED,
	SERVER_NOT_READING,
};

struct server_config {
	enum proto_role self;
	struct {
		uid_t uid;
		enum proto_role role;
	} roles[SERVER_MAX_ROLES];
	size_t n_roles;
	size_t max_per_role; /* connections that one role may hold */
	void *ctx;           /* passed to all callbacks */

	/*
	 * Runs the handler of @op, see proto/dispatch.inc. @fds holds the request's descriptors on
	 * entry and the reply's on return. Returns an enum proto_status or PROTO_DEFERRED.
	 */
	int (*dispatch)(void *ctx, struct peer *peer, const struct proto_op *op,
			const union proto_body *req, union proto_body *rep, struct fdlist *fds);
	/* Starts (or, when @on is false, ends) watching @peer->fd for reading. */
	int (*watch)(void *ctx, struct peer *peer, bool on);
	/* Told of every refusal. @detail is a negative errno. */
	void (*refused)(void *ctx, const struct peer *peer, enum server_refusal why, int detail);
};

struct server {
	struct server_config config; /* borrowed members outlive the server */
	struct peer peers[SERVER_MAX_PEERS];
	uint32_t next_serial;
};

/* Readies @s; allocates nothing. */
void server_init(struct server *s, const struct server_config *config);

/* Closes every connection. */
void server_done(struct server *s);

/* To be called when @listen_fd is readable: accepts one connection, or refuses it. */
void server_accept(struct server *s, int listen_fd);

/* To be called when @peer->fd is readable: handles one datagram, perhaps closing the connection. */
void server_receive(struct server *s, struct peer *peer);

/* Ends a connection and frees its slot. */
void server_drop(struct server *s, struct peer *peer);

/* The ticket of the request that @peer's handler is in; the handler then returns PROTO_DEFERRED. */
struct ticket server_defer(const struct peer *peer);

/*
 * Answers a deferred request. @rep may be NULL unless @status is PROTO_OK. @fds is emptied. When
 * the connection is gone the answer is dropped. Clears @ticket.
 */
void server_reply(struct server *s, struct ticket *ticket, enum proto_status status,
		  const void *rep, struct fdlist *fds);

/* Sends an event to every subscribed connection of @role. */
void server_event(struct server *s, enum proto_role role, uint32_t op_number, const void *body);
