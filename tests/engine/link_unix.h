/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to a container engine on this machine, for tests: its Unix socket itself.
 * Trust: a test.
 */
#pragma once

#include "vmmon/engine/link.h"

#include <event2/event.h>

/* @path is borrowed. */
struct engine_link *link_unix_new(struct event_base *base, const char *path);
void link_unix_free(struct engine_link *link);
