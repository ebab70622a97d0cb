/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What agentd wants: a server and the tunnels of each owner, checked and kept over a restart.
 * No events, no network. Trust: runs in frp-supervisor; reads decoded messages of agentd.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "frp-supervisor/grammar.h"
#include "proto/proto.h"

#define WANTED_API_OWNER "api" /* the one owner of tunnels of kind API, and of no others */

struct tunnel {
	struct proto_proxy proxy;
	enum proto_proxy_state state;
	char detail[120]; /* why it does not run; printable */
	bool told;        /* agentd has heard of this state */
};

struct owner {
	char name[PROTO_NAME_SIZE];
	struct tunnel tunnels[PROTO_MAX_PORTS];
	size_t n;
};

struct wanted {
	bool configured;
	struct frp_configure_req server;
	char token[GRAMMAR_TOKEN_MAX + 1]; /* secret; "": none */
	struct owner owners[PROTO_MAX_OWNERS];
	size_t n_owners;
};

/* What the administrator allows: frp-supervisor.conf. Bounds of ports are included. */
struct wanted_policy {
	uint32_t local_low, local_high; /* instances' ports on this host */
	uint32_t api_low, api_high;     /* agentd's own */
	uint32_t tcp_low, tcp_high;     /* at the server */
	uint32_t http_low, http_high;   /* in names */
	int tls;                        /* enum proto_tls: no less */
};

/*
 * Takes a server. @token is that of the message's memfd. Returns 1 when something has changed, 0
 * when not, -EINVAL (a string is not of its grammar), -EPERM (less TLS than the policy wants).
 */
int wanted_configure(struct wanted *w, const struct wanted_policy *policy,
		     const struct frp_configure_req *req, const char *token);

/*
 * Makes @req's the tunnels of its owner; none: the owner is forgotten. States of tunnels that stay
 * are kept. Returns 1 or 0 as above, -EPERM (a port outside the policy, a kind that is not the
 * owner's), -EEXIST (another owner has the local port, or the remote one), -ENOSPC.
 */
int wanted_set(struct wanted *w, const struct wanted_policy *policy, const struct frp_set_req *req);

/* Forgets an owner. Returns 1, or 0 when there is none. */
int wanted_remove(struct wanted *w, const char *name);

/* Forgets all owners but the named ones and the API. Returns how many. */
size_t wanted_keep(struct wanted *w, const char names[static PROTO_MAX_VMS][PROTO_NAME_SIZE]);

/* Forgets everything, the token with explicit zeroes. */
void wanted_clear(struct wanted *w);

size_t wanted_count(const struct wanted *w, size_t *ret_running);

/* The name of a tunnel at the server: "agent-owner-port", in @size bytes (96 are enough). */
void wanted_name(const struct wanted *w, const struct owner *owner, const struct tunnel *tunnel,
		 char *ret_name, size_t size);

/* Stores all but states in the directory @dirfd, as the messages that would say it. */
int wanted_save(const struct wanted *w, int dirfd);

/* Reads that back through the same checks; what fails them is left out. -ENOENT: nothing there. */
int wanted_load(struct wanted *w, const struct wanted_policy *policy, int dirfd);
