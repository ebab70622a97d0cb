/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of instances and what every part needs of it.
 * Trust: runs inside agentd; holds values that were checked before.
 */
#include "agentd/agentd.h"

#include "agentd/report.h"
#include "agentd/store.h"
#include "agentd/view.h"
#include "common/log.h"
#include "common/notify.h"

#include <time.h>

void agentd_kick(struct agentd *a)
{
	event_active(a->work, EV_TIMEOUT, 0);
}

struct instance *agentd_find(struct agentd *a, const char *id)
{
	struct instance *inst;

	TAILQ_FOREACH(inst, &a->instances, link)
	if (STR_EQ(inst->id, id))
		return inst;
	return NULL;
}

struct instance *agentd_bare(struct agentd *a)
{
	struct instance *inst;

	TAILQ_FOREACH(inst, &a->instances, link)
	if (inst->bare)
		return inst;
	return NULL;
}

size_t agentd_count(const struct agentd *a)
{
	struct instance *inst;
	size_t n = 0;

	TAILQ_FOREACH(inst, &a->instances, link)
	n++;
	return n;
}

size_t agentd_gpu_claims(const struct agentd *a,
			 struct gpu_claim ret_claims[static AGENTD_CLAIMS_MAX])
{
	struct instance *inst;
	size_t n = 0;

	/* Also those that are being destroyed: they give back first, and are erased then. */
	TAILQ_FOREACH(inst, &a->instances, link)
	for (size_t i = 0; i < proto_gpus_count(inst->gpus) && n < AGENTD_CLAIMS_MAX; i++)
		ret_claims[n++] = (struct gpu_claim){inst->gpus[i], inst->id};
	return n;
}

/* Brings the status word up to date; has it changed? */
static bool refresh_status(struct instance *inst)
{
	const char *status = view_status(inst), *before = inst->status;

	if (STR_EQ(status, before))
		return false;
	inst->run.since_s = (int64_t)time(NULL);
	inst->status = status;
	log_event(LOG_NOTICE, "instance status", LOG_STR("INSTANCE", inst->id),
		  LOG_STR("FROM", before), LOG_STR("TO", status),
		  LOG_STR("REASON", inst->run.error[0] ? inst->run.error : inst->run.note));
	return true;
}

void agentd_changed(struct agentd *a, struct instance *inst)
{
	bool changed = refresh_status(inst);

	free(TAKE_PTR(inst->view));
	free(TAKE_PTR(a->list_view));
	free(TAKE_PTR(a->bare_view));
	agentd_tell_manager(a);
	if (changed)
		report_changed(a);
	agentd_kick(a); /* waiters */
}

void agentd_tell_manager(struct agentd *a)
{
	char text[sizeof(a->told)];
	struct instance *inst;
	size_t n = 0, running = 0;

	TAILQ_FOREACH(inst, &a->instances, link)
	{
		n++;
		running += STR_EQ(inst->status, "running");
	}
	(void)snprintf(text, sizeof(text), "127.0.0.1:%u, instances: %zu, running: %zu",
		       a->http_port, n, running);
	if (STR_EQ(text, a->told))
		return;
	(void)snprintf(a->told, sizeof(a->told), "%s", text);
	notify_status(text);
}

int agentd_commit(struct agentd *a, struct instance *inst, const struct run *next)
{
	struct run before = inst->run;
	bool changed;
	int r;

	if (next->goal != before.goal)
		a->tunnels.kept = false; /* what is to be destroyed needs none */
	inst->run = *next;
	changed = refresh_status(inst); /* the word is stored, too */
	r = store_save(a->store_fd, inst);
	if (r < 0) {
		inst->run = before;
		log_event(LOG_ERR, "instance record cannot be written",
			  LOG_STR("INSTANCE", inst->id), LOG_ERRNO(r));
	}
	agentd_changed(a, inst);
	if (changed)
		report_changed(a);
	return r;
}

int agentd_erase(struct agentd *a, struct instance *inst)
{
	int r = store_remove(a->store_fd, inst->id);

	if (r < 0)
		return r;
	agentd_changed(a, inst);
	log_event(LOG_NOTICE, "instance destroyed", LOG_STR("INSTANCE", inst->id));
	TAILQ_REMOVE(&a->instances, inst, link);
	instance_free(inst);
	tunnels_gone(a);
	agentd_tell_manager(a);
	report_changed(a);
	return 0;
}

int agentd_call(struct agentd *a, enum peer_id peer, uint32_t op_number, const void *req, int fd,
		uint32_t timeout_ms, rpc_reply_fn *fn, void *arg)
{
	if (hostgpus_is_act(op_number))
		return hostgpus_call(a->hostgpus, op_number, req, timeout_ms, fn, arg);
	return peers_call(a->peers, peer, op_number, req, fd, timeout_ms, fn, arg);
}
