/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The newest figures of a guest, as many as PROTO_SAMPLES_MAX, in a fixed amount of memory.
 * Numbers of samples ascend by one. A new series begins at the time in milliseconds, so that the
 * numbers of a later one are higher, whoever kept the earlier.
 * Trust: runs in vmmon; keeps numbers of the guest.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"
#include "vmmon/metrics/lines.h"

struct series_point {
	uint64_t time_ms; /* Unix time */
	uint64_t memory_kib, available_kib;
	uint64_t network_in, network_out, disk_read, disk_written; /* bytes */
	uint64_t qemu_cpu_ms;
	uint32_t root_mib, root_used_mib;
	uint32_t qemu_rss_mib;
	uint16_t cpu_permille; /* UINT16_MAX: not known */
	uint16_t gpus;         /* bit per GPU that has figures */
	uint8_t qemu_known;
	uint8_t container; /* enum proto_container_state */
};

/* UINT8_MAX, UINT16_MAX, UINT32_MAX: not known. */
struct series_gpu {
	uint32_t used_mib;
	uint16_t deciwatts;
	uint8_t percent, celsius;
};

struct series {
	uint64_t first; /* number of the first sample */
	uint64_t n;     /* samples ever added */
	struct series_point points[PROTO_SAMPLES_MAX];
	/* Owned, made when the guest first tells of that GPU. */
	struct series_gpu *gpus[PROTO_MAX_GPUS];
	uint32_t gpu_total_mib[PROTO_MAX_GPUS];
};

/* NULL: out of memory. @now_ms: Unix time. */
struct series *series_new(uint64_t now_ms);

/* NULL is fine. */
void series_free(struct series *s);

/* Adds a sample, forgetting the oldest. Entries of @gpus with bits in @point->gpus are read. */
void series_add(struct series *s, const struct series_point *point,
		const struct lines_gpu gpus[static PROTO_MAX_GPUS]);

/* Number of the newest sample, or of the one before the first: what to ask for from then on. */
uint64_t series_newest(const struct series *s);

/*
 * Writes the newest samples with numbers above @since, at most @max, oldest first, as METRICS_*
 * records. @ret_bytes (owned by the caller; NULL when there is none) are @ret_len bytes. -ENOMEM.
 */
int series_records(const struct series *s, uint64_t since, uint32_t max, uint8_t **ret_bytes,
		   size_t *ret_len, uint32_t *ret_samples);
