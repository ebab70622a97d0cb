/* SPDX-License-Identifier: Apache-2.0 */
/*
 * list, status, start, stop, restart, delete and wait.
 *
 * Trust: runs as the operator; prints the agent's answers escaped.
 */
#include <inttypes.h>
#include <time.h>

#include "ctl/instance.h"
#include "ctl/table.h"
#include "ctl/text.h"

#define COLOR_ILL 33

static void age_since(int64_t since, char ret_text[static TEXT_AGE_MAX])
{
	if (since <= 0)
		snprintf(ret_text, TEXT_AGE_MAX, "-");
	else
		text_age((int64_t)time(NULL) - since, ret_text);
}

static void add_number(struct table *t, int64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, value);
	table_add(t, value > 0 ? text : "-", 0);
}

static size_t count_gpus(const struct instance *inst)
{
	return inst->gpus ? json_array_size(inst->gpus) : 0;
}

/* What is worth knowing first: an error, ill health, what is going on. */
static void add_remark(struct table *t, const struct instance *inst)
{
	bool ill = inst->health && STR_EQ(inst->health, "unhealthy");
	char text[256];

	if (ill)
		snprintf(text, sizeof(text), "unhealthy: %s",
			 inst->health_detail ? inst->health_detail : "-");
	table_add(t,
		  inst->error ? inst->error
		  : ill       ? text
			      : inst->detail,
		  ill && !inst->error ? COLOR_ILL : 0);
}

static void add_instance(struct table *t, const struct instance *inst)
{
	char age[TEXT_AGE_MAX], memory[TEXT_AGE_MAX];

	age_since(inst->since, age);
	text_mib(inst->memory_mib, memory);
	table_add(t, inst->id, 0);
	table_add(t, inst->status, instance_status_color(inst->status));
	table_add(t, age, 0);
	add_number(t, inst->cpus);
	table_add(t, inst->memory_mib > 0 ? memory : "-", 0);
	add_number(t, (int64_t)count_gpus(inst));
	table_add(t, inst->image ? inst->image : "-", 0);
	add_remark(t, inst);
}

static int by_age(const void *a, const void *b)
{
	const struct instance *x = a, *y = b;

	if (x->created_at != y->created_at)
		return x->created_at < y->created_at ? -1 : 1;
	return strcmp(x->id, y->id);
}

/* What can be read of the list, oldest first; owned array. */
static struct instance *sorted(const json_t *list, size_t *ret_n)
{
	struct instance *instances = calloc(json_array_size(list) + 1, sizeof(*instances));
	const json_t *json;
	size_t i;

	*ret_n = 0;
	if (!instances)
		return NULL;
	json_array_foreach (list, i, json)
		if (instance_read(json, &instances[*ret_n]) == 0)
			(*ret_n)++;
	qsort(instances, *ret_n, sizeof(*instances), by_age);
	return instances;
}

enum ctl_exit cmd_list(struct ctl *c)
{
	static const char *const headers[] = {"ID",    "STATUS", "SINCE",  ">CPUS", ">MEMORY",
					      ">GPUS", "IMAGE",  "DETAIL", NULL};
	_cleanup_(table_done) struct table table = {0};
	_cleanup_reply_ struct api_reply reply = {0};
	_cleanup_free_ struct instance *instances = NULL;
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(c, &r);
	const json_t *list;
	size_t n;

	if (!api)
		return r;
	r = api_call(api, "GET", "/v1/instances", NULL, API_TIMEOUT_MS, &reply);
	if (r != CTL_OK)
		return ctl_fail(c, r, "%s", reply.error);
	list = json_object_get(reply.data, "instances");
	if (!json_is_array(list))
		return ctl_fail(c, CTL_FAILED, "the agent's answer holds no list of instances");
	if (c->json) {
		ctl_print_json(reply.data);
		return CTL_OK;
	}
	instances = sorted(list, &n);
	if (!instances)
		return ctl_fail(c, CTL_FAILED, "out of memory");
	table_init(&table, headers);
	for (size_t i = 0; i < n; i++)
		add_instance(&table, &instances[i]);
	table_print(&table, stdout, c->color_out);
	if (n < json_array_size(list))
		ctl_note(c, "%zu more could not be understood: is this tool older than the agent?",
			 json_array_size(list) - n);
	else if (n == 0)
		ctl_note(c, "There is no instance. Make one with: qudatactl create");
	return CTL_OK;
}

static void print_field(const char *name, const char *text, int color)
{
	printf("%-10s", name);
	if (color)
		printf("\033[%dm", color);
	text_put(stdout, text, strlen(text));
	puts(color ? "\033[0m" : "");
}

