/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frp-spawn: asks frpc for its version, starts frpc, tells how it ended. It reads no more than one
 * fixed struct at a time. Trust: runs as qudata-frp without capabilities; reads from
 * frp-supervisor.
 */
#include "common/fd.h"
#include "common/ipc.h"
#include "common/log.h"
#include "common/priv.h"
#include "frp-spawn.filter.h"
#include "frp-supervisor/spawner/spawn.h"
#include "frpc.filter.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define FILES_MAX 65536 /* each connection through a tunnel takes two */

static const char *frpc, *run_dir, *ca_file;
static bool keep;

_noreturn_ static void give_up(const char *what, int r)
{
	(void)dprintf(STDERR_FILENO, "frp-spawn: %s: %s\n", what, strerrordesc_np(-r));
	_exit(126);
}

static void need(int r, const char *what)
{
	if (r < 0)
		give_up(what, -errno);
}

static void set_limit(int resource, rlim_t wanted)
{
	struct rlimit limit;

	need(getrlimit((__rlimit_resource_t)resource, &limit), "limit");
	limit.rlim_max = MIN_OF(limit.rlim_max, wanted);
	limit.rlim_cur = limit.rlim_max;
	need(setrlimit((__rlimit_resource_t)resource, &limit), "limit");
}

/* What is left of this process when it becomes frpc: three descriptors, limits, two cages. */
_noreturn_ static void become_frpc(char *const argv[], uint16_t admin_port)
{
	static char lang[] = "LANG=C";
	char *const environment[] = {lang, NULL};
	const struct confinement c = {frpc, run_dir, ca_file, admin_port};
	struct err err;
	int r;

	(void)signal(SIGPIPE, SIG_DFL); /* which is ignored in this program */
	set_limit(RLIMIT_NOFILE, FILES_MAX);
	set_limit(RLIMIT_FSIZE, SPAWN_LOG_MAX);
	r = confine(&c);
	if (r < 0)
		give_up("Landlock", r);
	if (priv_enter_filter("frpc", filter_frpc, filter_frpc_len, &err) < 0)
		give_up(err.text, -EPERM);
	(void)execve(frpc, argv, environment);
	give_up(frpc, -errno);
}

/*
 * Says when it was started, which nobody else can see before the exec under ProtectProc=, and waits
 * for the supervisor's word that it has written down who we are: after a crash of it nothing runs
 * that nobody knows of.
 */
_noreturn_ static void child_main(int log_fd, int gate_fd, int time_fd, uint16_t admin_port)
{
	static char name[] = "frpc", option[] = "-c";
	char path[512], start_time[SPAWN_TIME_SIZE] = "", byte;
	char *const argv[] = {name, option, path, NULL};

	(void)snprintf(path, sizeof(path), "%s/" SPAWN_CONFIG, run_dir);
	need(setsid(), "session");
	if (spawn_start_time(0, start_time) < 0 ||
	    write(time_fd, start_time, sizeof(start_time)) != (ssize_t)sizeof(start_time))
		give_up("start time", -EIO);
	need(dup2(log_fd, STDOUT_FILENO), "stdout");
	need(dup2(log_fd, STDERR_FILENO), "stderr");
	if (gate_fd != SPAWN_GATE_FD)
		need(dup2(gate_fd, SPAWN_GATE_FD), "gate");
	need(close_range(SPAWN_GATE_FD + 1, ~0U, 0), "close");
	if (!keep)
		need(prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0), "death signal");
	if (read(SPAWN_GATE_FD, &byte, 1) != 1)
		_exit(125);
	(void)close(SPAWN_GATE_FD);
	become_frpc(argv, admin_port);
}

static int open_log(void)
{
	char path[512];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/" SPAWN_LOG, run_dir);
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}

/* The child's word; anything else is the end of it. */
static int read_time(int fd, char *text, size_t size)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};

	if (poll(&wait, 1, SPAWN_VERSION_S * 1000) != 1 || read(fd, text, size) <= 0)
		return -EIO;
	text[size - 1] = '\0';
	return 0;
}

/* Not clone3(), which the unit's RestrictNamespaces= forbids. Nobody else reaps the child, so its
 * number cannot be another process's when the descriptor is opened. */
static int fork_child(int log_fd, int gate, int time_fd, uint16_t admin_port, int *ret_pidfd)
{
	pid_t pid = fork();

	if (pid == 0)
		child_main(log_fd, gate, time_fd, admin_port);
	if (pid > 0)
		*ret_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	return pid < 0 || *ret_pidfd < 0 ? -errno : pid;
}

