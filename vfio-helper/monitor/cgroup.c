/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One cgroup per slot where the machine gives us a cgroup v2 directory to manage, else none.
 * Trust: runs as root; writes below one directory descriptor; names are numbers of slots.
 */
#include "vfio-helper/monitor/monitor.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <sys/statfs.h>

#define ROOT                "/sys/fs/cgroup"
#define OWN_NAME            "qudata-vms"
#define CONTROLLERS         "+cpu +memory +pids"
#define MEMORY_OVERHEAD_MIB 512 /* QEMU's and passt's own, beside the guest's memory */
#define MAX_TASKS           1024u
#define NAME_SIZE           16

static int _printf_(3, 4) write_file(int dirfd, const char *file, const char *format, ...)
{
	_cleanup_close_ int fd = openat(dirfd, file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	char text[64];
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	return fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
}

/*
 * A directory of our own at the top, as container engines without a service manager have it: VMs
 * outlive the helper's unit, and no process may stay in a cgroup whose controllers are handed on.
 */
static int open_own(void)
{
	_cleanup_close_ int root = open(ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statfs fs;
	int fd;

	if (root < 0 || fstatfs(root, &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC)
		return -ENOENT;
	(void)write_file(root, "cgroup.subtree_control", CONTROLLERS);
	/* Its parent's mode forbids this without CAP_DAC_OVERRIDE: the unit file makes it before.
	 */
	(void)mkdirat(root, OWN_NAME, 0755);
	fd = openat(root, OWN_NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}

static int open_given(const char *path, struct err *reterr)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statfs fs;

	if (fd < 0 || fstatfs(fd, &fs) < 0)
		return err_errno(reterr, -errno, "cannot open the cgroup %s", path);
	if (fs.f_type != CGROUP2_SUPER_MAGIC)
		return err_set(reterr, -EINVAL, "%s is no cgroup v2 directory", path);
	return TAKE_FD(fd);
}

int cgroup_open(const struct config *config, int *ret_fd, struct err *reterr)
{
	int fd;

	*ret_fd = -EBADF;
	if (STR_EQ(config->cgroup, "none"))
		return 0;
	fd = STR_EQ(config->cgroup, "auto") ? open_own() : open_given(config->cgroup, reterr);
	if (fd < 0 && STR_EQ(config->cgroup, "auto")) {
		log_event(LOG_WARNING,
			  "no cgroup v2 directory " ROOT "/" OWN_NAME ": VMs run without limits");
		return 0;
	}
	if (fd < 0)
		return fd;
	if (write_file(fd, "cgroup.subtree_control", CONTROLLERS) < 0)
		log_event(LOG_WARNING, "cgroup gives no cpu, memory and pids controllers: VMs run "
				       "without limits");
	*ret_fd = fd;
	return 0;
}

static void cgroup_name(uint32_t slot, char name[static NAME_SIZE])
{
	(void)snprintf(name, NAME_SIZE, "vm-%u", slot);
}

/* One CPU more than the guest has, for QEMU's own threads and passt. */
static bool set_limits(int fd, const struct spawn_spec *spec)
{
	uint64_t mib = (uint64_t)spec->memory_mib + MEMORY_OVERHEAD_MIB;
	bool memory = write_file(fd, "memory.max", "%llu", (unsigned long long)mib << 20) == 0;
	bool pids = write_file(fd, "pids.max", "%u", MAX_TASKS) == 0;
	bool cpu = write_file(fd, "cpu.max", "%u 100000", (spec->cpus + 1) * 100000) == 0;

	return memory && pids && cpu;
}

int cgroup_enter(int dir_fd, const struct spawn_spec *spec, uint32_t *ret_limited)
{
	bool qemu = spec->program == PROGRAM_QEMU;
	char name[NAME_SIZE];
	int fd;

	if (dir_fd < 0 || (!qemu && spec->program != PROGRAM_PASST))
		return -EBADF;
	cgroup_name(spec->slot, name);
	if (qemu && mkdirat(dir_fd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && qemu)
		*ret_limited = set_limits(fd, spec);
	return fd < 0 ? -errno : fd;
}

void cgroup_remove(int dir_fd, uint32_t slot)
{
	char name[NAME_SIZE];

	cgroup_name(slot, name);
	if (dir_fd >= 0)
		(void)unlinkat(dir_fd, name, AT_REMOVEDIR);
}
