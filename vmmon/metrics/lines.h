/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest's figures look like on their way: lines of a word and numbers.
 *
 *   qudata-metrics 1                          first; what a login shell prints before is skipped
 *   cpu USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL      ticks
 *   mem TOTAL AVAILABLE                       KiB
 *   net IN OUT                                bytes
 *   dsk READ WRITTEN                          sectors of 512 bytes
 *   fs SIZE USED                              KiB, of the root file system
 *   gpu INDEX, PERCENT, CELSIUS, USED, TOTAL, WATTS         as nvidia-smi prints it, MiB
 *   end                                       the look is complete
 *
 * Trust: runs in vmmon; reads what a guest sends, which its tenant owns.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"

#define LINES_HEAD     "qudata-metrics 1"
#define LINES_MAX      256  /* bytes of a line */
#define LINES_SKIP_MAX 4096 /* bytes before the head */

/* PROTO_NO_FIGURE: not known. */
struct lines_gpu {
	uint32_t percent, celsius, used_mib, total_mib, milliwatts;
};

/* One look. What a guest has not told (yet) is 0. */
struct lines_look {
	uint64_t cpu_busy, cpu_total; /* ticks */
	uint64_t memory_kib, available_kib;
	uint64_t network_in, network_out, disk_read, disk_written; /* bytes */
	uint64_t root_kib, root_used_kib;
};

struct lines_handler {
	void *arg;
	/* A look is complete. */
	void (*on_look)(void *arg, const struct lines_look *look);
	/* A GPU's figures; @index is below PROTO_MAX_GPUS. */
	void (*on_gpu)(void *arg, uint32_t index, const struct lines_gpu *gpu);
};

/* All zero for a new stream. */
struct lines {
	char line[LINES_MAX];
	size_t used, skipped;
	bool begun;         /* the head was there */
	unsigned int given; /* bit per kind of line since the last `end` */
	struct lines_look look;
};

/*
 * Takes @len bytes, cut anywhere. Returns 0, or stops with -EMSGSIZE (a line, or what comes before
 * the head, is too long) or -EBADMSG (a line is none of the above, or comes twice in a look). The
 * stream is of no use then. Lines about GPUs are not held to their form: what nvidia-smi says of a
 * GPU in trouble is words, and is passed over.
 */
int lines_feed(struct lines *l, const void *data, size_t len, const struct lines_handler *handler);
