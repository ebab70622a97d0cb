/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ops.def expanded for the broker, and the server joined to the event loop.
 * Trust: runs as qudata-helper; between the decoder and the handlers.
 */
#include "vfio-helper/broker/broker.h"

#define PROTO_CTX struct broker
#define PROTO_SERVE_HELPER
#define PROTO_DISPATCH
#include "proto/dispatch.inc"

static void on_peer_readable(struct broker *b, void *arg)
{
	server_receive(&b->server, arg);
}

static int watch_peer(void *ctx, struct peer *peer, bool on)
{
	struct broker *b = ctx;
	struct watch *w = &b->peer_watches[peer - b->server.peers];

	if (on)
		return loop_watch(b, w, peer->fd, on_peer_readable, peer);
	loop_unwatch(b, w);
	return 0;
}

void dispatch_init(struct broker *b)
{
	const struct server_config config = {
		.self = PROTO_HELPER,
		.roles = {{.uid = b->setup.agentd.uid, .role = PROTO_AGENTD},
			  {.uid = b->setup.vmmon.uid, .role = PROTO_VMMON}},
		.n_roles = 2,
		.max_per_role = SERVER_MAX_PEERS / 2,
		.ctx = b,
		.dispatch = proto_dispatch,
		.watch = watch_peer,
		.refused = on_refused,
	};

	server_init(&b->server, &config);
}
