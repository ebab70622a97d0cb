/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists and texts that come as sealed memory.
 * Trust: runs inside agentd; reads what another daemon has passed and can no longer change.
 */
#include "agentd/sealed.h"

#include "common/fd.h"

int sealed_read(int fd, size_t max, char **ret_bytes, size_t *ret_len)
{
	ssize_t size = fd_memfd_check(fd, max);
	_cleanup_free_ char *bytes = NULL;
	ssize_t n;

	if (size < 0)
		return (int)size;
	bytes = malloc((size_t)size + 2);
	if (!bytes)
		return -ENOMEM;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	n = fd_read_text(fd, bytes, (size_t)size + 2);
	if (n < 0)
		return (int)n;
	*ret_bytes = TAKE_PTR(bytes);
	*ret_len = (size_t)n;
	return 0;
}
