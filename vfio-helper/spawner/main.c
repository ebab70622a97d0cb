/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spawner: forks, becomes a VM's user, and execs one program, vm-launch. A program of its own
 * so that nothing of the helper's memory is in it. It takes one fixed struct at a time from the
 * helper and checks it anew. Trust: runs as root with CAP_SETUID, CAP_SETGID, CAP_SETPCAP; reads
 * from vfio-helper, which parses peers' messages.
 */
#include "vfio-helper/spec.h"

#include "common/fd.h"
#include "common/ipc.h"
#include "common/log.h"
#include "common/priv.h"
#include "vfio-helper-spawn.filter.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define HIGH_FD          64 /* above every fixed number */
#define CAP_LAST         63
#define FILE_LIMIT_SMALL (1024 * 1024)
#define OOM_SCORE        "300"

static struct spawn_setup the_setup; /* set once, before the filter closes */
static const struct spawn_setup *const setup = &the_setup;

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
static void place_fds(const struct spawn_spec *spec, const struct fdlist *fds, int launch_fd)
{
	int high[FD_ROLES] = {[0 ... FD_ROLES - 1] = -1};
	int high_launch = fcntl(launch_fd, F_DUPFD_CLOEXEC, HIGH_FD);
	size_t next = 0;

	need(high_launch, "duplicate");
	for (size_t role = 0; role < FD_ROLES; role++) {
		if (!(spec->roles & FD_BIT(role)))
			continue;
		high[role] = fcntl(fds->fds[next++], F_DUPFD_CLOEXEC, HIGH_FD);
		need(high[role], "duplicate");
	}
	need(dup2(high[FD_STDERR], STDOUT_FILENO), "stdout");
	need(dup2(high[FD_STDERR], STDERR_FILENO), "stderr");
	need(close_range(3, HIGH_FD - 1, 0), "close");
	for (size_t role = FD_GATE; role < FD_ROLES; role++)
		if (high[role] >= 0)
			need(dup2(high[role], CHILD_FD(role)), "place");
	need(dup2(high_launch, LAUNCH_FD), "place");
	need(close_range(LAUNCH_FD + 1, ~0U, 0), "close the rest");
}

static void set_limit(int resource, rlim_t wanted)
{
	struct rlimit limit;

	need(getrlimit((__rlimit_resource_t)resource, &limit), "limit");
	limit.rlim_max = MIN_OF(limit.rlim_max, wanted);
	limit.rlim_cur = limit.rlim_max;
	need(setrlimit((__rlimit_resource_t)resource, &limit), "limit");
}

/* Of a disk of that size with all that qcow2 keeps besides; passt writes no file. */
static rlim_t file_limit(const struct spawn_spec *spec)
{
	uint64_t mib = spec->disk_mib != 0 ? spec->disk_mib : setup->max_disk_mib;

	return spec->program == PROGRAM_PASST ? FILE_LIMIT_SMALL
					      : (rlim_t)((mib + mib / 64 + 64) << 20);
}

/* When memory runs out, a guest goes before any daemon. Raising the score needs no privilege. */
static void be_first_to_go(void)
{
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, OOM_SCORE, strlen(OOM_SCORE)) < 0)
		give_up("oom_score_adj", -errno);
}

/* No core file is possible already: priv_drop() has seen to it for the spawner and its children. */
static void set_limits(const struct spawn_spec *spec)
{
	set_limit(RLIMIT_NOFILE, spec->program == PROGRAM_PASST ? 65536 : 1024);
	set_limit(RLIMIT_MEMLOCK, 1024 * 1024);
	set_limit(RLIMIT_FSIZE, file_limit(spec));
	be_first_to_go();
}

