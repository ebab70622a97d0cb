/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sealed memory to pass on.
 * Trust: runs in every program that passes data to another; touches nothing but the new memory.
 */
#include "common/fd.h"

#include <fcntl.h>
#include <sys/mman.h>

int fd_memfd_sealed(const char *name, const void *data, size_t len)
{
	_cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	r = fd_write_all(fd, data, len);
	if (r < 0)
		return r;
	if (lseek(fd, 0, SEEK_SET) < 0 || fcntl(fd, F_ADD_SEALS, FD_SEALS) < 0)
		return -errno;
	return TAKE_FD(fd);
}
