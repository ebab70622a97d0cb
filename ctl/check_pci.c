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

#define GPUS_MAX       64
#define CLASS_VGA      0x0300
#define CLASS_3D       0x0302
#define CLASS_DISPLAY  0x0380
#define CLASS_HOST     0x0600
#define CLASS_BRIDGE   0x0604
#define NAME_SIZE      64
#define INTERRUPTS_MAX (256 * 1024) /* of /proc/interrupts: the first lines are telling */
#define MODULES_MAX    (4 * 1024 * 1024)
#define QEMU_IOMMUFD   90000 /* as check_parse_version() has it */

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

bool check_has_gpu(const struct check_env *env)
{
	char gpus[GPUS_MAX][NAME_SIZE];

	return json_array_size(env->gpus) > 0 || find_gpus(env, gpus) > 0;
}

/* The kernel's command line; "" when it cannot be read. */
static void read_cmdline(const struct check_env *env, char *buf, size_t size)
{
	if (check_read(env, "proc/cmdline", buf, size) < 0)
		buf[0] = 0;
}

static bool cpu_is(const struct check_env *env, const char *vendor)
{
	char info[4096];

	return check_read(env, "proc/cpuinfo", info, sizeof(info)) > 0 && strstr(info, vendor);
}

/* Why there may be no IOMMU groups: what was switched off, or never on. */
static const char *iommu_remedy(const struct check_env *env, char *buf, size_t size)
{
	static const char *const off[] = {"iommu=off", "intel_iommu=off", "amd_iommu=off"};
	char cmdline[4096];

	read_cmdline(env, cmdline, sizeof(cmdline));
	for (size_t i = 0; i < ARRAY_LEN(off); i++) {
		if (!check_has_word(cmdline, off[i]))
			continue;
		snprintf(buf, size, "take %s off the kernel's command line", off[i]);
		return buf;
	}
	if (cpu_is(env, "GenuineIntel"))
		return check_has_word(cmdline, "intel_iommu=on")
			       ? "switch VT-d on in the firmware: the kernel was told to use it "
				 "and "
				 "has found none"
			       : "switch VT-d on in the firmware and boot with intel_iommu=on "
				 "iommu=pt";
	if (cpu_is(env, "AuthenticAMD"))
		return "switch the IOMMU (AMD-Vi) on in the firmware and boot with iommu=pt; "
		       "the kernel uses it without being told";
	return "switch VT-d or AMD-Vi on in the firmware and boot with intel_iommu=on or "
	       "amd_iommu=on, iommu=pt";
}

static bool check_iommu(const struct check_env *env, struct check_report *report)
{
	int n = count_entries(env, "sys/kernel/iommu_groups");
	char remedy[128];

	if (n > 0)
		check_add(report, CHECK_OK, "iommu", NULL, "%d groups", n);
	else
		check_add(report, CHECK_WARN, "iommu", iommu_remedy(env, remedy, sizeof(remedy)),
			  "no IOMMU groups: no GPU can be passed through");
	return n > 0;
}

static bool unsafe_interrupts(const struct check_env *env)
{
	char text[8];

	return check_read(env, "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
			  text, sizeof(text)) > 0 &&
	       (text[0] == 'Y' || text[0] == '1');
}

/*
 * Interrupts that are remapped come through chips whose names begin with "IR-"; the kernel's log,
 * which says it in words, is root's.
 */
