/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz harness of agentd/http_parse.c and agentd/http.c. An input is the bytes that a client sends.
 * A head that is accepted is held against a second, naive reading; and however the bytes are cut,
 * the server must see the same requests and end the same way.
 * Trust: a test; reads the fuzzer's input.
 */
#include "agentd/http.h"

#undef NDEBUG /* the assertions are the harness */
#include <assert.h>
#include <strings.h>
#include <sys/socket.h>

#include <event2/event.h>

#define LOG_MAX 65536

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What came of one connection. */
struct outcome {
	char log[LOG_MAX]; /* the requests: method, path, body */
	size_t log_len;
	unsigned refusal; /* status, 0 if none */
	bool closed;
};

static struct http_request *later; /* the request whose answer is pending */

static void note(struct outcome *o, const void *bytes, size_t len)
{
	size_t n = MIN_OF(len, LOG_MAX - o->log_len);

	memcpy(o->log + o->log_len, bytes, n);
	o->log_len += n;
}

static void on_request(struct http_request *req, void *arg)
{
	struct outcome **o = arg;
	char value[16];
	const char *text;
	size_t len;
	const void *body = http_body(req, &len);

	note(*o, http_method_name(req), strlen(http_method_name(req)) + 1);
	note(*o, http_path(req), strlen(http_path(req)) + 1);
	note(*o, body, len);
	if (http_query(req, "logs", value, sizeof(value)) >= 0)
		note(*o, value, strlen(value));
	if (http_header(req, "X-Agent-Secret", &text) == 0)
		note(*o, text, strlen(text));
	/* Some answers are late, as seen from the path, which does not depend on the cut. */
	if (strlen(http_path(req)) % 4 == 3)
		later = req;
	else
		http_reply(req, 200, "text/plain", body, len);
}

static int on_head(struct http_request *req, void *arg _unused_)
{
	if (strncmp(http_path(req), "/early", 6) != 0)
		return 0;
	http_reply(req, 401, NULL, NULL, 0);
	return 1;
}

static void on_refusal(const struct http_error *error, int tag, uid_t uid _unused_, void *arg)
{
	struct outcome **o = arg;

	assert(tag == 1 && error->status >= 400 && error->status < 600 && !(*o)->refusal);
	(*o)->refusal = error->status;
}

static struct outcome *outcome; /* of the connection at hand */
static struct event_base *base;
static struct http_listener *listener;

static void setup(void)
{
	const struct http_config config = {
		.handler = on_request,
		.on_head = on_head,
		.on_refusal = on_refusal,
		.arg = &outcome,
		.body_max = 4096,
	};
	static struct http_server *server;

	base = event_base_new();
	assert(base && http_server_new(base, &config, &server) == 0);
	assert(http_server_add_fd(server, -EBADF, 1, 1, &listener) == 0);
}

static void turn(void)
{
	for (int i = 0; i < 3; i++)
		(void)event_base_loop(base, EVLOOP_NONBLOCK);
}

/* Lets the server work, answers what is pending, throws the answers away. */
static void settle(int fd, bool *closed)
{
	char waste[8192];
	ssize_t n;

	for (turn(); later; turn()) {
		struct http_request *req = TAKE_PTR(later);

		http_reply(req, 202, NULL, NULL, 0);
	}
	while ((n = recv(fd, waste, sizeof(waste), MSG_DONTWAIT)) > 0)
		;
	*closed |= n == 0;
}

static void serve(const uint8_t *data, size_t size, size_t piece, struct outcome *o)
{
	int sv[2];

	o->log_len = 0;
	o->refusal = 0;
	o->closed = false;
	outcome = o;
	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) == 0);
	assert(http_server_adopt(listener, sv[0]) == 0);
	while (size > 0 && !o->closed) {
		size_t n = MIN_OF(size, piece);

		if (send(sv[1], data, n, MSG_NOSIGNAL) != (ssize_t)n)
			break;
		data += n;
		size -= n;
		settle(sv[1], &o->closed);
	}
	(void)close(sv[1]);
	turn();
	assert(!later);
}

static bool line_is(const char *line, const char *name)
{
	return strncasecmp(line, name, strlen(name)) == 0;
}

