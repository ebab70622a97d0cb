/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What needs another daemon's word before it can be answered: the host, consoles, logs.
 * Trust: runs inside agentd; passes console bytes on, which the guest has written.
 */
#include "agentd/later.h"
#include "agentd/reply.h"
#include "agentd/route.h"
#include "agentd/view.h"
#include "common/log.h"

#define LOG_LINES        100
#define CONSOLE_PROTOCOL "qudata-console"

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

	(void)fds;
	reply_data(later->req,
		   json_pack("{s:s, s:s, s:i, s:I, s:s, s:I, s:o, s:o, s:o, s:o}", "version",
			     QUDATA_VERSION, "control_plane", a->config.control_plane, "http_port",
			     (int)a->http_port, "started_at", (json_int_t)a->started_s,
			     "base_image", a->config.base_image, "instances",
			     (json_int_t)agentd_count(a), "accel", accel_json(status, rep),
			     "limits", limits_json(peers_limits(a->peers)), "peers",
			     peers_json(a->peers), "tunnels", tunnels_host_json(a)));
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

/* Reads the memfd of a CONSOLE_READ answer. Owned text, NULL when there is none. */
static char *read_console(enum proto_status status, struct fdlist *fds, size_t *ret_len)
{
	_cleanup_close_ int fd = status == PROTO_OK ? fdlist_take(fds) : -EBADF;
	ssize_t size = fd >= 0 ? fd_memfd_check(fd, PROTO_CONSOLE_MAX) : -EBADF;
	_cleanup_free_ char *text = size > 0 ? malloc((size_t)size + 2) : NULL;
	ssize_t n;

	if (!text || lseek(fd, 0, SEEK_SET) < 0)
		return NULL;
	n = fd_read_text(fd, text, (size_t)size + 2);
	if (n < 0)
		return NULL;
	*ret_len = (size_t)n;
	return TAKE_PTR(text);
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
	text = read_console(status, fds, &len);
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

static void answer_with_logs(struct later *later, enum proto_status status, const void *rep,
			     struct fdlist *fds)
{
	struct instance *inst = agentd_find(later->agentd, later->id);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	json_t *data;

	(void)rep;
	if (!inst) {
		reply_error(later->req, 404, "the instance is destroyed");
		return;
	}
	text = read_console(status, fds, &len);
	if (text)
		keep_last_lines(text, len);
	data = view_instance_json(inst);
	(void)json_object_set_new(data, "logs", json_string(text ? text : ""));
	reply_data(later->req, data);
}

void api_get_bare(struct agentd *a, struct http_request *req, struct instance *inst)
{
	char logs[8];

	if (inst && http_query(req, "logs", logs, sizeof(logs)) >= 0 && STR_EQ(logs, "true"))
		ask_console_log(a, req, inst, answer_with_logs);
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
