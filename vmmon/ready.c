/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Readiness of a guest.
 * Trust: runs in vmmon; reads bytes of the guest.
 */
#include "vmmon/ready.h"

#include "vmmon/stream.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define BYTES_PER_S    4096
#define LINE_MAX_BYTES 16
#define PAUSE_FIRST_MS 1000
#define PAUSE_LAST_MS  15000
#define BANNER_WAIT_MS 10000 /* sshd in a slow guest may take seconds between accept and banner */
#define BANNER_BEGINS  "SSH-"

struct ready {
	struct event_base *base;
	ready_fn *fn;
	void *arg;
	struct stream stream;
	char line[LINE_MAX_BYTES];
	size_t used; /* LINE_MAX_BYTES: the line is too long to mean anything */
	uint16_t ssh_port;
	uint32_t pause_ms;
	int probe_fd;
	struct event *timer;        /* owned: the next attempt, or the end of this one */
	struct event *socket_event; /* owned: the attempt */
};

static void close_attempt(struct ready *r)
{
	if (r->socket_event)
		event_free(r->socket_event);
	r->socket_event = NULL;
	r->probe_fd = safe_close(r->probe_fd);
}

static void arm(struct ready *r, uint32_t after_ms)
{
	const struct timeval tv = {.tv_sec = after_ms / 1000,
				   .tv_usec = (suseconds_t)(after_ms % 1000) * 1000};

	(void)event_add(r->timer, &tv);
}

static void try_later(struct ready *r)
{
	close_attempt(r);
	arm(r, r->pause_ms);
	r->pause_ms = MIN_OF(r->pause_ms + r->pause_ms / 2, (uint32_t)PAUSE_LAST_MS);
}

/* The port's forwarder accepts and closes at once while the guest does not listen. */
static void on_banner(evutil_socket_t fd, short what, void *arg)
{
	struct ready *r = arg;
	char banner[sizeof(BANNER_BEGINS) - 1];
	ssize_t n = recv(fd, banner, sizeof(banner), MSG_DONTWAIT);

	(void)what;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n != (ssize_t)sizeof(banner) || memcmp(banner, BANNER_BEGINS, sizeof(banner)) != 0) {
		try_later(r);
		return;
	}
	ready_stop(r);
	r->fn(r->arg);
}

/* Waits for @what on the attempt's socket, and for nothing else. */
static int attempt_wait(struct ready *r, short what, event_callback_fn fn)
{
	if (r->socket_event)
		event_free(r->socket_event);
	r->socket_event = event_new(r->base, r->probe_fd, what, fn, r);
	return !r->socket_event || event_add(r->socket_event, NULL) < 0 ? -ENOMEM : 0;
}

/*
 * The client's line goes out first, which RFC 4253 allows: Debian 12's passt passes nothing on from
 * a server that speaks first until its client has spoken.
 */
static void on_connected(evutil_socket_t fd, short what, void *arg)
{
	static const char hello[] = BANNER_BEGINS "2.0-qudata_vmmon\r\n";
	struct ready *r = arg;

	(void)what;
	if (send(fd, hello, sizeof(hello) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) !=
		    (ssize_t)sizeof(hello) - 1 ||
	    attempt_wait(r, EV_READ | EV_PERSIST, on_banner) < 0)
		try_later(r);
}

static int begin_attempt(struct ready *r)
{
	const struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(r->ssh_port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	r->probe_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (r->probe_fd < 0)
		return -errno;
	if (connect(r->probe_fd, (const struct sockaddr *)&sin, sizeof(sin)) < 0 &&
	    errno != EINPROGRESS)
		return -errno;
	if (attempt_wait(r, EV_WRITE, on_connected) < 0)
		return -ENOMEM;
	arm(r, BANNER_WAIT_MS);
	return 0;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct ready *r = arg;

	(void)fd;
	(void)what;
	if (r->probe_fd >= 0 || begin_attempt(r) < 0)
		try_later(r);
}

struct ready *ready_new(struct event_base *base, uint16_t ssh_port, ready_fn *fn, void *arg)
{
	struct ready *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	*r = (struct ready){
		.base = base,
		.fn = fn,
		.arg = arg,
		.stream = STREAM_INIT,
		.ssh_port = ssh_port,
		.probe_fd = -EBADF,
		.timer = event_new(base, -1, 0, on_timer, r),
	};
	if (!r->timer) {
		free(r);
		return NULL;
	}
	return r;
}

void ready_free(struct ready *r)
{
	if (!r)
		return;
	close_attempt(r);
	event_free(r->timer);
	stream_close(&r->stream);
	free(r);
}

static void take_byte(struct ready *r, char c)
{
	bool match;

	if (c != '\n') {
		if (c != '\r' && r->used < LINE_MAX_BYTES)
			r->line[r->used++] = c;
		return;
	}
	match = r->used == strlen("ready") && memcmp(r->line, "ready", r->used) == 0;
	r->used = 0;
	if (match)
		r->fn(r->arg);
}

static int on_data(void *arg, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		take_byte(arg, (char)data[i]);
	return 0;
}

static void on_close(void *arg, int why)
{
	(void)arg;
	(void)why;
}

int ready_connect(struct ready *r, const char *path)
{
	const struct stream_config config = {
		.base = r->base,
		.bytes_per_s = BYTES_PER_S,
		.arg = r,
		.on_data = on_data,
		.on_close = on_close,
	};

	r->used = 0;
	return stream_open(&r->stream, &config, path);
}

bool ready_connected(const struct ready *r)
{
	return r->stream.fd >= 0;
}

void ready_probe(struct ready *r, uint32_t first_ms)
{
	ready_stop(r);
	if (r->ssh_port == 0)
		return;
	r->pause_ms = PAUSE_FIRST_MS;
	arm(r, first_ms);
}

void ready_stop(struct ready *r)
{
	close_attempt(r);
	(void)event_del(r->timer);
}
