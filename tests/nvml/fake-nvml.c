/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stand-in for libnvidia-ml.so.1. What it does is in the name of the file that it was loaded as:
 * "two.so" has two GPUs, "hang.so" hangs, and so on; see test_probe.py.
 * Trust: runs in tests only.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agentd/probe/nvml.h"
#include "agentd/probe/probe.h"

/* Declared here, for the header has only pointers to them. */
int nvmlInit_v2(void);
int nvmlSystemGetDriverVersion(char *text, unsigned int size);
int nvmlSystemGetCudaDriverVersion_v2(int *version);
int nvmlDeviceGetCount_v2(unsigned int *count);
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, nvml_device *device);
int nvmlDeviceGetPciInfo_v3(nvml_device device, struct nvml_pci *pci);
int nvmlDeviceGetUUID(nvml_device device, char *text, unsigned int size);
int nvmlDeviceGetName(nvml_device device, char *text, unsigned int size);
int nvmlDeviceGetUtilizationRates(nvml_device device, struct nvml_utilization *utilization);
int nvmlDeviceGetTemperature(nvml_device device, int sensor, unsigned int *celsius);
int nvmlDeviceGetMemoryInfo(nvml_device device, struct nvml_memory *memory);
int nvmlDeviceGetPowerUsage(nvml_device device, unsigned int *milliwatts);

#define NOT_SUPPORTED 3
#define GPU_IS_LOST   15
#define MISMATCH      18

static const char *scenario(void)
{
	static char name[64];
	const char *slash;
	Dl_info info;

	if (name[0] == '\0' && dladdr((void *)(uintptr_t)scenario, &info) != 0) {
		slash = strrchr(info.dli_fname, '/');
		(void)snprintf(name, sizeof(name), "%.60s", slash ? slash + 1 : info.dli_fname);
	}
	return name;
}

static bool is(const char *name)
{
	return strncmp(scenario(), name, strlen(name)) == 0;
}

/* What a reader that was taken over might send in the report's place. */
_noreturn_ static void forge(void)
{
	struct {
		struct proto_header header;
		struct probe_report report;
	} m = {.header = {.op = PROBE_REPORT, .len = sizeof(m.report)},
	       .report = {.version = PROBE_VERSION, .n_gpus = PROTO_MAX_GPUS + 1}};

	if (is("forge-text")) {
		m.report.n_gpus = 1;
		m.report.gpus[0].address = 8;
		memset(m.report.gpus[0].name, '\n', sizeof(m.report.gpus[0].name));
	}
	_exit(write(3, &m, is("forge-short") ? sizeof(m) - 1 : sizeof(m)) < 0);
}

int nvmlInit_v2(void)
{
	if (is("nodriver"))
		return NVML_DRIVER_NOT_LOADED;
	if (is("mismatch"))
		return MISMATCH;
	if (is("crash"))
		(void)raise(SIGABRT); /* what no sanitizer catches */
	if (is("exit"))
		_exit(0);
	if (is("forge"))
		forge();
	while (is("hang"))
		(void)usleep(1000000);
	while (is("spin"))
		;
	(void)printf("noise\n");
	(void)fflush(stdout);
	return NVML_SUCCESS;
}

int nvmlSystemGetDriverVersion(char *text, unsigned int size)
{
	if (is("garbage"))
		memset(text, 0xff, size);
	else
		(void)snprintf(text, size, "550.54.15");
	return NVML_SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
	*version = is("garbage") ? -1 : 12040;
	return NVML_SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned int *count)
{
	*count = is("none") ? 0 : is("many") ? 20 : is("garbage") ? ~0U : 2;
	return NVML_SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int i, nvml_device *device)
{
	if (is("lost") && i == 0)
		return GPU_IS_LOST;
	*device = (nvml_device)(uintptr_t)(i + 1);
	return NVML_SUCCESS;
}

/* The last one comes first, and in "many" the first one twice. */
int nvmlDeviceGetPciInfo_v3(nvml_device device, struct nvml_pci *pci)
{
	unsigned int i = (unsigned int)(uintptr_t)device;

	*pci = (struct nvml_pci){.bus = 0x40 - (is("many") && i == 2 ? 1 : i)};
	if (is("garbage"))
		*pci = (struct nvml_pci){.domain = ~0U, .bus = i % 2 ? 7 : ~0U, .device = i % 32};
	return NVML_SUCCESS;
}

