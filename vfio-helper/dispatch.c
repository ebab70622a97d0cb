/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ops.def expanded for the helper, and the server joined to the event loop.
 * Trust: runs as root; between the decoder and the handlers.
 */
#include "vfio-helper/helper.h"

#define PROTO_CTX struct helper
#define PROTO_SERVE_HELPER
#define PROTO_DISPATCH
#include "proto/dispatch.inc"

static void on_peer_readable(struct helper *h, void *arg)
{
	server_receive(&h->server, arg);
}

static int watch_peer(void *ctx, struct peer *peer, bool on)
{
	struct helper *h = ctx;
	struct watch *w = &h->peer_watches[peer - h->server.peers];

	if (on)
		return loop_watch(h, w, peer->fd, on_peer_readable, peer);
	loop_unwatch(h, w);
	return 0;
}

void dispatch_init(struct helper *h)
{
	const struct server_config config = {
		.self = PROTO_HELPER,
		.roles = {{.uid = h->config.agentd.uid, .role = PROTO_AGENTD},
			  {.uid = h->config.vmmon.uid, .role = PROTO_VMMON}},
		.n_roles = 2,
		.max_per_role = SERVER_MAX_PEERS / 2,
		.ctx = h,
		.dispatch = proto_dispatch,
		.watch = watch_peer,
		.refused = on_refused,
	};

	server_init(&h->server, &config);
}
