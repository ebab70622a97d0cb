/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPUs for containers without VMs.
 * Trust: runs inside agentd; reads procfs and the administrator's list.
 */
#include "agentd/gpus_named.h"

#include "agentd/gpus.h"
#include "common/fd.h"

#include <dirent.h>
#include <fcntl.h>

#define DRIVER_DIR "driver/nvidia/gpus"
#define UUID_KEY   "GPU UUID:"
#define TEXT_SIZE  4096

int gpus_named_parse(const char *list, struct gpus_named *ret_gpus, struct err *reterr)
{
	_cleanup_free_ char *copy = strdup(list);
	struct gpus_named gpus = {0};
	char *rest = NULL;

	if (!copy)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (char *name = strtok_r(copy, ", ", &rest); name; name = strtok_r(NULL, ", ", &rest)) {
		if (!gpuname_ok(name))
			return err_set(reterr, -EINVAL,
				       "\"%.60s\" is no name of a GPU: GPU- and a whole UUID, as "
				       "`nvidia-smi -L` has it, or a number",
				       name);
		if (gpus.n > 0 && gpuname_is_number(name) != gpuname_is_number(gpus.gpus[0].name))
			return err_set(reterr, -EINVAL,
				       "numbers and UUIDs may mean the same GPU: only one of both");
		for (size_t i = 0; i < gpus.n; i++)
			if (STR_EQ(gpus.gpus[i].name, name))
				return err_set(reterr, -EINVAL, "%s is there twice", name);
		if (gpus.n == PROTO_MAX_GPUS)
			return err_set(reterr, -EINVAL, "more than %d GPUs", PROTO_MAX_GPUS);
		(void)snprintf(gpus.gpus[gpus.n++].name, GPU_NAME_SIZE, "%s", name);
	}
	*ret_gpus = gpus;
	return 0;
}

/* The UUID in the driver's words about one GPU; false: it has none to tell yet. */
static bool read_uuid(int dirfd, const char *entry, char ret_name[static GPU_NAME_SIZE])
{
	char path[320], text[TEXT_SIZE];
	const char *at;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "%s/information", entry);
	n = fd_read_file(dirfd, path, text, sizeof(text));
	at = n > 0 ? strstr(text, UUID_KEY) : NULL;
	if (!at)
		return false;
	at += strlen(UUID_KEY);
	at += strspn(at, " \t");
	(void)snprintf(ret_name, GPU_NAME_SIZE, "%.*s",
		       (int)MIN_OF(strcspn(at, " \t\n"), (size_t)GPU_NAME_SIZE - 1), at);
	/* "GPU-????????-…" before the driver has looked at it. */
	return gpuname_ok(ret_name);
}

static void insert(struct gpus_named *gpus, const struct gpu_named *gpu)
{
	size_t at = gpus->n;

	while (at > 0 && gpus->gpus[at - 1].address > gpu->address)
		at--;
	memmove(&gpus->gpus[at + 1], &gpus->gpus[at], (gpus->n - at) * sizeof(*gpu));
	gpus->gpus[at] = *gpu;
	gpus->n++;
}

void gpus_named_find(int proc_fd, struct gpus_named *ret_gpus)
{
	int fd = openat(proc_fd, DRIVER_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	*ret_gpus = (struct gpus_named){0};
	if (!dir) {
		(void)safe_close(fd);
		return;
	}
	while ((entry = readdir(dir)) && ret_gpus->n < PROTO_MAX_GPUS) {
		struct gpu_named gpu = {0};

		if (gpus_parse_address(entry->d_name, &gpu.address) == 0 &&
		    read_uuid(fd, entry->d_name, gpu.name))
			insert(ret_gpus, &gpu);
	}
	(void)closedir(dir);
}

static bool is_wanted(const struct gpu_named *gpu, const uint64_t addresses[static PROTO_MAX_GPUS])
{
	if (addresses[0] == 0)
		return true;
	for (size_t i = 0; i < proto_gpus_count(addresses); i++)
		if (addresses[i] == gpu->address)
			return true;
	return false;
}

int gpus_named_take(struct gpus_named *gpus, uint32_t count,
		    const uint64_t addresses[static PROTO_MAX_GPUS],
		    char ret_names[static PROTO_MAX_GPUS][GPU_NAME_SIZE], struct err *reterr)
{
	size_t there = 0, free = 0, n = 0;

	for (size_t i = 0; i < gpus->n; i++) {
		there += is_wanted(&gpus->gpus[i], addresses);
		free += is_wanted(&gpus->gpus[i], addresses) && !gpus->gpus[i].taken;
	}
	if (there < count)
		return err_set(reterr, -ENODEV,
			       "%u asked for, but containers on this host have %zu such GPUs (of "
			       "NVIDIA's driver, or container_gpus in agentd.conf)",
			       count, there);
	if (free < count)
		return err_set(reterr, -EBUSY,
			       "%u asked for, and other instances have all but %zu of the %zu GPUs",
			       count, free, there);
	for (size_t i = 0; i < gpus->n && n < count; i++) {
		struct gpu_named *gpu = &gpus->gpus[i];

		if (gpu->taken || !is_wanted(gpu, addresses))
			continue;
		gpu->taken = true;
		memcpy(ret_names[n++], gpu->name, GPU_NAME_SIZE);
	}
	return 0;
}
