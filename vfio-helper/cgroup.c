/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One cgroup per VM where the machine gives us a cgroup v2 directory to manage, else none.
 * Trust: runs as root; writes below one directory descriptor, names are VM names.
 */
#include "vfio-helper/helper.h"

#include "common/fd.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <sys/statfs.h>
#include <sys/xattr.h>

#define ROOT                "/sys/fs/cgroup"
#define MEMORY_OVERHEAD_MIB 512 /* QEMU's and passt's own, beside the guest's memory */
#define MAX_TASKS           1024u
#define PATH_SIZE           (PROTO_NAME_SIZE + 24)

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

/* Our own cgroup if the service manager has delegated it to us. */
static int find_delegated(char *path, size_t size)
{
	char text[4096], mark[2] = "";
	const char *line;
	ssize_t n = fd_read_file(AT_FDCWD, "/proc/self/cgroup", text, sizeof(text));

	line = n > 0 ? strstr(text, "0::/") : NULL;
	if (!line)
		return -ENOENT;
	line += strlen("0::");
	(void)snprintf(path, size, ROOT "%.*s", (int)strcspn(line, "\n"), line);
	return getxattr(path, "user.delegate", mark, 1) == 1 && mark[0] == '1' ? 0 : -ENOENT;
}

int cgroup_open(const struct config *config, int *ret_fd, struct err *reterr)
{
	bool automatic = STR_EQ(config->cgroup, "auto");
	_cleanup_close_ int fd = -EBADF;
	char path[PATH_MAX] = "";
	struct statfs fs;

	*ret_fd = -EBADF;
	if (STR_EQ(config->cgroup, "none"))
		return 0;
	if (automatic && find_delegated(path, sizeof(path)) < 0)
		return 0;
	fd = open(automatic ? path : config->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstatfs(fd, &fs) < 0)
		return err_errno(reterr, -errno, "cannot open the cgroup");
	if (fs.f_type != CGROUP2_SUPER_MAGIC)
		return err_set(reterr, -EINVAL, "%s is no cgroup v2 directory", config->cgroup);
	/* A cgroup that hands out controllers holds no process itself. */
	if (automatic && ((mkdirat(fd, "helper", 0755) < 0 && errno != EEXIST) ||
			  write_file(fd, "helper/cgroup.procs", "0") < 0))
		return err_set(reterr, -EIO, "cannot move into the cgroup %s/helper", path);
	if (write_file(fd, "cgroup.subtree_control", "+cpu +memory +pids") < 0)
		log_event(LOG_WARNING, "cgroup gives no cpu, memory and pids controllers");
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* "vm-<name>" and @file behind it. */
static void cgroup_path(const struct vm *vm, const char *file, char path[static PATH_SIZE])
{
	(void)snprintf(path, PATH_SIZE, "vm-%s%s", vm->name, file);
}

int cgroup_make(const struct helper *h, struct vm *vm)
{
	char path[PATH_SIZE];
	_cleanup_close_ int fd = -EBADF;
	uint64_t mib = vm->run.memory_mib + MEMORY_OVERHEAD_MIB;

	vm->run.limited = 0;
	if (h->cgroup_fd < 0)
		return -EBADF;
	cgroup_path(vm, "", path);
	if (mkdirat(h->cgroup_fd, path, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = openat(h->cgroup_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	/* One CPU more than the guest has, for QEMU's own threads and passt. */
	vm->run.limited =
		write_file(fd, "memory.max", "%llu", (unsigned long long)mib << 20) == 0 &&
		write_file(fd, "pids.max", "%u", MAX_TASKS) == 0 &&
		write_file(fd, "cpu.max", "%u 100000", (vm->run.cpus + 1) * 100000) == 0;
	return TAKE_FD(fd);
}

void cgroup_kill(const struct helper *h, const struct vm *vm)
{
	char path[PATH_SIZE];

	cgroup_path(vm, "/cgroup.kill", path);
	if (h->cgroup_fd >= 0)
		(void)write_file(h->cgroup_fd, path, "1");
}

void cgroup_remove(const struct helper *h, const struct vm *vm)
{
	char path[PATH_SIZE];

	cgroup_path(vm, "", path);
	if (h->cgroup_fd >= 0)
		(void)unlinkat(h->cgroup_fd, path, AT_REMOVEDIR);
}