static void check_remapping(const struct check_env *env, struct check_report *report)
{
	static const char remedy[] = "switch interrupt remapping on in the firmware (it comes with "
				     "VT-d and AMD-Vi, some boards call it x2APIC)";
	_cleanup_free_ char *interrupts = malloc(INTERRUPTS_MAX);
	char cmdline[4096];

	if (!interrupts || check_read(env, "proc/interrupts", interrupts, INTERRUPTS_MAX) < 0)
		return;
	read_cmdline(env, cmdline, sizeof(cmdline));
	if (strstr(interrupts, " IR-"))
		check_add(report, CHECK_OK, "intremap", NULL, "interrupts are remapped");
	else if (unsafe_interrupts(env))
		check_add(
			report, CHECK_WARN, "intremap", remedy,
			"interrupts are not remapped, and vfio_iommu_type1 was told to do without "
			"(allow_unsafe_interrupts): a guest with a GPU can send the host any "
			"interrupt");
	else
		check_add(report, CHECK_WARN, "intremap",
			  check_has_word(cmdline, "intremap=off") ||
					  check_has_word(cmdline, "nointremap")
				  ? "take intremap=off off the kernel's command line"
				  : remedy,
			  "interrupts are not remapped: VFIO refuses to give devices to guests");
}

/* Whether this kernel has module @file ("/vfio-pci.ko"), loaded or not, or built in. */
static bool kernel_has(const struct check_env *env, const char *file)
{
	static const char *const lists[] = {"modules.dep", "modules.builtin"};
	_cleanup_free_ char *text = malloc(MODULES_MAX);
	char release[128], path[256];
	bool found = false;

	if (!text || check_read(env, "proc/sys/kernel/osrelease", release, sizeof(release)) <= 0)
		return true; /* not known: the advice to load it does no harm */
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		snprintf(path, sizeof(path), "lib/modules/%.100s/%s", release, lists[i]);
		if (check_read(env, path, text, MODULES_MAX) < 0)
			return true;
		found = found || strstr(text, file);
	}
	return found;
}

static void check_vfio(const struct check_env *env, struct check_report *report)
{
	static const struct {
		const char *path, *what, *module;
	} needs[] = {
		{"sys/bus/pci/drivers/vfio-pci", "vfio-pci is not loaded", "vfio-pci"},
		{"sys/module/vfio_iommu_type1", "vfio_iommu_type1 is not loaded",
		 "vfio_iommu_type1"},
		{"dev/vfio/vfio", "/dev/vfio/vfio does not exist", "vfio"},
	};
	bool iommufd = check_exists(env, "dev/iommu") == 0;
	char file[64], remedy[160];

	for (size_t i = 0; i < ARRAY_LEN(needs); i++) {
		if (check_exists(env, needs[i].path) == 0)
			continue;
		snprintf(file, sizeof(file), "/%s.ko", needs[i].module);
		snprintf(remedy, sizeof(remedy), "modprobe %s; see /etc/modules-load.d",
			 needs[i].module);
		check_add(
			report, CHECK_WARN, "vfio",
			kernel_has(env, file)
				? remedy
				: "this kernel has no VFIO: install one that has (CONFIG_VFIO_PCI)",
			"%s: no GPU can be passed through", needs[i].what);
		return;
	}
	check_add(report, CHECK_OK, "vfio", NULL, "vfio-pci is loaded%s",
		  iommufd ? ", and iommufd is there" : "");
}

/* Whether a line of @conf, a file of `key = value` lines, gives @key this @value. */
static bool conf_says(const char *conf, const char *key, const char *value)
{
	static const char blanks[] = " \t";

	for (const char *line = conf; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		const char *p = line + strspn(line, blanks);

		if (strncmp(p, key, strlen(key)) != 0)
			continue;
		p += strlen(key);
		p += strspn(p, blanks);
		if (*p++ != '=')
			continue;
		p += strspn(p, blanks);
		if (strncmp(p, value, strlen(value)) == 0 && strchr(" \t\r\n", p[strlen(value)]))
			return true;
	}
	return false;
}

/* Whether the kernel's configuration, where it can be read, leaves @option out. */
static bool kernel_lacks(const struct check_env *env, const char *option)
{
	_cleanup_free_ char *text = malloc(MODULES_MAX);
	char release[128], path[256];

	if (!text || check_read(env, "proc/sys/kernel/osrelease", release, sizeof(release)) <= 0)
		return false;
	snprintf(path, sizeof(path), "boot/config-%.100s", release);
	return check_read(env, path, text, MODULES_MAX) > 0 && !strstr(text, option);
}

