/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last bytes of a guest's serial console in a shared file mapping, so that they outlive the
 * process however it ends.
 * Trust: runs in vmmon; keeps bytes of the guest, interprets none.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"

#define RING_SIZE PROTO_CONSOLE_MAX

/* Layout of the file. Written by this process and its predecessors only. */
struct ring_file {
	uint64_t magic;
	uint64_t generation; /* of the VM that wrote last */
	uint64_t total;      /* bytes ever written */
	uint64_t ready;      /* 1: that generation had reported ready, and has not reset since */
	uint64_t begun;      /* what `total` was when that generation began */
	uint8_t bytes[RING_SIZE];
};

/* Maps the file <vm>.console in @dirfd, making it if @create. -ENOENT, or another errno. */
int ring_open(int dirfd, const char *vm, bool create, struct ring_file **ret_ring);

/* Unmaps; NULL is fine. */
void ring_close(struct ring_file *ring);

/* Deletes the file. Not existing is no error. */
int ring_remove(int dirfd, const char *vm);

/* How many of the last @len bytes are of the generation that wrote last. */
size_t ring_fresh(const struct ring_file *ring, size_t len);

/* Appends @len bytes, forgetting the oldest. */
void ring_write(struct ring_file *ring, const void *data, size_t len);

/* Copies the last bytes, at most @max, to @buf. Returns their number. */
size_t ring_tail(const struct ring_file *ring, void *buf, size_t max);
