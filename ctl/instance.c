/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances as the agent describes them, how an operator names one, and waiting for a state.
 *
 * Trust: runs as the operator; reads the agent's answers, texts in them are hostile.
 */
#include "ctl/instance.h"

#include <ctype.h>
#include <time.h>

#include "ctl/text.h"

/* One long poll; short enough that proxies and half-dead connections do not hide a change. */
#define WAIT_SLICE_S     25
#define WAIT_MARGIN_MS   10000
/* An agent that answers a long poll at once, without news, must not make this program spin. */
#define WAIT_MIN_STEP_MS 250

#define COLOR_RED    31
#define COLOR_GREEN  32
#define COLOR_YELLOW 33

static const char *text_member(const json_t *json, const char *key)
{
	const char *s = json_string_value(json_object_get(json, key));

	return s && *s ? s : NULL;
}

static int64_t int_member(const json_t *json, const char *key)
{
	return json_integer_value(json_object_get(json, key));
}

int instance_read(const json_t *json, struct instance *ret_inst)
{
	struct instance i = {
		.id = text_member(json, "instance_id"),
		.status = text_member(json, "status"),
		.name = text_member(json, "name"),
		.detail = text_member(json, "detail"),
		.error = text_member(json, "error"),
		.image = text_member(json, "image"),
		.accel = text_member(json, "accel"),
		.health = text_member(json, "health"),
		.health_detail = text_member(json, "health_detail"),
		.cpus = int_member(json, "cpus"),
		.memory_mib = int_member(json, "memory_mib"),
		.disk_mib = int_member(json, "disk_mib"),
		.created_at = int_member(json, "created_at"),
		.since = int_member(json, "since"),
		.ports = json_object_get(json, "ports"),
		.gpus = json_object_get(json, "gpus"),
		.ssh = json_object_get(json, "ssh"),
		.tunnels = json_object_get(json, "tunnels"),
	};

	if (!i.id || !parse_is_name(i.id) || !i.status)
		return -EBADMSG;
	if (!json_is_object(i.ports))
		i.ports = NULL;
	if (!json_is_array(i.gpus))
		i.gpus = NULL;
	if (!json_is_object(i.ssh))
		i.ssh = NULL;
	if (!json_is_object(i.tunnels))
		i.tunnels = NULL;
	*ret_inst = i;
	return 0;
}

/* Made of these characters only, and not starting like an option. */
static bool is_plain(const char *s, const char *extra)
{
	if (!s || !isalnum((unsigned char)*s))
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr(extra, *s))
			return false;
	return true;
}

int instance_read_ssh(const struct instance *inst, struct instance_ssh *ret_ssh)
{
	_cleanup_free_ char *key = NULL;
	struct instance_ssh ssh;
	int64_t port;

	if (!inst->ssh)
		return -ENOENT;
	ssh.host = text_member(inst->ssh, "host");
	ssh.user = text_member(inst->ssh, "user");
	ssh.host_key = text_member(inst->ssh, "host_key");
	ssh.in = text_member(inst->ssh, "in");
	ssh.detail = text_member(inst->ssh, "detail");
	port = int_member(inst->ssh, "port");
	if (!ssh.host || !ssh.host_key || port == 0)
		return -ENOENT;
	if (!ssh.user)
		ssh.user = "root";
	if (port < 1 || port > PARSE_PORT_MAX)
		return -EBADMSG;
	ssh.port = (uint16_t)port;
	if (!is_plain(ssh.host, ".:-") || !is_plain(ssh.user, "_-."))
		return -EBADMSG;
	if (parse_public_key(ssh.host_key, &key) < 0)
		return -EBADMSG;
	*ret_ssh = ssh;
	return 0;
}

const char *instance_ssh_refusal(const struct instance *inst)
{
	const char *in = inst->ssh ? text_member(inst->ssh, "in") : NULL;

	return in && STR_EQ(in, "none") ? text_member(inst->ssh, "detail") : NULL;
}

static enum ctl_exit choose_error(char **ret_error, enum ctl_exit code, const char *what,
				  const json_t *instances)
{
	char *text = NULL;
	size_t size = 0, i;
	FILE *f = open_memstream(&text, &size);
	const json_t *json;

	if (!f)
		return CTL_FAILED;
	fputs(what, f);
	json_array_foreach (instances, i, json) {
		struct instance inst;

		if (instance_read(json, &inst) == 0)
			fprintf(f, "\n  %s  %s%s%s", inst.id, inst.status, inst.name ? "  " : "",
				inst.name ? inst.name : "");
	}
	if (fclose(f) != 0)
		return CTL_FAILED;
	*ret_error = text;
	return code;
}

static bool arg_matches(const struct instance *inst, const char *arg, bool exact)
{
	if (!arg)
		return !exact && !STR_EQ(inst->status, "destroyed");
	if (exact)
		return STR_EQ(inst->id, arg) || (inst->name && STR_EQ(inst->name, arg));
	return strncmp(inst->id, arg, strlen(arg)) == 0;
}

