/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures of guests, as vmmon tells them.
 * Trust: runs inside agentd; checks what vmmon says, record by record. The figures themselves are
 * what a guest says of itself.
 */
#pragma once

#include "common/err.h"
#include "common/fd.h"
#include "proto/proto.h"

#include <jansson.h>

/* A GPU that is made up, with `debug = yes`. */
#define METRICS_FAKE_PERCENT 42
#define METRICS_FAKE_CELSIUS 55
#define METRICS_FAKE_USED    (30 * 1024) /* MiB */
#define METRICS_FAKE_TOTAL   (80 * 1024)
#define METRICS_FAKE_WATTS   300

/* One look at a guest. */
struct metrics_look {
	struct metrics_sample_ev sample;
	const struct metrics_gpu_ev
		*gpus; /* sample.gpus of them, ascending; in the list's memory */
};

struct metrics_list {
	struct metrics_look *looks;  /* owned, oldest first */
	struct metrics_gpu_ev *gpus; /* owned */
	size_t n, n_gpus;
	uint64_t newest; /* to ask for what comes later */
	uint32_t interval_ms;
};

/* Frees what @list holds. */
void metrics_done(struct metrics_list *list);

/*
 * Reads the answer to METRICS_READ. Errors: -EBADMSG (vmmon breaks its own rules), -ENOMEM, or what
 * reading has failed with; @ret_list is empty then.
 */
int metrics_receive(const struct metrics_read_rep *rep, struct fdlist *fds,
		    struct metrics_list *ret_list, struct err *reterr);

/* The same from memory, for tests. @len bytes hold @n looks. */
int metrics_decode(const uint8_t *bytes, size_t len, uint32_t n, struct metrics_list *ret_list,
		   struct err *reterr);

/*
 * With @debug (`debug = yes`: no GPU is expected on this host), makes up one GPU for every look of
 * a list that has none. Returns whether it did; whoever shows them says so, and the log does.
 */
bool metrics_add_fakes(bool debug, struct metrics_list *list);

/*
 * The newest look's GPUs as the control plane wants them, in thousandths: mean utilisation, the
 * highest temperature, used memory of all memory; PROTO_NO_FIGURE where nobody knows.
 */
void metrics_sum_gpus(const struct metrics_list *list, uint32_t *ret_percent, uint32_t *ret_celsius,
		      uint32_t *ret_memory_percent);

/*
 * How busy the newest look's processors are and how much of its memory is used, in thousandths of a
 * percent; PROTO_NO_FIGURE where nobody knows.
 */
void metrics_guest_use(const struct metrics_list *list, uint32_t *ret_cpu, uint32_t *ret_memory);

/* @list as JSON, as GET /v1/instances/{id}/metrics gives it (see openapi.yaml). */
json_t *metrics_json(const struct metrics_list *list);
