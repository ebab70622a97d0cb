/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tunnels: a server from agentd.conf or the control plane, the ports of every instance, and the
 * API's own. frp-supervisor is told what is wanted whenever it may not know, and tells what is.
 * Trust: runs inside agentd; reads answers and events of frp-supervisor.
 */
#pragma once

#include "agentd/request.h"
#include "common/base.h"
#include "common/err.h"
#include "proto/proto.h"

#include <jansson.h>

struct agentd;
struct agentd_config;
struct control_init;
struct instance;

/* Of one port of an instance. The first three are stored. */
struct port_tunnel {
	uint16_t remote; /* at the server; 0: not chosen yet */
	bool tcp;        /* else HTTP, by name */
	bool fixed;      /* the client asked for this one */
	enum proto_proxy_state state;
	uint32_t breaks; /* how often it has ceased to run since agentd started */
	char detail[120];
};

struct tunnels {
	bool on; /* there is a server */
	struct frp_configure_req server;
	char token[PROTO_TOKEN_MAX]; /* secret; "": none */
	char agent[PROTO_NAME_SIZE]; /* what our tunnels' names at the server begin with */
	/* What frp-supervisor has heard on this connection: */
	bool configured, api_set, kept;
	bool in_flight;
	char asking[PROTO_NAME_SIZE]; /* about this instance's; "": something else */
	uint64_t retry_ms;            /* monotonic; nothing is said before */
	char trouble[96];             /* it refuses what we say */
	struct frp_state_ev state;
	uint32_t connects; /* how often frpc has been seen to connect since agentd started */
	struct port_tunnel api;
};

/*
 * Reads the server's token and the agent's id (made if there is none) in @data_fd. STAGE_OPEN.
 * A server that agentd.conf names wins over what the control plane offers.
 */
int tunnels_open(struct tunnels *t, const struct agentd_config *config, int data_fd,
		 struct err *reterr);

/* The control plane has offered tunnels, or none any more. */
void tunnels_offered(struct agentd *a, const struct control_init *init);

/* Says the next thing that frp-supervisor does not know; part of drive_all(). */
void tunnels_drive(struct agentd *a);
void tunnels_peer_changed(struct agentd *a);
void tunnels_event(struct agentd *a, uint32_t op_number, const void *body);

/* The instance's ports have changed, or it is gone. */
void tunnels_changed(struct agentd *a, struct instance *inst);
void tunnels_gone(struct agentd *a);

/*
 * Chooses the ports at the server for a new instance, whose host ports are chosen. Wishes that
 * cannot be met are errors only while there is a server: -ERANGE, -EADDRINUSE, -ENOSPC.
 */
int tunnels_choose(struct agentd *a, struct instance *inst, const struct port_request *wanted,
		   size_t n, struct err *reterr);

/* The port that a client connects to for port number @i of @inst. */
uint16_t tunnels_client_port(const struct instance *inst, size_t i);

/* What frp-supervisor is told of port number @i of @inst, and of the API's. */
struct proto_proxy tunnels_proxy(const struct instance *inst, size_t i);
struct proto_proxy tunnels_api_proxy(const struct agentd *a);

/* tunnels_show.c */

/*
 * {"22": {"port": 10001, "address": "frp.example.org:10001", "kind": "tcp", "state": "running",
 * "detail": ""}, …}; null without a server.
 */
json_t *tunnels_instance_json(const struct instance *inst);
/* {"state": "connected", "detail": "", "tunnels": 3, "running": 3} */
json_t *tunnels_host_json(const struct agentd *a);
/* tunnels_host_json() with the server, and every tunnel in "list"; the API's has no instance. */
json_t *tunnels_list_json(const struct agentd *a);
