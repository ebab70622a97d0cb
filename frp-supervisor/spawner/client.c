/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The start of frp-spawn.
 * Trust: runs in frp-supervisor before it is confined and before it has heard anyone.
 */
#include "frp-supervisor/spawner/spawn.h"

#include "common/ipc.h"

#include <fcntl.h>
#include <sys/socket.h>

/* Whoever could put another program there could replace us. */
static int beside_us(const char *name, char *path, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", path, size);
	char *slash = n > 0 && (size_t)n < size ? memrchr(path, '/', (size_t)n) : NULL;
	size_t room;

	if (!slash)
		return -ENAMETOOLONG;
	room = size - (size_t)(slash + 1 - path);
	return snprintf(slash + 1, room, "%s", name) < (int)room ? 0 : -ENAMETOOLONG;
}

_noreturn_ static void become_spawner(const char *path, const struct spawn_config *c, int fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null_fd >= 0 && dup2(null_fd, STDIN_FILENO) >= 0 && dup2(null_fd, STDOUT_FILENO) >= 0 &&
	    dup2(fd, SPAWN_FD) >= 0 && close_range(SPAWN_FD + 1, ~0U, 0) == 0)
		(void)execl(path, path, c->frpc, c->run_dir, c->ca_file, c->keep ? "keep" : "end",
			    (char *)NULL);
	(void)dprintf(STDERR_FILENO, "frp-supervisor: cannot run %s: %s\n", path,
		      strerrordesc_np(errno));
	_exit(126);
}

int spawner_start(const struct spawn_config *config, struct err *reterr)
{
	char path[4096];
	int fd, r = beside_us("frp-spawn", path, sizeof(path));
	pid_t pid;

	if (r < 0)
		return err_errno(reterr, r, "cannot find frp-spawn beside this program");
	if (access(path, X_OK) < 0)
		return err_errno(reterr, -errno, "cannot run %s", path);
	pid = ipc_fork(SOCK_NONBLOCK, &fd, reterr);
	if (pid == 0)
		become_spawner(path, config, fd);
	return pid < 0 ? pid : fd;
}
