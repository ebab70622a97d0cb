/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A daemon that serves agentd from an event loop: its socket, the connections on it, and the
 * signals that end it.
 */
#pragma once

#include "common/err.h"
#include "common/server.h"

#include <event2/event.h>

struct service_config {
	const char *name; /* of the socket, as the socket unit names it */
	enum proto_role self;
	const char *socket;       /* its path, when systemd has not passed it */
	const char *socket_group; /* who may connect */
	const char *agentd_user;  /* whose requests are heard */
	void *ctx;                /* passed to @dispatch and @ended */
	int (*dispatch)(void *ctx, struct peer *peer, const struct proto_op *op,
			const union proto_body *req, union proto_body *rep, struct fdlist *fds);
	/* Told of the signal (SIGTERM, SIGINT) that ends the loop; may be NULL. */
	void (*ended)(void *ctx, int number);
};

struct service {
	struct service_config config; /* borrowed members outlive the service */
	struct event_base *base;      /* owned, as all that follow; NULL before service_open() */
	struct server server;
	int listen_fd;
	struct event *listening, *terminate[2];
};

/* Readies @s, so that service_done() may be called. */
void service_init(struct service *s);

/*
 * Takes the socket and makes the event loop; nobody is heard yet. In STAGE_OPEN. 0, or a negative
 * errno with @reterr set (no such user or group, the socket, memory).
 */
int service_open(struct service *s, const struct service_config *config, struct err *reterr);

/* Begins to hear the socket, in STAGE_RUN. */
int service_listen(struct service *s, struct err *reterr);

/* Runs the loop until a signal ends it. */
int service_run(struct service *s, struct err *reterr);

/* Closes every connection and the socket. What else uses @s->base has to be freed before. */
void service_done(struct service *s);
