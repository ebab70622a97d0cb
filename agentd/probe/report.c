/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a report of nvml-probe has to be. Pure.
 * Trust: runs in agentd and in nvml-probe; reads what a closed driver library may have written.
 */
#include "agentd/probe/probe.h"

static bool number_ok(uint32_t value, uint32_t high)
{
	return value <= high || value == PROBE_UNKNOWN;
}

static bool memory_ok(const struct probe_gpu *gpu)
{
	if (gpu->total_mib == PROBE_UNKNOWN || gpu->used_mib == PROBE_UNKNOWN)
		return gpu->total_mib == gpu->used_mib;
	return gpu->total_mib <= PROBE_MIB_MAX && gpu->used_mib <= gpu->total_mib;
}

static bool gpu_ok(const struct probe_gpu *gpu)
{
	return gpu->address > 0 && gpu->address <= PROTO_PCI_MAX && number_ok(gpu->percent, 100) &&
	       number_ok(gpu->celsius, PROBE_CELSIUS_MAX) &&
	       number_ok(gpu->milliwatts, PROBE_WATTS_MAX * 1000) && memory_ok(gpu) &&
	       gpu->reserved == 0 && proto_text_ok(gpu->uuid, sizeof(gpu->uuid)) &&
	       proto_text_ok(gpu->name, sizeof(gpu->name));
}

/* Without an answer there is nothing to tell. */
static bool is_bare(const struct probe_report *r)
{
	const size_t rest = offsetof(struct probe_report, n_gpus);

	return proto_all_zero((const uint8_t *)r + rest, sizeof(*r) - rest);
}

bool probe_report_ok(const struct probe_report *r)
{
	if (r->version != PROBE_VERSION || r->state >= PROBE_STATE_COUNT)
		return false;
	if (r->state != PROBE_OK)
		return is_bare(r);
	if (r->detail != 0 || r->n_gpus > PROTO_MAX_GPUS || r->cuda > PROBE_CUDA_MAX ||
	    !proto_text_ok(r->driver, sizeof(r->driver)))
		return false;
	for (uint32_t i = 0; i < r->n_gpus; i++)
		if (!gpu_ok(&r->gpus[i]) || (i > 0 && r->gpus[i - 1].address >= r->gpus[i].address))
			return false;
	return proto_all_zero(&r->gpus[r->n_gpus],
			      (PROTO_MAX_GPUS - r->n_gpus) * sizeof(r->gpus[0]));
}

bool probe_decode(const void *bytes, size_t len, struct probe_report *ret_report)
{
	struct probe_report report;
	struct proto_header header;

	if (len != sizeof(header) + sizeof(report))
		return false;
	memcpy(&header, bytes, sizeof(header));
	memcpy(&report, (const uint8_t *)bytes + sizeof(header), sizeof(report));
	if (header.op != PROBE_REPORT || header.len != sizeof(report) || header.kind != 0 ||
	    header.status != 0 || header.request_id != 0 || !probe_report_ok(&report))
		return false;
	*ret_report = report;
	return true;
}

const char *probe_state_word(uint32_t state)
{
	static const char *const words[] = {
#define X(name, word, text) word,
		PROBE_STATE_LIST(X)
#undef X
	};

	return words[state < PROBE_STATE_COUNT ? state : PROBE_CRASHED];
}

const char *probe_state_text(uint32_t state)
{
	static const char *const texts[] = {
#define X(name, word, text) text,
		PROBE_STATE_LIST(X)
#undef X
	};

	return texts[state < PROBE_STATE_COUNT ? state : PROBE_CRASHED];
}
