/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances as JSON.
 * Trust: runs inside agentd; shows nothing secret.
 */
#include "agentd/view.h"

#include "agentd/gpus.h"

#define SSH_PORT 22

static bool is_ready(const struct instance *inst)
{
	const struct run *run = &inst->run;

	if (inst->on_host)
		return run->started_generation != 0;
	/* While the helper is away, the last that is known stands. */
	if (run->ready_generation == 0 || run->ready_generation != run->started_generation)
		return false;
	return !inst->seen.described ||
	       (instance_alive(inst) && inst->seen.generation == run->ready_generation);
}

/* The VM is ready. With a container that is half of it. */
static const char *ready_status(const struct instance *inst)
{
	if (!instance_has_container(inst))
		return "running";
	switch (instance_container_state(inst)) {
	case PROTO_CONTAINER_RUNNING:
		return "running";
	case PROTO_CONTAINER_EXITED:
	case PROTO_CONTAINER_FAILED:
		return "error";
	case PROTO_CONTAINER_NONE:
	case PROTO_CONTAINER_WAITING:
	case PROTO_CONTAINER_PULLING:
	case PROTO_CONTAINER_STARTING:
	case PROTO_CONTAINER_STOPPED:
	case PROTO_CONTAINER_GONE:
		break;
	}
	return "pending";
}

const char *view_status(const struct instance *inst)
{
	const struct run *run = &inst->run;

	if (run->goal == GOAL_DELETE)
		return "pending";
	if (run->fault != FAULT_NONE)
		return "error";
	if (run->goal == GOAL_STOP)
		return instance_alive(inst) ? "pending" : "paused";
	if (run->restart != RESTART_NONE || inst->seen.resetting)
		return "rebooting";
	return is_ready(inst) ? ready_status(inst) : "pending";
}

/* What the container is about, while the VM itself has nothing to tell. */
static void container_detail(const struct instance *inst, char *ret_text, size_t size)
{
	const struct container_seen *seen = &inst->seen.container;
	enum proto_container_state state = instance_container_state(inst);
	const char *text = proto_container_text(state);

	if (state == PROTO_CONTAINER_PULLING)
		(void)snprintf(ret_text, size, "%s, %u %%%s%s", text, seen->percent,
			       seen->words[0] ? "; tried again: " : "", seen->words);
	else
		(void)snprintf(ret_text, size, "%s%s%s", text, seen->words[0] ? ": " : "",
			       seen->words);
}

/* Why the status is error; "" when it is not. */
static void view_error(const struct instance *inst, char *ret_text, size_t size)
{
	const struct container_seen *seen = &inst->seen.container;

	ret_text[0] = '\0';
	if (inst->run.goal == GOAL_DELETE)
		return;
	(void)snprintf(ret_text, size, "%s", inst->run.error);
	if (ret_text[0] != '\0' || !STR_EQ(inst->status, "error"))
		return;
	if (seen->state == PROTO_CONTAINER_FAILED)
		(void)snprintf(ret_text, size, "%s", seen->words);
	else if (seen->state == PROTO_CONTAINER_EXITED)
		(void)snprintf(ret_text, size, "the container has ended with exit code %u%s%s",
			       seen->exit_code, seen->words[0] ? ": " : "", seen->words);
}

void view_detail(const struct instance *inst, char *ret_text, size_t size)
{
	const char *prefix = inst->run.goal == GOAL_DELETE ? "being destroyed: " : "";
	const struct container_seen *seen = &inst->seen.container;
	bool stuck = inst->on_host && seen->state == PROTO_CONTAINER_FAILED;

	if (inst->trouble[0] != '\0')
		(void)snprintf(ret_text, size, "%s%s: %s; it is tried again", prefix, inst->doing,
			       inst->trouble);
	else if (inst->doing && inst->doing[0] != '\0' && inst->run.fault != FAULT_FINAL)
		(void)snprintf(ret_text, size, "%s%s%s%s", prefix, inst->doing, stuck ? ": " : "",
			       stuck ? seen->words : "");
	else if (STR_EQ(inst->status, "pending") && is_ready(inst) && instance_has_container(inst))
		container_detail(inst, ret_text, size);
	else if (STR_EQ(inst->status, "running") && inst->on_host)
		(void)snprintf(ret_text, size, "%s", seen->words);
	else
		(void)snprintf(ret_text, size, "%s", inst->run.note);
}

const char *view_health(const struct instance *inst)
{
	static const char *const words[] = {"unknown", "healthy", "unhealthy"};

	/* What vmmon has said of a guest counts as long as it is that guest. */
	return words[inst->seen.watched ? inst->seen.health : PROTO_HEALTH_UNKNOWN];
}

/* Why it is unhealthy; "" when it is not. */
static const char *view_health_detail(const struct instance *inst)
{
	if (!inst->seen.watched || inst->seen.health != PROTO_HEALTH_BAD)
		return "";
	return inst->seen.health_words[0] ? inst->seen.health_words
					  : "the guest sends no figures of itself";
}

json_t *view_ports(const struct instance *inst)
{
	json_t *ports = json_object();

	for (size_t i = 0; i < proto_ports_count(inst->ports); i++) {
		uint16_t shown = instance_shown_port(inst, i);
		char guest[8], host[8];

		if (shown == 0)
			continue;
		(void)snprintf(guest, sizeof(guest), "%u", shown);
		(void)snprintf(host, sizeof(host), "%u", tunnels_client_port(inst, i));
		(void)json_object_set_new(ports, guest, json_string(host));
	}
	return ports;
}

