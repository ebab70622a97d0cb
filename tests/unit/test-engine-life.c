/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of the engine client's state machine, against an engine that answers by a script: what
 * a real one does only now and then. tests/engine/run has the real one.
 * Trust: a test; reads nothing from outside.
 */
#include "vmmon/engine/engine.h"

#include "common/rpc.h"

#include <setjmp.h>
#include <stdarg.h>
/* cmocka wants the two above first */
#include <cmocka.h>

#define HEX64     "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define STEADY_MS 400
#define GUARD_S   60

struct link_conn {
	struct rig *rig;
	struct link_handler handler;
	struct event *ready; /* owned; opens, then delivers what there is to read */
	char request[16384];
	size_t len;
	bool open, answered;
};

struct rig {
	struct engine_link link; /* first */
	struct event_base *base;
	struct engine *engine;
	struct link_conn *events; /* borrowed; the stream, while it is open */
	/* The script. */
	bool exists, running, restarting;
	bool paused;
	bool dumb;            /* inspections are refused */
	const char *instance; /* on this host; NULL: in a guest */
	const char *owner;    /* in the labels of what is there on this host; NULL: the instance */
	bool has_volume, has_network;
	bool limited;        /* containers on this host have to be */
	bool ignores_limits; /* though it says that it does not */
	unsigned int restarts, exit_code;
	const char *info, *start_refusal, *exec_output;
	unsigned int exec_exits[4];       /* of each exec, one after the other */
	unsigned int put_status;          /* 0: 200 */
	void (*on_look)(struct rig *rig); /* before each inspection is answered */
	/* What was seen. */
	struct engine_status seen[64];
	uint64_t seen_ms[64];
	size_t n_seen;
	unsigned int looks, keys_told;
	char created[16384], put[16384], exec[16384];
	unsigned int n_execs, n_puts;
	char removed[3][96]; /* what was asked for */
	size_t n_removed;
	bool (*enough)(struct rig *rig);
};

#define GPU_1 "GPU-00000001-1111-2222-3333-444444444444"
#define GPU_2 "GPU-00000002-1111-2222-3333-444444444444"
#define GPU_3 "GPU-00000003-1111-2222-3333-444444444444"

static void deliver(struct link_conn *c, const char *text)
{
	/* In pieces, as a network would. */
	for (size_t len = strlen(text), at = 0; at < len; at += 11)
		if (c->handler.on_data(c->handler.arg, (const uint8_t *)text + at,
				       MIN_OF((size_t)11, len - at)) < 0)
			return;
}

static void respond(struct link_conn *c, const char *status, const char *body)
{
	char text[1024];

	(void)snprintf(text, sizeof(text), "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s", status,
		       strlen(body), body);
	deliver(c, text);
}

static const char *owner_of(const struct rig *rig)
{
	return rig->owner ? rig->owner : rig->instance ? rig->instance : "";
}

/* A volume or a network. */
static void tell_thing(struct link_conn *c, bool there)
{
	char body[256];

	(void)snprintf(body, sizeof(body),
		       "{\"Name\":\"n\",\"Labels\":{\"" WISH_INSTANCE "\":\"%s\"}}",
		       owner_of(c->rig));
	respond(c, there ? "200 OK" : "404 Not Found", there ? body : "{\"message\":\"none\"}");
}

static void inspect(struct link_conn *c)
{
	struct rig *rig = c->rig;
	char body[512], hash[ANSWER_HASH_SIZE] = "";
	const char *label = strstr(rig->created, "\"" WISH_LABEL "\":\"");

	if (rig->events) {
		rig->looks++;
		if (rig->on_look)
			rig->on_look(rig);
	}
	if (rig->dumb) {
		respond(c, "500 Internal Server Error", "{\"message\":\"being removed\"}");
		return;
	}
	if (!rig->exists) {
		respond(c, "404 Not Found", "{\"message\":\"No such container: qudata\"}");
		return;
	}
	if (label)
		(void)snprintf(hash, sizeof(hash), "%.64s",
			       label + strlen("\"" WISH_LABEL "\":\""));
	(void)snprintf(body, sizeof(body),
		       "{\"Id\":\"" HEX64 "\",\"RestartCount\":%u,\"State\":{\"Running\":%s,"
		       "\"Restarting\":%s,\"Paused\":%s,\"ExitCode\":%u,\"Error\":\"\"},"
		       "\"HostConfig\":{\"Memory\":%s},\"Config\":{\"Labels\":{\"" WISH_LABEL
		       "\":\"%s\",\"" WISH_INSTANCE "\":\"%s\"}}}",
		       rig->restarts, rig->running ? "true" : "false",
		       rig->restarting ? "true" : "false", rig->paused ? "true" : "false",
		       rig->exit_code, rig->ignores_limits ? "0" : "1000", hash, owner_of(rig));
	respond(c, "200 OK", body);
}

