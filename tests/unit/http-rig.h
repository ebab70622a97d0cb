/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives the real HTTP server within one thread: a socket pair per client, the event loop turned by
 * hand. For tests only; include after cmocka.h.
 * Trust: runs as whoever tests; no input but the tests' own.
 */
#pragma once

#include "agentd/http.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <event2/event.h>

struct rig {
	struct event_base *base;
	struct http_server *server;
	struct http_listener *listener;
};

static inline void rig_start(struct rig *rig, const struct http_config *config, unsigned max_conns)
{
	rig->base = event_base_new();
	assert_non_null(rig->base);
	assert_int_equal(http_server_new(rig->base, config, &rig->server), 0);
	assert_int_equal(
		http_server_add_fd(rig->server, -EBADF, /* tag= */ 7, max_conns, &rig->listener),
		0);
}

static inline void rig_stop(struct rig *rig)
{
	http_server_free(rig->server);
	event_base_free(rig->base);
}

/* Socket pairs deliver at once: a few turns see everything that can happen without time passing. */
static inline void rig_turn(struct rig *rig)
{
	for (int i = 0; i < 4; i++)
		(void)event_base_loop(rig->base, EVLOOP_NONBLOCK);
}

/* A client's end of a new connection. */
static inline int rig_connect(struct rig *rig)
{
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv), 0);
	assert_int_equal(http_server_adopt(rig->listener, sv[0]), 0);
	return sv[1];
}

/* Sends all of it, at most @piece bytes at a time, as far as the server still listens. */
static inline void rig_send(struct rig *rig, int fd, const void *bytes, size_t len, size_t piece)
{
	const char *p = bytes;
	unsigned stuck = 0;

	while (len > 0 && stuck < 1000) {
		ssize_t n = send(fd, p, MIN_OF(len, piece), MSG_NOSIGNAL);

		rig_turn(rig);
		if (n < 0 && errno == EAGAIN) {
			stuck++;
			continue;
		}
		if (n < 0)
			return;
		p += n;
		len -= (size_t)n;
	}
}

/* Takes what has been answered as a string; *@ret_closed: the server has said that it is done. */
static inline size_t rig_recv(struct rig *rig, int fd, char *buf, size_t size, bool *ret_closed)
{
	size_t len = 0;
	ssize_t n;

	*ret_closed = false;
	for (rig_turn(rig); len < size - 1; rig_turn(rig)) {
		n = recv(fd, buf + len, size - 1 - len, 0);
		if (n <= 0) {
			*ret_closed = n == 0 || errno != EAGAIN;
			break;
		}
		len += (size_t)n;
	}
	buf[len] = '\0';
	return len;
}

/* Status of the first answer in @text, 0 without one. */
static inline unsigned rig_status(const char *text)
{
	if (strncmp(text, "HTTP/1.1 ", 9) != 0)
		return 0;
	return (unsigned)strtoul(text + 9, NULL, 10);
}

static inline unsigned rig_count(const char *text, const char *what)
{
	unsigned n = 0;

	for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
		n++;
	return n;
}
