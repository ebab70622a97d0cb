/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When does a guest accept SSH? It says so itself on a virtio port; images that never do are asked
 * by connecting to the forwarded port, with growing pauses.
 * Trust: runs in vmmon; reads bytes of the guest.
 */
#pragma once

#include "common/base.h"

#include <event2/event.h>

struct ready;

/* The guest accepts SSH. May be called again at any time. It must not free the struct ready. */
typedef void ready_fn(void *arg);

/* Nothing is connected yet. @ssh_port: on 127.0.0.1; 0: none. NULL: no memory. */
struct ready *ready_new(struct event_base *base, uint16_t ssh_port, ready_fn *fn, void *arg);
void ready_free(struct ready *r);

/* Connects to QEMU's end of the port at @path: a line `ready` calls the function. */
int ready_connect(struct ready *r, const char *path);
bool ready_connected(const struct ready *r);

/*
 * Begins to ask: for the first time after @first_ms, then with growing pauses until the server's
 * banner comes, which calls the function, or ready_stop(). Asking again starts over.
 */
void ready_probe(struct ready *r, uint32_t first_ms);

/* Asks no more. */
void ready_stop(struct ready *r);
