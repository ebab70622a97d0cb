/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of common/ share: a directory of their own, counting of open descriptors, raw
 * datagrams with descriptors, work in a child process.
 * Trust: runs in tests only.
 */
#pragma once

#include "common/base.h"

#include <sys/types.h>

/* Makes a fresh directory, mode 0755, and stores its path for the process's life. */
const char *rig_dir(void);

/* <rig_dir()>/<name>; the last eight results stay valid. */
const char *rig_path(const char *name);

/* Removes the directory and everything in it. */
void rig_done(void);

/* Number of open descriptors of this process. */
size_t rig_count_fds(void);

/* Number of entries in a directory, without "." and "..". */
size_t rig_count_entries(const char *path);

/* sendmsg() of @len bytes and @n_fds descriptors, without blocking: 0 or a negative errno. */
int rig_send(int fd, const void *buf, size_t len, const int *fds, size_t n_fds);

/*
 * recvmsg() without blocking into @buf; descriptors that came along are closed and counted into
 * @ret_n_fds. The length, 0 at the end of file, or a negative errno.
 */
ssize_t rig_recv(int fd, void *buf, size_t size, size_t *ret_n_fds);

/* A blocking connection to a socket of @type, aborts on failure to make the socket itself. */
int rig_connect(const char *path, int type);

/*
 * Runs @fn(arg) in a child and returns its wait status. @fn returns the exit status; a failed
 * cmocka assertion has no place in it, so it uses RIG_CHECK().
 */
int rig_in_child(int (*fn)(void *arg), const void *arg);

/* In a child: says what failed and leaves. */
#define RIG_CHECK(condition)                                                                       \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			(void)fprintf(stderr, "%s:%d: in a child: %s (errno %d)\n", __FILE__,      \
				      __LINE__, #condition, errno);                                \
			_exit(99);                                                                 \
		}                                                                                  \
	} while (0)
