/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures of the GPUs that the host's own driver has, over HTTP.
 * Trust: runs inside agentd; shows what nvml-probe says.
 */
#include "agentd/agentd.h"
#include "agentd/gpus.h"
#include "agentd/reply.h"
#include "agentd/route.h"

#define WAIT_MS 5000

static json_t *figure(uint32_t value)
{
	return value == PROBE_UNKNOWN ? json_null() : json_integer(value);
}

static json_t *bytes(uint32_t mib)
{
	return mib == PROBE_UNKNOWN ? json_null() : json_integer((json_int_t)mib << 20);
}

json_t *hostgpus_gpu_json(const struct probe_gpu *gpu)
{
	if (!gpu)
		return json_null();
	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "uuid", gpu->uuid, "name",
			 gpu->name, "percent", figure(gpu->percent), "celsius",
			 figure(gpu->celsius), "memory_used", bytes(gpu->used_mib), "memory_total",
			 bytes(gpu->total_mib), "watts",
			 gpu->milliwatts == PROBE_UNKNOWN ? json_null()
							  : json_real(gpu->milliwatts / 1000.0));
}

json_t *hostgpus_view_json(const struct hostgpus_view *view)
{
	char cuda[16] = "";

	if (view->report)
		hostgpus_cuda_text(view->report, cuda);
	return json_pack("{s:s, s:s, s:b, s:o, s:s, s:s, s:i}", "state", view->state, "detail",
			 view->detail, "fake_gpus", view->fake, "age_ms",
			 view->report ? json_integer((json_int_t)view->age_ms) : json_null(),
			 "driver_version", view->report ? view->report->driver : "", "cuda_version",
			 cuda, "left_out", view->report ? (int)view->report->left_out : 0);
}

/* A request that waits for a report. */
struct asked {
	struct agentd *agentd;
	struct http_request *req; /* NULL: the client has gone */
	char id[PROTO_NAME_SIZE]; /* of the instance, "" without one */
	hostgpus_answer_fn *answer;
};

static void on_cancel(struct http_request *req, void *arg)
{
	struct asked *asked = arg;

	asked->req = NULL;
	reply_error(req, 503, "the client has gone");
}

static void on_report(void *arg)
{
	struct asked asked = *(struct asked *)arg;
	struct instance *inst;

	free(arg);
	if (!asked.req)
		return;
	http_on_cancel(asked.req, NULL, NULL);
	inst = asked.id[0] != '\0' ? agentd_find(asked.agentd, asked.id) : NULL;
	if (asked.id[0] != '\0' && !inst)
		reply_error(asked.req, 404, "the instance is destroyed");
	else
		asked.answer(asked.agentd, asked.req, inst);
}

void api_with_hostgpus(struct agentd *a, struct http_request *req, const struct instance *inst,
		       hostgpus_answer_fn *answer)
{
	struct asked *asked = calloc(1, sizeof(*asked));
	char wait[8];

	if (!asked) {
		reply_error(req, 500, "out of memory");
		return;
	}
	*asked = (struct asked){.agentd = a, .req = req, .answer = answer};
	if (inst)
		(void)snprintf(asked->id, sizeof(asked->id), "%s", inst->id);
	http_on_cancel(req, on_cancel, asked);
	if (http_query(req, "wait", wait, sizeof(wait)) < 0 || !STR_EQ(wait, "no")) {
		hostgpus_wait(a->hostgpus, WAIT_MS, on_report, asked);
		return;
	}
	hostgpus_want(a->hostgpus);
	on_report(asked);
}

static void answer_figures(struct agentd *a, struct http_request *req, struct instance *inst)
{
	struct hostgpus_view view = hostgpus_view(a->hostgpus);
	json_t *json = hostgpus_view_json(&view), *array = json_array();
	char address[GPUS_TEXT_SIZE];

	(void)inst;
	for (uint32_t i = 0; view.report && i < view.report->n_gpus; i++) {
		const struct probe_gpu *gpu = &view.report->gpus[i];
		json_t *one = hostgpus_gpu_json(gpu);

		gpus_address_text(gpu->address, address);
		(void)json_object_set_new(one, "address",
					  view.fake ? json_null() : json_string(address));
		(void)json_array_append_new(array, one);
	}
	(void)json_object_set_new(json, "gpus", array);
	reply_data(req, json);
}

void api_gpu_figures(struct agentd *a, struct http_request *req, struct instance *inst)
{
	(void)inst;
	api_with_hostgpus(a, req, /* inst= */ NULL, answer_figures);
}
