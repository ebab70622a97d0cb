/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three requests one after the other: make, run (until its output ends), ask how it ended.
 * Trust: runs in vmmon; reads answers of a container engine in a guest, and what a program of the
 * tenant's image prints.
 */
#include "vmmon/engine/exec.h"

#include "vmmon/engine/answers.h"
#include "vmmon/engine/call.h"
#include "vmmon/engine/frames.h"

#include <jansson.h>

#define SHORT_MS  30000
#define PATH_SIZE 128

struct exec {
	struct event_base *base;  /* borrowed */
	struct engine_link *link; /* borrowed */
	struct call *call;        /* owned; of the step */
	struct event *limit;      /* owned */
	unsigned int version;
	char id[ANSWER_ID_SIZE];
	struct frames frames; /* what it prints */
	void *arg;
	void (*on_done)(void *arg, int r, unsigned int exit_code, const char *output, size_t len);
};

static void end(struct exec *x, int r, unsigned int exit_code)
{
	size_t len = 0;
	const char *output = frames_tail(&x->frames, SIZE_MAX, &len);

	(void)event_del(x->limit);
	x->on_done(x->arg, r, exit_code, output, len);
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
	struct exec *x = arg;

	(void)fd;
	(void)what;
	call_free(TAKE_PTR(x->call));
	end(x, -ETIMEDOUT, 0);
}

/* The next request; the call before it has ended. */
static void ask(struct exec *x, struct call_request *request)
{
	call_free(TAKE_PTR(x->call));
	request->arg = x;
	if (call_start(x->base, x->link, request, &x->call) < 0) {
		x->call = NULL;
		end(x, -ECONNREFUSED, 0);
	}
}

/* Says whether it is the answer that was hoped for; ends it all otherwise. */
static bool is_good(struct exec *x, const struct call_result *result, unsigned int status)
{
	if (result->error == 0 && result->status == status)
		return true;
	end(x, result->error < 0 ? result->error : -EIO, 0);
	return false;
}

static void on_inspected(void *arg, const struct call_result *result)
{
	struct exec *x = arg;
	unsigned int exit_code = 0;
	int r;

	if (!is_good(x, result, 200))
		return;
	r = answer_exec(result->body, result->len, &exit_code);
	end(x, r, exit_code);
}

static void on_ran(void *arg, const struct call_result *result)
{
	struct exec *x = arg;
	char path[PATH_SIZE];
	struct call_request request = {
		.method = "GET",
		.path = path,
		.silence_ms = SHORT_MS,
		.on_done = on_inspected,
	};

	if (!is_good(x, result, 200))
		return;
	(void)snprintf(path, sizeof(path), "/v%u.%u/exec/%s/json", x->version / 1000,
		       x->version % 1000, x->id);
	ask(x, &request);
}

static int on_output(void *arg, const uint8_t *data, size_t len)
{
	struct exec *x = arg;

	return frames_feed(&x->frames, data, len);
}

static void on_made(void *arg, const struct call_result *result)
{
	struct exec *x = arg;
	char path[PATH_SIZE];
	struct call_request request = {
		.method = "POST",
		.path = path,
		.body = "{\"Detach\":false,\"Tty\":false}",
		.on_bytes = on_output,
		.on_done = on_ran,
	};

	if (!is_good(x, result, 201))
		return;
	if (answer_created(result->body, result->len, x->id) < 0) {
		end(x, -EBADMSG, 0);
		return;
	}
	(void)snprintf(path, sizeof(path), "/v%u.%u/exec/%s/start", x->version / 1000,
		       x->version % 1000, x->id);
	ask(x, &request);
}

/* As root, whatever user the image names. */
static char *make_body(const char *const *argv)
{
	json_t *cmd = json_array(), *json;
	char *text;

	for (; *argv; argv++)
		(void)json_array_append_new(cmd, json_string(*argv));
	json = json_pack("{s:b, s:b, s:s, s:o}", "AttachStdout", 1, "AttachStderr", 1, "User", "0",
			 "Cmd", cmd);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	return text;
}

static int begin(struct exec *x, const struct exec_request *request)
{
	const struct timeval limit = {.tv_sec = request->limit_ms / 1000,
				      .tv_usec = (suseconds_t)(request->limit_ms % 1000) * 1000};
	_cleanup_free_ char *body = make_body(request->argv);
	char path[PATH_SIZE];
	const struct call_request call = {
		.method = "POST",
		.path = path,
		.body = body,
		.silence_ms = SHORT_MS,
		.arg = x,
		.on_done = on_made,
	};
	int r;

	x->limit = event_new(x->base, -1, 0, on_limit, x);
	if (!body || !x->limit || event_add(x->limit, &limit) < 0)
		return -ENOMEM;
	(void)snprintf(path, sizeof(path), "/v%u.%u/containers/%s/exec", x->version / 1000,
		       x->version % 1000, request->container);
	r = call_start(x->base, x->link, &call, &x->call);
	if (r < 0)
		x->call = NULL;
	return r;
}

int exec_start(struct event_base *base, struct engine_link *link,
	       const struct exec_request *request, struct exec **ret_exec)
{
	struct exec *x = calloc(1, sizeof(*x));
	int r;

	if (!x)
		return -ENOMEM;
	*x = (struct exec){
		.base = base,
		.link = link,
		.version = request->version,
		.frames = {.max = EXEC_OUTPUT_MAX},
		.arg = request->arg,
		.on_done = request->on_done,
	};
	r = begin(x, request);
	if (r < 0) {
		exec_free(x);
		return r;
	}
	*ret_exec = x;
	return 0;
}

void exec_free(struct exec *x)
{
	if (!x)
		return;
	call_free(x->call);
	if (x->limit)
		event_free(x->limit);
	frames_done(&x->frames);
	free(x);
}
