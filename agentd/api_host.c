/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What needs another daemon's word before it can be answered: the host, consoles, logs.
 * Trust: runs inside agentd; passes console bytes on, which the guest has written.
 */
#include "agentd/later.h"
#include "agentd/reply.h"
#include "agentd/route.h"
#include "agentd/sealed.h"
#include "agentd/view.h"
#include "common/log.h"

/* A guest under emulation takes its time for a channel and an answer. */
#define CONTAINER_LOG_TIMEOUT_MS 30000
#define LOG_LINES                100
#define CONSOLE_PROTOCOL         "qudata-console"

/* The host. */

static json_t *accel_json(enum proto_status status, const struct accel_status_rep *rep)
{
	static const char *const choices[] = {"undecided", "kvm", "tcg"};
	static const char *const reasons[] = {
#define X(name, text) text,
		PROTO_ACCEL_REASON_LIST(X)
#undef X
	};

	if (status != PROTO_OK)
		return json_pack("{s:s, s:s}", "choice", "unknown", "reason",
				 status == PROTO_UNREACHABLE ? "vfio-helper is not connected"
							     : proto_status_text(status));
	return json_pack("{s:s, s:s, s:I}", "choice", choices[rep->accel], "reason",
			 reasons[rep->reason], "sign_of_life_ms", (json_int_t)rep->sign_of_life_ms);
}

static json_t *limits_json(const struct peers_limits *limits)
{
	if (!limits->known)
		return json_null();
	return json_pack("{s:I, s:I, s:I, s:I, s:i, s:i}", "max_instances",
			 (json_int_t)limits->max_vms, "max_cpus", (json_int_t)limits->max_cpus,
			 "max_memory_mib", (json_int_t)limits->max_memory_mib, "max_disk_mib",
			 (json_int_t)limits->max_disk_mib, "port_low", (int)limits->port_low,
			 "port_high", (int)limits->port_high);
}

static json_t *peers_json(const struct peers *peers)
{
	json_t *all = json_object();

	for (size_t i = 0; i < PEER_COUNT; i++) {
		enum peer_id id = (enum peer_id)i;

		(void)json_object_set_new(all, peers_name(id),
					  json_pack("{s:b, s:s}", "connected", peers_up(peers, id),
						    "trouble", peers_trouble(peers, id)));
	}
	return all;
}

static void answer_host(struct later *later, enum proto_status status, const void *rep,
			struct fdlist *fds)
{
	const struct agentd *a = later->agentd;
	/* What else is in the host is its operators' business; NULL leaves the member out. */
	json_t *nvml = NULL;

	(void)fds;
	if (http_tag(later->req) == LISTENER_CTL) {
		struct hostgpus_view view = hostgpus_view(a->hostgpus);

		nvml = hostgpus_view_json(&view);
	}
	reply_data(
		later->req,
		json_pack("{s:s, s:s, s:s, s:s, s:i, s:I, s:s, s:I, s:o, s:s, s:o, s:o, s:o, "
			  "s:b, s:o*}",
			  "version", QUDATA_VERSION, "control_plane", a->config.control_plane,
			  "control_plane_state", controlplane_phase(a->cp), "control_plane_detail",
			  controlplane_words(a->cp), "http_port", (int)a->http_port, "started_at",
			  (json_int_t)a->started_s, "base_image", a->config.base_image, "instances",
			  (json_int_t)agentd_count(a), "accel", accel_json(status, rep), "backend",
			  a->config.backend == BACKEND_VM ? "vm" : "container", "limits",
			  limits_json(peers_limits(a->peers)), "peers", peers_json(a->peers),
			  "tunnels", tunnels_host_json(a), "debug", a->config.debug, "nvml", nvml));
}

void api_host(struct agentd *a, struct http_request *req, struct instance *inst)
{
	const struct accel_status_req op_req = {0};
	const struct later_question question = {
		.peer = PEER_HELPER,
		.op_number = OP_ACCEL_STATUS,
		.req = &op_req,
		.answer = answer_host,
	};

	later_ask(a, req, inst, &question);
}

/* What the console has printed. */

