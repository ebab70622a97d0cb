/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz harness of nvml-probe's answer: as bytes off the wire, and as changes of a good report, so
 * that every field is reached.
 * Trust: a test; reads the fuzzer's input.
 */
#include "agentd/hostgpus.h"

#include <assert.h>

#define PATCH_SIZE 6 /* where, what */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct message {
	struct proto_header header;
	struct probe_report report;
};

static void check_text(const char *text, size_t size)
{
	assert(strnlen(text, size) < size);
	for (; *text; text++)
		assert(*text >= 0x20 && *text <= 0x7e);
}

static void check_gpu(const struct probe_gpu *gpu)
{
	json_t *json = hostgpus_gpu_json(gpu);

	assert(gpu->address != 0 && (gpu->percent <= 100 || gpu->percent == PROBE_UNKNOWN));
	assert(gpu->used_mib <= gpu->total_mib);
	check_text(gpu->uuid, sizeof(gpu->uuid));
	check_text(gpu->name, sizeof(gpu->name));
	assert(json); /* it can be shown */
	json_decref(json);
}

static void decode(const void *bytes, size_t len)
{
	struct hostgpus_view view = {.state = "ok", .detail = ""};
	uint32_t percent, celsius, memory;
	struct probe_report report;
	json_t *json;

	if (!probe_decode(bytes, len, &report))
		return;
	view.report = &report;
	assert(report.n_gpus <= PROTO_MAX_GPUS && report.state < PROBE_STATE_COUNT);
	assert(report.state == PROBE_OK || report.n_gpus == 0);
	check_text(report.driver, sizeof(report.driver));
	for (uint32_t i = 0; i < report.n_gpus; i++) {
		check_gpu(&report.gpus[i]);
		assert(hostgpus_find(&view, report.gpus[i].address) == &report.gpus[i]);
	}
	hostgpus_sum(&report, &percent, &celsius, &memory);
	assert(percent <= 100000 || percent == PROBE_UNKNOWN);
	assert(memory <= 100000 || memory == PROBE_UNKNOWN);
	json = hostgpus_view_json(&view);
	assert(json);
	json_decref(json);
}

static struct message good(void)
{
	struct message m = {
		.header = {.op = PROBE_REPORT, .len = sizeof(m.report)},
		.report = {.version = PROBE_VERSION,
			   .n_gpus = 3,
			   .cuda = 12040,
			   .driver = "550.54"},
	};

	for (uint32_t i = 0; i < m.report.n_gpus; i++)
		m.report.gpus[i] = (struct probe_gpu){.address = 0x100 + 0x100 * (uint64_t)i,
						      .percent = 30,
						      .celsius = 50,
						      .used_mib = 6144,
						      .total_mib = 24576,
						      .milliwatts = PROBE_UNKNOWN,
						      .uuid = "GPU-1",
						      .name = "A GPU"};
	return m;
}

/* Each six bytes of input put four bytes somewhere. */
static void patch(struct message *m, const uint8_t *data, size_t size)
{
	for (; size >= PATCH_SIZE; data += PATCH_SIZE, size -= PATCH_SIZE) {
		size_t at = (size_t)(data[0] << 8 | data[1]) % (sizeof(*m) - 3);

		memcpy((uint8_t *)m + at, data + 2, 4);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct message m = good();

	decode(data, size);
	assert(probe_decode(&m, sizeof(m), &(struct probe_report){0}));
	patch(&m, data, size);
	decode(&m, sizeof(m));
	decode(&m, sizeof(m) - 1);
	return 0;
}
