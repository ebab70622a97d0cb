/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The capability check of devices: IOMMU groups, VFIO, GPUs with their groups' peers, host driver.
 *
 * Trust: runs as the operator, read only; reads sysfs.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>

#include "ctl/check.h"

#define GPUS_MAX      64
#define CLASS_VGA     0x0300
#define CLASS_3D      0x0302
#define CLASS_DISPLAY 0x0380
#define CLASS_HOST    0x0600
#define CLASS_BRIDGE  0x0604
#define NAME_SIZE     64

/* Names in directory @path that do not begin with a dot; how many, or negative errno. */
static int count_entries(const struct check_env *env, const char *path)
{
	int fd = openat(env->root_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int n = 0;

	if (!dir) {
		int r = -errno;

		(void)safe_close(fd);
		return r;
	}
	for (struct dirent *d = readdir(dir); d; d = readdir(dir))
		n += d->d_name[0] != '.';
	(void)closedir(dir);
	return n;
}

/* The last component that link @path points to ("" without one). */
static void link_name(const struct check_env *env, const char *path, char *ret_name, size_t size)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(env->root_fd, path, target, sizeof(target) - 1);
	const char *slash;

	ret_name[0] = 0;
	if (n <= 0)
		return;
	target[n] = 0;
	slash = strrchr(target, '/');
	snprintf(ret_name, size, "%.63s", slash ? slash + 1 : target);
}

static uint32_t read_hex(const struct check_env *env, const char *address, const char *file)
{
	char path[128], text[32];

	snprintf(path, sizeof(path), "sys/bus/pci/devices/%.63s/%s", address, file);
	if (check_read(env, path, text, sizeof(text)) <= 0)
		return 0;
	return (uint32_t)strtoul(text, NULL, 16);
}

static void read_driver(const struct check_env *env, const char *address, char *ret_name,
			size_t size)
{
	char path[128];

	snprintf(path, sizeof(path), "sys/bus/pci/devices/%.63s/driver", address);
	link_name(env, path, ret_name, size);
}

static bool same_slot(const char *a, const char *b)
{
	const char *dot = strrchr(a, '.');
	size_t len = dot ? (size_t)(dot - a) : strlen(a);

	return strncmp(a, b, len) == 0 && b[len] == '.';
}

struct peers {
	char text[512];   /* the group's other functions with their drivers */
	size_t n_foreign; /* those that are neither bridges nor in the GPU's slot */
};

static void add_peer(const struct check_env *env, const char *gpu, const char *peer,
		     struct peers *p)
{
	uint32_t class = read_hex(env, peer, "class") >> 8;
	char driver[NAME_SIZE];
	size_t len = strlen(p->text);
	bool bridge = class == CLASS_BRIDGE || class == CLASS_HOST;

	read_driver(env, peer, driver, sizeof(driver));
	snprintf(p->text + len, sizeof(p->text) - len, "%s%.63s (%04" PRIx32 ", %s)",
		 len ? ", " : "", peer, class, *driver ? driver : "no driver");
	p->n_foreign += !bridge && !same_slot(gpu, peer);
}

static void read_peers(const struct check_env *env, const char *gpu, struct peers *ret_peers)
{
	char path[128];
	int fd;
	DIR *dir;

	*ret_peers = (struct peers){0};
	snprintf(path, sizeof(path), "sys/bus/pci/devices/%.63s/iommu_group/devices", gpu);
	fd = openat(env->root_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		(void)safe_close(fd);
		return;
	}
	for (struct dirent *d = readdir(dir); d; d = readdir(dir))
		if (d->d_name[0] != '.' && !STR_EQ(d->d_name, gpu))
			add_peer(env, gpu, d->d_name, ret_peers);
	(void)closedir(dir);
}

