/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attributes of a PCI function: reading those that answer at once, and writing without waiting for
 * ever.
 * Trust: runs as root; reads what the kernel and its drivers say, writes what the journal says.
 */
#include "vfio-helper/bind/act.h"

#include "common/fd.h"
#include "vfio-helper/pci/sysfs.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>

int64_t now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void attr_read(int dirfd, const char *name, char *ret_text, size_t size)
{
	if (fd_read_file(dirfd, name, ret_text, size) < 0)
		ret_text[0] = '\0';
	ret_text[strcspn(ret_text, "\n")] = '\0';
}

void override_read(int dirfd, char ret_text[static PCI_DRIVER_SIZE])
{
	attr_read(dirfd, "driver_override", ret_text, PCI_DRIVER_SIZE);
	/* All of it: what follows a text in a record is zero, or the record is not believed. */
	if (STR_EQ(ret_text, "(null)"))
		memset(ret_text, 0, PCI_DRIVER_SIZE);
}

void link_read(int dirfd, const char *name, char *ret_text, size_t size)
{
	char target[SYSFS_TEXT_SIZE];

	if (sysfs_link(dirfd, name, target) < 0)
		target[0] = '\0';
	(void)snprintf(ret_text, size, "%s", sysfs_base(target));
}

bool driver_is(int dirfd, const char *driver)
{
	char now[PCI_DRIVER_SIZE + 1];

	link_read(dirfd, "driver", now, sizeof(now));
	return STR_EQ(now, driver);
}

int func_open(const struct bind_env *env, const struct lease_func *func)
{
	_cleanup_close_ int fd = pci_open(env->sysfs_fd, func->address);
	struct pci_func now;

	if (fd < 0 || pci_read_ids(fd, &now) < 0 || now.vendor != func->vendor ||
	    now.device != func->device)
		return -ENODEV;
	return TAKE_FD(fd);
}

bool driver_exists(const struct bind_env *env, const char *driver)
{
	char path[64];

	if (!driver_name_ok(driver))
		return false;
	(void)snprintf(path, sizeof(path), "bus/pci/drivers/%s/unbind", driver);
	return faccessat(env->sysfs_fd, path, F_OK, 0) == 0;
}

/* In the child: nothing stays open but what it writes below, the lock, and where errors go. */
static void keep_two(int a, int b)
{
	int low = MIN_OF(a, b), high = MAX_OF(a, b);

	if (low > 3)
		(void)close_range(3, (unsigned int)low - 1, 0);
	if (high > low + 1)
		(void)close_range((unsigned int)low + 1, (unsigned int)high - 1, 0);
	(void)close_range((unsigned int)high + 1, ~0U, 0);
}

_noreturn_ static void child_write(int dirfd, const char *name, const char *text, int lock_fd)
{
	int fd;

	keep_two(dirfd, lock_fd);
	fd = openat(dirfd, name, O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
	/* One write() is one act of the kernel: it is never repeated in parts. */
	_exit(fd < 0 || write(fd, text, strlen(text)) < 0 ? errno : 0);
}

int sysfs_write(const struct bind_env *env, int dirfd, const char *name, const char *text,
		int lock_fd)
{
	int64_t wait_ms = (int64_t)env->keys.write_seconds * 1000;
	_cleanup_close_ int pidfd = -EBADF;
	struct pollfd wait = {.events = POLLIN};
	siginfo_t info = {0};
	pid_t pid;

	wait_ms = MIN_OF(wait_ms, env->deadline_ms - now_ms());
	if (wait_ms <= 0) /* not begun, so nothing hangs */
		return -ECANCELED;
	pid = fork();
	if (pid == 0)
		child_write(dirfd, name, text, lock_fd);
	if (pid < 0)
		return -errno;
	pidfd = pidfd_open(pid, 0);
	wait.fd = pidfd;
	if (pidfd < 0 || poll(&wait, 1, (int)wait_ms) != 1) { /* no signal is expected here */
		/* If it waits for something that a signal ends, nothing happens behind our back. */
		(void)pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
		return -ETIMEDOUT;
	}
	if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED) < 0)
		return -errno;
	return info.si_code == CLD_EXITED ? -info.si_status : -EIO;
}
