/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's serial console: kept in a ring, relayed to those who are attached.
 * Trust: runs in vmmon; moves bytes of the guest and of attached people, interprets none.
 */
#pragma once

#include "common/base.h"
#include "vmmon/ring.h"

#include <event2/event.h>

#define CONSOLE_MAX_CLIENTS 4
#define CONSOLE_REPLAY      2048 /* bytes of the past that a new client gets */

struct console;

/* A console that writes to @ring (borrowed) and is not connected yet. NULL: no memory. */
struct console *console_new(struct event_base *base, struct ring_file *ring);

/* Closes everything. NULL is fine. */
void console_free(struct console *c);

/* Connects to QEMU's socket at @path; what it sends is kept from then on. */
int console_connect(struct console *c, const char *path);

bool console_connected(const struct console *c);

/*
 * Gives one end of a stream joined to the console; it belongs to the caller. A client that reads
 * too slowly misses bytes, and holds nobody up. -ENOTCONN, -EUSERS when there are
 * CONSOLE_MAX_CLIENTS already, or another negative errno.
 */
int console_attach(struct console *c);