static void print_time(const char *name, int64_t at)
{
	char age[TEXT_AGE_MAX], date[64], text[128];
	time_t t = (time_t)at;
	struct tm tm;

	if (at <= 0 || !localtime_r(&t, &tm))
		return;
	age_since(at, age);
	(void)strftime(date, sizeof(date), "%F %T %z", &tm);
	snprintf(text, sizeof(text), "%s (%s ago)", date, age);
	print_field(name, text, 0);
}

static void print_size(const struct instance *inst)
{
	char memory[TEXT_AGE_MAX], disk[TEXT_AGE_MAX], text[160];

	if (inst->cpus <= 0 && inst->memory_mib <= 0)
		return;
	text_mib(inst->memory_mib, memory);
	text_mib(inst->disk_mib, disk);
	snprintf(text, sizeof(text), "%" PRId64 " CPU%s, %s memory%s%s%s", inst->cpus,
		 inst->cpus == 1 ? "" : "s", memory, inst->disk_mib > 0 ? ", " : "",
		 inst->disk_mib > 0 ? disk : "", inst->disk_mib > 0 ? " disk" : "");
	print_field("Size", text, 0);
}

static void print_ports(const struct instance *inst)
{
	const char *name = "Ports", *key;
	json_t *value;

	json_object_foreach ((json_t *)inst->ports, key, value) {
		char number[24], text[256];

		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(value));
		snprintf(text, sizeof(text), "%s -> %s", key,
			 json_is_string(value) ? json_string_value(value) : number);
		print_field(name, text, 0);
		name = "";
	}
}

/* "22 -> frp.example.org:10001 (tcp), conflict: port already used" */
static void print_tunnels(const struct ctl *c, const struct instance *inst)
{
	const char *name = "Tunnels", *port;
	json_t *tunnel;

	json_object_foreach ((json_t *)inst->tunnels, port, tunnel) {
		const char *address = "-", *kind = "-", *state = "-", *detail = "";
		char text[512];

		(void)json_unpack(tunnel, "{s?s, s?s, s?s, s?s}", "address", &address, "kind",
				  &kind, "state", &state, "detail", &detail);
		snprintf(text, sizeof(text), "%s -> %s (%s), %s%s%s", port, address, kind, state,
			 *detail ? ": " : "", detail);
		print_field(name, text, c->color_out ? tunnel_state_color(state) : 0);
		name = "";
	}
}

static void print_gpus(const struct instance *inst)
{
	for (size_t i = 0; i < count_gpus(inst); i++) {
		const char *address = json_string_value(json_array_get(inst->gpus, i));

		print_field(i == 0 ? "GPUs" : "", address ? address : "-", 0);
	}
}

static void print_ssh(const struct instance *inst)
{
	struct instance_ssh ssh;
	char text[512];
	int r = instance_read_ssh(inst, &ssh);

	if (r == -EBADMSG)
		print_field("SSH", "the agent's description of it is malformed", 0);
	if (r == -ENOENT && instance_ssh_refusal(inst))
		print_field("SSH", instance_ssh_refusal(inst), 0);
	if (r < 0)
		return;
	snprintf(text, sizeof(text), "qudatactl ssh %s  (%s@%s, port %u)", inst->id, ssh.user,
		 ssh.host, ssh.port);
	print_field("SSH", text, 0);
	if (ssh.in && (STR_EQ(ssh.in, "container") || ssh.detail)) {
		snprintf(text, sizeof(text), "into the %s%s%.300s",
			 STR_EQ(ssh.in, "container") ? "container" : "VM", ssh.detail ? ": " : "",
			 ssh.detail ? ssh.detail : "");
		print_field("", text, 0);
	}
	print_field("Host key", ssh.host_key, 0);
}

static void print_health(const struct ctl *c, const struct instance *inst)
{
	bool ill = inst->health && STR_EQ(inst->health, "unhealthy");
	char text[256];

	if (!inst->health || STR_EQ(inst->health, "unknown"))
		return;
	snprintf(text, sizeof(text), "%s%s%s", inst->health, inst->health_detail ? ": " : "",
		 inst->health_detail ? inst->health_detail : "");
	print_field("Health", text, ill && c->color_out ? COLOR_ILL : 0);
}

static void print_status(const struct ctl *c, const struct instance *inst)
{
	char status[512];

	snprintf(status, sizeof(status), "%s%s%s", inst->status, inst->detail ? ": " : "",
		 inst->detail ? inst->detail : "");
	print_field("Instance", inst->id, 0);
	if (inst->name)
		print_field("Name", inst->name, 0);
	print_field("Status", status, c->color_out ? instance_status_color(inst->status) : 0);
	if (inst->error)
		print_field("Error", inst->error, 0);
	print_health(c, inst);
	print_time("Since", inst->since);
	print_time("Created", inst->created_at);
	print_size(inst);
	print_gpus(inst);
	if (inst->accel)
		print_field("Runs on", inst->accel, 0);
	if (inst->image)
		print_field("Image", inst->image, 0);
	print_ports(inst);
	print_tunnels(c, inst);
	print_ssh(inst);
}

