/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A console's bytes between a client and vmmon.
 * Trust: runs inside agentd; passes bytes of clients and guests on without looking at them.
 */
#include "agentd/agentd.h"
#include "common/log.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>

#define RELAYS_MAX   32
#define PENDING_HIGH (64 * 1024) /* bytes waiting for a slow reader; then its source waits, too */

struct relay_side {
	struct relay *relay; /* borrowed */
	struct relay_side *other;
	struct bufferevent *bev; /* owned, with its descriptor */
};

struct relay {
	LIST_ENTRY(relay) link;
	struct agentd *agentd; /* borrowed */
	struct relay_side client, console;
	bool ending; /* one side has ended: what it has sent still goes out */
};

static void relay_free(struct relay *relay)
{
	LIST_REMOVE(relay, link);
	relay->agentd->n_relays--;
	bufferevent_free(relay->client.bev);
	bufferevent_free(relay->console.bev);
	free(relay);
}

static void on_read(struct bufferevent *bev, void *arg)
{
	struct relay_side *side = arg;
	struct evbuffer *to = bufferevent_get_output(side->other->bev);

	(void)evbuffer_add_buffer(to, bufferevent_get_input(bev));
	if (evbuffer_get_length(to) > PENDING_HIGH)
		(void)bufferevent_disable(bev, EV_READ);
}

/* All that was waiting for this side is written. */
static void on_drained(struct bufferevent *bev, void *arg)
{
	struct relay_side *side = arg;

	(void)bev;
	if (side->relay->ending)
		relay_free(side->relay);
	else
		(void)bufferevent_enable(side->other->bev, EV_READ);
}

static void on_end(struct bufferevent *bev, short what, void *arg)
{
	struct relay_side *side = arg;
	struct bufferevent *other = side->other->bev;

	if (!(what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)))
		return;
	(void)evbuffer_add_buffer(bufferevent_get_output(other), bufferevent_get_input(bev));
	if (side->relay->ending || (what & BEV_EVENT_WRITING) ||
	    evbuffer_get_length(bufferevent_get_output(other)) == 0) {
		relay_free(side->relay);
		return;
	}
	side->relay->ending = true;
	(void)bufferevent_disable(bev, EV_READ | EV_WRITE);
	(void)bufferevent_disable(other, EV_READ);
}

static int side_init(struct relay *relay, struct relay_side *side, struct relay_side *other, int fd)
{
	side->relay = relay;
	side->other = other;
	side->bev = bufferevent_socket_new(relay->agentd->base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (!side->bev) {
		(void)safe_close(fd);
		return -ENOMEM;
	}
	bufferevent_setcb(side->bev, on_read, on_drained, on_end, side);
	return 0;
}

int relay_start(struct agentd *a, int client, int console, const void *first, size_t len)
{
	struct relay *relay = a->n_relays < RELAYS_MAX ? calloc(1, sizeof(*relay)) : NULL;
	int r1, r2;

	if (!relay) {
		(void)safe_close(client);
		(void)safe_close(console);
		return -ENOMEM;
	}
	relay->agentd = a;
	LIST_INSERT_HEAD(&a->relays, relay, link);
	a->n_relays++;
	(void)evutil_make_socket_nonblocking(client);
	(void)evutil_make_socket_nonblocking(console);
	r1 = side_init(relay, &relay->client, &relay->console, client);
	r2 = side_init(relay, &relay->console, &relay->client, console);
	if (r1 < 0 || r2 < 0) {
		LIST_REMOVE(relay, link);
		a->n_relays--;
		if (relay->client.bev)
			bufferevent_free(relay->client.bev);
		if (relay->console.bev)
			bufferevent_free(relay->console.bev);
		free(relay);
		return -ENOMEM;
	}
	if (len > 0)
		(void)bufferevent_write(relay->console.bev, first, len);
	(void)bufferevent_enable(relay->client.bev, EV_READ | EV_WRITE);
	(void)bufferevent_enable(relay->console.bev, EV_READ | EV_WRITE);
	return 0;
}

void relays_free(struct agentd *a)
{
	struct relay *relay;

	while ((relay = LIST_FIRST(&a->relays)))
		relay_free(relay);
}
