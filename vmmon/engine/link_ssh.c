/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Channels of an SSH session as connections.
 * Trust: runs in vmmon; reads SSH of a guest, which its tenant owns.
 */
#include "vmmon/engine/link_ssh.h"

#include <sys/queue.h>

#define READ_MAX 16384 /* bytes of one connection in one step */

struct link_conn {
	LIST_ENTRY(link_conn) entry;
	struct link_ssh *link; /* borrowed */
	struct link_handler handler;
	ssh_channel channel; /* owned with the session; NULL: not asked for yet */
	bool open, ended;
};

struct link_ssh {
	struct engine_link link; /* first: what callers hold */
	struct link_ssh_config config;
	struct session *session; /* owned; NULL: none */
	LIST_HEAD(, link_conn) conns;
};

static struct link_ssh *of(struct engine_link *link)
{
	return (struct link_ssh *)link;
}

static void conn_end(struct link_conn *c, int r)
{
	if (c->ended)
		return;
	c->ended = true;
	c->handler.on_end(c->handler.arg, r);
}

/* Has the channel been opened? */
static bool try_open(struct link_conn *c)
{
	ssh_session ssh = session_ssh(c->link->session);

	if (!c->channel)
		c->channel = ssh_channel_new(ssh);
	if (!c->channel) {
		conn_end(c, -ENOMEM);
		return false;
	}
	switch (ssh_channel_open_forward_unix(c->channel, c->link->config.socket, "127.0.0.1", 0)) {
	case SSH_OK:
		c->open = true;
		return true;
	case SSH_AGAIN:
		return false;
	default: /* nobody listens there, or the guest's sshd does not forward */
		conn_end(c, -ECONNREFUSED);
		return false;
	}
}

/* Reads a little. Returns whether there may be more. */
static bool try_read(struct link_conn *c)
{
	uint8_t buf[READ_MAX];
	int n = ssh_channel_read_nonblocking(c->channel, buf, sizeof(buf), 0);

	if (n > 0) {
		if (c->handler.on_data(c->handler.arg, buf, (size_t)n) < 0) {
			c->ended = true; /* whoever said so knows */
			return false;
		}
		return true;
	}
	if (ssh_channel_is_eof(c->channel) || ssh_channel_is_closed(c->channel))
		conn_end(c, 0);
	else if (n == SSH_ERROR)
		conn_end(c, -EPIPE);
	return false;
}

static void on_step(void *arg)
{
	struct link_ssh *l = arg;
	struct link_conn *c;
	bool more = false;

	LIST_FOREACH(c, &l->conns, entry)
	{
		if (c->ended || (!c->open && !try_open(c)))
			continue;
		c->handler.on_writable(c->handler.arg);
		if (!c->ended)
			more |= try_read(c);
	}
	if (more)
		session_kick(l->session);
}

static void end_all(struct link_ssh *l, int r)
{
	struct link_conn *c;

	/* The channels are gone with their session. */
	LIST_FOREACH(c, &l->conns, entry)
	{
		c->channel = NULL;
		c->open = false;
		conn_end(c, r);
	}
}

static void on_session_end(void *arg)
{
	struct link_ssh *l = arg;
	bool was_up = session_is_up(l->session);

	session_free(TAKE_PTR(l->session));
	end_all(l, was_up ? -EPIPE : -ECONNREFUSED);
}

static int conn_open(struct engine_link *link, const struct link_handler *handler,
		     struct link_conn **ret_conn)
{
	struct link_ssh *l = of(link);
	const struct session_handler session = {l, on_step, on_session_end};
	struct link_conn *c;
	int r = l->session ? 0 : l->config.start(l->config.ctx, &session, &l->session);

	if (r < 0) {
		l->session = NULL;
		return r;
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->link = l;
	c->handler = *handler;
	LIST_INSERT_HEAD(&l->conns, c, entry);
	session_kick(l->session);
	*ret_conn = c;
	return 0;
}

static ssize_t conn_send(struct link_conn *c, const void *data, size_t len)
{
	int n;

	if (!c->open || c->ended)
		return c->ended ? -EPIPE : 0;
	n = ssh_channel_write(c->channel, data, (uint32_t)MIN_OF(len, (size_t)READ_MAX));
	if (n == SSH_AGAIN)
		return 0;
	return n < 0 ? -EPIPE : n;
}

static void conn_close(struct link_conn *c)
{
	LIST_REMOVE(c, entry);
	if (c->channel) {
		if (c->open)
			(void)ssh_channel_close(c->channel);
		ssh_channel_free(c->channel);
		session_kick(c->link->session);
	}
	free(c);
}

struct engine_link *link_ssh_new(const struct link_ssh_config *config)
{
	struct link_ssh *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->link = (struct engine_link){conn_open, conn_send, conn_close};
	l->config = *config;
	return (struct engine_link *)l;
}

void link_ssh_disconnect(struct engine_link *link)
{
	session_free(TAKE_PTR(of(link)->session));
}

void link_ssh_free(struct engine_link *link)
{
	if (!link)
		return;
	link_ssh_disconnect(link);
	free(of(link));
}
