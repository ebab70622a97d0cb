/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to a container engine of this host: its Unix socket.
 * Trust: runs in vmmon; reads bytes of a container engine, some of which its containers have made.
 */
#pragma once

#include "vmmon/engine/link.h"

#include <event2/event.h>

#define LINK_UNIX_BYTES_PER_S (4 * 1024 * 1024) /* beyond it, reading pauses */

struct link_unix_config {
	struct event_base *base;
	const char *path; /* borrowed */
	bool rootful;     /* an engine that runs as root will do */
};

/*
 * NULL: out of memory. Opening a connection fails with what connect(2) says, or -EPERM when the
 * engine runs as root and that will not do: whoever may use it is root.
 */
struct engine_link *link_unix_new(const struct link_unix_config *config);

/* Who was found to listen when a connection was opened last; 0 before any. */
uid_t link_unix_uid(const struct engine_link *link);

/* No connection may be open. NULL is fine. */
void link_unix_free(struct engine_link *link);
