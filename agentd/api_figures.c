/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures of an instance: its guest's, or, of a container on this host, those of its GPUs.
 * Trust: runs inside agentd; reads queries of strangers, and passes on what a guest says of itself.
 */
#include "agentd/hostgpus.h"
#include "agentd/later.h"
#include "agentd/metrics.h"
#include "agentd/reply.h"
#include "agentd/route.h"
#include "agentd/view.h"
#include "common/log.h"

/* A whole number within [@low, @high]; @ret_value stays when it is not given. */
static bool get_number(const struct http_request *req, const char *name, uint64_t low,
		       uint64_t high, uint64_t *ret_value)
{
	char text[20];
	uint64_t value = 0;
	int r = http_query(req, name, text, sizeof(text));

	if (r == -ENOENT)
		return true;
	if (r <= 0 || r > 16)
		return false;
	for (const char *p = text; *p; p++) {
		if (*p < '0' || *p > '9')
			return false;
		value = value * 10 + (uint64_t)(*p - '0');
	}
	if (value < low || value > high)
		return false;
	*ret_value = value;
	return true;
}

/* @host_gpus is taken over; NULL: it is a VM's. */
static void reply_metrics(struct http_request *req, const struct instance *inst,
			  const struct metrics_list *list, bool fake, json_t *host_gpus)
{
	json_t *data = metrics_json(list);

	(void)json_object_set_new(data, "instance_id", json_string(inst->id));
	(void)json_object_set_new(data, "status", json_string(inst->status));
	(void)json_object_set_new(data, "health", json_string(view_health(inst)));
	(void)json_object_set_new(data, "fake_gpus", json_boolean(fake));
	(void)json_object_set_new(data, "host_gpus", host_gpus ? host_gpus : json_null());
	reply_data(req, data);
}

/*
 * The instance's GPUs and no others, as the driver told of them last: what else is in the host is
 * its operators' business.
 */
static json_t *host_gpus_json(const struct instance *inst, const struct hostgpus_view *view)
{
	json_t *array = json_array();
	size_t n = instance_n_host_gpus(inst);

	for (size_t i = 0; i < n; i++) {
		const struct probe_gpu *gpu = hostgpus_find_name(view, inst->host_gpus[i]);

		(void)json_array_append_new(array,
					    json_pack("{s:s, s:o}", "name", inst->host_gpus[i],
						      "figures", hostgpus_gpu_json(gpu)));
	}
	/* As in a VM: who asked for GPUs of a host that has none was let through without. */
	if (n == 0 && view->fake)
		(void)json_array_append_new(array,
					    json_pack("{s:n, s:o}", "name", "figures",
						      hostgpus_gpu_json(&view->report->gpus[0])));
	return json_pack(
		"{s:s, s:s, s:o, s:o}", "state", view->state, "detail", view->detail, "age_ms",
		view->report ? json_integer((json_int_t)view->age_ms) : json_null(), "gpus", array);
}

static void answer_on_host(struct agentd *a, struct http_request *req, struct instance *inst)
{
	const struct hostgpus_view view = hostgpus_view(a->hostgpus);
	const struct metrics_list none = {0};

	reply_metrics(req, inst, &none, view.fake, host_gpus_json(inst, &view));
}

static void answer_metrics(struct later *later, enum proto_status status, const void *rep,
			   struct fdlist *fds)
{
	_cleanup_(metrics_done) struct metrics_list list = {0};
	const struct instance *inst = agentd_find(later->agentd, later->id);
	struct err why = {0};

	if (!inst) {
		reply_error(later->req, 404, "the instance is destroyed");
		return;
	}
	/* A guest that does not run has no figures. */
	if (status != PROTO_OK && status != PROTO_NOT_FOUND) {
		reply_error(later->req, 503, "vmmon does not tell the figures now: %s",
			    proto_status_text(status));
		return;
	}
	if (status == PROTO_OK && metrics_receive(rep, fds, &list, &why) < 0) {
		log_event(LOG_WARNING, "vmmon's list of figures is of no use",
			  LOG_STR("WHY", why.text));
		reply_error(later->req, 500, "%s", why.text);
		return;
	}
	reply_metrics(later->req, inst, &list,
		      metrics_add_fakes(later->agentd->config.debug, &list), NULL);
}

void api_figures(struct agentd *a, struct http_request *req, struct instance *inst)
{
	struct metrics_read_req op_req = {0};
	const struct later_question question = {
		.peer = PEER_VMMON,
		.op_number = OP_METRICS_READ,
		.req = &op_req,
		.answer = answer_metrics,
	};
	uint64_t since = 0, limit = PROTO_SAMPLES_MAX;

	if (!get_number(req, "since", 0, PROTO_FIGURE_MAX, &since)) {
		reply_error(req, 400, "since must be the seq of a sample, a whole number");
		return;
	}
	if (!get_number(req, "limit", 1, PROTO_SAMPLES_MAX, &limit)) {
		reply_error(req, 400, "limit must be a whole number from 1 to %d",
			    PROTO_SAMPLES_MAX);
		return;
	}
	if (inst->on_host) { /* vmmon has no figures of it */
		api_with_hostgpus(a, req, inst, answer_on_host);
		return;
	}
	op_req.since = since;
	op_req.max = (uint32_t)limit;
	(void)proto_name_set(op_req.vm, inst->id);
	later_ask(a, req, inst, &question);
}