void check_iommufd(const struct check_env *env, struct check_report *report, int qemu_version)
{
	bool device = check_exists(env, "dev/iommu") == 0, wanted;
	char conf[32768];

	if (check_read(env, "etc/qudata/helper.conf", conf, sizeof(conf)) < 0)
		conf[0] = 0;
	/* As the helper has it: the groups' files, which every QEMU knows, unless they are gone. */
	wanted = conf_says(conf, "gpu_iommufd", "yes") ||
		 (!conf_says(conf, "gpu_iommufd", "no") && device &&
		  check_exists(env, "dev/vfio/vfio") < 0);
	if (!wanted)
		return;
	if (qemu_version < QEMU_IOMMUFD)
		check_add(
			report, CHECK_WARN, "iommufd",
			"install QEMU 9.0 or newer, or set gpu_iommufd = no in helper.conf",
			"QEMU %d.%d knows no iommufd, which GPUs are to be used by: no VM with one "
			"starts",
			qemu_version / 10000, qemu_version / 100 % 100);
	if (!device)
		check_add(
			report, CHECK_WARN, "iommufd",
			kernel_has(env, "/iommufd.ko")
				? "modprobe iommufd; see /etc/modules-load.d"
				: "boot a kernel with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV, "
				  "or set gpu_iommufd = no in helper.conf",
			"there is no /dev/iommu, which GPUs are to be used by: no VM with one "
			"starts");
	else if (kernel_lacks(env, "CONFIG_VFIO_DEVICE_CDEV=y"))
		check_add(report, CHECK_WARN, "iommufd",
			  "boot a kernel with CONFIG_VFIO_DEVICE_CDEV, or set gpu_iommufd = no in "
			  "helper.conf",
			  "this kernel has no character devices of VFIO: no VM with a GPU starts");
	else if (qemu_version >= QEMU_IOMMUFD)
		check_add(report, CHECK_OK, "iommufd", NULL, "GPUs are used by /dev/iommu");
}

/* All of a guest's memory is pinned while it has a GPU. */
static void check_pinning(const struct check_env *env, struct check_report *report)
{
	static const char *const units[] = {
		"etc/systemd/system/qudata-helper.service",
		"usr/lib/systemd/system/qudata-helper.service",
		"lib/systemd/system/qudata-helper.service",
	};
	char text[8192];

	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (check_read(env, units[i], text, sizeof(text)) <= 0)
			continue;
		if (!strstr(text, "LimitMEMLOCK=infinity"))
			check_add(report, CHECK_WARN, "memlock",
				  "set LimitMEMLOCK=infinity in its [Service] section",
				  "/%s lets no VM with a GPU pin its memory", units[i]);
		break;
	}
	if (check_read(env, "sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text)) > 0 &&
	    strstr(text, "[never]"))
		check_add(report, CHECK_WARN, "hugepages",
			  "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled",
			  "no transparent huge pages: VMs with GPUs start slowly, their memory is "
			  "pinned page by page");
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

	if (check_iommu(env, report))
		check_remapping(env, report);
	check_vfio(env, report);
	/* The root helper's judgement, where it can be had, is the one that counts. */
	if (env->gpus)
		check_listed_gpus(env, report);
	for (size_t i = 0; i < n && !env->gpus; i++)
		check_gpu(env, report, gpus[i]);
	if (n == 0 && json_array_size(env->gpus) == 0)
		check_add(report, CHECK_INFO, "gpu", NULL, "none in this host");
	else if (env->gpus && json_array_size(env->gpus) == 0)
		check_add(report, CHECK_INFO, "gpu", NULL,
			  "%zu in this host, none that helper.conf lets be rented (gpu_vendors)",
			  n);
	if (n > 0)
		check_pinning(env, report);
	check_nvidia(env, report);
}
