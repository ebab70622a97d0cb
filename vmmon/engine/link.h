/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to a container engine, whatever carries them. An engine_link is embedded first in the
 * struct of its carrier, a link_conn in that of one connection.
 * Trust: runs in vmmon; interface only.
 */
#pragma once

#include "common/base.h"

struct engine_link;
struct link_conn;

/*
 * What a connection tells. None is called from within the functions below, and none may close the
 * connection: whoever wants that does it from the event loop.
 */
struct link_handler {
	void *arg;
	/* Open, or able to take more bytes: may be called without need. */
	void (*on_writable)(void *arg);
	/* Bytes have come. A negative errno: nothing more is read. */
	int (*on_data)(void *arg, const uint8_t *data, size_t len);
	/* No bytes will come any more: 0, or -ECONNREFUSED (never opened), -EPIPE. Once. */
	void (*on_end)(void *arg, int r);
};

struct engine_link {
	/* Begins to open a connection; a negative errno when it cannot. @handler is copied. */
	int (*open)(struct engine_link *link, const struct link_handler *handler,
		    struct link_conn **ret_conn);
	/* Returns how many bytes were taken, 0 when none can be now, or a negative errno. */
	ssize_t (*send)(struct link_conn *conn, const void *data, size_t len);
	void (*close)(struct link_conn *conn);
};