/* The second reading: line by line, and only with what is sure to be text. */
static void check_head(const char *text, const struct http_head *h)
{
	unsigned lines = 0, lengths = 0, codings = 0, hosts = 0;
	const char *end = text + h->len, *next;

	assert(h->len >= 18 && memcmp(end - 4, "\r\n\r\n", 4) == 0);
	assert(!memchr(text, '\0', h->len));
	for (const char *line = text; line < end; line = next) {
		next = (const char *)memchr(line, '\n', (size_t)(end - line)) + 1;
		assert(next - line >= 2 && next[-2] == '\r');
		assert(memchr(line, '\r', (size_t)(next - line)) == next - 2);
		assert(next - line > 2 || next == end);
		lengths += line_is(line, "content-length:");
		codings += line_is(line, "transfer-encoding:");
		hosts += line_is(line, "host:");
		lines++;
	}
	assert(h->n_fields == lines - 2);
	assert(lengths + codings <= 1 && h->chunked == (codings == 1));
	assert(lengths == 1 || h->content_length == 0);
	assert(hosts == 1 || (hosts == 0 && h->minor == 0));
}

static void check_sealed(const char *text, const struct http_head *h)
{
	const char *path = text + h->path.off;
	char value[32];

	assert(strlen(path) == h->path.len);
	assert(path[0] == '/' || (STR_EQ(path, "*") && h->method == HTTP_OPTIONS));
	for (const char *p = path; *p; p++)
		assert(*p > 0x1f && *p < 0x7f && *p != '\\');
	assert(!strstr(path, "//") && !strstr(path, "/../") && !strstr(path, "/./"));
	for (size_t i = 0; i < h->n_fields; i++)
		assert(strlen(text + h->fields[i].value.off) == h->fields[i].value.len);
	(void)!http_query_find(text + h->query.off, h->query.len, "a", value, sizeof(value));
}

static void fuzz_head(const uint8_t *data, size_t size, size_t piece)
{
	_cleanup_free_ char *text = malloc(size ? size : 1);
	struct http_scan whole = {0}, cut = {0};
	struct http_head head, head2;
	struct http_error err = {0}, err2 = {0};
	int r, r2 = -EAGAIN;

	assert(text);
	memcpy(text, data, size);
	r = http_parse_head(text, size, &whole, &head, &err);
	for (size_t n = MIN_OF(piece, size); r2 == -EAGAIN; n = MIN_OF(n + piece, size)) {
		r2 = http_parse_head(text, n, &cut, &head2, &err2);
		if (n == size)
			break;
	}
	assert(r == r2 && err.status == err2.status && err.reason == err2.reason);
	if (r != 0)
		return;
	assert(memcmp(&head.path, &head2.path, sizeof(head.path)) == 0 && head.len == head2.len);
	check_head(text, &head);
	http_head_seal(&head, text);
	check_sealed(text, &head);
}

static void fuzz_chunked(const uint8_t *data, size_t size, size_t piece)
{
	_cleanup_free_ char *a = malloc(size ? size : 1), *b = malloc(size ? size : 1);
	struct http_chunked whole = {0}, cut = {0};
	struct http_error err = {0}, err2 = {0};
	size_t used = 0, out = 0, in = 0, total = 0;
	int r, r2 = -EAGAIN;

	assert(a && b);
	memcpy(a, data, size);
	r = http_chunked_feed(&whole, a, size, 1000, &used, &out, &err);
	while (r2 == -EAGAIN && in < size) {
		size_t n = MIN_OF(piece, size - in), got, took;

		memcpy(b + total, data + in, n);
		r2 = http_chunked_feed(&cut, b + total, n, 1000 - total, &took, &got, &err2);
		if (r2 == -EBADMSG)
			break;
		in += took;
		total += got;
	}
	assert(r == r2 && err.status == err2.status);
	if (r == -EBADMSG)
		return;
	assert(used == in && out == total && out <= 1000 && memcmp(a, b, out) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct outcome whole, cut;
	const char *body;
	size_t piece = 1;

	if (size > 32768)
		return 0;
	for (size_t i = 0; i < size; i++)
		piece = piece * 31 + data[i];
	piece = piece % 64 + 1;
	fuzz_head(data, size, piece);
	body = memmem(data, size, "\r\n\r\n", 4);
	if (body)
		fuzz_chunked((const uint8_t *)body + 4,
			     size - (size_t)(body + 4 - (const char *)data), piece);
	if (!base)
		setup();
	serve(data, size, SIZE_MAX, &whole);
	serve(data, size, piece, &cut);
	assert(whole.log_len == cut.log_len && memcmp(whole.log, cut.log, cut.log_len) == 0);
	assert(whole.refusal == cut.refusal && whole.closed == cut.closed);
	return 0;
}
