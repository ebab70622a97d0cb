/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One of QEMU's Unix stream sockets, read fairly: a little at a time, and not more than its budget
 * in a second, so that one VM can neither keep the process busy nor starve the others.
 * Trust: runs in vmmon; reads bytes of a QEMU that its guest may have taken over.
 */
#pragma once

#include "common/base.h"

#include <event2/event.h>

struct stream_config {
	struct event_base *base;
	uint32_t bytes_per_s; /* beyond it, reading pauses for the rest of the second */
	void *arg;
	/* Gets what arrived. A negative errno closes the stream. It must not close it itself. */
	int (*on_data)(void *arg, const uint8_t *data, size_t len);
	/* The stream has ended (@r: 0 or a negative errno) and is closed already. */
	void (*on_close)(void *arg, int r);
};

struct stream {
	struct stream_config config;
	int fd;
	struct event *readable; /* owned, as the next */
	struct event *resume;
	uint64_t window_ms;
	uint32_t used;
};

/* A stream that is closed: what every struct stream begins as. */
#define STREAM_INIT ((struct stream){.fd = -EBADF})

/* Connects to the socket at @path; -ENOENT or -ECONNREFUSED when nobody listens there. */
int stream_open(struct stream *s, const struct stream_config *config, const char *path);

/* Closes without calling on_close. Harmless when closed. */
void stream_close(struct stream *s);

/* Sends without blocking; returns how many bytes were taken, or -EAGAIN, or another errno. */
ssize_t stream_write(struct stream *s, const void *data, size_t len);
