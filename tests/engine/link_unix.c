/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets as connections to an engine.
 * Trust: a test.
 */
#include "tests/engine/link_unix.h"

#include "common/ipc.h"

#include <sys/socket.h>

struct link_unix {
	struct engine_link link;
	struct event_base *base;
	const char *path;
};

struct link_conn {
	struct link_handler handler;
	int fd;
	bool ended;
	struct event *readable, *writable;
};

static void conn_end(struct link_conn *c, int r)
{
	(void)event_del(c->readable);
	(void)event_del(c->writable);
	if (!c->ended) {
		c->ended = true;
		c->handler.on_end(c->handler.arg, r);
	}
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct link_conn *c = arg;
	uint8_t buf[4096];
	ssize_t n = read(fd, buf, sizeof(buf));

	(void)what;
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		conn_end(c, n < 0 ? -EPIPE : 0);
	else if (c->handler.on_data(c->handler.arg, buf, (size_t)n) < 0)
		(void)event_del(c->readable);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct link_conn *c = arg;

	(void)fd;
	(void)what;
	c->handler.on_writable(c->handler.arg);
}

static void conn_close(struct link_conn *c)
{
	if (c->readable)
		event_free(c->readable);
	if (c->writable)
		event_free(c->writable);
	(void)safe_close(c->fd);
	free(c);
}

static int conn_open(struct engine_link *link, const struct link_handler *handler,
		     struct link_conn **ret_conn)
{
	struct link_unix *l = (struct link_unix *)link;
	int fd = ipc_connect(l->path, SOCK_STREAM);
	struct link_conn *c = fd < 0 ? NULL : calloc(1, sizeof(*c));

	if (!c)
		return fd < 0 ? -ECONNREFUSED : -ENOMEM;
	c->fd = fd;
	c->handler = *handler;
	c->readable = event_new(l->base, fd, EV_READ | EV_PERSIST, on_readable, c);
	c->writable = event_new(l->base, fd, EV_WRITE, on_writable, c);
	(void)event_add(c->readable, NULL);
	(void)event_add(c->writable, NULL);
	*ret_conn = c;
	return 0;
}

static ssize_t conn_send(struct link_conn *c, const void *data, size_t len)
{
	ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && errno != EAGAIN)
		return -errno;
	if (n < (ssize_t)len)
		(void)event_add(c->writable, NULL);
	return MAX_OF(n, (ssize_t)0);
}

struct engine_link *link_unix_new(struct event_base *base, const char *path)
{
	struct link_unix *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	*l = (struct link_unix){{conn_open, conn_send, conn_close}, base, path};
	return &l->link;
}

void link_unix_free(struct engine_link *link)
{
	free(link);
}
