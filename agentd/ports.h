/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which ports of the host an instance gets.
 * Trust: runs inside agentd; serves requests that were checked by request.c.
 */
#pragma once

#include "agentd/request.h"
#include "agentd/tunnels.h"
#include "common/base.h"
#include "common/err.h"
#include "proto/proto.h"

struct ports_host {
	uint16_t low, high; /* what the helper forwards; low 0: not known yet */
	/* Is 127.0.0.1:@port in use or promised to an instance? */
	bool (*taken)(void *ctx, uint16_t port);
	void *ctx;
};

/*
 * Chooses a host port for each wanted one: the asked-for port, or the first free one of its range
 * (TCP 10000-15000, others 15001-65535). Fixed wishes are served first.
 * Returns 0; -EADDRINUSE: a wish is taken; -ERANGE: a wish is outside what this host forwards;
 * -ENOSPC: a range is used up. @reterr names the field and the port.
 */
int ports_allocate(const struct port_request *wanted, size_t n, const struct ports_host *host,
		   struct proto_port ret_ports[static PROTO_MAX_PORTS], struct err *reterr);

/* A port at the tunnels' server. */
struct ports_remote {
	enum port_proto proto;
	uint16_t wish;  /* 0: any */
	uint16_t first; /* where to begin to look; 0: anywhere, so that agents do not meet */
	bool (*taken)(void *ctx, uint16_t port);
	void *ctx;
};

/*
 * Chooses one: the wish, or a free one of the protocol's range that none of @mine of the same
 * protocol has. Errors as above.
 */
int ports_choose_remote(const struct ports_remote *remote, const struct port_tunnel *mine, size_t n,
			uint16_t *ret_port, struct err *reterr);

/* Is @port of the range that TCP has to itself? */
bool ports_is_tcp(uint16_t port);

/* Is 127.0.0.1:@port in use now? Tries to bind it. */
bool ports_in_use(uint16_t port);
