/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What nvml-probe uses of the binary interface of libnvidia-ml.so.1, as NVIDIA's "NVML API
 * Reference Guide" describes it (docs.nvidia.com/deploy/nvml-api; unchanged since driver branch
 * 390). Declared here by our own words, because the library is found at run time and its header is
 * not needed to build this.
 */
#pragma once

#include <stddef.h>

/* nvmlReturn_t: those that are told apart. */
#define NVML_SUCCESS           0
#define NVML_DRIVER_NOT_LOADED 9
/* nvmlTemperatureSensors_t */
#define NVML_SENSOR_GPU        0

typedef struct nvml_device *nvml_device; /* nvmlDevice_t */

/* nvmlPciInfo_t of nvmlDeviceGetPciInfo_v3() */
struct nvml_pci {
	char legacy_id[16];
	unsigned int domain, bus, device, ids, sub_ids;
	char id[32];
};

/* nvmlUtilization_t: percent */
struct nvml_utilization {
	unsigned int gpu, memory;
};

/* nvmlMemory_t: bytes */
struct nvml_memory {
	unsigned long long total, free, used;
};

_Static_assert(sizeof(struct nvml_pci) == 68 && offsetof(struct nvml_pci, id) == 36,
	       "nvmlPciInfo_t is of another size");
_Static_assert(sizeof(struct nvml_memory) == 24, "nvmlMemory_t is of another size");

/* X(member, needed, symbol, parameters) */
#define NVML_FUNCTIONS(X)                                                                          \
	X(init, true, "nvmlInit_v2", (void))                                                       \
	X(driver_version, false, "nvmlSystemGetDriverVersion", (char *, unsigned int))             \
	X(cuda_version, false, "nvmlSystemGetCudaDriverVersion_v2", (int *))                       \
	X(count, true, "nvmlDeviceGetCount_v2", (unsigned int *))                                  \
	X(by_index, true, "nvmlDeviceGetHandleByIndex_v2", (unsigned int, nvml_device *))          \
	X(pci, true, "nvmlDeviceGetPciInfo_v3", (nvml_device, struct nvml_pci *))                  \
	X(uuid, false, "nvmlDeviceGetUUID", (nvml_device, char *, unsigned int))                   \
	X(name, false, "nvmlDeviceGetName", (nvml_device, char *, unsigned int))                   \
	X(utilization, false, "nvmlDeviceGetUtilizationRates",                                     \
	  (nvml_device, struct nvml_utilization *))                                                \
	X(temperature, false, "nvmlDeviceGetTemperature", (nvml_device, int, unsigned int *))      \
	X(memory, false, "nvmlDeviceGetMemoryInfo", (nvml_device, struct nvml_memory *))           \
	X(power, false, "nvmlDeviceGetPowerUsage", (nvml_device, unsigned int *))

/* Each returns an nvmlReturn_t. NULL where the library lacks it. */
struct nvml {
#define X(member, needed, symbol, parameters) int(*member) parameters;
	NVML_FUNCTIONS(X)
#undef X
};
