/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealed memory as it was received.
 * Trust: runs in every program that others pass data to, none of which is root; the descriptor
 * comes from a peer that may be hostile.
 */
#include "common/fd.h"

#include <fcntl.h>
#include <sys/stat.h>

ssize_t fd_memfd_check(int fd, size_t max)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || (seals & FD_SEALS) != FD_SEALS)
		return -EINVAL;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size <= 0)
		return -EINVAL;
	return (size_t)st.st_size > max ? -EFBIG : (ssize_t)st.st_size;
}
