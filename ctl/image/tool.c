/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs that read a stranger's bytes: run as a user without files, in namespaces of their own,
 * with limits, a filter of system calls, and nothing but the descriptors that they are given.
 *
 * Trust: runs as root until it has become that user; reads what the program prints.
 */
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <grp.h>

#include "common/log.h"
#include "common/priv.h"
#include "ctl/image/image.h"
#include "tool.filter.h"

#define POLL_MS       200 /* until an interrupt is noticed */
#define CPU_SECONDS   3600
#define MEMORY_BYTES  (UINT64_C(2) << 30)
#define OPEN_FILES    64
#define PARK_FD       100 /* above all that is placed */
#define EXIT_CONFINED 126

/* The first that exists: one that nobody else runs as, or the one that owns nothing. */
static const char *const accounts[] = {"qudata-image", "nobody"};

static int take_account(struct err *reterr)
{
	const struct passwd *pw = NULL;

	for (size_t i = 0; i < ARRAY_LEN(accounts) && !pw; i++)
		pw = getpwnam(accounts[i]);
	if (!pw || pw->pw_uid == 0)
		return err_set(reterr, -ENOENT, "there is no account %s", accounts[0]);
	if (setgroups(0, NULL) < 0 || setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) < 0 ||
	    setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid) < 0)
		return err_errno(reterr, -errno, "cannot become %s", pw->pw_name);
	return 0;
}

static int limit(int resource, uint64_t value, struct err *reterr)
{
	const struct rlimit limits = {value, value};

	return setrlimit((__rlimit_resource_t)resource, &limits) < 0
		       ? err_errno(reterr, -errno, "limits")
		       : 0;
}

int tool_become_nobody(uint64_t max_bytes, struct err *reterr)
{
	int r;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return err_errno(reterr, -errno, "parent's death");
	r = limit(RLIMIT_FSIZE, max_bytes, reterr);
	if (r == 0)
		r = limit(RLIMIT_CPU, CPU_SECONDS, reterr);
	if (r == 0)
		r = limit(RLIMIT_NOFILE, OPEN_FILES, reterr);
	if (r == 0 && geteuid() == 0)
		r = take_account(reterr);
	if (r == 0)
		r = priv_drop(0, reterr);
	/* A change of ids forgets it. */
	if (r == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		r = err_errno(reterr, -errno, "parent's death");
	return r;
}

/* Descriptors to their places; those that are in the way of others were parked before. */
static int place_fds(const struct tool *t, int out)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int parked[4];

	if (null < 0 || t->n_fds > ARRAY_LEN(parked))
		return -EMFILE;
	for (size_t i = 0; i < t->n_fds; i++) {
		parked[i] = fcntl(t->fds[i], F_DUPFD_CLOEXEC, PARK_FD);
		if (parked[i] < 0)
			return -errno;
	}
	if (dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
	    dup2(out, STDERR_FILENO) < 0)
		return -errno;
	for (size_t i = 0; i < t->n_fds; i++)
		if (dup2(parked[i], TOOL_FD(i)) < 0)
			return -errno;
	return close_range((unsigned int)TOOL_FD(t->n_fds), ~0U, 0) < 0 ? -errno : 0;
}

_noreturn_ static void run_child(const struct tool *t, int out)
{
	char path[] = "PATH=/usr/bin:/bin", locale[] = "LC_ALL=C";
	char *const envp[] = {path, locale, NULL};
	struct err err = {.text = "descriptors"};

	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);
	if (place_fds(t, out) < 0 || tool_become_nobody(t->max_bytes, &err) < 0 ||
	    limit(RLIMIT_AS, MEMORY_BYTES, &err) < 0 ||
	    priv_enter_filter("tool", filter_tool, filter_tool_len, &err) < 0) {
		(void)dprintf(STDERR_FILENO, "cannot be confined: %s\n", err.text);
		_exit(EXIT_CONFINED);
	}
	(void)execve(t->program, (char *const *)t->argv, envp);
	(void)dprintf(STDERR_FILENO, "%s\n", strerror(errno));
	_exit(127);
}

/*
 * A process in namespaces of its own, apart from others and from the network: with it ends whatever
 * it has started. Who is not root may not make them, and has to do without, with nothing at stake
 * but what is their own; root gets them, or no process: its programs are to have no one else's.
 * Returns as fork() does, or a negative errno.
 */
static pid_t fork_apart(struct err *reterr)
{
	long pid = syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | SIGCHLD, NULL,
			   NULL, NULL, NULL);

	if (pid < 0 && geteuid() != 0)
		pid = fork();
	return pid < 0 ? err_errno(reterr, -errno,
				   "cannot start a program in namespaces of its own (root needs "
				   "CAP_SYS_ADMIN for that, which containers often lack)")
		       : (pid_t)pid;
}

struct lines {
	char *text; /* the last line that has something in it */
	size_t size, len;
	char line[256];
};

static void take_output(const struct tool *t, struct lines *l, const char *data, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		double pct;

		if (data[i] != '\n' && data[i] != '\r') {
			if (l->len < sizeof(l->line) - 1)
				l->line[l->len++] = data[i];
			continue;
		}
		l->line[l->len] = '\0';
		if (t->progress && sscanf(l->line, " (%lf/100%%)", &pct) == 1 && pct >= 0 &&
		    pct <= 100)
			progress_update(t->progress,
					(uint64_t)(pct / 100 * (double)t->progress->total));
		else if (l->len > 0)
			(void)snprintf(l->text, l->size, "%s", l->line);
		l->len = 0;
	}
}

/* Reads until the end of its output, or until we are interrupted. */
static int follow(const struct tool *t, int fd, struct lines *l)
{
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		char data[4096];
		ssize_t n;

		if (interrupted())
			return -EINTR;
		if (poll(&p, 1, POLL_MS) <= 0)
			continue;
		n = read(fd, data, sizeof(data));
		if (n == 0)
			break;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			take_output(t, l, data, (size_t)n);
	}
	take_output(t, l, "\n", 1);
	return 0;
}

int tool_run(const struct tool *t, char *ret_text, size_t size, struct err *reterr)
{
	struct lines lines = {.text = ret_text, .size = size};
	_cleanup_close_ int in = -EBADF, out = -EBADF;
	int fds[2], status, r;
	pid_t pid;

	ret_text[0] = '\0';
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(reterr, -errno, "pipe");
	in = fds[0];
	out = fds[1];
	(void)fflush(NULL);
	pid = fork_apart(reterr);
	if (pid < 0)
		return pid;
	if (pid == 0)
		run_child(t, out);
	out = safe_close(out);
	r = follow(t, in, &lines);
	if (r < 0)
		(void)kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(reterr, -errno, "cannot wait for %s", t->program);
	if (r < 0)
		return err_errno(reterr, r, "%s", t->program);
	if (WIFSIGNALED(status))
		return err_set(reterr, -EIO, "%s was ended by signal %d%s%s", t->program,
			       WTERMSIG(status), ret_text[0] ? ": " : "", ret_text);
	if (WEXITSTATUS(status) == EXIT_CONFINED || WEXITSTATUS(status) == 127)
		return err_set(reterr, -EIO, "%s: %s", t->program, ret_text);
	return WEXITSTATUS(status);
}