static void start(struct link_conn *c)
{
	char body[512];

	if (!c->rig->start_refusal) {
		c->rig->running = true;
		respond(c, "204 No Content", "");
		return;
	}
	(void)snprintf(body, sizeof(body), "{\"message\":\"%s\"}", c->rig->start_refusal);
	respond(c, "500 Internal Server Error", body);
}

/* What a program prints, as the engine frames it, up to the connection's end. */
static void exec_stream(struct link_conn *c)
{
	const char *text = c->rig->exec_output ? c->rig->exec_output : "";
	const uint8_t head[8] = {1, 0, 0, 0, 0, 0, 0, (uint8_t)strlen(text)};

	deliver(c, "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n");
	if (c->handler.on_data(c->handler.arg, head, sizeof(head)) == 0)
		deliver(c, text);
	c->handler.on_end(c->handler.arg, 0);
}

static void exec_end(struct link_conn *c)
{
	struct rig *rig = c->rig;
	char body[128];

	(void)snprintf(body, sizeof(body), "{\"ID\":\"x\",\"Running\":false,\"ExitCode\":%u}",
		       rig->exec_exits[MIN_OF(rig->n_execs, 3u)]);
	rig->n_execs++;
	respond(c, "200 OK", body);
}

static void answer_login(struct link_conn *c)
{
	struct rig *rig = c->rig;

	if (strncmp(c->request, "PUT /v1.41/containers/" HEX64 "/archive?path=/root&", 106) == 0) {
		memcpy(rig->put, c->request, sizeof(rig->put));
		rig->n_puts++;
		respond(c, rig->put_status == 404 ? "404 Not Found" : "200 OK", "");
	} else if (strncmp(c->request, "POST /v1.41/containers/" HEX64 "/exec ", 93) == 0) {
		memcpy(rig->exec, c->request, sizeof(rig->exec));
		respond(c, "201 Created", "{\"Id\":\"" HEX64 "\"}");
	} else if (strncmp(c->request, "POST /v1.41/exec/" HEX64 "/start ", 88) == 0) {
		exec_stream(c);
	} else if (strncmp(c->request, "GET /v1.41/exec/" HEX64 "/json ", 86) == 0) {
		exec_end(c);
	} else {
		fail_msg("not in the script: %.100s", c->request);
	}
}

/* What is asked on this host only. False: none of it. */
static bool answer_on_host(struct link_conn *c)
{
	struct rig *rig = c->rig;

	if (strncmp(c->request, "GET /v1.41/volumes/qudata-i-data ", 33) == 0) {
		tell_thing(c, rig->has_volume);
	} else if (strncmp(c->request, "GET /v1.41/networks/qudata-i ", 29) == 0) {
		tell_thing(c, rig->has_network);
	} else if (strncmp(c->request, "POST /v1.41/networks/create ", 28) == 0 ||
		   strncmp(c->request, "POST /v1.41/volumes/create ", 27) == 0) {
		respond(c, "201 Created", "{}");
	} else if (strncmp(c->request, "POST /v1.41/images/create?", 26) == 0) {
		respond(c, "200 OK", "{}\n");
	} else if (strncmp(c->request, "POST /v1.41/containers/qudata-i/start ", 38) == 0) {
		start(c);
	} else if (strncmp(c->request, "POST /v1.41/containers/qudata-i/unpause ", 40) == 0) {
		rig->paused = false;
		respond(c, "204 No Content", "");
	} else {
		return false;
	}
	return true;
}

