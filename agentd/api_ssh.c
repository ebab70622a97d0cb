/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tenant's SSH keys over HTTP.
 * Trust: runs inside agentd; reads bodies of strangers.
 */
#include "agentd/agentd.h"
#include "agentd/reply.h"
#include "agentd/route.h"
#include "common/log.h"

void api_keys_get(struct agentd *a, struct http_request *req, struct instance *inst)
{
	json_t *keys = json_array();

	(void)a;
	for (size_t i = 0; inst && i < inst->n_keys; i++)
		(void)json_array_append_new(keys, json_string(inst->keys[i]));
	reply_data(req, json_pack("{s:o}", "keys", keys));
}

/* May the keys of @inst be changed? Answers if not. */
static bool may_change(struct http_request *req, const struct instance *inst)
{
	if (!inst)
		reply_error(req, 409, "there is no instance");
	else if (inst->quarantined)
		reply_error(req, 409, "%s", inst->run.error);
	else if (inst->run.goal == GOAL_DELETE)
		reply_error(req, 409, "the instance is being destroyed");
	else if (inst->on_host && inst->container_ssh == 0)
		reply_error(req, 409,
			    "ssh_pubkey: the instance is a container on the host that was made "
			    "without ssh_enabled, and has no VM to log in to");
	else
		return true;
	return false;
}

/* Stores the changed list, then has it installed; answers when that is done or cannot be now. */
static void keys_changed(struct agentd *a, struct http_request *req, struct instance *inst)
{
	inst->seen.keys_wanted++;
	inst->seen.keys_failed = false;
	inst->failures = 0;
	inst->retry_ms = 0;
	log_event(LOG_NOTICE, "SSH keys changed", LOG_STR("INSTANCE", inst->id),
		  LOG_NUM("KEYS", inst->n_keys));
	waiter_add_keys(a, req, inst);
}

static void change(struct agentd *a, struct http_request *req, struct instance *inst,
		   int (*apply)(struct instance *, const char *),
		   int (*undo)(struct instance *, const char *))
{
	char line[PUBKEY_LINE_MAX];
	struct err why = {0};
	struct run next;
	size_t len;
	const void *body = http_body(req, &len);
	int r = request_parse_key(body, len, line, &why);

	if (r < 0) {
		reply_error(req, 400, "%s", why.text);
		return;
	}
	if (!may_change(req, inst))
		return;
	r = apply(inst, line);
	if (r == -E2BIG) {
		reply_error(req, 409,
			    "ssh_pubkey: the instance has %d keys already, the most it "
			    "can have",
			    INSTANCE_KEYS_MAX);
		return;
	}
	if (r < 0) {
		reply_error(req, 500, "out of memory");
		return;
	}
	if (r == 0) { /* as wished already; perhaps still on its way into the guest */
		waiter_add_keys(a, req, inst);
		return;
	}
	next = inst->run;
	next.had_keys = true;
	next.keys_on_disk = false;
	if (agentd_commit(a, inst, &next) < 0) {
		(void)undo(inst, line);
		reply_error(req, 507, "the key cannot be stored");
		return;
	}
	keys_changed(a, req, inst);
}

void api_keys_add(struct agentd *a, struct http_request *req, struct instance *inst)
{
	change(a, req, inst, instance_key_add, instance_key_remove);
}

void api_keys_remove(struct agentd *a, struct http_request *req, struct instance *inst)
{
	change(a, req, inst, instance_key_remove, instance_key_add);
}