enum ctl_exit cmd_status(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	char id[PARSE_NAME_MAX + 1];
	struct instance inst;
	enum ctl_exit r = instance_pick(c, ctl_arg(c, 0), id);

	if (r != CTL_OK)
		return r;
	r = instance_call(c, "GET", id, "", NULL, &reply);
	if (r != CTL_OK)
		return r;
	if (instance_read(reply.data, &inst) < 0)
		return ctl_fail(c, CTL_FAILED, "%s: the agent's answer describes no instance", id);
	if (c->json)
		ctl_print_json(reply.data);
	else
		print_status(c, &inst);
	return CTL_OK;
}

/* Ends start, stop, restart and delete: waits if that was asked for, and prints the outcome. */
static enum ctl_exit finish(struct ctl *c, const char *id, const char *state, uint32_t timeout_s,
			    const json_t *data)
{
	json_t *json = NULL;
	enum ctl_exit r;

	if (ctl_has(c, OPT_WAIT)) {
		r = instance_wait(c, id, state, timeout_s, /* progress= */ true, &json);
		if (r != CTL_OK)
			return r;
	}
	if (c->json)
		ctl_print_json(json ? json : data ? data : json_null());
	json_decref(json);
	return CTL_OK;
}

static enum ctl_exit act(struct ctl *c, const char *action, const char *state, const char *said)
{
	_cleanup_reply_ struct api_reply reply = {0};
	char id[PARSE_NAME_MAX + 1];
	uint32_t timeout_s;
	json_t *body;
	enum ctl_exit r = instance_wait_timeout(c, &timeout_s);

	if (r == CTL_OK)
		r = instance_pick(c, ctl_arg(c, 0), id);
	if (r != CTL_OK)
		return r;
	body = json_pack("{s:s}", "action", action);
	r = instance_call(c, "PUT", id, "", body, &reply);
	json_decref(body);
	if (r != CTL_OK)
		return r;
	ctl_note(c, "%s %s", said, id);
	return finish(c, id, state, timeout_s, reply.data);
}

enum ctl_exit cmd_start(struct ctl *c)
{
	return act(c, "start", "running", "starting");
}

enum ctl_exit cmd_stop(struct ctl *c)
{
	return act(c, "stop", "paused", "stopping");
}

enum ctl_exit cmd_restart(struct ctl *c)
{
	return act(c, "restart", "running", "restarting");
}

/* Whether @id, which was not spelled out, may be destroyed. */
static enum ctl_exit confirm_delete(struct ctl *c, const char *id)
{
	char answer[8] = "";

	if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
		return ctl_fail(c, CTL_USAGE,
				"deleting the only instance, %s, needs its ID or --yes", id);
	fprintf(stderr, "Destroy instance %s and its disk? [y/N] ", id);
	if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != 'y' && answer[0] != 'Y'))
		return ctl_fail(c, CTL_FAILED, "nothing was deleted");
	return CTL_OK;
}

enum ctl_exit cmd_delete(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	char id[PARSE_NAME_MAX + 1];
	uint32_t timeout_s;
	enum ctl_exit r = instance_wait_timeout(c, &timeout_s);

	if (r == CTL_OK)
		r = instance_pick(c, ctl_arg(c, 0), id);
	if (r == CTL_OK && !ctl_arg(c, 0) && !ctl_has(c, OPT_YES))
		r = confirm_delete(c, id);
	if (r == CTL_OK)
		r = instance_call(c, "DELETE", id, "", NULL, &reply);
	if (r != CTL_OK)
		return r;
	ctl_note(c, "deleting %s", id);
	return finish(c, id, "destroyed", timeout_s, reply.data);
}

static bool is_state(const char *word)
{
	static const char *const states[] = {"pending",   "running", "paused",
					     "rebooting", "error",   "destroyed"};

	for (size_t i = 0; i < ARRAY_LEN(states); i++)
		if (STR_EQ(states[i], word))
			return true;
	return false;
}

enum ctl_exit cmd_wait(struct ctl *c)
{
	const char *state = ctl_value(c, OPT_STATE);
	char id[PARSE_NAME_MAX + 1];
	json_t *json = NULL;
	uint32_t timeout_s;
	enum ctl_exit r = instance_wait_timeout(c, &timeout_s);

	if (r != CTL_OK)
		return r;
	if (!state)
		state = "running";
	if (!is_state(state))
		return ctl_fail(c, CTL_USAGE, "--for: no such state: %s", state);
	r = instance_pick(c, ctl_arg(c, 0), id);
	if (r == CTL_OK)
		r = instance_wait(c, id, state, timeout_s, /* progress= */ true, &json);
	if (r == CTL_OK && c->json)
		ctl_print_json(json ? json : json_null());
	json_decref(json);
	return r;
}