static void answer(struct link_conn *c)
{
	struct rig *rig = c->rig;

	if (strncmp(c->request, "GET /_ping ", 11) == 0) {
		respond(c, "200 OK", "OK");
	} else if (strncmp(c->request, "GET /version ", 13) == 0) {
		respond(c, "200 OK", "{\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\"}");
	} else if (strncmp(c->request, "GET /v1.41/info ", 16) == 0) {
		respond(c, "200 OK", rig->info);
	} else if (strncmp(c->request, "GET /v1.41/images/", 18) == 0) {
		respond(c, "200 OK", "{}");
	} else if (strncmp(c->request, "POST /v1.41/containers/create", 29) == 0) {
		(void)snprintf(rig->created, sizeof(rig->created), "%s", c->request);
		rig->exists = true;
		respond(c, "201 Created", "{\"Id\":\"" HEX64 "\"}");
	} else if (strncmp(c->request, "POST /v1.41/containers/qudata/start", 35) == 0) {
		start(c);
	} else if (strncmp(c->request, "GET /v1.41/events", 17) == 0) {
		rig->events = c;
		deliver(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
	} else if (strncmp(c->request, "GET /v1.41/containers/qudata/json", 33) == 0 ||
		   strncmp(c->request, "GET /v1.41/containers/qudata-i/json", 35) == 0) {
		inspect(c);
	} else if (strncmp(c->request, "DELETE /v1.41/", 14) == 0) {
		assert_true(rig->n_removed < ARRAY_LEN(rig->removed));
		(void)snprintf(rig->removed[rig->n_removed++], sizeof(rig->removed[0]), "%.*s",
			       (int)strcspn(c->request + 14, " "), c->request + 14);
		respond(c, "204 No Content", "");
	} else if (!answer_on_host(c)) {
		answer_login(c);
	}
}

static bool is_whole(const struct link_conn *c)
{
	const char *body = strstr(c->request, "\r\n\r\n");
	const char *length = strstr(c->request, "Content-Length: ");

	return body && c->len >= (size_t)(body + 4 - c->request) +
					 (length ? strtoul(length + 16, NULL, 10) : 0);
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct link_conn *c = arg;

	(void)fd;
	(void)what;
	c->open = true;
	if (!is_whole(c)) {
		c->handler.on_writable(c->handler.arg);
		return;
	}
	if (c->answered)
		return;
	c->answered = true;
	answer(c);
}

static int conn_open(struct engine_link *link, const struct link_handler *handler,
		     struct link_conn **ret_conn)
{
	struct rig *rig = (struct rig *)link;
	struct link_conn *c = calloc(1, sizeof(*c));

	assert_non_null(c);
	*c = (struct link_conn){.rig = rig, .handler = *handler};
	c->ready = event_new(rig->base, -1, 0, on_ready, c);
	event_active(c->ready, EV_TIMEOUT, 0);
	*ret_conn = c;
	return 0;
}

static ssize_t conn_send(struct link_conn *c, const void *data, size_t len)
{
	if (!c->open)
		return 0;
	assert_true(c->len + len < sizeof(c->request));
	memcpy(c->request + c->len, data, len);
	c->len += len;
	if (is_whole(c))
		event_active(c->ready, EV_TIMEOUT, 0);
	return (ssize_t)len;
}

static void conn_close(struct link_conn *c)
{
	if (c->rig->events == c)
		c->rig->events = NULL;
	event_free(c->ready);
	free(c);
}

/* An event of the container's: a reason to look. */
static void tell_event(struct rig *rig)
{
	assert_non_null(rig->events);
	deliver(rig->events, "3\r\n{}\n\r\n");
}

static void on_status(void *ctx, const struct engine_status *status)
{
	struct rig *rig = ctx;

	assert_true(rig->n_seen < ARRAY_LEN(rig->seen));
	rig->seen_ms[rig->n_seen] = rpc_now_ms();
	rig->seen[rig->n_seen++] = *status;
	if (rig->enough && rig->enough(rig))
		(void)event_base_loopbreak(rig->base);
}

static void on_keys(void *ctx)
{
	struct rig *rig = ctx;

	rig->keys_told++;
	if (rig->n_seen > 0 && rig->enough && rig->enough(rig))
		(void)event_base_loopbreak(rig->base);
}

static void rig_begin(struct rig *rig, const char *text)
{
	const struct timeval guard = {.tv_sec = GUARD_S};
	struct engine_config config = {
		.ctx = rig,
		.on_status = on_status,
		.on_keys = on_keys,
		.wait_ms = 60000,
		.steady_ms = STEADY_MS,
		.instance = rig->instance,
		.unlimited = !rig->limited,
	};
	struct wish wish;

	rig->link = (struct engine_link){conn_open, conn_send, conn_close};
	rig->base = config.base = event_base_new();
	config.link = &rig->link;
	rig->engine = engine_new(&config);
	assert_non_null(rig->engine);
	assert_int_equal(wish_parse(text, strlen(text), rig->instance, &wish, NULL), 0);
	(void)event_base_loopexit(rig->base, &guard);
	engine_set_wish(rig->engine, &wish);
	engine_set_up(rig->engine, true);
}

static void rig_end(struct rig *rig)
{
	engine_free(rig->engine);
	event_base_free(rig->base);
}

static unsigned int count(const struct rig *rig, enum proto_container_state state)
{
	unsigned int n = 0;

	for (size_t i = 0; i < rig->n_seen; i++)
		n += rig->seen[i].state == state ? 1 : 0;
	return n;
}

static const struct engine_status *last(const struct rig *rig)
{
	return &rig->seen[rig->n_seen - 1];
}

static void run_until(struct rig *rig, bool (*enough)(struct rig *rig))
{
	rig->enough = enough;
	if (rig->n_seen == 0 || !enough(rig))
		(void)event_base_dispatch(rig->base);
	if (!enough(rig))
		fail_msg("not within %d s; the last status is %d: %s", GUARD_S, last(rig)->state,
			 last(rig)->words);
}

static bool is_running(struct rig *rig)
{
	return last(rig)->state == PROTO_CONTAINER_RUNNING;
}

static bool has_failed(struct rig *rig)
{
	return last(rig)->state == PROTO_CONTAINER_FAILED;
}

/* Crash loops. */

/* Each look finds it in the other state: dead, alive, dead… */
static void alternate(struct rig *rig)
{
	if (rig->looks == 1)
		; /* its first run */
	else if (rig->looks % 2 == 0)
		rig->running = rig->restarting = true, rig->exit_code = 7, rig->restarts++;
	else
		rig->restarting = false;
	tell_event(rig);
}

static bool looked_often(struct rig *rig)
{
	return rig->looks >= 9;
}

static bool crashed_often(struct rig *rig)
{
	return looked_often(rig) && last(rig)->state == PROTO_CONTAINER_EXITED;
}

static void test_crash_loop_is_calm(void **state)
{
	struct rig rig = {.on_look = alternate};
	char words[ANSWER_TEXT_SIZE];

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\"}");
	run_until(&rig, crashed_often);
	/* The first run could not be known to be one of many; none after it is called running. */
	assert_int_equal(count(&rig, PROTO_CONTAINER_RUNNING), 1);
	for (size_t i = 0, after = 0; i < rig.n_seen; i++) {
		after += rig.seen[i].state == PROTO_CONTAINER_EXITED ? 1 : 0;
		if (after > 0)
			assert_int_equal(rig.seen[i].state, PROTO_CONTAINER_EXITED);
	}
	assert_int_equal(last(&rig)->exit_code, 7);
	(void)snprintf(words, sizeof(words),
		       "%u times since it was started; the engine starts it again", rig.restarts);
	assert_string_equal(last(&rig)->words, words);
	rig_end(&rig);
}

