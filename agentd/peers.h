/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections to the other daemons: made, greeted, kept, made again.
 * Trust: runs inside agentd; reads answers of vfio-helper, vmmon and frp-supervisor.
 *
 * A peer that is away costs nothing: its socket's directory is watched (inotify) and a connection
 * is tried when something changes there. Only the moments after such a change, and a peer that
 * accepts but does not greet, are bridged by short timers that grow.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "common/rpc.h"

struct event_base;
struct peers;

enum peer_id {
	PEER_HELPER,
	PEER_VMMON,
	PEER_FRP,
	PEER_COUNT,
};

/* What the helper's greeting says. */
struct peers_limits {
	bool known; /* it has been connected at least once */
	uint32_t max_vms, max_cpus, max_memory_mib, max_disk_mib;
	uint16_t port_low, port_high;
	char boot_id[40];
};

struct peers_config {
	const char *paths[PEER_COUNT]; /* borrowed */
	void *ctx;
	/* A peer is ready for requests (greeted, subscribed), or not any more. */
	void (*changed)(void *ctx, enum peer_id id, bool up);
	void (*on_event)(void *ctx, enum peer_id id, uint32_t op_number, const void *body);
};

/* Opens what is needed from the file system; connects nothing. */
int peers_new(struct event_base *base, const struct peers_config *config, struct peers **ret_peers,
	      struct err *reterr);

/* Closes every connection; pending callbacks run. NULL is fine. */
void peers_free(struct peers *peers);

/* Begins to connect. */
void peers_start(struct peers *peers);

/* Is it ready for requests? */
bool peers_up(const struct peers *peers, enum peer_id id);

/* Why not: words for people; "" when it is. */
const char *peers_trouble(const struct peers *peers, enum peer_id id);

/* "vfio-helper", "vmmon", "frp-supervisor" */
const char *peers_name(enum peer_id id);

const struct peers_limits *peers_limits(const struct peers *peers);

/* What vmmon's greeting says of registries; NULL before it has greeted. See common/registry.h. */
const char *peers_registries(const struct peers *peers);

/* rpc_call() on a peer that is up; -ENOTCONN otherwise. */
int peers_call(struct peers *peers, enum peer_id id, uint32_t op_number, const void *req, int fd,
	       uint32_t timeout_ms, rpc_reply_fn *fn, void *arg);
