/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Statistics of a process behind a socket.
 * Trust: runs in vmmon; reads procfs.
 */
#include "vmmon/metrics/process.h"

#include "common/ipc.h"

#include <fcntl.h>
#include <inttypes.h>

#define STAT_MAX 1024
#define NAME     "(qemu-system-"

int process_parse(const char *line, uint64_t *ret_cpu_ms, uint64_t *ret_rss_kib)
{
	const char *name = strchr(line, '('), *rest = strrchr(line, ')');
	uint64_t user, system, pages;
	long ticks = sysconf(_SC_CLK_TCK), page = sysconf(_SC_PAGESIZE);

	if (!name || !rest || strncmp(name, NAME, strlen(NAME)) != 0)
		return -EBADMSG;
	/* From the third field on: 14 and 15 are user and system time, 24 the resident pages. */
	if (sscanf(rest,
		   ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64
		   " %*d %*d %*d %*d %*d %*d %*u %*u %" SCNu64,
		   &user, &system, &pages) != 3)
		return -EBADMSG;
	*ret_cpu_ms = (user + system) * 1000 / (uint64_t)ticks;
	*ret_rss_kib = pages * ((uint64_t)page / 1024);
	return 0;
}

int process_read(int fd, uint64_t *ret_cpu_ms, uint64_t *ret_rss_kib)
{
	char line[STAT_MAX];
	ssize_t n = pread(fd, line, sizeof(line) - 1, 0);

	if (n < 0)
		return -errno;
	line[n] = '\0';
	return process_parse(line, ret_cpu_ms, ret_rss_kib);
}

int process_find(const char *socket, int *ret_fd)
{
	_cleanup_close_ int conn = ipc_connect(socket, SOCK_STREAM), fd = -EBADF;
	struct ucred cred;
	uint64_t cpu_ms, rss_kib;
	char path[64];
	int r;

	if (conn < 0)
		return conn;
	/*
	 * A connection of its own, for the first may be older than QEMU's listen(). QEMU takes one
	 * at a time: this one is found closed, and passed over, when the first has ended.
	 */
	r = ipc_peer_cred(conn, &cred);
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)cred.pid);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	r = process_read(fd, &cpu_ms, &rss_kib);
	if (r < 0)
		return r;
	*ret_fd = TAKE_FD(fd);
	return 0;
}