static void check_gpu(const struct check_env *env, struct check_report *report, const char *gpu)
{
	char path[128], driver[NAME_SIZE], group[NAME_SIZE];
	enum check_level level = CHECK_OK;
	const char *remedy = NULL;
	struct peers peers;

	read_driver(env, gpu, driver, sizeof(driver));
	snprintf(path, sizeof(path), "sys/bus/pci/devices/%.63s/iommu_group", gpu);
	link_name(env, path, group, sizeof(group));
	read_peers(env, gpu, &peers);
	if (!*group) {
		level = CHECK_INFO;
		remedy = "it can not be passed through without an IOMMU";
	} else if (peers.n_foreign > 0) {
		level = CHECK_WARN;
		remedy = "devices of one group go to one guest together: another slot may help";
	}
	check_add(report, level, "gpu", remedy, "%s [%04" PRIx32 ":%04" PRIx32 "] %s, %s%s%s%s",
		  gpu, read_hex(env, gpu, "vendor"), read_hex(env, gpu, "device"),
		  *driver ? driver : "no driver", *group ? "group " : "no IOMMU group", group,
		  *peers.text ? " with " : "", peers.text);
}

static bool is_gpu(uint32_t class)
{
	return class == CLASS_VGA || class == CLASS_3D || class == CLASS_DISPLAY;
}

static int by_address(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* Addresses of all GPUs, sorted: the order of a directory means nothing. */
static size_t find_gpus(const struct check_env *env, char (*ret_gpus)[NAME_SIZE])
{
	int fd = openat(env->root_fd, "sys/bus/pci/devices", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	size_t n = 0;

	if (!dir) {
		(void)safe_close(fd);
		return 0;
	}
	for (struct dirent *d = readdir(dir); d && n < GPUS_MAX; d = readdir(dir)) {
		if (d->d_name[0] == '.' || strlen(d->d_name) >= NAME_SIZE)
			continue;
		if (is_gpu(read_hex(env, d->d_name, "class") >> 8))
			snprintf(ret_gpus[n++], NAME_SIZE, "%.*s", NAME_SIZE - 1, d->d_name);
	}
	(void)closedir(dir);
	qsort(ret_gpus, n, NAME_SIZE, by_address);
	return n;
}

static void check_iommu(const struct check_env *env, struct check_report *report)
{
	int n = count_entries(env, "sys/kernel/iommu_groups");

	if (n > 0)
		check_add(report, CHECK_OK, "iommu", NULL, "%d groups", n);
	else
		check_add(
			report, CHECK_WARN, "iommu",
			"switch VT-d or AMD-Vi on in the firmware and boot with intel_iommu=on or "
			"amd_iommu=on, iommu=pt",
			"no IOMMU groups: no GPU can be passed through");
}

static void check_vfio(const struct check_env *env, struct check_report *report)
{
	bool bus = check_exists(env, "sys/bus/pci/drivers/vfio-pci") == 0;
	bool node = check_exists(env, "dev/vfio/vfio") == 0;

	if (bus && node)
		check_add(report, CHECK_OK, "vfio", NULL, "vfio-pci is loaded");
	else
		check_add(report, CHECK_WARN, "vfio", "modprobe vfio-pci; see /etc/modules-load.d",
			  "%s: no GPU can be passed through",
			  bus ? "/dev/vfio/vfio does not exist" : "vfio-pci is not loaded");
}

static void check_nvidia(const struct check_env *env, struct check_report *report)
{
	char text[128];

	if (check_read(env, "sys/module/nvidia/version", text, sizeof(text)) > 0)
		check_add(report, CHECK_OK, "nvidia", NULL, "host driver version %s", text);
	else
		check_add(report, CHECK_INFO, "nvidia", NULL, "no NVIDIA driver on the host");
}

void check_pci(const struct check_env *env, struct check_report *report)
{
	char gpus[GPUS_MAX][NAME_SIZE];
	size_t n = find_gpus(env, gpus);

	check_iommu(env, report);
	check_vfio(env, report);
	for (size_t i = 0; i < n; i++)
		check_gpu(env, report, gpus[i]);
	if (n == 0)
		check_add(report, CHECK_INFO, "gpu", NULL, "none in this host");
	check_nvidia(env, report);
}