/* Dies once, then stays up. */
static void die_once(struct rig *rig)
{
	if (rig->looks == 2)
		rig->running = rig->restarting = true, rig->exit_code = 3, rig->restarts = 1;
	else
		rig->restarting = false;
	if (rig->looks < 4)
		tell_event(rig);
}

static bool runs_again(struct rig *rig)
{
	return count(rig, PROTO_CONTAINER_EXITED) == 1 && is_running(rig);
}

static void test_one_that_stays_up_is_running(void **state)
{
	struct rig rig = {.on_look = die_once};

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\"}");
	run_until(&rig, runs_again);
	assert_string_equal(rig.seen[rig.n_seen - 2].words, "the engine starts it again");
	assert_int_equal(rig.seen[rig.n_seen - 2].exit_code, 3);
	assert_true(rig.seen_ms[rig.n_seen - 1] - rig.seen_ms[rig.n_seen - 2] >= STEADY_MS);
	rig_end(&rig);
}

/* Found by a vmmon that has just begun: it was running before, or not. */
static void test_found_after_crashes(void **state)
{
	struct rig rig = {.restarts = 5};

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\"}");
	run_until(&rig, is_running);
	assert_int_equal(count(&rig, PROTO_CONTAINER_EXITED), 0);
	assert_int_equal(rig.seen[rig.n_seen - 2].state, PROTO_CONTAINER_STARTING);
	assert_non_null(strstr(rig.seen[rig.n_seen - 2].words, "has ended before"));
	rig_end(&rig);
}

