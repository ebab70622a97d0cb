/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptor helpers.
 * Trust: runs in every program; received descriptors come from a peer that may be hostile.
 */
#include "common/fd.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>

#define FOREIGN_CLOSE_MS 20
#define SEALS_ALL        (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* From now on no close waits longer than that; 0: as long as it likes. */
static void close_within_ms(long ms)
{
	const struct itimerval timer = {.it_value = {.tv_usec = ms * 1000}};

	(void)setitimer(ITIMER_REAL, &timer, NULL);
}

void fdlist_done(struct fdlist *list)
{
	if (list->n == 0)
		return;
	close_within_ms(FOREIGN_CLOSE_MS);
	for (size_t i = 0; i < list->n; i++)
		(void)safe_close(list->fds[i]);
	close_within_ms(0);
	list->n = 0;
}

int fd_close_foreign(int fd)
{
	if (fd < 0)
		return -EBADF;
	close_within_ms(FOREIGN_CLOSE_MS);
	(void)safe_close(fd);
	close_within_ms(0);
	return -EBADF;
}

int fdlist_add(struct fdlist *list, int fd)
{
	if (list->n == FDLIST_MAX) {
		(void)safe_close(fd);
		return -E2BIG;
	}
	list->fds[list->n++] = fd;
	return 0;
}

int fdlist_take(struct fdlist *list)
{
	int fd;

	if (list->n == 0)
		return -EBADF;
	fd = list->fds[0];
	list->n--;
	memmove(list->fds, list->fds + 1, list->n * sizeof(list->fds[0]));
	return fd;
}

int fd_write_all(int fd, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

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

int fd_memfd_sealed(const char *name, const void *data, size_t len)
{
	_cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	r = fd_write_all(fd, data, len);
	if (r < 0)
		return r;
	if (lseek(fd, 0, SEEK_SET) < 0 || fcntl(fd, F_ADD_SEALS, SEALS_ALL) < 0)
		return -errno;
	return TAKE_FD(fd);
}

ssize_t fd_memfd_check(int fd, size_t max)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || (seals & SEALS_ALL) != SEALS_ALL)
		return -EINVAL;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size <= 0)
		return -EINVAL;
	return (size_t)st.st_size > max ? -EFBIG : (ssize_t)st.st_size;
}

int fd_replace_file(int dirfd, const char *name, const void *data, size_t len, mode_t mode)
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
	if (r < 0) {
		(void)unlinkat(dirfd, temp, 0);
		return r;
	}
	return fsync(dirfd) < 0 ? -errno : 0;
}

ssize_t fd_read_file(int dirfd, const char *name, char *buf, size_t size)
{
	_cleanup_close_ int fd =
		openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	return fd_read_text(fd, buf, size);
}