/* Instances that match, as an array (owned). */
static json_t *matching(const json_t *instances, const char *arg, bool exact)
{
	json_t *found = json_array(), *json;
	size_t i;

	json_array_foreach (instances, i, json) {
		struct instance inst;

		if (instance_read(json, &inst) == 0 && arg_matches(&inst, arg, exact))
			(void)json_array_append(found, json);
	}
	return found;
}

enum ctl_exit instance_choose(const json_t *instances, const char *arg,
			      char ret_id[static PARSE_NAME_MAX + 1], char **ret_error)
{
	json_t *found = matching(instances, arg, /* exact= */ true);
	enum ctl_exit r = CTL_OK;
	struct instance inst;

	if (json_array_size(found) == 0) {
		json_decref(found);
		found = matching(instances, arg, /* exact= */ false);
	}
	if (json_array_size(found) == 1 && instance_read(json_array_get(found, 0), &inst) == 0)
		snprintf(ret_id, PARSE_NAME_MAX + 1, "%s", inst.id);
	else if (json_array_size(found) > 0)
		r = choose_error(ret_error, CTL_USAGE,
				 arg ? "more than one instance begins like this:"
				     : "there is more than one instance, say which:",
				 found);
	else if (arg)
		r = choose_error(ret_error, CTL_NOT_FOUND,
				 json_array_size(instances) ? "no such instance; there are:"
							    : "no such instance; there is none",
				 instances);
	else
		r = choose_error(ret_error, CTL_NOT_FOUND,
				 "there is no instance\nMake one with: qudatactl create", NULL);
	json_decref(found);
	return r;
}

enum ctl_exit instance_pick(struct ctl *c, const char *arg, char ret_id[static PARSE_NAME_MAX + 1])
{
	_cleanup_reply_ struct api_reply reply = {0};
	_cleanup_free_ char *error = NULL;
	enum ctl_exit r = CTL_FAILED;
	struct api *api;

	if (arg && !parse_is_ref(arg))
		return ctl_fail(c, CTL_USAGE, "not an instance's id or name: %s", arg);
	if (arg && parse_is_full_id(arg)) {
		snprintf(ret_id, PARSE_NAME_MAX + 1, "%s", arg);
		return CTL_OK;
	}
	api = ctl_api(c, &r);
	if (!api)
		return r;
	r = api_call(api, "GET", "/v1/instances", NULL, API_TIMEOUT_MS, &reply);
	if (r != CTL_OK)
		return ctl_fail(c, r, "%s", reply.error);
	r = instance_choose(json_object_get(reply.data, "instances"), arg, ret_id, &error);
	return r == CTL_OK ? r : ctl_fail(c, r, "%s", error ? error : "out of memory");
}

enum ctl_exit instance_call(struct ctl *c, const char *method, const char *id, const char *suffix,
			    const json_t *body, struct api_reply *ret_reply)
{
	char path[128];
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(c, &r);

	*ret_reply = (struct api_reply){0};
	if (!api)
		return r;
	snprintf(path, sizeof(path), "/v1/instances/%s%s", id, suffix);
	r = api_call(api, method, path, body, API_TIMEOUT_MS, ret_reply);
	if (r == CTL_OK)
		return r;
	return ctl_fail(c, r, "%s: %s", id, ret_reply->error);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Detail texts go into a query string: everything but letters and digits is encoded. */
static void put_query(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (isalnum((unsigned char)*s))
			fputc(*s, f);
		else
			fprintf(f, "%%%02X", (unsigned char)*s);
	}
}

/*
 * The long poll's path; before anything is known, that of a plain look. "detail" tells the agent
 * what was last seen, so that it answers on the next step as well and not only at the end; an agent
 * that does not know it answers at the end.
 */
static char *wait_path(const char *id, const char *state, uint32_t slice_s, const char *detail)
{
	char *path = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&path, &size);

	if (!f)
		return NULL;
	fprintf(f, "/v1/instances/%s", id);
	if (detail) {
		fprintf(f, "/wait?state=%s&timeout_s=%u&detail=", state, slice_s);
		put_query(f, detail);
	}
	if (fclose(f) != 0) {
		free(path);
		return NULL;
	}
	return path;
}

struct wait {
	struct ctl *c;
	const char *id, *state;
	int64_t begin_ms, end_ms;
	bool progress;
	json_t *last; /* owned: the newest description */
	char *detail; /* owned: the detail that was printed last */
	bool news;    /* whether the last answer told something new */
};

static void wait_done(struct wait *w)
{
	json_decref(w->last);
	free(w->detail);
}

/* Prints the detail if it is a new one. */
static void wait_progress(struct wait *w, const struct instance *inst)
{
	const char *detail = inst->detail ? inst->detail : inst->status;
	char age[TEXT_AGE_MAX];

	w->news = !w->detail || !STR_EQ(w->detail, detail);
	if (!w->news)
		return;
	free(w->detail);
	w->detail = strdup(detail);
	if (!w->progress || w->c->quiet)
		return;
	text_age((now_ms() - w->begin_ms) / 1000, age);
	ctl_note(w->c, "%6s  %s", age, detail);
}

