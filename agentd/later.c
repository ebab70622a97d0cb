/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that need another daemon's word before they can be answered.
 * Trust: runs inside agentd; holds requests of clients that may go away.
 */
#include "agentd/later.h"

#include "agentd/reply.h"

static void later_free(struct later *later)
{
	if (later->data)
		later->free_data(later->data);
	free(later);
}

static void on_cancel(struct http_request *req, void *arg)
{
	struct later *later = arg;

	later->req = NULL;
	reply_error(req, 503, "the client has gone");
}

static void on_answer(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct later *later = arg;

	if (later->req)
		later->answer(later, status, rep, fds);
	later_free(later);
}

void later_ask(struct agentd *a, struct http_request *req, const struct instance *inst,
	       const struct later_question *question)
{
	uint32_t timeout_ms = question->timeout_ms ? question->timeout_ms : LATER_TIMEOUT_MS;
	struct later *later = calloc(1, sizeof(*later));
	struct fdlist none = {0};

	if (!later) {
		if (question->data)
			question->free_data(question->data);
		reply_error(req, 500, "out of memory");
		return;
	}
	later->agentd = a;
	later->req = req;
	later->answer = question->answer;
	later->data = question->data;
	later->free_data = question->free_data;
	if (inst)
		(void)snprintf(later->id, sizeof(later->id), "%s", inst->id);
	if (agentd_call(a, question->peer, question->op_number, question->req, /* fd= */ -EBADF,
			timeout_ms, on_answer, later) < 0)
		on_answer(later, PROTO_UNREACHABLE, NULL, &none);
	else
		http_on_cancel(req, on_cancel, later);
}
