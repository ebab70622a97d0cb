/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest useful set of C helpers: cleanup attributes, moving ownership, array length.
 * Depends on libc only, so that every program of the suite may include it.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_LEN(a)   (sizeof(a) / sizeof((a)[0]))
#define _cleanup_(f)   __attribute__((cleanup(f)))
#define _unused_       __attribute__((unused))
#define _printf_(f, a) __attribute__((format(printf, f, a)))
#define _must_check_   __attribute__((warn_unused_result))
#define _noreturn_     __attribute__((noreturn))
#define MIN_OF(a, b)   ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b)   ((a) > (b) ? (a) : (b))
#define STR_EQ(a, b)   (strcmp((a), (b)) == 0)
#define NSEC_PER_SEC   UINT64_C(1000000000)
#define USEC_PER_SEC   UINT64_C(1000000)
#define MSEC_PER_SEC   UINT64_C(1000)

/* Moves a descriptor out of @fd_lvalue: its value is returned and -EBADF is left behind. */
#define TAKE_FD(fd_lvalue)                                                                         \
	({                                                                                         \
		int *_take_p = &(fd_lvalue);                                                       \
		int _take_fd = *_take_p;                                                           \
		*_take_p = -EBADF;                                                                 \
		_take_fd;                                                                          \
	})

/* Moves a pointer out of @ptr_lvalue: its value is returned and NULL is left behind. */
#define TAKE_PTR(ptr_lvalue)                                                                       \
	({                                                                                         \
		__typeof__(ptr_lvalue) *_take_p = &(ptr_lvalue);                                   \
		__typeof__(ptr_lvalue) _take_v = *_take_p;                                         \
		*_take_p = NULL;                                                                   \
		_take_v;                                                                           \
	})

/* Closes @fd if it is one, keeps errno, returns -EBADF to assign back. */
static inline int safe_close(int fd)
{
	int saved = errno;

	if (fd >= 0)
		(void)close(fd);
	errno = saved;
	return -EBADF;
}

static inline void cleanup_close(int *fd)
{
	*fd = safe_close(*fd);
}

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_fclose(FILE **f)
{
	if (*f)
		(void)fclose(*f);
}

#define _cleanup_close_  _cleanup_(cleanup_close)
#define _cleanup_free_   _cleanup_(cleanup_free)
#define _cleanup_fclose_ _cleanup_(cleanup_fclose)
