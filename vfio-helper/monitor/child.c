/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every fork and exec of root's: three programs that lie beside our own, each with its own user,
 * capabilities and descriptors, fixed here.
 * Trust: runs as root, in the child up to the exec; reads nothing but what its caller has checked.
 */
#include "vfio-helper/monitor/monitor.h"

#include "common/priv.h"
#include "vfio-helper/bind/bind.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define FIRST_FD         3
#define HIGH_FD          64 /* above every fixed number */
#define FILE_LIMIT_SMALL (1024 * 1024)
#define OOM_SCORE        "300"
#define NOBODYS_UID      ((uid_t)-2) /* the highest there is */
#define CAP_BIT(cap)     (UINT64_C(1) << (cap))
/* What vfio-bind begins with; see bind.h. */
#define BIND_CAPS                                                                                  \
	(CAP_BIT(CAP_CHOWN) | CAP_BIT(CAP_SYS_PTRACE) | CAP_BIT(CAP_DAC_READ_SEARCH) |             \
	 CAP_BIT(CAP_SETPCAP))

static char env_path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", env_lang[] = "LANG=C";

_noreturn_ static void give_up(const char *what, int r)
{
	(void)dprintf(STDERR_FILENO, "vfio-helper: %s: %s\n", what, log_errno_text(r));
	_exit(126);
}

static void need(int r, const char *what)
{
	if (r < 0)
		give_up(what, -errno);
}

/* fork() with a pidfd and, with @cgroup_fd, in that cgroup. */
static int fork_child(int cgroup_fd, int *ret_pidfd)
{
	struct clone_args how = {
		.flags = CLONE_PIDFD, .pidfd = (uintptr_t)ret_pidfd, .exit_signal = SIGCHLD};
	long pid;

	if (cgroup_fd >= 0) {
		how.flags |= CLONE_INTO_CGROUP;
		how.cgroup = (unsigned int)cgroup_fd;
	}
	pid = syscall(SYS_clone3, &how, sizeof(how));
	return pid < 0 ? -errno : (int)pid;
}

static void sane_process(void)
{
	sigset_t none;

	(void)sigemptyset(&none);
	need(sigprocmask(SIG_SETMASK, &none, NULL), "signal mask");
	(void)signal(SIGPIPE, SIG_DFL); /* which is ignored in this program */
	need(setsid(), "session");
}

/*
 * @fds[i] becomes descriptor FIRST_FD + i, and @stderr_fd what is written to stdout and stderr
 * (-EBADF: our own stderr). Everything else is closed.
 */
static void place_fds(const int *fds, size_t n, int stderr_fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), high[HIGH_FD];

	need(null_fd, "/dev/null");
	need(dup2(null_fd, STDIN_FILENO), "stdin");
	for (size_t i = 0; i < n; i++) {
		high[i] = fds[i] < 0 ? -EBADF : fcntl(fds[i], F_DUPFD_CLOEXEC, HIGH_FD);
		if (fds[i] >= 0)
			need(high[i], "duplicate");
	}
	need(dup2(stderr_fd < 0 ? null_fd : stderr_fd, STDOUT_FILENO), "stdout");
	if (stderr_fd >= 0)
		need(dup2(stderr_fd, STDERR_FILENO), "stderr");
	need(close_range(FIRST_FD, HIGH_FD - 1, 0), "close");
	for (size_t i = 0; i < n; i++)
		if (high[i] >= 0)
			need(dup2(high[i], FIRST_FD + (int)i), "place");
	need(close_range(FIRST_FD + (unsigned int)n, ~0U, 0), "close the rest");
}

static void take_ids(const struct account *user, uid_t real, gid_t group)
{
	struct err why;

	need(priv_bound_caps(0), "bounding set");
	need(setgroups(group != 0 ? 1 : 0, &group), "groups");
	need(setresgid(user->gid, user->gid, user->gid), "gid");
	need(setresuid(real, user->uid, real), "uid");
	if (priv_prove_no_return(0, &why) < 0 || setresgid((gid_t)-1, 0, (gid_t)-1) == 0)
		give_up("root could be taken back", -EPERM);
}

static void take_user(const struct account *user, gid_t group)
{
	take_ids(user, user->uid, group);
}

/* Does not outlive us. Set after the ids, which clear it; and we may have gone before. */
static void die_with(pid_t parent)
{
	need(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "death signal");
	if (getppid() != parent)
		_exit(125);
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
static rlim_t file_limit(const struct launch *l)
{
	uint64_t mib = l->spec.disk_mib != 0 ? l->spec.disk_mib : l->setup.max_disk_mib;

	return l->spec.program == PROGRAM_PASST ? FILE_LIMIT_SMALL
						: (rlim_t)((mib + mib / 64 + 64) << 20);
}

/* When memory runs out, a guest goes before any daemon. Raising the score needs no privilege. */
static void be_first_to_go(void)
{
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, OOM_SCORE, strlen(OOM_SCORE)) < 0)
		give_up("oom_score_adj", -errno);
}