static void take_user(uint32_t slot, gid_t group)
{
	const struct account *user = &setup->users[slot];
	struct err why;

	for (int cap = 0; cap <= CAP_LAST; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
			give_up("bounding set", -errno);
	need(setgroups(group != 0 ? 1 : 0, &group), "groups");
	need(setresgid(user->gid, user->gid, user->gid), "gid");
	need(setresuid(user->uid, user->uid, user->uid), "uid");
	if (priv_prove_no_return(0, &why) < 0 || setresgid((gid_t)-1, 0, (gid_t)-1) == 0)
		give_up("root could be taken back", -EPERM);
}

_noreturn_ static void child_main(const struct spawn_spec *spec, const struct fdlist *fds,
				  int launch_fd)
{
	static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", lang[] = "LANG=C";
	static char name[] = "vm-launch";
	char *const environment[] = {path, lang, NULL}, *const argv[] = {name, NULL};
	sigset_t none;

	(void)sigemptyset(&none);
	need(sigprocmask(SIG_SETMASK, &none, NULL), "signal mask");
	(void)signal(SIGPIPE, SIG_DFL); /* which is ignored in this program */
	need(setsid(), "session");
	place_fds(spec, fds, launch_fd);
	set_limits(spec);
	take_user(spec->slot, spec_wants_kvm(spec) ? setup->kvm_gid : 0);
	/* What serves the helper only must not outlive it. Set after the ids: they clear it. */
	if (spec->program == PROGRAM_QEMU_IMG || spec->program == PROGRAM_TRIAL)
		need(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "death signal");
	(void)execve(setup->launch_binary, argv, environment);
	give_up(setup->launch_binary, -errno);
}

static int fork_child(const struct spawn_spec *spec, const struct fdlist *fds, int launch_fd,
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
		child_main(spec, fds, launch_fd);
	return pid < 0 ? -errno : (int)pid;
}

static int start(const void *body, size_t len, const struct fdlist *fds, int *ret_pidfd)
{
	struct launch launch = {.setup = *setup};
	_cleanup_close_ int launch_fd = -EBADF;
	int r;

	if (len != sizeof(launch.spec))
		return -EBADMSG;
	memcpy(&launch.spec, body, sizeof(launch.spec));
	r = spec_check(&launch.spec, setup);
	if (r < 0 || (size_t)__builtin_popcount(launch.spec.roles) != fds->n)
		return -EBADMSG;
	launch_fd = fd_memfd_sealed("launch", &launch, sizeof(launch));
	return launch_fd < 0 ? launch_fd : fork_child(&launch.spec, fds, launch_fd, ret_pidfd);
}

/*
 * A slot's user has no process but those of its one VM. Before the slot serves another, or the same
 * again, whatever a lost or taken-over one has left behind is ended: it would share the uid.
 */
static int sweep(const void *body, size_t len)
{
	struct spawn_sweep req;
	siginfo_t info = {0};
	pid_t pid;

	if (len != sizeof(req))
		return -EBADMSG;
	memcpy(&req, body, sizeof(req));
	if (req.slot >= setup->max_vms)
		return -EINVAL;
	pid = fork();
	if (pid == 0) {
		take_user(req.slot, 0);
		_exit(kill(-1, SIGKILL) == 0 || errno == ESRCH ? 0 : 1);
	}
	if (pid < 0 || waitid(P_PID, (id_t)pid, &info, WEXITED) < 0)
		return -errno;
	return info.si_code == CLD_EXITED && info.si_status == 0 ? 0 : -EIO;
}

static void reap(const void *body, size_t len, struct spawn_answer *answer)
{
	struct spawn_reap req;
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

/* Returns 0 to go on, else the helper has ended or sent nonsense. */
static int serve_one(void)
{
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	_cleanup_close_ int pidfd = -EBADF;
	_Alignas(8) uint8_t buf[PROTO_MSG_MAX];
	struct spawn_answer answer = {0};
	struct proto_header header;
	ssize_t n = ipc_recv_fds(SPAWNER_FD, buf, sizeof(buf), &fds, FD_ROLES);

	if (n < (ssize_t)sizeof(header))
		return n == -EAGAIN ? 0 : -EPIPE;
	memcpy(&header, buf, sizeof(header));
	n -= (ssize_t)sizeof(header);
	if (header.op == SPAWN_OP_START)
		answer.result = start(buf + sizeof(header), (size_t)n, &fds, &pidfd);
	else if (header.op == SPAWN_OP_REAP)
		reap(buf + sizeof(header), (size_t)n, &answer);
	else if (header.op == SPAWN_OP_SWEEP)
		answer.result = sweep(buf + sizeof(header), (size_t)n);
	else
		return -EBADMSG;
	header.len = sizeof(answer);
	return ipc_send(SPAWNER_FD, &header, &answer, &pidfd, pidfd >= 0 ? 1 : 0);
}

static int take_setup(struct proto_header *ret_header, struct err *reterr)
{
	struct pollfd wait = {.fd = SPAWNER_FD, .events = POLLIN};
	_cleanup_(fdlist_done) struct fdlist none = {0};
	uint8_t buf[sizeof(*ret_header) + sizeof(the_setup)];
	ssize_t n;

	if (poll(&wait, 1, SPAWN_ANSWER_MAX) != 1)
		return err_set(reterr, -EPIPE, "it is for vfio-helper to start, not for people");
	n = ipc_recv_fds(SPAWNER_FD, buf, sizeof(buf), &none, 0);
	memcpy(ret_header, buf, sizeof(*ret_header));
	memcpy(&the_setup, buf + sizeof(*ret_header), sizeof(the_setup));
	if (n != sizeof(buf) || ret_header->op != SPAWN_OP_SETUP ||
	    the_setup.version != SPAWN_VERSION)
		return err_set(reterr, -EPROTO, "vfio-helper is of another version");
	return 0;
}

static int confine(struct err *reterr)
{
	int r;

	stage_enter(STAGE_DROP);
	r = priv_drop(UINT64_C(1) << CAP_SETUID | UINT64_C(1) << CAP_SETGID |
			      UINT64_C(1) << CAP_SETPCAP,
		      reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_SECCOMP);
	return priv_enter_filter("vfio-helper-spawn", filter_vfio_helper_spawn,
				 filter_vfio_helper_spawn_len, reterr);
}

int main(int argc, _unused_ char *argv[])
{
	const struct spawn_answer ready = {0};
	struct pollfd wait = {.fd = SPAWNER_FD, .events = POLLIN};
	struct proto_header header = {0};
	struct err err = {0};
	int r = priv_sane_start(argc, 1, &err);

	/* An interrupt typed at the terminal is for the helper. */
	(void)setsid();
	stage_enter(STAGE_CONFIG);
	log_open("vfio-helper-spawn", LOG_INFO);
	if (r == 0)
		r = take_setup(&header, &err);
	stage_enter(STAGE_OPEN);
	if (r == 0)
		r = confine(&err);
	if (r < 0) {
		log_event(LOG_ERR, "the spawner cannot start", LOG_STR("WHY", err.text));
		return 1;
	}
	stage_enter(STAGE_RUN);
	header.len = sizeof(ready);
	r = ipc_send(SPAWNER_FD, &header, &ready, NULL, 0);
	while (r == 0)
		if (poll(&wait, 1, -1) > 0)
			r = serve_one();
	return r == -EPIPE ? 0 : 1;
}
