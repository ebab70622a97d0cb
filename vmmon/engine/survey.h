/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine on this host is and can do, for whoever sets the host up: two questions to it,
 * and nothing is changed.
 * Trust: runs in vmmon; reads answers of this host's container engine.
 */
#pragma once

#include "proto/proto.h"

#include <event2/event.h>

struct survey;

struct survey_config {
	struct event_base *base;
	const char *socket; /* of the engine; borrowed for as long as it lasts */
	bool rootful;       /* one that runs as root may be asked */
	void *arg;
	/*
	 * Called once, never from within survey_start(), unless it is freed before; the survey must
	 * be freed then. @found has all but what is of our own configuration.
	 */
	void (*on_done)(void *arg, const struct engine_status_rep *found);
};

/* NULL: out of memory. */
struct survey *survey_start(const struct survey_config *config);

/* Ends it. NULL is fine. */
void survey_free(struct survey *s);
