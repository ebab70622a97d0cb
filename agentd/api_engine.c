/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the container engine on this host is and can do, over HTTP.
 * Trust: runs inside agentd; shows what vmmon has asked the engine.
 */
#include "agentd/later.h"
#include "agentd/reply.h"
#include "agentd/route.h"

static const struct {
	const char *word, *text;
} states[] = {
#define X(name, word, text) [PROTO_ENGINE_##name] = {word, text},
	PROTO_ENGINE_LIST(X)
#undef X
};

static void answer_engine(struct later *later, enum proto_status status, const void *body,
			  struct fdlist *fds)
{
	const struct engine_status_rep *rep = body;

	(void)fds;
	if (status != PROTO_OK) {
		reply_error(later->req, 503, "vmmon does not tell of the engine now: %s",
			    proto_status_text(status));
		return;
	}
	reply_data(
		later->req,
		json_pack("{s:s, s:s, s:s, s:b, s:b, s:s, s:s, s:s, s:s, s:i, s:b, s:b, s:b, "
			  "s:b, s:o, s:I}",
			  "state", states[rep->state].word, "detail", states[rep->state].text,
			  "socket", rep->socket, "podman", rep->podman, "rootless", rep->rootless,
			  "version", rep->version, "driver", rep->driver, "backing", rep->backing,
			  "root", rep->root, "cgroup", (int)rep->cgroup, "limits_memory",
			  rep->memory, "limits_cpus", rep->cpus, "limits_processes", rep->processes,
			  "unlimited", rep->unlimited, "free_mib",
			  rep->free_known ? json_integer((json_int_t)rep->free_mib) : json_null(),
			  "reserve_mib", (json_int_t)rep->reserve_mib));
}

void api_engine(struct agentd *a, struct http_request *req, struct instance *inst)
{
	const struct engine_status_req op_req = {0};
	const struct later_question question = {
		.peer = PEER_VMMON,
		.op_number = OP_ENGINE_STATUS,
		.req = &op_req,
		.answer = answer_engine,
	};

	if (a->config.backend != BACKEND_CONTAINER) {
		reply_error(req, 409, "this host runs VMs (backend = vm in agentd.conf)");
		return;
	}
	later_ask(a, req, inst, &question);
}
