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
#include <sys/socket.h>
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

/* What the child is told to write; its answer is an errno, or 0. */
struct write_job {
	uint32_t of_func; /* 0: @name is below /sys, not below the function */
	char name[84];
	char text[40];
};

/* In the child: nothing stays open but these, and where errors go. */
static void keep_only(const int fds[static 4])
{
	int last = STDERR_FILENO;

	for (int i = 0; i < 4; i++)
		last = MAX_OF(last, fds[i]);
	for (int fd = STDERR_FILENO + 1; fd < last; fd++)
		if (fd != fds[0] && fd != fds[1] && fd != fds[2] && fd != fds[3])
			(void)close(fd);
	(void)close_range((unsigned int)last + 1, ~0U, 0);
}

_noreturn_ static void child_main(int fd, int sysfs_fd, int dirfd, int lock_fd)
{
	struct write_job job;
	int32_t answer;

	keep_only((const int[]){fd, sysfs_fd, dirfd, lock_fd});
	while (read(fd, &job, sizeof(job)) == (ssize_t)sizeof(job)) {
		int to = openat(job.of_func ? dirfd : sysfs_fd, job.name,
				O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);

		/* One write() is one act of the kernel: it is never repeated in parts. */
		answer = to < 0 || write(to, job.text, strlen(job.text)) < 0 ? errno : 0;
		(void)safe_close(to);
		if (write(fd, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
			break;
	}
	_exit(0);
}

int writer_start(const struct bind_env *env, int dirfd, int lock_fd, struct writer *ret_writer)
{
	int pair[2];
	pid_t pid;

	*ret_writer = (struct writer){.env = env, .fd = -EBADF, .pidfd = -EBADF};
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ret_writer->fd = pair[0];
	pid = fork();
	if (pid == 0)
		child_main(pair[1], env->sysfs_fd, dirfd, lock_fd);
	(void)close(pair[1]);
	ret_writer->pidfd = pid < 0 ? -errno : pidfd_open(pid, 0);
	return ret_writer->pidfd < 0 ? -errno : 0;
}

void writer_end(struct writer *w)
{
	siginfo_t info;
	bool idle = w->fd >= 0; /* else it hangs, and is left */

	w->fd = safe_close(w->fd);
	if (idle && w->pidfd >= 0)
		(void)waitid(P_PIDFD, (id_t)w->pidfd, &info, WEXITED);
	w->pidfd = safe_close(w->pidfd);
}

int writer_write(struct writer *w, bool of_func, const char *name, const char *text)
{
	int64_t wait_ms = (int64_t)w->env->keys.write_seconds * 1000;
	struct write_job job = {.of_func = of_func};
	struct pollfd wait = {.fd = w->fd, .events = POLLIN};
	int32_t answer;

	wait_ms = MIN_OF(wait_ms, w->env->deadline_ms - now_ms());
	if (wait_ms <= 0) /* not begun, so nothing hangs */
		return -ECANCELED;
	if (snprintf(job.name, sizeof(job.name), "%s", name) >= (int)sizeof(job.name) ||
	    snprintf(job.text, sizeof(job.text), "%s", text) >= (int)sizeof(job.text) ||
	    write(w->fd, &job, sizeof(job)) != (ssize_t)sizeof(job))
		return -EIO;
	if (poll(&wait, 1, (int)wait_ms) != 1) { /* no signal is expected here */
		/* If it waits for something that a signal ends, nothing happens behind our back. */
		(void)pidfd_send_signal(w->pidfd, SIGKILL, NULL, 0);
		w->fd = safe_close(w->fd);
		return -ETIMEDOUT;
	}
	return read(w->fd, &answer, sizeof(answer)) == (ssize_t)sizeof(answer) ? -answer : -EIO;
}