/* Reads the memfd of an answer. Owned text, NULL when there is none. */
static char *read_output(enum proto_status status, struct fdlist *fds, size_t max, size_t *ret_len)
{
	_cleanup_close_ int fd = status == PROTO_OK ? fdlist_take(fds) : -EBADF;
	char *text = NULL;

	if (fd < 0 || sealed_read(fd, max, &text, ret_len) < 0)
		return NULL;
	return text;
}

static void unavailable(struct http_request *req, const struct agentd *a, enum proto_status status)
{
	if (!peers_up(a->peers, PEER_VMMON))
		reply_error(req, 503, "vmmon is not connected (%s)",
			    peers_trouble(a->peers, PEER_VMMON));
	else if (status == PROTO_NOT_FOUND)
		reply_error(req, 409, "the instance has no console: it does not run");
	else
		reply_error(req, 503, "the console is not available: %s",
			    proto_status_text(status));
}

static void answer_console_log(struct later *later, enum proto_status status, const void *rep,
			       struct fdlist *fds)
{
	static const char type[] = "text/plain; charset=utf-8";
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	(void)rep;
	if (status != PROTO_OK && status != PROTO_NOT_FOUND) {
		unavailable(later->req, later->agentd, status);
		return;
	}
	/* A guest that has not run, or said nothing, has an empty log. */
	text = read_output(status, fds, PROTO_CONSOLE_MAX, &len);
	http_reply(later->req, 200, type, text ? text : "", len);
}

static void ask_console_log(struct agentd *a, struct http_request *req, struct instance *inst,
			    void (*answer)(struct later *, enum proto_status, const void *,
					   struct fdlist *))
{
	struct console_read_req op_req = {.max_bytes = PROTO_CONSOLE_MAX};
	const struct later_question question = {
		.peer = PEER_VMMON,
		.op_number = OP_CONSOLE_READ,
		.req = &op_req,
		.answer = answer,
	};

	(void)proto_name_set(op_req.vm, inst->id);
	later_ask(a, req, inst, &question);
}

void api_console_log(struct agentd *a, struct http_request *req, struct instance *inst)
{
	ask_console_log(a, req, inst, answer_console_log);
}

/* The last lines as printable ASCII: guests write anything, JSON is text. */
static void keep_last_lines(char *text, size_t len)
{
	size_t start = len, lines = 0, out = 0;

	while (start > 0 && !(text[start - 1] == '\n' && start < len && ++lines == LOG_LINES))
		start--;
	for (size_t i = start; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		if (c == '\r')
			continue;
		text[out++] = (char)(c == '\n' || c == '\t' || (c >= 0x20 && c <= 0x7e) ? c : '?');
	}
	text[out] = '\0';
}

/* Length of the valid UTF-8 sequence at @text, 0 when there is none. */
static size_t utf8_length(const char *text, size_t len)
{
	/* jansson knows the rules; what it accepts, it can also write. */
	for (size_t n = 1; n <= 4 && n <= len; n++) {
		json_t *one = json_stringn(text, n);

		if (one) {
			json_decref(one);
			return n;
		}
	}
	return 0;
}

/* A container's output as text: its lines are UTF-8, mostly, and JSON has to be. */
static void keep_text(char *text, size_t len)
{
	size_t out = 0, n;

	for (size_t i = 0; i < len; i += n) {
		unsigned char c = (unsigned char)text[i];

		n = c < 0x80 ? 1 : utf8_length(text + i, len - i);
		if (n == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
			n = 1;
			if (c != '\r')
				text[out++] = '?';
			continue;
		}
		memmove(text + out, text + i, n);
		out += n;
	}
	text[out] = '\0';
}

static void reply_with_logs(struct later *later, const char *text)
{
	struct instance *inst = agentd_find(later->agentd, later->id);
	json_t *data;

	if (!inst) {
		reply_error(later->req, 404, "the instance is destroyed");
		return;
	}
	data = view_instance_json(inst);
	(void)json_object_set_new(data, "logs", json_string(text ? text : ""));
	reply_data(later->req, data);
}

