/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's own structure; shared by its main loop and its handlers.
 * Trust: runs in frp-supervisor.
 */
#pragma once

#include "common/base.h"
#include "common/server.h"

struct supervisor_config {
	char socket[108];
	char socket_group[33];
	char agentd_user[33];
};

struct supervisor {
	struct supervisor_config config;
	int listen_fd; /* owned */
	struct server server;
};

/* handlers.c: for struct server_config. */
int supervisor_dispatch(void *ctx, struct peer *peer, const struct proto_op *op,
			const union proto_body *req, union proto_body *rep, struct fdlist *fds);
