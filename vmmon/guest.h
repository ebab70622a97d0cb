/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One watched generation of one VM: what its sockets say, as a state.
 *
 *   CONNECTING  QEMU has not answered yet
 *   BOOTING     it answers; the guest has not reported
 *   READY       the guest accepts SSH
 *   RESETTING   the guest was reset; lasts until it is READY again
 *   STOPPING    the power button was pressed, or the guest shuts down
 *   GONE        QEMU's connection has ended, or it never answered
 *
 * Trust: runs in vmmon; reads QMP, console and readiness of a VM that may be hostile.
 */
#pragma once

#include "common/base.h"
#include "vmmon/console.h"
#include "vmmon/container.h"
#include "vmmon/guest_keys.h"
#include "vmmon/keys.h"
#include "vmmon/metrics/metrics.h"
#include "vmmon/qmp.h"
#include "vmmon/ready.h"
#include "vmmon/ring.h"

struct guest;

/* What all guests share; borrowed. */
struct guest_env {
	struct event_base *base;
	const char *vm_run_dir; /* has one directory of sockets for each VM */
	const char *guest_user; /* to log in as */
	int run_fd;             /* directory of the console rings */
	const struct keys *keys;
	struct metrics_pace pace; /* of the figures; interval 0: none are wanted */
	void *ctx;                /* passed to the functions */
	/* The state is another than at the last call. Not more than a few times in a second. */
	void (*on_state)(void *ctx, const struct guest *g);
	/* The container's status; as rarely. */
	void (*on_container)(void *ctx, const struct guest *g, const struct engine_status *status);
	/* The guest has begun or ceased to send figures; seldom. */
	void (*on_health)(void *ctx, const struct guest *g, enum proto_health health,
			  const char *words);
	/* The answer to a deferred request. */
	void (*reply)(void *ctx, struct ticket *ticket, enum proto_status status, uint32_t n_keys);
};

struct guest {
	const struct guest_env *env; /* borrowed */
	char vm[PROTO_NAME_SIZE];
	uint64_t generation;
	uint16_t ssh_port; /* on 127.0.0.1; 0: none */
	enum proto_guest_state state;
	enum proto_guest_state announced;
	bool heard_ready;        /* before QEMU answered */
	bool panicked;           /* logged once */
	struct ring_file *ring;  /* owned, as all that follow */
	struct qmp *qmp;         /* NULL: not connected */
	struct console *console; /* connected or not */
	struct ready *ready;
	struct guest_keys tenant;
	struct {
		struct ticket ticket;
		uint32_t n_keys;
	} held[2 * GUEST_KEYS_WAITERS]; /* answers that wait for the keys in the container */
	size_t n_held;
	char *keys; /* owned; the newest list, for a container that is yet to be; NULL: none */
	size_t keys_len;
	struct container *container; /* NULL: none was asked for */
	struct metrics *metrics;     /* NULL: no figures are wanted, or nobody can log in */
	struct ticket powerdown;     /* a request that waits for QEMU */
	struct event *retry;         /* the next attempt to connect */
	uint32_t retry_ms, waited_ms;
	struct event *announce; /* an announcement that was put off */
	uint64_t announce_window_ms;
	uint32_t announce_used;
	struct event *powerdown_deadline;
};

/* Begins to watch. Returns a guest in state CONNECTING (or beyond), or a negative errno. */
int guest_new(const struct guest_env *env, const char *vm, uint64_t generation, uint16_t ssh_port,
	      struct guest **ret_guest);

/* Stops watching; deferred requests are answered with PROTO_UNREACHABLE. NULL is fine. */
void guest_free(struct guest *g);

/* Tries again to connect to a guest that is GONE. */
void guest_reconnect(struct guest *g);

/* Presses the power button: PROTO_DEFERRED, PROTO_UNREACHABLE or PROTO_BUSY. */
int guest_powerdown(struct guest *g, const struct ticket *ticket);

/* Takes over @text, a checked list: PROTO_DEFERRED, PROTO_UNREACHABLE (not READY) or PROTO_BUSY. */
int guest_set_keys(struct guest *g, char *text, size_t len, uint32_t n_keys,
		   const struct ticket *ticket);

/* Takes over what @wish holds: PROTO_OK, PROTO_UNREACHABLE (no SSH port) or PROTO_FAILED. */
int guest_set_container(struct guest *g, struct wish *wish);
