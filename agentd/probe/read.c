/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking NVML.
 * Trust: runs in nvml-probe's reader, a process without privilege that ends after one answer; runs
 * code of the closed driver library, and reads what that says.
 */
#include "agentd/probe/read.h"

#include "agentd/probe/nvml.h"

#include <dlfcn.h>

#define ADDRESS_BUS_SHIFT  8
#define ADDRESS_SLOT_SHIFT 3
#define GPUS_ASKED_MAX     256 /* no host has as many */

/* A text of the library's, as far as it can be shown. */
static void take_text(char *field, size_t size, char *text, size_t text_size)
{
	text[text_size - 1] = '\0';
	for (char *p = text; *p; p++)
		if (*p < 0x20 || *p > 0x7e)
			*p = '?';
	proto_text_set(field, size, text);
}

static uint32_t within(unsigned long long value, uint32_t high)
{
	return value <= high ? (uint32_t)value : PROBE_UNKNOWN;
}

static bool take_address(const struct nvml *nvml, nvml_device device, uint64_t *ret_address)
{
	struct nvml_pci pci = {0};

	if (nvml->pci(device, &pci) != NVML_SUCCESS || pci.bus > UINT8_MAX || pci.device > 31)
		return false;
	*ret_address = (uint64_t)pci.domain << 16 | pci.bus << ADDRESS_BUS_SHIFT |
		       pci.device << ADDRESS_SLOT_SHIFT;
	return *ret_address > 0;
}

static void take_texts(const struct nvml *nvml, nvml_device device, struct probe_gpu *gpu)
{
	char text[128] = "";

	if (nvml->uuid && nvml->uuid(device, text, sizeof(text)) == NVML_SUCCESS)
		take_text(gpu->uuid, sizeof(gpu->uuid), text, sizeof(text));
	memset(text, 0, sizeof(text));
	if (nvml->name && nvml->name(device, text, sizeof(text)) == NVML_SUCCESS)
		take_text(gpu->name, sizeof(gpu->name), text, sizeof(text));
}

/* A figure that a GPU does not have is refused by NVML, one by one. */
static void take_figures(const struct nvml *nvml, nvml_device device, struct probe_gpu *gpu)
{
	struct nvml_utilization utilization = {0};
	struct nvml_memory memory = {0};
	unsigned int value = 0;

	gpu->percent = gpu->celsius = gpu->milliwatts = gpu->used_mib = gpu->total_mib =
		PROBE_UNKNOWN;
	if (nvml->utilization && nvml->utilization(device, &utilization) == NVML_SUCCESS)
		gpu->percent = within(utilization.gpu, 100);
	if (nvml->temperature && nvml->temperature(device, NVML_SENSOR_GPU, &value) == NVML_SUCCESS)
		gpu->celsius = within(value, PROBE_CELSIUS_MAX);
	if (nvml->power && nvml->power(device, &value) == NVML_SUCCESS)
		gpu->milliwatts = within(value, PROBE_WATTS_MAX * 1000);
	if (nvml->memory && nvml->memory(device, &memory) == NVML_SUCCESS &&
	    memory.used <= memory.total && memory.total >> 20 <= PROBE_MIB_MAX) {
		gpu->used_mib = (uint32_t)(memory.used >> 20);
		gpu->total_mib = (uint32_t)(memory.total >> 20);
	}
}

/* Ascending by address; one that is there already is left out. */
static void add_gpu(struct probe_report *r, const struct probe_gpu *gpu)
{
	uint32_t at = 0;

	while (at < r->n_gpus && r->gpus[at].address < gpu->address)
		at++;
	if (r->n_gpus == PROTO_MAX_GPUS ||
	    (at < r->n_gpus && r->gpus[at].address == gpu->address)) {
		r->left_out++;
		return;
	}
	memmove(&r->gpus[at + 1], &r->gpus[at], (r->n_gpus - at) * sizeof(r->gpus[0]));
	r->gpus[at] = *gpu;
	r->n_gpus++;
}

static void take_gpus(const struct nvml *nvml, unsigned int count, struct probe_report *r)
{
	for (unsigned int i = 0; i < MIN_OF(count, (unsigned int)GPUS_ASKED_MAX); i++) {
		struct probe_gpu gpu = {0};
		nvml_device device = NULL;

		if (nvml->by_index(i, &device) != NVML_SUCCESS ||
		    !take_address(nvml, device, &gpu.address)) {
			r->left_out++;
			continue;
		}
		take_texts(nvml, device, &gpu);
		take_figures(nvml, device, &gpu);
		add_gpu(r, &gpu);
	}
}

static void take_versions(const struct nvml *nvml, struct probe_report *r)
{
	char text[128] = "";
	int cuda = 0;

	if (nvml->driver_version && nvml->driver_version(text, sizeof(text)) == NVML_SUCCESS)
		take_text(r->driver, sizeof(r->driver), text, sizeof(text));
	if (nvml->cuda_version && nvml->cuda_version(&cuda) == NVML_SUCCESS && cuda > 0 &&
	    cuda <= PROBE_CUDA_MAX)
		r->cuda = (uint32_t)cuda;
}

/* A library without one of the needed functions is of no use. */
static bool find_functions(void *library, struct nvml *ret_nvml)
{
	bool all = true;

#define X(member, needed, symbol, parameters)                                                      \
	*(void **)&ret_nvml->member = dlsym(library, symbol);                                      \
	all &= !(needed) || ret_nvml->member;
	NVML_FUNCTIONS(X)
#undef X
	return all;
}

void read_nvml(const char *library, struct probe_report *ret_report)
{
	void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	struct probe_report *r = ret_report;
	struct nvml nvml = {0};
	unsigned int count = 0;
	int error;

	*r = (struct probe_report){.version = PROBE_VERSION, .state = PROBE_UNUSABLE};
	if (!handle) {
		r->state = PROBE_NO_LIBRARY;
		return;
	}
	if (!find_functions(handle, &nvml))
		return;
	error = nvml.init();
	if (error == NVML_SUCCESS)
		error = nvml.count(&count);
	if (error != NVML_SUCCESS) {
		r->state = error == NVML_DRIVER_NOT_LOADED ? PROBE_NO_DRIVER : PROBE_UNUSABLE;
		r->detail = (uint32_t)error;
		return;
	}
	r->state = PROBE_OK;
	take_versions(&nvml, r);
	take_gpus(&nvml, count, r);
	/* No nvmlShutdown(): the end of the process gives everything back and cannot hang here. */
}
