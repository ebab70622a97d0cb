/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between agentd and nvml-probe, the program that asks NVIDIA's management library (NVML) about the
 * GPUs of the host's own driver: once for each connection, and then it ends. The answer is one
 * SOCK_SEQPACKET datagram: a struct proto_header, whose `op` is PROBE_REPORT, and a struct
 * probe_report. Nothing is sent the other way; whoever shuts the connection down has the probe
 * ended. The connection's end of file comes when nothing of the probe is left: until then it may
 * have GPUs open. Private to the two, which are of one package.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"

#define PROBE_VERSION 1
#define PROBE_REPORT  1          /* proto_header.op */
#define PROBE_UNKNOWN UINT32_MAX /* of a number that the driver does not tell */

/* What NVML may sensibly say; whatever is beyond is not believed. */
#define PROBE_CELSIUS_MAX 250
#define PROBE_WATTS_MAX   100000
#define PROBE_MIB_MAX     (UINT32_C(1) << 30)
#define PROBE_CUDA_MAX    1000000

/* X(NAME, "word in JSON", "words for people") */
#define PROBE_STATE_LIST(X)                                                                        \
	X(OK, "ok", "the driver has answered")                                                     \
	X(NO_LIBRARY, "no_library", "libnvidia-ml.so.1 is not installed")                          \
	X(NO_DRIVER, "no_driver", "NVML says that the driver is not loaded")                       \
	X(UNUSABLE, "unusable", "NVML cannot be used")                                             \
	X(CRASHED, "crashed", "NVML has ended the probe, or said what cannot be")                  \
	X(LATE, "late", "NVML did not answer in time; the probe was ended")                        \
	X(HUNG, "hung", "NVML hangs within the kernel and cannot be ended")

enum probe_state {
#define X(name, word, text) PROBE_##name,
	PROBE_STATE_LIST(X)
#undef X
		PROBE_STATE_COUNT,
};

/* Texts are printable ASCII, NUL-padded; "" is unknown. */
struct probe_gpu {
	uint64_t address; /* as in gpu_card_ev */
	uint32_t percent; /* how busy it is */
	uint32_t celsius;
	uint32_t used_mib, total_mib; /* both known or neither */
	uint32_t milliwatts;
	uint32_t reserved; /* 0 */
	char uuid[48];
	char name[64];
};

struct probe_report {
	uint32_t version; /* PROBE_VERSION */
	uint32_t state;   /* enum probe_state; all but PROBE_OK leave the rest zero but detail */
	uint32_t detail;  /* NVML's error, or the signal that ended it; 0: none */
	uint32_t n_gpus;
	uint32_t left_out; /* GPUs that NVML cannot reach, or more than there is room for */
	uint32_t cuda;   /* the newest CUDA of the driver: 1000 * major + 10 * minor; 0: unknown */
	char driver[32]; /* its version */
	struct probe_gpu gpus[PROTO_MAX_GPUS]; /* ascending by address, the rest zero */
};

_Static_assert(sizeof(struct proto_header) + sizeof(struct probe_report) <= PROTO_MSG_MAX,
	       "a report is one datagram");

/* Is every field as said above? Both sides ask: what comes from the driver is believed by none. */
bool probe_report_ok(const struct probe_report *report);

/* The same of @len bytes as they were received, header and all; copied to @ret_report if so. */
bool probe_decode(const void *bytes, size_t len, struct probe_report *ret_report);

const char *probe_state_word(uint32_t state);
const char *probe_state_text(uint32_t state);
