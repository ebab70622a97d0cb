/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spawner: the helper's half that forks and execs, with no way to hear a peer. It was forked
 * before the helper's filter closed, takes one fixed struct at a time from the other half, checks
 * it anew, and builds the command line itself. Also the other half's side of that conversation.
 * Trust: runs as root with CAP_SETUID, CAP_SETGID, CAP_SETPCAP; reads from the helper's main
 * process, which parses peers' messages.
 */
#include "vfio-helper/helper.h"

#include "common/fd.h"
#include "common/ipc.h"
#include "common/priv.h"
#include "vfio-helper-spawn.filter.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define OP_START          1
#define OP_REAP           2
#define ANSWER_TIMEOUT_MS 2000
#define HIGH_FD           64 /* above every fixed number */
#define CAP_LAST          63

struct reap_request {
	int32_t pid;
};

struct spawn_answer {
	int32_t result; /* pid, or a negative errno */
	uint32_t exit_kind, exit_code;
};

struct half {
	const struct config *config;
	const struct accounts *accounts;
	int fd;
	struct args args;
};

_noreturn_ static void give_up(const char *what, int r)
{
	(void)dprintf(STDERR_FILENO, "vfio-helper-spawn: %s: %s\n", what, log_errno_text(r));
	_exit(126);
}

static void need(int r, const char *what)
{
	if (r < 0)
		give_up(what, -errno);
}

/* Puts each descriptor at its fixed number and closes everything else. */
static void place_fds(const struct spawn_spec *spec, struct fdlist *fds)
{
	int high[FD_ROLES];
	size_t next = 0;

	for (size_t role = 0; role < FD_ROLES; role++) {
		high[role] = -1;
		if (spec->roles & FD_BIT(role)) {
			high[role] = fcntl(fds->fds[next++], F_DUPFD_CLOEXEC, HIGH_FD);
			need(high[role], "duplicate");
		}
	}
	need(dup2(high[FD_STDERR], STDOUT_FILENO), "stdout");
	need(dup2(high[FD_STDERR], STDERR_FILENO), "stderr");
	need((int)syscall(SYS_close_range, 3, HIGH_FD - 1, 0), "close");
	for (size_t role = FD_GATE; role < FD_ROLES; role++)
		if (high[role] >= 0)
			need(dup2(high[role], CHILD_FD(role)), "place");
	need((int)syscall(SYS_close_range, CHILD_FD(FD_ROLES), ~0U, 0), "close the rest");
	if (spec->roles & FD_BIT(FD_GATE))
		need(fcntl(CHILD_FD(FD_GATE), F_SETFD, FD_CLOEXEC), "gate");
}

static void set_limit(int resource, rlim_t wanted)
{
	struct rlimit limit;

	need(getrlimit((__rlimit_resource_t)resource, &limit), "limit");
	limit.rlim_max = MIN_OF(limit.rlim_max, wanted);
	limit.rlim_cur = limit.rlim_max;
	need(setrlimit((__rlimit_resource_t)resource, &limit), "limit");
}