int nvmlDeviceGetUUID(nvml_device device, char *text, unsigned int size)
{
	if (is("garbage"))
		memset(text, 'U', size);
	else
		(void)snprintf(text, size, "GPU-0000000%d-1111-2222-3333-444444444444",
			       (int)(uintptr_t)device);
	return NVML_SUCCESS;
}

/*
 * Whoever watches this process has to go on: neither stopped, by the signal or the one of a socket,
 * nor ended. What the filter has to refuse, and was not, is said in @text.
 */
static void attack_parent(char *text, unsigned int size)
{
	const struct rlimit none = {0, 0};
	pid_t parent = getppid();
	int yes = 1;

	(void)snprintf(text, size, "%s%s%s%s%s",
		       syscall(SYS_tgkill, parent, parent, SIGSTOP) == 0 ? "stop " : "",
		       syscall(SYS_tgkill, parent, parent, SIGKILL) == 0 ? "end " : "",
		       fcntl(3, F_SETOWN, parent) == 0 ? "own " : "",
		       fcntl(3, F_SETSIG, SIGSTOP) == 0 ? "signal " : "",
		       prlimit(parent, RLIMIT_CPU, &none, NULL) == 0 ? "limit " : "");
	(void)syscall(SYS_tgkill, parent, parent, SIGABRT); /* abort()'s: not refused */
	(void)ioctl(3, FIOSETOWN, &parent);                 /* the driver's call: nor is this */
	(void)ioctl(3, FIOASYNC, &yes);
}

/* Tries what the filter has to refuse, and says what succeeded. */
static void attack(char *text, unsigned int size)
{
	char path[] = "/tmp/qudata-nvml-attack";
	char *const argv[] = {path, NULL};
	char also[64];
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	attack_parent(also, sizeof(also));
	(void)execve("/bin/true", argv, argv);
	(void)snprintf(text, size, "%s%s%s%s%s%s%s%s%sdone", also, pid >= 0 ? "fork " : "",
		       socket(AF_UNIX, SOCK_STREAM, 0) >= 0 ? "socket " : "",
		       open(path, O_WRONLY | O_CREAT, 0600) >= 0 ? "create " : "",
		       open("/dev/null", O_WRONLY | O_TRUNC) >= 0 ? "truncate " : "",
		       prctl(PR_SET_PDEATHSIG, 0) == 0 ? "outlive " : "",
		       kill(getppid(), 0) == 0 ? "kill " : "",
		       mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED
			       ? "wx "
			       : "",
		       unlink(path) == 0 || errno == ENOENT ? "unlink " : "");
}

int nvmlDeviceGetName(nvml_device device, char *text, unsigned int size)
{
	(void)device;
	if (is("garbage"))
		memset(text, '\n', size);
	else if (is("attack"))
		attack(text, size);
	else
		(void)snprintf(text, size, "NVIDIA GeForce RTX 3090");
	return NVML_SUCCESS;
}

int nvmlDeviceGetUtilizationRates(nvml_device device, struct nvml_utilization *utilization)
{
	if (is("bare"))
		return NOT_SUPPORTED;
	utilization->gpu = is("garbage") ? 4000000000U : 30 * (unsigned int)(uintptr_t)device;
	return NVML_SUCCESS;
}

int nvmlDeviceGetTemperature(nvml_device device, int sensor, unsigned int *celsius)
{
	if (is("bare") || sensor != NVML_SENSOR_GPU)
		return NOT_SUPPORTED;
	*celsius = is("garbage") ? ~0U : 50 + (unsigned int)(uintptr_t)device;
	return NVML_SUCCESS;
}

int nvmlDeviceGetMemoryInfo(nvml_device device, struct nvml_memory *memory)
{
	(void)device;
	if (is("bare"))
		return NOT_SUPPORTED;
	*memory =
		(struct nvml_memory){.total = 24ULL << 30, .free = 18ULL << 30, .used = 6ULL << 30};
	if (is("garbage"))
		memory->total = memory->used = ~0ULL;
	return NVML_SUCCESS;
}

int nvmlDeviceGetPowerUsage(nvml_device device, unsigned int *milliwatts)
{
	(void)device;
	if (is("bare"))
		return NOT_SUPPORTED;
	*milliwatts = is("garbage") ? ~0U : 123456;
	return NVML_SUCCESS;
}
