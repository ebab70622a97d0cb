/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole files by directory descriptor.
 * Trust: runs in every daemon; reads the administrator's files, the kernel's and its own.
 */
#include "common/fd.h"

#include <fcntl.h>
#include <limits.h>

ssize_t fd_read_text(int fd, char *buf, size_t size)
{
	size_t used = 0;

	if (size == 0) /* no room for the NUL */
		return -EFBIG;
	for (;;) {
		ssize_t n = read(fd, buf + used, size - used);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		used += (size_t)n;
		if (used == size)
			return -EFBIG;
	}
	buf[used] = '\0';
	return (ssize_t)used;
}

int fd_swap_file(int dirfd, const char *name, const void *data, size_t len, mode_t mode)
{
	_cleanup_close_ int fd = -EBADF;
	char temp[NAME_MAX + 1];
	int r;

	if (snprintf(temp, sizeof(temp), ".%s.new", name) >= (int)sizeof(temp))
		return -ENAMETOOLONG;
	/* A leftover of an interrupted replacement is nobody's data. */
	(void)unlinkat(dirfd, temp, 0);
	fd = openat(dirfd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;
	r = fd_write_all(fd, data, len);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(dirfd, temp, dirfd, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(dirfd, temp, 0);
	return r;
}

int fd_replace_file(int dirfd, const char *name, const void *data, size_t len, mode_t mode)
{
	int r = fd_swap_file(dirfd, name, data, len, mode);

	return r == 0 && fsync(dirfd) < 0 ? -errno : r;
}

ssize_t fd_read_file(int dirfd, const char *name, char *buf, size_t size)
{
	_cleanup_close_ int fd =
		openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	return fd_read_text(fd, buf, size);
}
