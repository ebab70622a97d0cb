/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Console relay.
 * Trust: runs in vmmon; moves bytes of the guest and of attached people, interprets none.
 */
#include "vmmon/console.h"

#include "vmmon/stream.h"

#include <sys/socket.h>

#define BYTES_PER_S (1024 * 1024)
#define TYPED_MAX   256 /* bytes of one client that wait for QEMU to take them */

struct client {
	struct console *console; /* borrowed */
	int fd;                  /* -EBADF: the slot is free */
	struct event *readable;  /* owned */
	uint8_t typed[TYPED_MAX];
	size_t n_typed;
};

struct console {
	struct event_base *base;
	struct ring_file *ring;
	struct stream stream;
	struct event *writable; /* owned; pending while a client's bytes wait */
	struct client clients[CONSOLE_MAX_CLIENTS];
};

static void client_close(struct client *c)
{
	if (c->readable)
		event_free(c->readable);
	c->readable = NULL;
	c->fd = safe_close(c->fd);
	c->n_typed = 0;
}

/* Passes on what a client typed. A client whose bytes wait is not read, so the wait is bounded. */
static void pass_on(struct client *c)
{
	ssize_t n = stream_write(&c->console->stream, c->typed, c->n_typed);

	if (n < 0 && n != -EAGAIN) {
		client_close(c);
		return;
	}
	if (n > 0) {
		c->n_typed -= (size_t)n;
		memmove(c->typed, c->typed + n, c->n_typed);
	}
	if (c->n_typed == 0) {
		(void)event_add(c->readable, NULL);
		return;
	}
	(void)event_del(c->readable);
	(void)event_add(c->console->writable, NULL);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct console *c = arg;

	(void)fd;
	(void)what;
	for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++)
		if (c->clients[i].n_typed > 0)
			pass_on(&c->clients[i]);
}

static void on_typed(evutil_socket_t fd, short what, void *arg)
{
	struct client *c = arg;
	ssize_t n = read(fd, c->typed, sizeof(c->typed));

	(void)what;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_close(c);
		return;
	}
	c->n_typed = (size_t)n;
	pass_on(c);
}

static void close_all(struct console *c)
{
	if (c->writable)
		event_free(c->writable);
	c->writable = NULL;
	for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++)
		client_close(&c->clients[i]);
}

static int on_data(void *arg, const uint8_t *data, size_t len)
{
	struct console *c = arg;

	ring_write(c->ring, data, len);
	for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++) {
		struct client *client = &c->clients[i];

		if (client->fd >= 0 &&
		    send(client->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN)
			client_close(client);
	}
	return 0;
}

static void on_close(void *arg, int r)
{
	(void)r;
	close_all(arg);
}

struct console *console_new(struct event_base *base, struct ring_file *ring)
{
	struct console *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->base = base;
	c->ring = ring;
	c->stream = STREAM_INIT;
	for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++) {
		c->clients[i].console = c;
		c->clients[i].fd = -EBADF;
	}
	return c;
}

void console_free(struct console *c)
{
	if (!c)
		return;
	close_all(c);
	stream_close(&c->stream);
	free(c);
}

int console_connect(struct console *c, const char *path)
{
	const struct stream_config config = {
		.base = c->base,
		.bytes_per_s = BYTES_PER_S,
		.arg = c,
		.on_data = on_data,
		.on_close = on_close,
	};
	int r = stream_open(&c->stream, &config, path);

	if (r < 0)
		return r;
	c->writable = event_new(c->base, c->stream.fd, EV_WRITE, on_writable, c);
	if (!c->writable) {
		stream_close(&c->stream);
		return -ENOMEM;
	}
	return 0;
}

bool console_connected(const struct console *c)
{
	return c->stream.fd >= 0;
}

static void replay(const struct console *c, int fd)
{
	uint8_t past[CONSOLE_REPLAY];
	size_t len = ring_tail(c->ring, past, sizeof(past));

	if (len > 0)
		(void)send(fd, past, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int console_attach(struct console *c)
{
	struct client *client = NULL;
	int pair[2];

	if (!console_connected(c))
		return -ENOTCONN;
	for (size_t i = 0; i < CONSOLE_MAX_CLIENTS && !client; i++)
		if (c->clients[i].fd < 0)
			client = &c->clients[i];
	if (!client)
		return -EUSERS;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	client->fd = pair[0];
	client->readable = event_new(c->base, pair[0], EV_READ | EV_PERSIST, on_typed, client);
	if (!client->readable || event_add(client->readable, NULL) < 0) {
		client_close(client);
		(void)safe_close(pair[1]);
		return -ENOMEM;
	}
	replay(c, pair[0]);
	return pair[1];
}
