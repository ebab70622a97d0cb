/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One container, the only one of a guest or an instance's on this host: brought to what is wanted,
 * over the engine's HTTP API, and followed.
 *
 *   NONE      nothing is wanted
 *   WAITING   the guest or its engine does not answer yet
 *   PULLING   the image comes from its registry
 *   STARTING  the container is being made or started
 *   RUNNING   its process runs
 *   EXITED    its process has ended; the engine starts it again by itself, and once that has
 *             happened, it is RUNNING only after it has stayed up for a while
 *   FAILED    given up, with words; tried again when the wish is set again or the guest boots.
 *             On this host a missing engine, a stop and a removal are tried again for ever. A
 *             container that somebody has paused is FAILED, too, until somebody goes on with it
 *   STOPPED   as was wanted; what it has stays
 *   GONE      as was wanted; removed with its data
 *
 * Level-triggered, too: whatever the guest holds already is found by its label and kept. On this
 * host, what has a name of ours without our label belongs to somebody else, and is left alone.
 * Trust: runs in vmmon; reads answers of a container engine in a guest, which its tenant owns.
 */
#pragma once

#include "proto/proto.h"
#include "vmmon/engine/answers.h"
#include "vmmon/engine/link.h"
#include "vmmon/engine/login.h"
#include "vmmon/engine/wish.h"

#include <event2/event.h>

#define ENGINE_LOGS_CALLS 4 /* reads of the log at one time */

struct engine_status {
	enum proto_container_state state;
	unsigned int percent;   /* of a pull */
	unsigned int exit_code; /* EXITED */
	char id[ANSWER_ID_SIZE];
	char words[ANSWER_TEXT_SIZE]; /* FAILED, and what is tried again: for people, ASCII */
	struct login_status login;
};

struct engine_config {
	struct event_base *base;
	struct engine_link *link; /* borrowed */
	void *ctx;
	/* Something of the status has changed. */
	void (*on_status)(void *ctx, const struct engine_status *status);
	/* As that of struct login_config. */
	void (*on_keys)(void *ctx);
	uint32_t wait_ms;   /* for an engine that has never answered, before it is called missing */
	uint32_t steady_ms; /* that one which had ended stays up, before it is called RUNNING */
	const char *instance; /* whose container on this host it is; borrowed. NULL: a guest's */
	const char *socket;   /* on this host: the engine's, for messages; borrowed */
	bool unlimited;       /* on this host: an engine that cannot limit containers will do */
	uint32_t reserve_mib; /* on this host: nothing is pulled or started with less free */
};

struct engine;

/* NULL: out of memory. */
struct engine *engine_new(const struct engine_config *config);

/* NULL is fine. Reads of the log in progress get -ECANCELED. */
void engine_free(struct engine *e);

/*
 * Sets what is wanted; takes over what @wish holds. The same wish again retries what has failed or
 * ended.
 */
void engine_set_wish(struct engine *e, struct wish *wish);

/* As login_set_keys() and login_keys_busy(): for a container that the tenant logs in to. */
int engine_set_keys(struct engine *e, const char *text, size_t len);
bool engine_keys_busy(const struct engine *e);

/* Wants it stopped, after at most @grace_s seconds killed. Asked again, it is done again. */
void engine_stop(struct engine *e, uint32_t grace_s);

/* Wants it removed, with its data and its network. Only on this host. Asked again, done again. */
void engine_remove(struct engine *e);

/* Connections can be made now, or cannot any more. Harmless when nothing changes. */
void engine_set_up(struct engine *e, bool up);

const struct engine_status *engine_status(const struct engine *e);

/*
 * Reads the last @lines lines of the container's output, at most @max bytes. @fn gets them, or a
 * negative errno: -ENOENT without a container. Returns 0, -EBUSY when too many read, -ENOTCONN.
 */
typedef void engine_logs_fn(void *arg, int r, const char *text, size_t len);
int engine_logs(struct engine *e, unsigned int lines, size_t max, engine_logs_fn *fn, void *arg);