/* No core file is possible already: priv_drop() has seen to it for us and our children. */
static void set_limits(const struct launch *l)
{
	set_limit(RLIMIT_NOFILE, l->spec.program == PROGRAM_PASST ? 65536 : 1024);
	set_limit(RLIMIT_MEMLOCK, (rlim_t)spec_memlock(&l->spec));
	set_limit(RLIMIT_FSIZE, file_limit(l));
	be_first_to_go();
}

_noreturn_ static void launch_main(const struct launch *l, const struct fdlist *fds, int launch_fd,
				   pid_t parent)
{
	static char name[] = "vm-launch";
	char *const environment[] = {env_path, env_lang, NULL}, *const argv[] = {name, NULL};
	int place[FD_ROLES + 1];
	size_t next = 1; /* after FD_STDERR, which is always there */

	sane_process();
	for (size_t role = 0; role < FD_ROLES; role++) {
		bool there = role != FD_STDERR && (l->spec.roles & FD_BIT(role));

		place[role] = there ? fds->fds[next++] : -EBADF;
	}
	place[FD_ROLES] = launch_fd;
	place_fds(place, ARRAY_LEN(place), fds->fds[0]);
	set_limits(l);
	take_user(&l->setup.users[l->spec.slot], spec_wants_kvm(&l->spec) ? l->setup.kvm_gid : 0);
	if (l->spec.program == PROGRAM_QEMU_IMG || l->spec.program == PROGRAM_TRIAL)
		die_with(parent);
	(void)execve(l->setup.launch_binary, argv, environment);
	give_up(l->setup.launch_binary, -errno);
}

int child_launch(const struct launch *launch, const struct fdlist *fds, int cgroup_fd,
		 int *ret_pidfd)
{
	_cleanup_close_ int launch_fd = fd_memfd_sealed("launch", launch, sizeof(*launch));
	pid_t parent = getpid();
	int pid = launch_fd < 0 ? launch_fd : fork_child(cgroup_fd, ret_pidfd);

	if (pid == 0)
		launch_main(launch, fds, launch_fd, parent);
	return pid;
}

int child_bind(const char *path, const char *config_path, int stderr_fd, int socket_fd,
	       int *ret_pidfd)
{
	static char name[] = "vfio-bind", option[] = "--config";
	char config[DIR_TEXT_MAX * 4];
	char *const environment[] = {env_path, env_lang, NULL};
	char *const argv[] = {name, option, config, NULL};
	int pid;

	_Static_assert(BIND_FD == FIRST_FD, "the socket is the first descriptor");
	if (snprintf(config, sizeof(config), "%s", config_path) >= (int)sizeof(config))
		return -ENAMETOOLONG;
	pid = fork_child(-EBADF, ret_pidfd);
	if (pid != 0)
		return pid;
	sane_process();
	place_fds(&socket_fd, 1, stderr_fd);
	need(priv_bound_caps(BIND_CAPS), "bounding set");
	(void)execve(path, argv, environment);
	give_up(path, -errno);
}

/* The journal is told by the name of the stream that stderr is. */
static void journal_stream(char *text, size_t size)
{
	const char *value = getenv("JOURNAL_STREAM");

	(void)snprintf(text, size, "JOURNAL_STREAM=%s", value ? value : "");
}

int child_broker(const char *path, const struct config *config,
		 const int fds[static BROKER_FD_END - BROKER_FD_PAIR], int *ret_pidfd)
{
	static char name[] = "vfio-broker", stream[64];
	char *const environment[] = {env_path, env_lang, stream, NULL};
	char *const argv[] = {name, NULL};
	pid_t parent = getpid();
	int pid;

	_Static_assert((int)BROKER_FD_PAIR == FIRST_FD, "the pair is the first descriptor");
	journal_stream(stream, sizeof(stream));
	pid = fork_child(-EBADF, ret_pidfd);
	if (pid != 0)
		return pid;
	sane_process();
	place_fds(fds, BROKER_FD_END - BROKER_FD_PAIR, -EBADF);
	/* vmmon's group, so that it can give it the sockets of a VM. */
	take_user(&config->helper, config->vmmon.gid);
	die_with(parent);
	(void)execve(path, argv, environment);
	give_up(path, -errno);
}

/*
 * Whom a process may signal is told by its effective id, who may signal it by its real and its
 * saved one. These are nobody's here: else what is to be ended could stop or end this process
 * first.
 */
int child_sweep(const struct account *user)
{
	siginfo_t info = {0};
	pid_t pid = fork();

	if (pid == 0) {
		take_ids(user, NOBODYS_UID, 0);
		_exit(kill(-1, SIGKILL) == 0 || errno == ESRCH ? 0 : 1);
	}
	if (pid < 0 || waitid(P_PID, (id_t)pid, &info, WEXITED) < 0)
		return -errno;
	return info.si_code == CLD_EXITED && info.si_status == 0 ? 0 : -EIO;
}