json_t *view_gpus(const struct instance *inst)
{
	json_t *gpus = json_array();
	char text[GPUS_TEXT_SIZE];

	for (size_t i = 0; i < proto_gpus_count(inst->gpus); i++) {
		gpus_address_text(inst->gpus[i], text);
		(void)json_array_append_new(gpus, json_string(text));
	}
	for (size_t i = 0; i < instance_n_host_gpus(inst); i++)
		(void)json_array_append_new(gpus, json_string(inst->host_gpus[i]));
	return gpus;
}

/* On this host a login ends in the container, or nowhere. */
static json_t *view_ssh_on_host(const struct instance *inst)
{
	const struct container_seen *seen = &inst->seen.container;
	bool inside = seen->login == PROTO_LOGIN_CONTAINER;
	const char *words = seen->login_words;

	if (inst->container_ssh == 0)
		return json_null();
	if (inside && seen->login_key[0] == '\0')
		words = "the host key of the container's sshd is not known";
	else if (!inside && words[0] == '\0')
		words = "nothing is known of an sshd in the container yet";
	return json_pack("{s:s, s:i, s:s, s:s, s:s, s:s}", "host", "127.0.0.1", "port",
			 (int)instance_host_port(inst, inst->container_ssh), "user", "root",
			 "host_key", inside ? seen->login_key : "", "in",
			 inside ? "container" : "none", "detail", words);
}

static json_t *view_ssh(const struct instance *inst)
{
	const struct container_seen *seen = &inst->seen.container;
	bool inside = seen->login == PROTO_LOGIN_CONTAINER && seen->login_key[0] != '\0';
	uint16_t port = instance_host_port(inst, inside ? inst->container_ssh : SSH_PORT);
	const char *key = inside ? seen->login_key : inst->run.host_key;
	const char *words = seen->login_words;

	if (inst->on_host)
		return view_ssh_on_host(inst);
	if (port == 0 || key[0] == '\0')
		return json_null();
	if (seen->login == PROTO_LOGIN_CONTAINER && !inside)
		words = "the host key of the container's sshd is not known";
	return json_pack("{s:s, s:i, s:s, s:s, s:s, s:s}", "host", "127.0.0.1", "port", (int)port,
			 "user", "root", "host_key", key, "in", inside ? "container" : "vm",
			 "detail", words);
}

static const char *view_accel(const struct instance *inst)
{
	static const char *const words[] = {"", "kvm", "tcg"};

	return instance_alive(inst) && inst->seen.described ? words[inst->seen.accel] : "";
}

json_t *view_instance_json(const struct instance *inst)
{
	char detail[2 * ERR_TEXT_MAX + 64], error[RUN_ERROR_MAX];

	view_detail(inst, detail, sizeof(detail));
	view_error(inst, error, sizeof(error));
	return json_pack(
		"{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:s, s:o, s:o, s:I, "
		"s:I, s:o, s:o, s:s, s:o, s:s, s:s}",
		"instance_id", inst->id, "vm_id", inst->id, "container_id", inst->seen.container.id,
		"name", inst->name, "status", inst->status, "detail", detail, "error", error,
		"cpus", (int)inst->cpus, "memory_mib", (int)inst->memory_mib, "disk_mib",
		(int)inst->disk_mib, "image", inst->image, "ports", view_ports(inst),
		"allocated_ports", view_ports(inst), "created_at", (json_int_t)inst->created_s,
		"since", (json_int_t)inst->run.since_s, "gpus", view_gpus(inst), "ssh",
		view_ssh(inst), "accel", view_accel(inst), "tunnels", tunnels_instance_json(inst),
		"health", view_health(inst), "health_detail", view_health_detail(inst));
}

const char *view_instance(struct instance *inst)
{
	json_t *json;

	if (inst->view)
		return inst->view;
	json = view_instance_json(inst);
	inst->view = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	return inst->view;
}

const char *view_list(struct agentd *a)
{
	struct instance *inst;
	size_t size = 0;
	FILE *f;

	if (a->list_view)
		return a->list_view;
	f = open_memstream(&a->list_view, &size);
	if (!f)
		return NULL;
	(void)fputs("{\"ok\":true,\"data\":{\"instances\":[", f);
	TAILQ_FOREACH(inst, &a->instances, link)
	{
		const char *text = view_instance(inst);

		(void)fprintf(f, "%s%s", inst == TAILQ_FIRST(&a->instances) ? "" : ",",
			      text ? text : "null");
	}
	(void)fputs("]}}", f);
	if (fclose(f) != 0) {
		free(TAKE_PTR(a->list_view));
		return NULL;
	}
	return a->list_view;
}

const char *view_bare(struct agentd *a)
{
	static const char none[] = "{\"ok\":true,\"data\":{\"status\":\"destroyed\","
				   "\"instance_id\":\"\",\"container_id\":\"\",\"vm_id\":\"\","
				   "\"ports\":{},\"allocated_ports\":{}}}";
	struct instance *inst = agentd_bare(a);
	const char *text;

	if (a->bare_view)
		return a->bare_view;
	if (!inst)
		return none;
	text = view_instance(inst);
	if (!text || asprintf(&a->bare_view, "{\"ok\":true,\"data\":%s}", text) < 0)
		a->bare_view = NULL;
	return a->bare_view;
}
