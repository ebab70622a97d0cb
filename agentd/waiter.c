/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers that are given later: long polls and keys on their way into a guest.
 * Trust: runs inside agentd; holds requests of clients that may go away.
 */
#include "agentd/agentd.h"
#include "agentd/reply.h"
#include "agentd/view.h"

#define KEYS_WAIT_MS 10000
#define STATE_SIZE   16
#define DETAIL_SIZE  640
#define WAITERS_MAX  256

struct waiter {
	TAILQ_ENTRY(waiter) link;
	struct agentd *agentd;    /* borrowed */
	struct http_request *req; /* owned until answered */
	char id[PROTO_NAME_SIZE];
	uint64_t deadline_ms;
	uint64_t keys; /* number of the list waited for; 0: a state is waited for */
	char state[STATE_SIZE];
	const char *status; /* constant; the word when it began */
	bool any_change;    /* @detail counts, and so does another status word */
	char detail[DETAIL_SIZE];
};

static void waiter_free(struct waiter *w)
{
	TAILQ_REMOVE(&w->agentd->waiters, w, link);
	free(w);
}

static void on_cancel(struct http_request *req, void *arg)
{
	waiter_free(arg);
	reply_error(req, 503, "the client has gone");
}

static size_t count(const struct agentd *a)
{
	struct waiter *w;
	size_t n = 0;

	TAILQ_FOREACH(w, &a->waiters, link)
	n++;
	return n;
}

static struct waiter *waiter_new(struct agentd *a, struct http_request *req,
				 const struct instance *inst, uint64_t timeout_ms)
{
	struct waiter *w = count(a) < WAITERS_MAX ? calloc(1, sizeof(*w)) : NULL;

	if (!w) {
		reply_error(req, 503, "too many requests are waiting");
		return NULL;
	}
	w->agentd = a;
	w->req = req;
	(void)snprintf(w->id, sizeof(w->id), "%s", inst->id);
	w->deadline_ms = rpc_now_ms() + timeout_ms;
	w->status = inst->status;
	TAILQ_INSERT_TAIL(&a->waiters, w, link);
	http_on_cancel(req, on_cancel, w);
	agentd_kick(a);
	return w;
}

void waiter_add_state(struct agentd *a, struct http_request *req, struct instance *inst,
		      const char *state, const char *seen_detail, uint32_t timeout_s)
{
	struct waiter *w = waiter_new(a, req, inst, (uint64_t)timeout_s * MSEC_PER_SEC);

	if (!w)
		return;
	(void)snprintf(w->state, sizeof(w->state), "%s", state);
	w->any_change = seen_detail != NULL;
	(void)snprintf(w->detail, sizeof(w->detail), "%s", seen_detail ? seen_detail : "");
}

void waiter_add_keys(struct agentd *a, struct http_request *req, struct instance *inst)
{
	struct waiter *w = waiter_new(a, req, inst, KEYS_WAIT_MS);

	if (w)
		w->keys = inst->seen.keys_wanted;
}

static void answer_keys(struct waiter *w, bool applied)
{
	struct http_request *req = w->req;

	waiter_free(w);
	reply_data(req, json_pack("{s:b}", "applied", applied));
}

static bool check_keys(struct waiter *w, const struct instance *inst, bool late)
{
	bool applied = inst && inst->seen.keys_applied >= w->keys;
	/* A running guest that is not followed just now (vmmon restarts) soon is again. */
	bool soon =
		inst && (inst->seen.guest == PROTO_GUEST_READY || STR_EQ(inst->status, "running"));

	/* On this host only the container's sshd lets anyone in, and not each will have one. */
	if (inst && inst->on_host) {
		applied &= inst->seen.container.login == PROTO_LOGIN_CONTAINER;
		soon &= inst->seen.container.login != PROTO_LOGIN_VM;
	}

	if (!applied && !late && soon)
		return false;
	answer_keys(w, applied);
	return true;
}

static bool state_reached(const struct waiter *w, const struct instance *inst)
{
	char detail[DETAIL_SIZE];

	if (STR_EQ(inst->status, w->state) || STR_EQ(inst->status, "error"))
		return true;
	if (!w->any_change)
		return false;
	if (!STR_EQ(inst->status, w->status))
		return true;
	view_detail(inst, detail, sizeof(detail));
	/* What clients remember when there was no detail is the status word. */
	return !STR_EQ(detail[0] ? detail : inst->status, w->detail);
}

static bool check_state(struct waiter *w, struct instance *inst, bool late)
{
	struct http_request *req = w->req;

	if (inst && !late && !state_reached(w, inst))
		return false;
	waiter_free(w);
	if (inst)
		reply_instance(req, inst);
	else
		reply_error(req, 404, "the instance is destroyed");
	return true;
}

uint64_t waiters_check(struct agentd *a)
{
	uint64_t now = rpc_now_ms(), next = UINT64_MAX;
	struct waiter *w, *following;

	for (w = TAILQ_FIRST(&a->waiters); w; w = following) {
		struct instance *inst = agentd_find(a, w->id);
		bool late = now >= w->deadline_ms;
		uint64_t deadline_ms = w->deadline_ms;

		following = TAILQ_NEXT(w, link);
		if (!(w->keys ? check_keys(w, inst, late) : check_state(w, inst, late)))
			next = MIN_OF(next, deadline_ms);
	}
	return next;
}

void waiters_free(struct agentd *a)
{
	struct waiter *w;

	while ((w = TAILQ_FIRST(&a->waiters))) {
		struct http_request *req = w->req;

		waiter_free(w);
		reply_error(req, 503, "the agent is ending");
	}
}
