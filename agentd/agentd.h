/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What agentd's files share: the daemon's one struct and the paths between its parts.
 * Trust: runs as qudata; reads HTTP of tenants and operators, answers of the other daemons.
 */
#pragma once

#include "agentd/auth.h"
#include "agentd/config.h"
#include "agentd/controlplane.h"
#include "agentd/gpunames.h"
#include "agentd/hostgpus.h"
#include "agentd/http.h"
#include "agentd/instance.h"
#include "agentd/peers.h"
#include "agentd/tunnels.h"
#include "common/base.h"
#include "common/err.h"

#include <event2/event.h>

/* vfio-helper looks at the machine each time; other acts on GPUs may come first. */
#define GPU_LIST_TIMEOUT_MS 30000
/* Longer than any act on GPUs may take there, three minutes. */
#define GPU_ACT_TIMEOUT_MS  200000

/* Tags of the HTTP listeners. */
enum agentd_listener {
	LISTENER_CTL = 1, /* local operators: whoever the socket's mode lets in */
	LISTENER_TCP,     /* everybody else: needs the secret */
};

struct waiter;
struct relay;
TAILQ_HEAD(waiter_list, waiter);
LIST_HEAD(relay_list, relay);

struct agentd {
	struct agentd_config config;
	struct auth auth;
	struct event_base *base;   /* owned */
	struct http_server *http;  /* owned */
	struct peers *peers;       /* owned */
	struct controlplane *cp;   /* owned; NULL without a control plane */
	struct hostgpus *hostgpus; /* owned */
	struct gpu_names gpu_names;
	/* For the control plane: report.c */
	uint64_t host_gpu; /* the first one's address */
	uint32_t host_gpus, host_vram_mib;
	bool host_gpus_asked, host_gpus_known;
	char host_gpu_name[CONTROL_TEXT];
	struct report_figures figures;
	struct tunnels tunnels;         /* holds a secret */
	int store_fd;                   /* owned; the instances' directory */
	struct event *work;             /* owned; makes drive_all() run soon */
	struct event *timer;            /* owned; makes it run later */
	struct event *on_term[2];       /* owned; SIGTERM, SIGINT */
	uint16_t http_port;             /* 0: TCP is not served */
	int64_t started_s;              /* Unix time */
	struct instance_list instances; /* in the order of creation; owned */
	struct waiter_list waiters;     /* owned */
	struct relay_list relays;       /* owned */
	size_t n_relays;
	char *list_view; /* owned; cached answer to GET /v1/instances, NULL when stale */
	char *bare_view; /* owned; the same for GET /instances */
	char told[96];   /* the status line that the service manager has */
};

/* agentd.c: looks at everything again once the present callback has returned. */
void agentd_kick(struct agentd *a);

/* Instances by id; by the bare paths (the one made through them, or NULL). */
struct instance *agentd_find(struct agentd *a, const char *id);
struct instance *agentd_bare(struct agentd *a);
size_t agentd_count(const struct agentd *a);

/* Something that a client can see has changed: caches are dropped, waiters looked at. */
void agentd_changed(struct agentd *a, struct instance *inst);

/*
 * Makes @next the run of @inst and stores it. Returns 0, or a negative errno and nothing has
 * changed.
 */
int agentd_commit(struct agentd *a, struct instance *inst, const struct run *next);

/* Tells the service manager how many instances there are, if that has changed. */
void agentd_tell_manager(struct agentd *a);

/* Takes the instance out of the list, with its record, and frees it. */
int agentd_erase(struct agentd *a, struct instance *inst);

/*
 * What the instances have been promised, into @ret_claims (room for AGENTD_CLAIMS_MAX). Returns
 * how many.
 */
#define AGENTD_CLAIMS_MAX (INSTANCE_MAX * PROTO_MAX_GPUS)
size_t agentd_gpu_claims(const struct agentd *a,
			 struct gpu_claim ret_claims[static AGENTD_CLAIMS_MAX]);

/*
 * peers_call() for whoever knows not whether it is about GPUs: those take hostgpus_call(). @fd is
 * -EBADF then.
 */
int agentd_call(struct agentd *a, enum peer_id peer, uint32_t op_number, const void *req, int fd,
		uint32_t timeout_ms, rpc_reply_fn *fn, void *arg);

/* drive.c */
/* Takes every instance as far as it can go now; sets the timer for the rest. */
void drive_all(struct agentd *a);
/* Callbacks of peers.c. */
void drive_peer_changed(void *ctx, enum peer_id id, bool up);
void drive_peer_event(void *ctx, enum peer_id id, uint32_t op_number, const void *body);

/* waiter.c: answers that are given later. */
/* Answers every waiter whose time or event has come; returns the next deadline (UINT64_MAX: none).
 */
uint64_t waiters_check(struct agentd *a);
/*
 * Answers @req with the instance once its status is @state, is error, has changed from what it is
 * now, or its detail differs from @seen_detail (NULL: ignored) - or @timeout_s is over.
 */
void waiter_add_state(struct agentd *a, struct http_request *req, struct instance *inst,
		      const char *state, const char *seen_detail, uint32_t timeout_s);
/* Answers @req with {"applied": bool} once the present keys are in the guest, or after 10 s. */
void waiter_add_keys(struct agentd *a, struct http_request *req, struct instance *inst);
void waiters_free(struct agentd *a);

/* relay.c: a console's bytes between a client and vmmon. */
/*
 * Joins @client and @console (owned from now on). @first are bytes that the client has sent
 * already. Ends when either side does. Returns 0 or a negative errno (both are closed).
 */
int relay_start(struct agentd *a, int client, int console, const void *first, size_t len);
void relays_free(struct agentd *a);

/* api.c: requests. */
int api_on_head(struct http_request *req, void *arg);
void api_handle(struct http_request *req, void *arg);
void api_on_refusal(const struct http_error *error, int tag, uid_t peer_uid, void *arg);