static void answer_with_console(struct later *later, enum proto_status status, const void *rep,
				struct fdlist *fds)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	(void)rep;
	text = read_output(status, fds, PROTO_CONSOLE_MAX, &len);
	if (text)
		keep_last_lines(text, len);
	reply_with_logs(later, text);
}

/* A container that is not there yet, or a guest that does not answer, has an empty log. */
static void answer_with_logs(struct later *later, enum proto_status status, const void *rep,
			     struct fdlist *fds)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	(void)rep;
	text = read_output(status, fds, PROTO_LOG_BYTES_MAX, &len);
	if (text)
		keep_text(text, len);
	reply_with_logs(later, text);
}

static void ask_container_log(struct agentd *a, struct http_request *req, struct instance *inst)
{
	struct container_logs_req op_req = {.lines = LOG_LINES};
	const struct later_question question = {
		.peer = PEER_VMMON,
		.op_number = OP_CONTAINER_LOGS,
		.req = &op_req,
		.timeout_ms = CONTAINER_LOG_TIMEOUT_MS,
		.answer = answer_with_logs,
	};

	(void)proto_name_set(op_req.vm, inst->id);
	later_ask(a, req, inst, &question);
}

static bool wants_logs(const struct http_request *req)
{
	char logs[8];

	return http_query(req, "logs", logs, sizeof(logs)) >= 0 && STR_EQ(logs, "true");
}

static void ask_logs(struct agentd *a, struct http_request *req, struct instance *inst)
{
	if (instance_has_container(inst))
		ask_container_log(a, req, inst);
	else
		ask_console_log(a, req, inst, answer_with_console);
}

void api_get(struct agentd *a, struct http_request *req, struct instance *inst)
{
	if (wants_logs(req))
		ask_logs(a, req, inst);
	else
		reply_instance(req, inst);
}

void api_get_bare(struct agentd *a, struct http_request *req, struct instance *inst)
{
	if (inst && wants_logs(req))
		ask_logs(a, req, inst);
	else
		reply_text(req, view_bare(a));
}

/* The console itself. */

static void answer_console(struct later *later, enum proto_status status, const void *rep,
			   struct fdlist *fds)
{
	int console = status == PROTO_OK ? fdlist_take(fds) : -EBADF;
	_cleanup_free_ void *rest = NULL;
	size_t rest_len = 0;
	int client, r;

	(void)rep;
	if (console < 0) {
		unavailable(later->req, later->agentd, status);
		return;
	}
	r = http_take_connection(later->req, CONSOLE_PROTOCOL, &client, &rest, &rest_len);
	if (r == 0) {
		if (relay_start(later->agentd, client, console, rest, rest_len) < 0)
			log_event(LOG_WARNING, "too many consoles are open");
		return;
	}
	(void)safe_close(console);
	if (r == -EPROTO) {
		if (http_reply_header(later->req, "Upgrade", CONSOLE_PROTOCOL) < 0)
			log_event(LOG_DEBUG, "reply without Upgrade");
		reply_error(later->req, 426, "ask for `Upgrade: %s`", CONSOLE_PROTOCOL);
	} else if (r != -ECONNRESET) {
		reply_error(later->req, 500, "out of memory");
	}
}

void api_console(struct agentd *a, struct http_request *req, struct instance *inst)
{
	struct console_attach_req op_req = {0};
	const struct later_question question = {
		.peer = PEER_VMMON,
		.op_number = OP_CONSOLE_ATTACH,
		.req = &op_req,
		.answer = answer_console,
	};
	const char *upgrade;

	if (http_header(req, "Upgrade", &upgrade) < 0 ||
	    strcasecmp(upgrade, CONSOLE_PROTOCOL) != 0) {
		if (http_reply_header(req, "Upgrade", CONSOLE_PROTOCOL) < 0)
			log_event(LOG_DEBUG, "reply without Upgrade");
		reply_error(req, 426, "ask for `Upgrade: %s`", CONSOLE_PROTOCOL);
		return;
	}
	(void)proto_name_set(op_req.vm, inst->id);
	later_ask(a, req, inst, &question);
}
