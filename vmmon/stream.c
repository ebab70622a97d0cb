/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fair reading of QEMU's sockets.
 * Trust: runs in vmmon; reads bytes of a QEMU that its guest may have taken over.
 */
#include "vmmon/stream.h"

#include "common/ipc.h"
#include "common/rpc.h"

#define READ_MAX 4096 /* bytes in one turn of the event loop */

static void end(struct stream *s, int r)
{
	stream_close(s);
	s->config.on_close(s->config.arg, r);
}

/* Counts @n bytes; pauses reading when the second's budget is used up. */
static void charge(struct stream *s, size_t n)
{
	uint64_t now = rpc_now_ms();
	struct timeval rest;

	if (now - s->window_ms >= MSEC_PER_SEC) {
		s->window_ms = now;
		s->used = 0;
	}
	s->used += (uint32_t)n;
	if (s->used < s->config.bytes_per_s)
		return;
	now = s->window_ms + MSEC_PER_SEC - now;
	rest = (struct timeval){.tv_sec = (time_t)(now / MSEC_PER_SEC),
				.tv_usec = (suseconds_t)(now % MSEC_PER_SEC * 1000)};
	(void)event_del(s->readable);
	(void)event_add(s->resume, &rest);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct stream *s = arg;
	uint8_t buf[READ_MAX];
	ssize_t n = read(fd, buf, sizeof(buf));
	int r;

	(void)what;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		end(s, n < 0 ? -errno : 0);
		return;
	}
	r = s->config.on_data(s->config.arg, buf, (size_t)n);
	if (r < 0) {
		end(s, r);
		return;
	}
	charge(s, (size_t)n);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct stream *s = arg;

	(void)fd;
	(void)what;
	(void)event_add(s->readable, NULL);
}

int stream_open(struct stream *s, const struct stream_config *config, const char *path)
{
	int fd = ipc_connect(path, SOCK_STREAM);

	if (fd < 0)
		return fd;
	*s = (struct stream){.config = *config, .fd = fd};
	s->readable = event_new(config->base, fd, EV_READ | EV_PERSIST, on_readable, s);
	s->resume = event_new(config->base, -1, 0, on_resume, s);
	if (!s->readable || !s->resume || event_add(s->readable, NULL) < 0) {
		stream_close(s);
		return -ENOMEM;
	}
	return 0;
}

void stream_close(struct stream *s)
{
	if (s->readable)
		event_free(s->readable);
	if (s->resume)
		event_free(s->resume);
	s->readable = NULL;
	s->resume = NULL;
	s->fd = safe_close(s->fd);
}

ssize_t stream_write(struct stream *s, const void *data, size_t len)
{
	ssize_t n;

	if (s->fd < 0)
		return -ENOTCONN;
	n = send(s->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}