/* No core file is possible already: priv_drop() has seen to it for the spawner and its children. */
static void take_user(const struct half *half, const struct spawn_spec *spec)
{
	const struct account *user = &half->accounts->vm[spec->slot];
	bool kvm = spec->program == PROGRAM_TRIAL ||
		   (spec->program == PROGRAM_QEMU && spec->accel == PROTO_ACCEL_KVM);
	gid_t group = 0;
	struct err why;

	set_limit(RLIMIT_NOFILE, spec->program == PROGRAM_PASST ? 65536 : 1024);
	set_limit(RLIMIT_MEMLOCK, 1024 * 1024);
	if (kvm && accel_kvm_group(&group) < 0)
		group = 0;
	for (int cap = 0; cap <= CAP_LAST; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
			give_up("bounding set", -errno);
	need(setgroups(group != 0 ? 1 : 0, &group), "groups");
	need(setresgid(user->gid, user->gid, user->gid), "gid");
	need(setresuid(user->uid, user->uid, user->uid), "uid");
	if (priv_prove_no_return(0, &why) < 0 || setresgid((gid_t)-1, 0, (gid_t)-1) == 0)
		give_up("root could be taken back", -EPERM);
}

/* Waits until the main process has written down who we are: after a crash of it nobody starts. */
static void pass_gate(const struct half *half, const struct spawn_spec *spec,
		      const struct isolation *iso)
{
	int r = 0;
	char byte = 'I';

	if (!(spec->roles & FD_BIT(FD_GATE)))
		return;
	if (spec->program == PROGRAM_PASST) {
		if (half->config->require_isolation)
			r = isolation_check(iso);
		if (r < 0)
			give_up("a guest could reach this host's loopback; is the packet filter "
				"for the VMs' users loaded?",
				r);
		need((int)write(CHILD_FD(FD_GATE), &byte, 1), "gate");
	}
	if (read(CHILD_FD(FD_GATE), &byte, 1) != 1)
		_exit(125);
}

_noreturn_ static void child_main(struct half *half, const struct spawn_spec *spec,
				  struct fdlist *fds)
{
	static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", lang[] = "LANG=C";
	char *const environment[] = {path, lang, NULL};
	struct isolation iso = {{-EBADF, -EBADF}, {-EBADF, -EBADF}};
	sigset_t none;

	(void)sigemptyset(&none);
	need(sigprocmask(SIG_SETMASK, &none, NULL), "signal mask");
	need(setsid(), "session");
	place_fds(spec, fds);
	if (spec->program == PROGRAM_PASST)
		isolation_listen(&iso);
	take_user(half, spec);
	/* What serves the helper only must not outlive it. Set after the ids: they clear it. */
	if (spec->program == PROGRAM_QEMU_IMG || spec->program == PROGRAM_TRIAL)
		need(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "death signal");
	pass_gate(half, spec, &iso);
	(void)execve(half->args.argv[0], half->args.argv, environment);
	give_up(half->args.argv[0], -errno);
}

static int fork_child(struct half *half, const struct spawn_spec *spec, struct fdlist *fds,
		      int *ret_pidfd)
{
	struct clone_args how = {
		.flags = CLONE_PIDFD, .pidfd = (uintptr_t)ret_pidfd, .exit_signal = SIGCHLD};
	long pid;

	if (spec->roles & FD_BIT(FD_CGROUP)) {
		how.flags |= CLONE_INTO_CGROUP;
		how.cgroup = (unsigned int)fds->fds[1]; /* after FD_STDERR, which is always there */
	}
	pid = syscall(SYS_clone3, &how, sizeof(how));
	if (pid == 0)
		child_main(half, spec, fds);
	return pid < 0 ? -errno : (int)pid;
}

static int start(struct half *half, const void *body, size_t len, struct fdlist *fds,
		 int *ret_pidfd)
{
	struct spawn_spec spec;
	int r;

	if (len != sizeof(spec))
		return -EBADMSG;
	memcpy(&spec, body, sizeof(spec));
	r = spec_check(&spec, half->config);
	if (r < 0 || (size_t)__builtin_popcount(spec.roles) != fds->n)
		return -EBADMSG;
	r = spec_args(&spec, half->config, &half->args);
	return r < 0 ? r : fork_child(half, &spec, fds, ret_pidfd);
}

static void reap(const void *body, size_t len, struct spawn_answer *answer)
{
	struct reap_request req;
	siginfo_t info = {0};

	answer->exit_kind = PROTO_EXIT_UNKNOWN;
	if (len != sizeof(req))
		return;
	memcpy(&req, body, sizeof(req));
	if (req.pid <= 0 || waitid(P_PID, (id_t)req.pid, &info, WEXITED | WNOHANG) < 0 ||
	    info.si_pid == 0)
		return;
	answer->exit_kind = info.si_code == CLD_EXITED ? PROTO_EXIT_CODE : PROTO_EXIT_SIGNAL;
	answer->exit_code = (uint32_t)info.si_status & 255;
}

/* Returns 0 to go on, else the main process has ended or sent nonsense. */
static int serve_one(struct half *half)
{
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	_cleanup_close_ int pidfd = -EBADF;
	_Alignas(8) uint8_t buf[PROTO_MSG_MAX];
	struct spawn_answer answer = {0};
	struct proto_header header;
	ssize_t n = ipc_recv_fds(half->fd, buf, sizeof(buf), &fds, FD_ROLES);

	if (n < (ssize_t)sizeof(header))
		return n == -EAGAIN ? 0 : -EPIPE;
	memcpy(&header, buf, sizeof(header));
	n -= (ssize_t)sizeof(header);
	if (header.op == OP_START)
		answer.result = start(half, buf + sizeof(header), (size_t)n, &fds, &pidfd);
	else if (header.op == OP_REAP)
		reap(buf + sizeof(header), (size_t)n, &answer);
	else
		return -EBADMSG;
	header.len = sizeof(answer);
	return ipc_send(half->fd, &header, &answer, &pidfd, pidfd >= 0 ? 1 : 0);
}

_noreturn_ static void spawner_main(struct half *half)
{
	struct pollfd wait = {.fd = half->fd, .events = POLLIN};
	struct err err = {0};
	int r;

	(void)prctl(PR_SET_NAME, "helper-spawn");
	stage_enter(STAGE_DROP);
	r = priv_drop(UINT64_C(1) << CAP_SETUID | UINT64_C(1) << CAP_SETGID |
			      UINT64_C(1) << CAP_SETPCAP,
		      &err);
	stage_enter(STAGE_SECCOMP);
	if (r == 0)
		r = priv_enter_filter("vfio-helper-spawn", filter_vfio_helper_spawn,
				      filter_vfio_helper_spawn_len, &err);
	stage_enter(STAGE_RUN);
	if (r < 0)
		log_event(LOG_ERR, "the spawner cannot be confined", LOG_STR("WHY", err.text));
	while (r == 0)
		if (poll(&wait, 1, -1) > 0)
			r = serve_one(half);
	_exit(r == -EPIPE ? 0 : 1);
}

int spawner_start(const struct config *config, const struct accounts *accounts,
		  struct spawner *ret_spawner, struct err *reterr)
{
	static struct half half;
	int pair[2], null_fd;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(reterr, -errno, "cannot make a socket pair");
	pid = fork();
	if (pid < 0)
		return err_errno(reterr, -errno, "cannot fork the spawner");
	if (pid > 0) {
		(void)close(pair[1]);
		ret_spawner->fd = pair[0];
		return 0;
	}
	/* Only the pair, and stderr for its own complaints; no socket of the service manager. */
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(null_fd, STDOUT_FILENO) < 0 ||
	    dup2(pair[1], 3) < 0 || close_range(4, ~0U, 0) < 0)
		_exit(1);
	/* An interrupt typed at the terminal is for the main process. */
	(void)setsid();
	half = (struct half){.config = config, .accounts = accounts, .fd = 3};
	spawner_main(&half);
}