enum wait_verdict { WAIT_MORE, WAIT_REACHED, WAIT_NEVER };

static enum wait_verdict wait_judge(const struct wait *w, const struct instance *inst)
{
	if (STR_EQ(inst->status, w->state))
		return WAIT_REACHED;
	if (STR_EQ(inst->status, "error") || STR_EQ(inst->status, "destroyed"))
		return STR_EQ(w->state, "destroyed") ? WAIT_MORE : WAIT_NEVER;
	return WAIT_MORE;
}

static enum ctl_exit wait_timed_out(struct wait *w)
{
	struct instance inst;
	bool known = instance_read(w->last, &inst) == 0;

	return ctl_fail(w->c, CTL_TIMEOUT, "%s: not %s in time; it is %s%s%s", w->id, w->state,
			known ? inst.status : "unknown", known && inst.detail ? ": " : "",
			known && inst.detail ? inst.detail : "");
}

/* One round: asks, and says in @ret_verdict whether to go on. */
static enum ctl_exit wait_round(struct wait *w, struct api *api, uint32_t slice_s,
				enum wait_verdict *ret_verdict)
{
	_cleanup_reply_ struct api_reply reply = {0};
	_cleanup_free_ char *path = wait_path(w->id, w->state, slice_s, w->detail);
	struct instance inst;
	enum ctl_exit r;

	if (!path)
		return ctl_fail(w->c, CTL_FAILED, "out of memory");
	*ret_verdict = WAIT_MORE;
	w->news = false;
	r = api_call(api, "GET", path, NULL, slice_s * 1000 + WAIT_MARGIN_MS, &reply);
	if (r == CTL_NOT_FOUND && STR_EQ(w->state, "destroyed")) {
		*ret_verdict = WAIT_REACHED;
		return CTL_OK;
	}
	if (r == CTL_TIMEOUT) /* the agent's own way to say "not yet" */
		return CTL_OK;
	if (r != CTL_OK)
		return ctl_fail(w->c, r, "%s: %s", w->id, reply.error);
	if (instance_read(reply.data, &inst) < 0)
		return ctl_fail(w->c, CTL_FAILED, "%s: the agent's answer describes no instance",
				w->id);
	json_decref(w->last);
	w->last = json_incref(reply.data);
	*ret_verdict = wait_judge(w, &inst);
	wait_progress(w, &inst);
	if (*ret_verdict == WAIT_NEVER)
		return ctl_fail(w->c, CTL_FAILED, "%s: %s%s%s", w->id, inst.status,
				inst.error ? ": " : "", inst.error ? inst.error : "");
	return CTL_OK;
}

enum ctl_exit instance_wait(struct ctl *c, const char *id, const char *state, uint32_t timeout_s,
			    bool progress, json_t **ret_json)
{
	_cleanup_(wait_done) struct wait w = {
		.c = c, .id = id, .state = state, .begin_ms = now_ms(), .progress = progress};
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(c, &r);

	if (!api)
		return r;
	w.end_ms = w.begin_ms + (int64_t)timeout_s * 1000;
	for (;;) {
		int64_t start = now_ms(), left_s = (MAX_OF(w.end_ms - start, 0) + 999) / 1000;
		struct timespec step = {.tv_nsec = WAIT_MIN_STEP_MS * 1000000L};
		enum wait_verdict verdict = WAIT_MORE;

		r = wait_round(&w, api, (uint32_t)MIN_OF(left_s, WAIT_SLICE_S), &verdict);
		if (r != CTL_OK)
			return r;
		if (verdict == WAIT_REACHED)
			break;
		if (now_ms() >= w.end_ms || left_s == 0)
			return wait_timed_out(&w);
		if (!w.news && now_ms() - start < WAIT_MIN_STEP_MS)
			(void)nanosleep(&step, NULL);
	}
	if (ret_json)
		*ret_json = TAKE_PTR(w.last);
	return CTL_OK;
}

enum ctl_exit instance_wait_timeout(struct ctl *c, uint32_t *ret_timeout_s)
{
	const char *text = ctl_value(c, OPT_TIMEOUT);

	*ret_timeout_s = INSTANCE_WAIT_DEFAULT_S;
	if (text && parse_seconds(text, ret_timeout_s) < 0)
		return ctl_fail(c, CTL_USAGE, "--timeout: not a time up to one day: %s", text);
	return CTL_OK;
}

int instance_status_color(const char *status)
{
	if (STR_EQ(status, "running"))
		return COLOR_GREEN;
	if (STR_EQ(status, "error"))
		return COLOR_RED;
	return STR_EQ(status, "paused") || STR_EQ(status, "destroyed") ? 0 : COLOR_YELLOW;
}
