/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keeper of control-client.
 * Trust: runs as qudata with no_new_privs; reads nothing.
 */
#include "agentd/control/keeper.h"

#include "agentd/control/control.h"
#include "common/ipc.h"
#include "common/log.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define PAUSE_LOW_S  1
#define PAUSE_HIGH_S 60
#define STEADY_S     60 /* a client that has lived so long is started again at once */

/* Beside agentd where it is installed, in a folder of its own where it is built. */
static const char *const places[] = {"control-client", "control/control-client"};

static int find_client(char path[static PATH_MAX], struct err *reterr)
{
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
	char *end;

	if (n < 0)
		return err_errno(reterr, -errno, "cannot find this program's folder");
	path[n] = '\0';
	end = strrchr(path, '/') + 1;
	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		(void)snprintf(end, (size_t)(path + PATH_MAX - end), "%s", places[i]);
		if (access(path, X_OK) == 0)
			return 0;
	}
	return err_set(reterr, -ENOENT, "control-client is not installed beside agentd");
}

_noreturn_ static void become_client(const char *path, int fd)
{
	char *const argv[] = {(char *)(uintptr_t) "control-client", NULL};
	char stream[64] = "";
	const char *journal = getenv("JOURNAL_STREAM");
	char *environment[] = {stream, NULL};

	if (journal)
		(void)snprintf(stream, sizeof(stream), "JOURNAL_STREAM=%.40s", journal);
	else
		environment[0] = NULL;
	if (dup2(fd, CONTROL_FD) >= 0 && close_range(CONTROL_FD + 1, ~0U, 0) == 0)
		(void)execve(path, argv, environment);
	log_event(LOG_ERR, "control-client cannot be run", LOG_ERRNO(-errno));
	_exit(126);
}

/* Waits for the end of @pid or of agentd, whichever comes first. Returns false for agentd's. */
static bool wait_for_end(pid_t pid, int pidfd, int fd)
{
	struct pollfd wait[] = {{.fd = pidfd, .events = POLLIN}, {.fd = fd}};

	while (poll(wait, ARRAY_LEN(wait), -1) < 0 && errno == EINTR)
		;
	if (wait[1].revents != 0) {
		(void)syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0);
		return false;
	}
	(void)waitpid(pid, NULL, 0);
	return true;
}

/* Sleeps, but not past agentd's end. */
static bool pause_for(unsigned int seconds, int fd)
{
	struct pollfd wait = {.fd = fd};

	return poll(&wait, 1, (int)(seconds * MSEC_PER_SEC)) == 0;
}

_noreturn_ static void keep(const char *path, int fd)
{
	unsigned int pause = PAUSE_LOW_S;
	bool go_on = true;

	while (go_on) {
		time_t begun = time(NULL);
		int pidfd;
		pid_t pid = fork();

		if (pid == 0)
			become_client(path, fd);
		pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
		if (pidfd < 0)
			_exit(1);
		go_on = wait_for_end(pid, pidfd, fd);
		(void)close(pidfd);
		pause = time(NULL) - begun >= STEADY_S
				? PAUSE_LOW_S
				: MIN_OF(pause * 2, (unsigned int)PAUSE_HIGH_S);
		if (go_on) {
			log_event(LOG_ERR, "control-client has ended; it is started again",
				  LOG_NUM("PAUSE_S", pause));
			go_on = pause_for(pause, fd);
		}
	}
	_exit(0);
}

int keeper_start(struct err *reterr)
{
	char path[PATH_MAX];
	int fd, r = find_client(path, reterr);
	pid_t pid;

	if (r < 0)
		return r;
	pid = ipc_fork(SOCK_NONBLOCK, &fd, reterr);
	if (pid != 0)
		return pid < 0 ? pid : fd;
	/* An interrupt typed at the terminal is for agentd, whose end ends us. */
	(void)setsid();
	if (dup2(fd, CONTROL_FD) < 0 || close_range(CONTROL_FD + 1, ~0U, 0) < 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		_exit(1);
	keep(path, CONTROL_FD);
}