/* ---- the main process's side ---- */

static int ask(struct spawner *s, uint32_t op, const void *body, size_t len, const int *fds,
	       size_t n_fds, struct spawn_answer *ret_answer, struct fdlist *ret_fds)
{
	struct proto_header header = {.op = op, .request_id = ++s->asked, .len = (uint32_t)len};
	struct pollfd wait = {.fd = s->fd, .events = POLLIN};
	uint8_t buf[sizeof(header) + sizeof(*ret_answer)] = {0};
	ssize_t n = ipc_send(s->fd, &header, body, fds, n_fds);

	if (n < 0)
		return -EPIPE;
	do
		n = poll(&wait, 1, ANSWER_TIMEOUT_MS);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return -ETIMEDOUT;
	n = ipc_recv_fds(s->fd, buf, sizeof(buf), ret_fds, 1);
	memcpy(&header, buf, sizeof(header));
	/* An answer to something else is a late one: the two halves are out of step. */
	if (n != (ssize_t)sizeof(buf) || header.request_id != s->asked)
		return -EPIPE;
	memcpy(ret_answer, buf + sizeof(header), sizeof(*ret_answer));
	return 0;
}

/* A place for complaints that cannot grow and survives whoever reads it. */
static int make_stderr(void)
{
	_cleanup_close_ int fd = memfd_create("stderr", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, STDERR_MAX) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int spawn_child(struct spawner *s, struct spawn_spec *spec, int fds[static FD_ROLES],
		struct child *ret_child)
{
	_cleanup_(fdlist_done) struct fdlist got = {0};
	_cleanup_close_ int stderr_fd = make_stderr();
	struct spawn_answer answer;
	int list[FD_ROLES];
	size_t n = 0;
	int r;

	if (stderr_fd < 0)
		return stderr_fd;
	spec->roles = FD_BIT(FD_STDERR);
	list[n++] = stderr_fd;
	for (size_t role = FD_CGROUP; role < FD_ROLES; role++)
		if (fds[role] >= 0) {
			spec->roles |= FD_BIT(role);
			list[n++] = fds[role];
		}
	r = ask(s, OP_START, spec, sizeof(*spec), list, n, &answer, &got);
	if (r < 0)
		return r;
	if (answer.result <= 0 || got.n != 1)
		return answer.result < 0 ? answer.result : -EBADMSG;
	*ret_child = (struct child){
		.pid = answer.result, .pidfd = fdlist_take(&got), .stderr_fd = TAKE_FD(stderr_fd)};
	return 0;
}

void spawn_reap(struct spawner *s, struct child *c, uint32_t *ret_kind, uint32_t *ret_code)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	const struct reap_request req = {.pid = c->pid};
	struct spawn_answer answer = {.exit_kind = PROTO_EXIT_UNKNOWN};

	(void)ask(s, OP_REAP, &req, sizeof(req), NULL, 0, &answer, &none);
	*ret_kind = answer.exit_kind;
	*ret_code = answer.exit_code;
}

void child_last_words(const struct child *c, char *buf, size_t size)
{
	char text[STDERR_MAX + 1] = "";
	char *line;

	if (c->stderr_fd >= 0 && pread(c->stderr_fd, text, STDERR_MAX, 0) < 0)
		text[0] = '\0';
	text[STDERR_MAX] = '\0';
	for (size_t len = strlen(text); len > 0 && text[len - 1] == '\n'; len--)
		text[len - 1] = '\0';
	line = strrchr(text, '\n');
	(void)snprintf(buf, size, "%s", line ? line + 1 : text);
}

void child_kill(const struct child *c)
{
	if (c->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
}

void child_close(struct child *c)
{
	c->pidfd = safe_close(c->pidfd);
	c->stderr_fd = safe_close(c->stderr_fd);
	c->pid = 0;
}
