/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's log stream, frames of 8 bytes of head and a payload, as its last lines.
 * Trust: runs in vmmon; reads bytes of a container engine in a guest, and of the tenant's
 * container.
 */
#pragma once

#include "common/base.h"

/* Begins zeroed, but for @max. */
struct frames {
	size_t max; /* bytes of payload that are kept: the last */
	char *tail; /* owned; grows up to 2 * @max */
	size_t size, used;
	uint8_t head[8];
	size_t head_used;
	uint32_t left; /* of the payload */
};

/* Takes bytes of the stream. -EBADMSG when a head is none, -ENOMEM. */
int frames_feed(struct frames *f, const uint8_t *data, size_t len);

/* The last @lines lines, or fewer, within the last @max bytes; points into the tail. */
const char *frames_tail(const struct frames *f, size_t lines, size_t *ret_len);

void frames_done(struct frames *f);
