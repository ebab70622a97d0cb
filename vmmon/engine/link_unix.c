/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets as connections to an engine.
 * Trust: runs in vmmon; reads bytes of a container engine, some of which its containers have made.
 */
#include "vmmon/engine/link_unix.h"

#include "common/ipc.h"
#include "common/rpc.h"

#include <sys/socket.h>

#define READ_MAX 16384 /* bytes of one connection in one step */

struct link_unix {
	struct engine_link link; /* first: what callers hold */
	struct link_unix_config config;
	uint64_t window_ms;
	uint32_t used;
	uid_t uid; /* of who has answered last */
};

struct link_conn {
	struct link_unix *link; /* borrowed */
	struct link_handler handler;
	int fd; /* owned, as all that follow */
	struct event *readable, *writable, *resume;
};

static void conn_end(struct link_conn *c, int r)
{
	(void)event_del(c->readable);
	(void)event_del(c->writable);
	(void)event_del(c->resume);
	c->handler.on_end(c->handler.arg, r);
}

/* Counts what was read; how long to wait before the next read. */
static uint32_t charge(struct link_unix *l, size_t n)
{
	uint64_t now = rpc_now_ms();

	if (now - l->window_ms >= MSEC_PER_SEC) {
		l->window_ms = now;
		l->used = 0;
	}
	l->used += (uint32_t)n;
	return l->used < LINK_UNIX_BYTES_PER_S
		       ? 0
		       : (uint32_t)(MSEC_PER_SEC - (now - l->window_ms) % MSEC_PER_SEC);
}

static void pause_reading(struct link_conn *c, uint32_t for_ms)
{
	const struct timeval tv = {.tv_sec = for_ms / 1000,
				   .tv_usec = (suseconds_t)(for_ms % 1000) * 1000};

	(void)event_del(c->readable);
	(void)event_add(c->resume, &tv);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct link_conn *c = arg;
	uint8_t buf[READ_MAX];
	ssize_t n = read(fd, buf, sizeof(buf));
	uint32_t wait_ms;

	(void)what;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		conn_end(c, n < 0 ? -EPIPE : 0);
		return;
	}
	if (c->handler.on_data(c->handler.arg, buf, (size_t)n) < 0) {
		(void)event_del(c->readable);
		return;
	}
	wait_ms = charge(c->link, (size_t)n);
	if (wait_ms > 0)
		pause_reading(c, wait_ms);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct link_conn *c = arg;

	(void)fd;
	(void)what;
	c->handler.on_writable(c->handler.arg);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct link_conn *c = arg;

	(void)fd;
	(void)what;
	(void)event_add(c->readable, NULL);
}

static void conn_close(struct link_conn *c)
{
	if (c->readable)
		event_free(c->readable);
	if (c->writable)
		event_free(c->writable);
	if (c->resume)
		event_free(c->resume);
	(void)safe_close(c->fd);
	free(c);
}

/* Connects, and asks the kernel who listens there: the file's owner need not be the one. */
static int connect_engine(struct link_unix *l)
{
	_cleanup_close_ int fd = ipc_connect(l->config.path, SOCK_STREAM);
	struct ucred peer;
	int r = fd < 0 ? fd : ipc_peer_cred(fd, &peer);

	if (r < 0)
		return r;
	l->uid = peer.uid;
	return peer.uid == 0 && !l->config.rootful ? -EPERM : TAKE_FD(fd);
}

static int conn_open(struct engine_link *link, const struct link_handler *handler,
		     struct link_conn **ret_conn)
{
	struct link_unix *l = (struct link_unix *)link;
	_cleanup_close_ int fd = connect_engine(l);
	struct link_conn *c = fd < 0 ? NULL : calloc(1, sizeof(*c));

	if (!c)
		return fd < 0 ? fd : -ENOMEM;
	c->link = l;
	c->handler = *handler;
	c->readable = event_new(l->config.base, fd, EV_READ | EV_PERSIST, on_readable, c);
	c->writable = event_new(l->config.base, fd, EV_WRITE, on_writable, c);
	c->resume = event_new(l->config.base, -1, 0, on_resume, c);
	c->fd = TAKE_FD(fd);
	if (!c->readable || !c->writable || !c->resume || event_add(c->readable, NULL) < 0 ||
	    event_add(c->writable, NULL) < 0) {
		conn_close(c);
		return -ENOMEM;
	}
	*ret_conn = c;
	return 0;
}

static ssize_t conn_send(struct link_conn *c, const void *data, size_t len)
{
	ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && errno != EAGAIN)
		return -EPIPE;
	if (n < (ssize_t)len)
		(void)event_add(c->writable, NULL);
	return MAX_OF(n, (ssize_t)0);
}

struct engine_link *link_unix_new(const struct link_unix_config *config)
{
	struct link_unix *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->link = (struct engine_link){conn_open, conn_send, conn_close};
	l->config = *config;
	return (struct engine_link *)l;
}

void link_unix_free(struct engine_link *link)
{
	free(link);
}

uid_t link_unix_uid(const struct engine_link *link)
{
	return ((const struct link_unix *)link)->uid;
}
