/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors: lists of received ones, sealed memory, whole-file reads and durable replacement.
 */
#pragma once

#include "common/base.h"

#include <sys/types.h>

/* SCM_MAX_FD: as many as one message can carry, so the kernel drops none. */
#define FDLIST_MAX 253
/* Of a memfd that nobody can change any more. */
#define FD_SEALS   (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* Owns every descriptor in it. */
struct fdlist {
	int fds[FDLIST_MAX];
	size_t n;
};

/* Closes what is left in the list, as fd_close_foreign() does. */
void fdlist_done(struct fdlist *list);

/* Adds @fd, which then belongs to the list; closes it and returns -E2BIG when the list is full. */
int fdlist_add(struct fdlist *list, int fd);

/* Takes the first descriptor out of the list, -EBADF when there is none. */
int fdlist_take(struct fdlist *list);

/*
 * Closes a descriptor that a peer sent, or a connection in whose queue such descriptors may wait.
 * The last close of a socket with SO_LINGER blocks for as long as its maker chose, unless a signal
 * is pending: so one is, after 20 ms and each ms then. That is SIGALRM, which must not be blocked;
 * a timer of the process's own (alarm()) is over with it. Returns -EBADF.
 */
int fd_close_foreign(int fd);

static inline void cleanup_close_foreign(int *fd)
{
	*fd = fd_close_foreign(*fd);
}
#define _cleanup_close_foreign_ _cleanup_(cleanup_close_foreign)

/* Writes all @len bytes, or returns a negative errno. Restarts after signals, not after EAGAIN. */
int fd_write_all(int fd, const void *data, size_t len);

/*
 * Reads from the current offset to the end into @buf, at most @size - 1 bytes, and appends a NUL.
 * Returns the number of bytes, -EFBIG when there were more, another negative errno on failure.
 */
ssize_t fd_read_text(int fd, char *buf, size_t size);

/* A sealed, close-on-exec memfd with a copy of @data (nothing can change or resize it any more). */
int fd_memfd_sealed(const char *name, const void *data, size_t len);

/*
 * Is @fd a memfd that nobody can change any more (write, grow, shrink and seal are sealed)? Returns
 * its size in bytes, -EINVAL when it is not or is empty, -EFBIG when it is larger than @max.
 */
ssize_t fd_memfd_check(int fd, size_t max);

/*
 * Replaces the file @name in directory @dirfd by @data so that after a crash at any moment either
 * the old or the new content is there: write to a temporary name, fsync, rename, fsync of the
 * directory.
 */
int fd_replace_file(int dirfd, const char *name, const void *data, size_t len, mode_t mode);
/* The same without the last step: the old content may come back when the machine loses power. */
int fd_swap_file(int dirfd, const char *name, const void *data, size_t len, mode_t mode);

/* Reads the whole file @name in @dirfd (no symbolic link is followed) like fd_read_text(). */
ssize_t fd_read_file(int dirfd, const char *name, char *buf, size_t size);