static int start(const struct spawn_request *req, struct spawn_answer *answer, struct fdlist *fds)
{
	_cleanup_close_ int log_fd = open_log(), pidfd = -EBADF;
	int gate[2], told[2], r;

	if (req->admin_port == 0 || req->admin_port > UINT16_MAX)
		return -EINVAL;
	if (log_fd < 0)
		return log_fd;
	if (pipe2(gate, O_CLOEXEC) < 0)
		return -errno;
	fds->fds[fds->n++] = gate[1]; /* closed with the list: a child ends at the gate */
	if (pipe2(told, O_CLOEXEC) < 0) {
		r = -errno;
	} else {
		r = fork_child(log_fd, gate[0], told[1], (uint16_t)req->admin_port, &pidfd);
		(void)close(told[1]);
		if (r > 0 && read_time(told[0], answer->text, SPAWN_TIME_SIZE) < 0)
			r = -EIO;
		(void)close(told[0]);
	}
	(void)close(gate[0]);
	if (r > 0)
		return fdlist_add(fds, TAKE_FD(pidfd)) < 0 ? -E2BIG : r;
	fdlist_done(fds);
	return r;
}

static void reap(pid_t pid, int options, struct spawn_answer *answer)
{
	siginfo_t info = {0};

	answer->exit_kind = PROTO_EXIT_UNKNOWN;
	if (pid <= 0 || waitid(P_PID, (id_t)pid, &info, WEXITED | options) < 0 || info.si_pid == 0)
		return;
	answer->exit_kind = info.si_code == CLD_EXITED ? PROTO_EXIT_CODE : PROTO_EXIT_SIGNAL;
	answer->exit_code = (uint32_t)info.si_status & 255;
}

/* Reads until the end or the deadline; more than fits is cut. */
static void read_text(int fd, char *text, size_t size)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	size_t used = 0;

	while (used < size - 1 && poll(&wait, 1, SPAWN_VERSION_S * 1000) == 1) {
		ssize_t n = read(fd, text + used, size - 1 - used);

		if (n <= 0)
			break;
		used += (size_t)n;
	}
	text[used] = '\0';
}

static int version(struct spawn_answer *answer)
{
	static char name[] = "frpc", option[] = "--version";
	char *const argv[] = {name, option, NULL};
	int out[2], r;
	pid_t pid;

	if (access(frpc, X_OK) < 0)
		return -errno;
	if (pipe2(out, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		need(dup2(out[1], STDOUT_FILENO), "stdout");
		need(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "death signal");
		need(close_range(STDERR_FILENO + 1, ~0U, 0), "close");
		become_frpc(argv, 0);
	}
	r = pid < 0 ? -errno : 0;
	(void)close(out[1]);
	if (r == 0) {
		read_text(out[0], answer->text, sizeof(answer->text));
		(void)kill(pid, SIGKILL); /* harmless when it has ended: it is not reaped yet */
		reap(pid, 0, answer);
	}
	(void)close(out[0]);
	return r;
}

/* Returns 0 to go on; else the supervisor has ended or sent nonsense. */
static int serve_one(void)
{
	_cleanup_(fdlist_done) struct fdlist none = {0}, fds = {0};
	uint8_t buf[sizeof(struct proto_header) + sizeof(struct spawn_request)];
	struct spawn_answer answer = {0};
	struct spawn_request req;
	struct proto_header header;
	ssize_t n = ipc_recv_fds(SPAWN_FD, buf, sizeof(buf), &none, 0);

	if (n != (ssize_t)sizeof(buf))
		return n == -EAGAIN ? 0 : -EPIPE;
	memcpy(&header, buf, sizeof(header));
	memcpy(&req, buf + sizeof(header), sizeof(req));
	if (header.op == SPAWN_OP_VERSION)
		answer.result = version(&answer);
	else if (header.op == SPAWN_OP_START)
		answer.result = start(&req, &answer, &fds);
	else if (header.op == SPAWN_OP_REAP)
		reap(req.pid, WNOHANG, &answer);
	else
		return -EBADMSG;
	header.len = sizeof(answer);
	return ipc_send(SPAWN_FD, &header, &answer, fds.fds, fds.n);
}

static int take_arguments(int argc, char *argv[], struct err *reterr)
{
	if (argc != 5 || argv[1][0] != '/' || argv[2][0] != '/' || argv[3][0] != '/')
		return err_set(reterr, -EINVAL,
			       "it is for frp-supervisor to start, not for people");
	frpc = argv[1];
	run_dir = argv[2];
	ca_file = argv[3];
	keep = STR_EQ(argv[4], "keep");
	return 0;
}

int main(int argc, char *argv[])
{
	struct pollfd wait = {.fd = SPAWN_FD, .events = POLLIN};
	struct err err = {0};
	int r = priv_sane_start(argc, 1, &err);

	/* An interrupt typed at the terminal is for the supervisor. */
	(void)setsid();
	stage_enter(STAGE_CONFIG);
	log_open("frp-spawn", LOG_INFO);
	if (r == 0)
		r = take_arguments(argc, argv, &err);
	stage_enter(STAGE_OPEN);
	if (r == 0)
		r = priv_confine("frp-spawn", 0, filter_frp_spawn, filter_frp_spawn_len, &err);
	if (r < 0) {
		log_event(LOG_ERR, "frp-spawn cannot start", LOG_STR("WHY", err.text));
		return 1;
	}
	stage_enter(STAGE_RUN);
	while (r == 0)
		if (poll(&wait, 1, -1) > 0)
			r = serve_one();
	return r == -EPIPE ? 0 : 1;
}
