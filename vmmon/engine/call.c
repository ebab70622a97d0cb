/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to the engine.
 * Trust: runs in vmmon; reads bytes of a container engine in a guest.
 */
#include "vmmon/engine/call.h"

#include "vmmon/engine/http.h"

struct call {
	struct call_request request; /* its texts are not kept */
	struct engine_link *link;    /* borrowed */
	struct link_conn *conn;      /* owned; NULL: not open */
	char *out;                   /* owned; secret: may hold a password */
	size_t out_len, sent;
	struct http_response response;
	char *body; /* owned; the body, or the line that is not whole */
	size_t body_size, body_len;
	struct event *deadline; /* owned */
	struct event *finish;   /* owned; ends the call from the loop */
	bool ended;
	int error;
};

static void end_with(struct call *c, int error)
{
	if (c->ended)
		return;
	c->ended = true;
	c->error = error;
	event_active(c->finish, EV_TIMEOUT, 0);
}

static void on_finish(evutil_socket_t fd, short what, void *arg)
{
	struct call *c = arg;
	const struct call_result result = {
		.error = c->error,
		.status = c->response.status,
		.body = c->body ? c->body : "",
		.len = c->body_len,
	};

	(void)fd;
	(void)what;
	(void)event_del(c->deadline);
	if (c->conn)
		c->link->close(TAKE_PTR(c->conn));
	c->request.on_done(c->request.arg, &result);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	end_with(arg, -ETIMEDOUT);
}

static void rearm(struct call *c)
{
	const struct timeval tv = {.tv_sec = c->request.silence_ms / 1000,
				   .tv_usec = (suseconds_t)(c->request.silence_ms % 1000) * 1000};

	if (c->request.silence_ms > 0)
		(void)event_add(c->deadline, &tv);
}

/* Keeps bytes, always with a NUL behind them. */
static int collect(struct call *c, const uint8_t *data, size_t len, size_t max)
{
	if (c->body_len + len > max)
		return -EFBIG;
	if (c->body_len + len + 1 > c->body_size) {
		size_t size = MAX_OF((c->body_len + len + 1) * 2, (size_t)512);
		char *grown = realloc(c->body, size);

		if (!grown)
			return -ENOMEM;
		c->body = grown;
		c->body_size = size;
	}
	memcpy(c->body + c->body_len, data, len);
	c->body_len += len;
	c->body[c->body_len] = '\0';
	return 0;
}

static int give_lines(struct call *c, const uint8_t *data, size_t len)
{
	while (len > 0) {
		const uint8_t *end = memchr(data, '\n', len);
		size_t n = end ? (size_t)(end - data) : len;
		int r = collect(c, data, n, CALL_LINE_MAX);

		if (r == 0 && end) {
			while (c->body_len > 0 && c->body[c->body_len - 1] == '\r')
				c->body_len--;
			if (c->body_len > 0)
				r = c->request.on_line(c->request.arg, c->body, c->body_len);
			c->body_len = 0;
		}
		if (r < 0)
			return r;
		n += end ? 1 : 0;
		data += n;
		len -= n;
	}
	return 0;
}

static int on_body(void *arg, const uint8_t *data, size_t len)
{
	struct call *c = arg;

	if (c->response.status == 200 && c->request.on_bytes)
		return c->request.on_bytes(c->request.arg, data, len);
	if (c->response.status == 200 && c->request.on_line)
		return give_lines(c, data, len);
	return collect(c, data, len, CALL_BODY_MAX);
}

static int on_data(void *arg, const uint8_t *data, size_t len)
{
	struct call *c = arg;
	int r;

	if (c->ended)
		return -ECANCELED;
	rearm(c);
	r = http_response_feed(&c->response, data, len, on_body, c);
	if (r < 0)
		end_with(c, r);
	else if (http_response_done(&c->response))
		end_with(c, 0);
	return r;
}

static void on_end(void *arg, int r)
{
	struct call *c = arg;

	if (r == 0)
		r = http_response_end(&c->response);
	end_with(c, r);
}

static void on_writable(void *arg)
{
	struct call *c = arg;

	while (!c->ended && c->sent < c->out_len) {
		ssize_t n = c->link->send(c->conn, c->out + c->sent, c->out_len - c->sent);

		if (n < 0) /* its answer, if there is one, says more */
			c->sent = c->out_len;
		if (n <= 0)
			return;
		c->sent += (size_t)n;
		rearm(c);
	}
}

static int compose(struct call *c, const struct call_request *request)
{
	FILE *f = open_memstream(&c->out, &c->out_len);

	if (!f)
		return -ENOMEM;
	(void)fprintf(f, "%s %s HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n", request->method,
		      request->path);
	if (request->auth)
		(void)fprintf(f, "X-Registry-Auth: %s\r\n", request->auth);
	if (request->body) {
		size_t len = request->body_len ? request->body_len : strlen(request->body);

		(void)fprintf(f, "Content-Type: %s\r\nContent-Length: %zu\r\n\r\n",
			      request->type ? request->type : "application/json", len);
		(void)fwrite(request->body, 1, len, f);
	} else if (STR_EQ(request->method, "POST")) {
		(void)fputs("Content-Length: 0\r\n\r\n", f);
	} else {
		(void)fputs("\r\n", f);
	}
	return fclose(f) == 0 ? 0 : -ENOMEM;
}

int call_start(struct event_base *base, struct engine_link *link,
	       const struct call_request *request, struct call **ret_call)
{
	struct call *c = calloc(1, sizeof(*c));
	const struct link_handler handler = {c, on_writable, on_data, on_end};
	int r;

	if (!c)
		return -ENOMEM;
	c->request = *request;
	c->link = link;
	c->deadline = event_new(base, -1, 0, on_deadline, c);
	c->finish = event_new(base, -1, 0, on_finish, c);
	r = c->deadline && c->finish ? compose(c, request) : -ENOMEM;
	c->request.method = c->request.path = c->request.auth = c->request.body = c->request.type =
		NULL;
	if (r == 0)
		r = link->open(link, &handler, &c->conn);
	if (r < 0) {
		call_free(c);
		return r;
	}
	rearm(c);
	*ret_call = c;
	return 0;
}

static void wipe(char *text, size_t len)
{
	if (text)
		explicit_bzero(text, len);
	free(text);
}

void call_free(struct call *c)
{
	if (!c)
		return;
	if (c->conn)
		c->link->close(c->conn);
	if (c->deadline)
		event_free(c->deadline);
	if (c->finish)
		event_free(c->finish);
	wipe(TAKE_PTR(c->out), c->out_len);
	wipe(TAKE_PTR(c->body), c->body_size);
	free(c);
}
