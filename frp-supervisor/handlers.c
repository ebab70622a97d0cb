/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One handler per operation that agentd may ask for.
 * Trust: runs in frp-supervisor; reads decoded messages of agentd, which may be hostile.
 */
#include "frp-supervisor/supervisor.h"

#define PROTO_CTX struct supervisor
#define PROTO_SERVE_FRP
#define PROTO_DISPATCH
#include "proto/dispatch.inc"

int supervisor_dispatch(void *ctx, struct peer *peer, const struct proto_op *op,
			const union proto_body *req, union proto_body *rep, struct fdlist *fds)
{
	return proto_dispatch(ctx, peer, op, req, rep, fds);
}

int on_frp_hello(struct supervisor *ctx, struct peer *peer, const struct frp_hello_req *req,
		 struct frp_hello_rep *rep, struct fdlist *fds)
{
	(void)ctx;
	(void)fds;
	if (req->version != PROTO_VERSION)
		return PROTO_MISMATCH;
	peer->conn.state = PROTO_ST_READY;
	rep->version = PROTO_VERSION;
	return PROTO_OK;
}

/* There is nothing to configure a tunnel with yet, so there is none. */
int on_frp_status(struct supervisor *ctx, struct peer *peer, const struct frp_status_req *req,
		  struct frp_status_rep *rep, struct fdlist *fds)
{
	(void)ctx;
	(void)peer;
	(void)req;
	(void)fds;
	rep->state = PROTO_TUNNEL_OFF;
	return PROTO_OK;
}
