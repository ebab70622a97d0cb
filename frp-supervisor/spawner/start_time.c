/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a process was started: with its number, what tells it from every other one since boot.
 * Trust: runs in frp-supervisor and in frp-spawn's child; reads /proc.
 */
#include "common/fd.h"
#include "frp-supervisor/spawner/spawn.h"

#include <fcntl.h>

int spawn_start_time(pid_t pid, char ret_start[static SPAWN_TIME_SIZE])
{
	char path[64] = "/proc/self/stat", text[1024];
	_cleanup_close_ int fd = -EBADF;
	char *p;
	size_t n;

	if (pid != 0)
		(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	p = fd_read_text(fd, text, sizeof(text)) > 0
		    ? strrchr(text, ')') /* a program's name may hold anything */
		    : NULL;
	/* The third field comes next; the start time is the 22nd. */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (!p)
		return -EIO;
	p++;
	n = strspn(p, "0123456789");
	if (n == 0 || n >= SPAWN_TIME_SIZE)
		return -EIO;
	(void)snprintf(ret_start, SPAWN_TIME_SIZE, "%.*s", (int)n, p);
	return 0;
}
