/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's own structure and the paths between its parts.
 * Trust: runs in frp-supervisor; reads decoded messages of agentd and what frpc answers.
 */
#pragma once

#include "common/base.h"
#include "common/service.h"
#include "frp-supervisor/admin.h"
#include "frp-supervisor/files.h"
#include "frp-supervisor/render.h"
#include "frp-supervisor/spawner/spawn.h"
#include "frp-supervisor/wanted.h"

#include <event2/event.h>
#include <sys/types.h>

#define SUPERVISOR_OLDEST     0x003400 /* 0.52.0: the first frpc that reads TOML */
#define SUPERVISOR_DETAIL_MAX 120

struct supervisor_config {
	char socket[108];
	char socket_group[33];
	char agentd_user[33];
	char frpc[256];
	char run_dir[256];
	char ca_file[256];
	bool keep_frpc;
	uint32_t admin_low, admin_high;
	struct wanted_policy policy;
};

enum frpc_phase {
	FRPC_DOWN,
	FRPC_ASKED,    /* for its version */
	FRPC_SPAWNING, /* frp-spawn was asked to start it */
	FRPC_UP,
	FRPC_STOPPING,
};

/* The one frpc. */
struct frpc {
	enum frpc_phase phase;
	bool broken;   /* there is none that can be used */
	bool told_off; /* its end was asked for: no reason to wait before the next */
	pid_t pid;
	int pidfd; /* owned; -EBADF unless up or stopping */
	struct render_admin admin;
	char digest[RENDER_DIGEST_SIZE]; /* of what it has read at its start */
	char version[24];
	uint32_t starts;
	unsigned int failures; /* ends in a row that nobody asked for */
	uint64_t since_ms;     /* monotonic; when it was started */
	uint64_t retry_ms;     /* monotonic; no start before */
	char trouble[SUPERVISOR_DETAIL_MAX];
	struct event *exited; /* owned; on pidfd */
	struct event *timer;  /* owned; next start, or the end of patience with a stop */
};

/* What is known of its work. */
struct watch {
	struct admin request;
	bool dirty;          /* it has not been told of the latest wish */
	bool reached;        /* it has answered the latest question about its tunnels */
	bool connected;      /* the server has answered about a tunnel */
	unsigned int polls;  /* since something has changed */
	unsigned int misses; /* questions in a row without an answer */
	int log_fd;          /* owned */
	off_t log_at;
	int inotify_fd; /* owned */
	uint64_t logged_ms;
	unsigned int logged;                 /* lines in the window that began then */
	char trouble[SUPERVISOR_DETAIL_MAX]; /* why it is not connected, in its words */
	struct event *log_changed;           /* owned */
	struct event *poll;                  /* owned; the next question */
	struct event *telling;               /* owned; the rest of what agentd is to hear */
};

struct supervisor {
	struct supervisor_config config;
	int run_fd;   /* owned; the directory of all our files */
	int spawn_fd; /* owned; of frp-spawn */
	bool failed;  /* frp-spawn is lost */
	struct service service;
	struct event *spawn_answer;
	struct wanted wanted;
	struct frpc frpc;
	struct watch watch;
	struct frp_state_ev told; /* what agentd has heard last */
};

/* handlers.c: for struct server_config. */
int supervisor_dispatch(void *ctx, struct peer *peer, const struct proto_op *op,
			const union proto_body *req, union proto_body *rep, struct fdlist *fds);

/* life.c: frpc's beginning and end. */
int life_open(struct supervisor *s);
void life_done(struct supervisor *s);
/* Does what is to be done next: starts it, ends it, tells it of changes. */
void life_kick(struct supervisor *s);
/* Takes over the frpc that an earlier supervisor has started, if there is one. */
void life_adopt(struct supervisor *s);
/* Ends it; it is started again if there is a server. */
void life_stop(struct supervisor *s, const char *why);
/* Ends it before the supervisor ends: waits, but not long. */
void life_end(struct supervisor *s);

/* watch.c: frpc at work. */
int watch_open(struct supervisor *s, struct err *reterr);
void watch_done(struct supervisor *s);
/* It is up, or not any more. */
void watch_begin(struct supervisor *s);
void watch_end(struct supervisor *s);
/* Writes its configuration and has it read, if there is something new and nothing under way. */
void watch_refresh(struct supervisor *s);

/* tell.c: what agentd and the service manager hear. */
void tell_state(const struct supervisor *s, struct frp_state_ev *ret_ev);
void tell_proxy(const struct owner *owner, const struct tunnel *tunnel,
		struct frp_proxy_ev *ret_ev);
void tell_set(struct tunnel *tunnel, enum proto_proxy_state state, const char *detail);
void tell(struct supervisor *s);
/* Tells everything soon: somebody new listens. */
void tell_again(struct supervisor *s);
