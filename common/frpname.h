/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Under which name or address a tunnel is reached at its server.
 * Pure. Trust: runs in agentd and frp-supervisor; reads values that were checked before.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"

/* Room for any name or address; more is cut, which no value of the grammars needs. */
#define FRPNAME_SIZE 280

/* Of an HTTP tunnel, or the API's: the host name that the server forwards by. See proto_naming. */
void frpname_http(const struct frp_configure_req *server, const struct proto_proxy *proxy,
		  char *ret_name, size_t size);

/* What a client is told: "name" for HTTP, "server:port" for TCP. */
void frpname_public(const struct frp_configure_req *server, const struct proto_proxy *proxy,
		    char *ret_name, size_t size);
