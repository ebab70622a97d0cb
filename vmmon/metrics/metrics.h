/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The figures of one guest: a fixed command in it that prints them at an interval, over an SSH
 * session that is kept and made again, ever more slowly while it is of no use. The figures are the
 * guest's heartbeat, too.
 *
 * A guest that floods, stalls or sends rubbish loses its session; what it can take up is one line,
 * the series, and METRICS_BYTES_PER_S.
 * Trust: runs in vmmon; reads SSH of a guest, which its tenant owns.
 */
#pragma once

#include "vmmon/metrics/series.h"
#include "vmmon/session.h"

#define METRICS_INTERVAL_MIN_MS 100
#define METRICS_INTERVAL_MAX_MS 60000
#define METRICS_BYTES_PER_S     (16 * 1024) /* sixteen GPUs ten times a second take 12 KiB */
#define METRICS_WORDS_SIZE      128

/* How it goes on in time; whole defaults, shorter in tests. */
struct metrics_pace {
	uint32_t interval_ms; /* between looks */
	uint32_t silent_ms;   /* without figures, until the guest is called unhealthy */
	uint32_t begin_ms;    /* from up to the first session */
	uint32_t login_ms;    /* for a session and the head */
	uint32_t stall_ms;    /* between two looks, at most; three intervals if that is longer */
	uint32_t retry_ms;    /* the first pause; it doubles */
	uint32_t retry_max_ms;
};

/* All but the first two. */
#define METRICS_PACE_DEFAULT                                                                       \
	.begin_ms = 1000, .login_ms = 45000, .stall_ms = 15000, .retry_ms = 1000,                  \
	.retry_max_ms = 60000

struct metrics_config {
	struct event_base *base;
	struct metrics_pace pace;
	const char *vm; /* for the log; borrowed */
	void *ctx;
	/* Begins a session to the guest as session_start() does. */
	int (*start)(void *ctx, const struct session_handler *handler,
		     struct session **ret_session);
	/* Is there something more urgent to be done over SSH? A guest may be slow. NULL: never. */
	bool (*busy)(void *ctx);
	/* The health is another. Not more often than once in silent_ms for the worse. */
	void (*on_health)(void *ctx, enum proto_health health, const char *words);
};

struct metrics;

/* NULL: out of memory. */
struct metrics *metrics_new(const struct metrics_config *config);

/* NULL is fine. */
void metrics_free(struct metrics *m);

/* The guest can be logged in to, or cannot any more. Harmless when nothing changes. */
void metrics_set_up(struct metrics *m, bool up);

/* From now on QEMU's figures go along: of the process behind @socket. NULL: no more. */
void metrics_set_process(struct metrics *m, const char *socket);

/* What the container is from now on. */
void metrics_set_container(struct metrics *m, enum proto_container_state state);

enum proto_health metrics_health(const struct metrics *m);
const struct series *metrics_series(const struct metrics *m);
