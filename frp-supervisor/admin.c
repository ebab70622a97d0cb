/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to frpc's admin API.
 * Trust: runs in frp-supervisor; reads bytes of frpc, which reads a server's.
 */
#include "frp-supervisor/admin.h"

#include "common/rpc.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#define READ_FIRST 4096

void admin_cancel(struct admin *a)
{
	if (a->ready)
		event_free(a->ready);
	explicit_bzero(a->request, sizeof(a->request));
	free(a->buf);
	(void)safe_close(a->fd);
	*a = ADMIN_INIT;
}

static void finish(struct admin *a, const struct answer_http *answer, int error)
{
	admin_fn *fn = a->fn;
	void *arg = a->arg;
	char *buf = TAKE_PTR(a->buf); /* @answer points into it */

	admin_cancel(a); /* so that the callback may ask again */
	fn(arg, answer, error);
	free(buf);
}

/* "user:password" as RFC 7617 wants it. Both are short and printable. */
static void base64(const char *text, char *out)
{
	static const char set[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i += 3) {
		uint32_t v = (uint32_t)(uint8_t)text[i] << 16;

		if (i + 1 < len)
			v |= (uint32_t)(uint8_t)text[i + 1] << 8;
		if (i + 2 < len)
			v |= (uint8_t)text[i + 2];
		*out++ = set[v >> 18];
		*out++ = set[v >> 12 & 63];
		*out++ = i + 1 < len ? set[v >> 6 & 63] : '=';
		*out++ = i + 2 < len ? set[v & 63] : '=';
	}
	*out = '\0';
}

static void write_request(struct admin *a, const struct render_admin *where, const char *path)
{
	char plain[64], coded[96];

	(void)snprintf(plain, sizeof(plain), "supervisor:%s", where->password);
	base64(plain, coded);
	a->request_len = (size_t)snprintf(a->request, sizeof(a->request),
					  "GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n"
					  "Authorization: Basic %s\r\n\r\n",
					  path, coded);
	explicit_bzero(plain, sizeof(plain));
	explicit_bzero(coded, sizeof(coded));
}

/* Returns 1 when all is sent, 0 to wait, or a negative errno. */
static int send_more(struct admin *a)
{
	ssize_t n = send(a->fd, a->request + a->sent, a->request_len - a->sent, MSG_NOSIGNAL);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	a->sent += (size_t)n;
	if (a->sent < a->request_len)
		return 0;
	explicit_bzero(a->request, sizeof(a->request));
	return 1;
}

static int make_room(struct admin *a)
{
	size_t size = a->size ? a->size * 2 : READ_FIRST;
	char *buf;

	if (a->used < a->size)
		return 0;
	if (a->size >= ANSWER_MAX)
		return -EMSGSIZE;
	buf = realloc(a->buf, size);
	if (!buf)
		return -ENOMEM;
	a->buf = buf;
	a->size = size;
	return 0;
}

/* Returns 1 when the answer is whole, 0 to wait, or a negative errno. */
static int read_more(struct admin *a, struct answer_http *ret_answer)
{
	ssize_t n;
	int r = make_room(a);

	if (r < 0)
		return r;
	n = recv(a->fd, a->buf + a->used, a->size - a->used, 0);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	a->used += (size_t)n;
	return answer_http(a->buf, a->used, /* eof= */ n == 0, ret_answer);
}

static void on_ready(evutil_socket_t fd, short what, void *arg);

/* Waits for the socket, as long as the whole request may still take. */
static int wait_for(struct admin *a, short what)
{
	uint64_t now_ms = rpc_now_ms();
	uint64_t left_ms = a->deadline_ms > now_ms ? a->deadline_ms - now_ms : 0;
	const struct timeval timeout = {
		.tv_sec = (time_t)(left_ms / MSEC_PER_SEC),
		.tv_usec = (suseconds_t)(left_ms % MSEC_PER_SEC * 1000),
	};

	if (a->ready)
		event_free(a->ready);
	a->ready = event_new(a->base, a->fd, what, on_ready, a);
	return a->ready && event_add(a->ready, &timeout) == 0 ? 0 : -ENOMEM;
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct admin *a = arg;
	struct answer_http answer;
	int r;

	(void)fd;
	if (what & EV_TIMEOUT) {
		finish(a, NULL, -ETIMEDOUT);
		return;
	}
	if (a->sent < a->request_len) {
		r = send_more(a);
		if (r >= 0)
			r = wait_for(a, r > 0 ? EV_READ : EV_WRITE);
	} else {
		r = read_more(a, &answer);
		if (r > 0) {
			finish(a, &answer, 0);
			return;
		}
		if (r == 0)
			r = wait_for(a, EV_READ);
	}
	if (r < 0)
		finish(a, NULL, r);
}

static int begin(struct admin *a, uint16_t port)
{
	const struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int r;

	a->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (a->fd < 0)
		return -errno;
	if (connect(a->fd, (const struct sockaddr *)&sin, sizeof(sin)) < 0 && errno != EINPROGRESS)
		return -errno;
	r = send_more(a); /* on loopback it is connected by now, most likely */
	return r < 0 ? r : wait_for(a, r > 0 ? EV_READ : EV_WRITE);
}

int admin_get(struct admin *a, struct event_base *base, const struct render_admin *where,
	      const char *path, uint32_t timeout_ms, admin_fn *fn, void *arg)
{
	int r;

	if (a->fd >= 0)
		return -EBUSY;
	*a = ADMIN_INIT;
	a->base = base;
	a->deadline_ms = rpc_now_ms() + timeout_ms;
	a->fn = fn;
	a->arg = arg;
	write_request(a, where, path);
	r = begin(a, where->port);
	if (r < 0)
		admin_cancel(a);
	return r;
}