/* Podman while it removes a container that somebody else wanted gone: nothing, then no container.
 */
static void go_slowly(struct rig *rig)
{
	rig->dumb = rig->looks > 1 && rig->looks < 5;
	rig->exists = rig->looks <= 1;
	if (rig->looks == 1)
		tell_event(rig);
}

static void test_removed_slowly(void **state)
{
	struct rig rig = {.on_look = go_slowly};

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\"}");
	run_until(&rig, has_failed);
	assert_non_null(strstr(last(&rig)->words, "was removed"));
	assert_int_equal(rig.looks, 5);
	assert_int_equal(count(&rig, PROTO_CONTAINER_RUNNING), 1);
	rig_end(&rig);
}

/* An engine that never says anything sensible again is waited for. */
static void stay_dumb(struct rig *rig)
{
	rig->dumb = true;
}

static bool is_waited_for(struct rig *rig)
{
	return last(rig)->state == PROTO_CONTAINER_WAITING && last(rig)->words[0] != '\0';
}

static void test_no_sense_for_long(void **state)
{
	struct rig rig = {.on_look = stay_dumb};

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\"}");
	run_until(&rig, is_waited_for);
	assert_string_equal(last(&rig)->words, "the engine's answers make no sense");
	rig_end(&rig);
}

/* GPUs. */

static void test_gpus_by_cdi(void **state)
{
	struct rig rig = {.info = "{\"Runtimes\":{\"runc\":{}},\"CDISpecDirs\":[\"/etc/cdi\"]}"};

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\",\"gpus\":2}");
	run_until(&rig, is_running);
	assert_non_null(strstr(rig.created, "\"Driver\":\"cdi\""));
	assert_non_null(strstr(rig.created, "nvidia.com/gpu=all"));
	rig_end(&rig);
}

static void test_gpus_by_toolkit(void **state)
{
	struct rig rig = {.info = "{\"Runtimes\":{\"nvidia\":{}},\"CDISpecDirs\":[\"/etc/cdi\"]}"};

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\",\"gpus\":2}");
	run_until(&rig, is_running);
	assert_non_null(strstr(rig.created, "\"Driver\":\"nvidia\""));
	rig_end(&rig);
}

static void test_gpus_that_are_not_there(void **state)
{
	static const struct {
		const char *info, *refusal, *words;
	} cases[] = {
		{"{\"Runtimes\":{\"runc\":{}}}", NULL, "no nvidia runtime and no CDI"},
		{"{\"Runtimes\":{\"nvidia\":{}}}",
		 "failed to create shim task: nvidia-container-cli: initialization error: driver "
		 "not loaded",
		 "cannot give them to a container"},
		{"{\"Runtimes\":{\"runc\":{}},\"CDISpecDirs\":[\"/etc/cdi\"]}",
		 "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
		 "unresolvable CDI devices"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig rig = {.info = cases[i].info, .start_refusal = cases[i].refusal};

		rig_begin(&rig, "{\"image\":\"a\",\"gpus\":1}");
		run_until(&rig, has_failed);
		if (!strstr(last(&rig)->words, cases[i].words))
			fail_msg("%zu: %s", i, last(&rig)->words);
		rig_end(&rig);
	}
}

/* A password that the engine repeats, such as one that looks hidden already. */
static void test_password_is_hidden(void **state)
{
	static const struct {
		const char *wish, *refusal, *words;
	} cases[] = {
		{"{\"image\":\"a\",\"password\":\"secret\"}", "no secret, secretsecret",
		 "says: no ******, ************"},
		{"{\"image\":\"a\",\"password\":\"***\"}", "it is **** so", "says: it is **** so"},
		{"{\"image\":\"a\",\"password\":\"abab\"}", "it is ababab", "says: it is ****ab"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig rig = {.start_refusal = cases[i].refusal};

		rig_begin(&rig, cases[i].wish);
		run_until(&rig, has_failed);
		if (!strstr(last(&rig)->words, cases[i].words))
			fail_msg("%zu: %s", i, last(&rig)->words);
		rig_end(&rig);
	}
}

/* On this host nothing of an instance stays, not even the volumes that its image declares. */

static bool is_gone(struct rig *rig)
{
	return last(rig)->state == PROTO_CONTAINER_GONE;
}

static void test_removal_on_host(void **state)
{
	struct rig rig = {.link = {conn_open, conn_send, conn_close},
			  .instance = "i",
			  .exists = true,
			  .has_volume = true,
			  .has_network = true};
	const struct engine_config config = {
		.base = rig.base = event_base_new(),
		.link = &rig.link,
		.ctx = &rig,
		.on_status = on_status,
		.wait_ms = 60000,
		.instance = "i",
	};
	const struct timeval guard = {.tv_sec = GUARD_S};

	(void)state;
	rig.engine = engine_new(&config);
	assert_non_null(rig.engine);
	(void)event_base_loopexit(rig.base, &guard);
	engine_set_up(rig.engine, true);
	engine_remove(rig.engine);
	run_until(&rig, is_gone);
	assert_int_equal(rig.n_removed, 3);
	assert_string_equal(rig.removed[0], "containers/qudata-i?force=true&v=true");
	assert_string_equal(rig.removed[1], "volumes/qudata-i-data");
	assert_string_equal(rig.removed[2], "networks/qudata-i");
	rig_end(&rig);
}

#define HOST_WISH(more) "{\"image\":\"a\",\"cpus\":1,\"memory_mib\":64,\"publish\":[]" more "}"
#define NO_GPUS         "{\"Runtimes\":{\"runc\":{}}}"

/* What has a name of ours and not our label is neither started nor replaced nor removed. */
static void test_foreign_on_host(void **state)
{
	static const struct {
		bool container, volume, network;
		const char *words;
	} cases[] = {
		{true, false, false, "has a container qudata-i that"},
		{false, true, false, "has a volume qudata-i-data that"},
		{false, false, true, "has a network qudata-i that"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig rig = {.instance = "i", .owner = "j", .info = NO_GPUS};

		rig.exists = cases[i].container;
		rig.has_volume = cases[i].volume;
		rig.has_network = cases[i].network;
		rig_begin(&rig, HOST_WISH(""));
		run_until(&rig, has_failed);
		assert_non_null(strstr(last(&rig)->words, cases[i].words));
		assert_string_equal(rig.created, "");
		assert_false(rig.running);
		engine_remove(rig.engine);
		run_until(&rig, is_gone);
		assert_int_equal(rig.n_removed, 0);
		rig_end(&rig);
	}
}

/* One that takes its place while we look. */
static void becomes_foreign(struct rig *rig)
{
	rig->owner = "j";
}

static void test_replaced_by_foreign_on_host(void **state)
{
	struct rig rig = {.instance = "i", .info = NO_GPUS, .on_look = becomes_foreign};

	(void)state;
	rig_begin(&rig, HOST_WISH(""));
	run_until(&rig, has_failed);
	assert_non_null(strstr(last(&rig)->words, "that this agent has not made"));
	rig_end(&rig);
}

/* Nothing is started by an engine that says it can limit containers, and does not. */
static void test_limits_ignored_on_host(void **state)
{
	static const char info[] = "{\"Runtimes\":{\"runc\":{}},\"MemoryLimit\":true,"
				   "\"CpuCfsQuota\":true,\"PidsLimit\":true}";
	struct rig rig = {.instance = "i", .info = info, .limited = true, .ignores_limits = true};
	struct wish wish;

	(void)state;
	rig_begin(&rig, HOST_WISH(""));
	run_until(&rig, has_failed);
	assert_non_null(strstr(last(&rig)->words, "cannot limit memory"));
	assert_false(rig.running);
	rig.ignores_limits = false; /* another engine: what the old one made is made again */
	assert_int_equal(wish_parse(HOST_WISH(""), strlen(HOST_WISH("")), "i", &wish, NULL), 0);
	engine_set_wish(rig.engine, &wish);
	run_until(&rig, is_running);
	rig_end(&rig);
}

static void is_frozen(struct rig *rig)
{
	rig->paused = true;
	rig->on_look = NULL;
}

static void test_paused_on_host(void **state)
{
	struct rig rig = {.instance = "i", .info = NO_GPUS, .on_look = is_frozen};
	struct wish wish;

	(void)state;
	rig_begin(&rig, HOST_WISH(""));
	run_until(&rig, has_failed);
	assert_non_null(strstr(last(&rig)->words, "paused by someone else"));
	rig.paused = false; /* by whoever did it */
	tell_event(&rig);
	run_until(&rig, is_running);
	rig.paused = true;
	tell_event(&rig);
	run_until(&rig, has_failed);
	assert_int_equal(wish_parse(HOST_WISH(""), strlen(HOST_WISH("")), "i", &wish, NULL), 0);
	engine_set_wish(rig.engine, &wish); /* "start" */
	run_until(&rig, is_running);
	assert_false(rig.paused);
	rig_end(&rig);
}

/* By the names of those that it is to have; one that the engine does not list is refused. */
static void test_gpus_by_cdi_on_host(void **state)
{
	static const char info[] = "{\"Runtimes\":{\"runc\":{}},\"DiscoveredDevices\":["
				   "{\"Source\":\"cdi\",\"ID\":\"nvidia.com/gpu=all\"},"
				   "{\"Source\":\"cdi\",\"ID\":\"nvidia.com/gpu=" GPU_1 "\"},"
				   "{\"Source\":\"cdi\",\"ID\":\"nvidia.com/gpu=" GPU_2 "\"}]}";
	struct rig rig = {.instance = "i", .info = info};
	struct rig other = {.instance = "i", .info = info};

	(void)state;
	rig_begin(&rig, HOST_WISH(",\"gpu_ids\":[\"" GPU_1 "\",\"" GPU_2 "\"]"));
	run_until(&rig, is_running);
	assert_non_null(strstr(rig.created, "[{\"DeviceIDs\":[\"nvidia.com/gpu=" GPU_1
					    "\",\"nvidia.com/gpu=" GPU_2 "\"],"
					    "\"Driver\":\"cdi\"}]"));
	rig_end(&rig);
	rig_begin(&other, HOST_WISH(",\"gpu_ids\":[\"" GPU_1 "\",\"" GPU_3 "\"]"));
	run_until(&other, has_failed);
	assert_non_null(strstr(last(&other)->words, "no CDI device nvidia.com/gpu=" GPU_3));
	assert_string_equal(other.created, "");
	rig_end(&other);
}

/* SSH into the container. */

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

static bool login_found(struct rig *rig)
{
	return is_running(rig) && (last(rig)->login.place == PROTO_LOGIN_CONTAINER ||
				   last(rig)->login.place == PROTO_LOGIN_VM);
}

static void test_login(void **state)
{
	static const struct {
		unsigned int exits[4], execs;
		const char *output;
		enum proto_login place;
		const char *host_key, *words;
	} cases[] = {
		{{0}, 1, "noise\nkey " KEY "\n", PROTO_LOGIN_CONTAINER, KEY, ""},
		{{0}, 1, "key ssh-ed25519 rubbish\n", PROTO_LOGIN_CONTAINER, "", ""},
		{{3, 100, 0}, 3, "key " KEY "\n", PROTO_LOGIN_CONTAINER, KEY, ""},
		{{3, 0, 3}, 3, "", PROTO_LOGIN_VM, "", "could not be installed"},
		{{4}, 1, "", PROTO_LOGIN_VM, "", "no known package manager"},
		{{5}, 1, "", PROTO_LOGIN_VM, "", "does not start"},
		{{127}, 1, "", PROTO_LOGIN_VM, "", "no shell"},
		{{2}, 1, "", PROTO_LOGIN_VM, "", "has failed"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct rig rig = {.exec_output = cases[i].output};

		memcpy(rig.exec_exits, cases[i].exits, sizeof(rig.exec_exits));
		rig_begin(&rig, "{\"image\":\"a\",\"ssh\":2222}");
		run_until(&rig, login_found);
		assert_int_equal(last(&rig)->login.place, cases[i].place);
		assert_string_equal(last(&rig)->login.host_key, cases[i].host_key);
		assert_non_null(strstr(last(&rig)->login.words, cases[i].words));
		assert_int_equal(rig.n_execs, cases[i].execs);
		assert_int_equal(rig.n_puts, 0); /* there is no list yet */
		assert_non_null(strstr(rig.exec, "\"User\":\"0\""));
		rig_end(&rig);
	}
}

static bool keys_told(struct rig *rig)
{
	return rig->keys_told > 0 && login_found(rig);
}

/* The archive's parts, where a reader finds them. */
static void test_login_keys(void **state)
{
	struct rig rig = {.exec_output = ""};
	const char *archive;

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\",\"ssh\":2222}");
	assert_int_equal(engine_set_keys(rig.engine, KEY "\n", sizeof(KEY)), 0);
	assert_false(engine_keys_busy(rig.engine)); /* there is no container yet */
	run_until(&rig, keys_told);
	assert_int_equal(rig.n_puts, 1);
	archive = strstr(rig.put, "\r\n\r\n");
	assert_non_null(strstr(rig.put, "Content-Length: 2560\r\n"));
	assert_non_null(archive);
	assert_string_equal(archive + 4, ".ssh/");
	assert_string_equal(archive + 4 + 100, "0000700");
	assert_string_equal(archive + 4 + 512, ".ssh/authorized_keys2");
	assert_string_equal(archive + 4 + 512 + 100, "0000600");
	assert_memory_equal(archive + 4 + 1024, KEY "\n", sizeof(KEY));
	rig_end(&rig);
}

static void test_login_keys_refused(void **state)
{
	struct rig rig = {.exec_output = "", .put_status = 404};

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\",\"ssh\":2222}");
	assert_int_equal(engine_set_keys(rig.engine, "\n", 1), 0);
	run_until(&rig, keys_told);
	assert_int_equal(last(&rig)->login.place, PROTO_LOGIN_VM);
	assert_non_null(strstr(last(&rig)->login.words, "/root/.ssh"));
	rig_end(&rig);
}

/* Without the wish nothing is run in the container, and no key is put there. */
static void test_no_login(void **state)
{
	struct rig rig = {0};

	(void)state;
	rig_begin(&rig, "{\"image\":\"a\"}");
	assert_int_equal(engine_set_keys(rig.engine, KEY "\n", sizeof(KEY)), 0);
	run_until(&rig, is_running);
	assert_int_equal(last(&rig)->login.place, PROTO_LOGIN_NONE);
	assert_int_equal(rig.n_execs + rig.n_puts, 0);
	rig_end(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crash_loop_is_calm),
		cmocka_unit_test(test_one_that_stays_up_is_running),
		cmocka_unit_test(test_found_after_crashes),
		cmocka_unit_test(test_removed_slowly),
		cmocka_unit_test(test_no_sense_for_long),
		cmocka_unit_test(test_gpus_by_cdi),
		cmocka_unit_test(test_gpus_by_toolkit),
		cmocka_unit_test(test_gpus_that_are_not_there),
		cmocka_unit_test(test_password_is_hidden),
		cmocka_unit_test(test_removal_on_host),
		cmocka_unit_test(test_foreign_on_host),
		cmocka_unit_test(test_replaced_by_foreign_on_host),
		cmocka_unit_test(test_paused_on_host),
		cmocka_unit_test(test_limits_ignored_on_host),
		cmocka_unit_test(test_gpus_by_cdi_on_host),
		cmocka_unit_test(test_login),
		cmocka_unit_test(test_login_keys),
		cmocka_unit_test(test_login_keys_refused),
		cmocka_unit_test(test_no_login),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
