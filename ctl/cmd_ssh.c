/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ssh: runs the system's ssh client with the instance's own host key pinned.
 *
 * Trust: runs as the operator; the address and the key come from the agent and are validated.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "ctl/instance.h"

#define SSH_FIXED_ARGS 32
/* A shell's convention for "command not found", kept apart from ssh's own 255. */
#define EXIT_NO_SSH    127
#define EXIT_SIGNAL    128

/*
 * A known_hosts file that exists in memory only: ssh opens it through this process's /proc/PID/fd
 * entry (it closes inherited descriptors), so nothing is left behind however this program ends.
 */
static int known_hosts_fd(const char *alias, const char *host_key)
{
	_cleanup_close_ int fd =
		memfd_create("qudata-known-hosts", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (dprintf(fd, "%s %s\n", alias, host_key) < 0)
		return -EIO;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		return -errno;
	return TAKE_FD(fd);
}

struct ssh_options {
	char known_hosts[96], host_key_alias[96], port[8], destination[512];
};

static void fill_options(struct ssh_options *o, const char *id, const struct instance_ssh *ssh,
			 int fd)
{
	snprintf(o->known_hosts, sizeof(o->known_hosts), "UserKnownHostsFile=/proc/%ld/fd/%d",
		 (long)getpid(), fd);
	snprintf(o->host_key_alias, sizeof(o->host_key_alias), "HostKeyAlias=qudata-%s", id);
	snprintf(o->port, sizeof(o->port), "%u", ssh->port);
	snprintf(o->destination, sizeof(o->destination), "%s@%s", ssh->user, ssh->host);
}

/* ssh's argument list; @rest (may be NULL) comes after the destination, where ssh still takes
 * options. */
static char **ssh_argv(const struct ssh_options *o, char **rest)
{
	const char *const fixed[] = {
		"ssh", "-o", "IgnoreUnknown=KnownHostsCommand", "-o", "StrictHostKeyChecking=yes",
		"-o", o->known_hosts, "-o", "GlobalKnownHostsFile=/dev/null", "-o",
		o->host_key_alias, "-o", "CheckHostIP=no", "-o", "UpdateHostKeys=no", "-o",
		"VerifyHostKeyDNS=no", "-o", "KnownHostsCommand=none",
		/* The guest belongs to a tenant: an agent or display is lent to it only by -A or
		   -X. */
		"-o", "ForwardAgent=no", "-o", "ForwardX11=no",
		/* A shared connection of another instance on the same port must not be reused. */
		"-o", "ControlPath=none", "-p", o->port, o->destination};
	size_t n_rest = 0, n = 0;
	char **argv;

	_Static_assert(ARRAY_LEN(fixed) < SSH_FIXED_ARGS, "room for the fixed arguments");
	while (rest && rest[n_rest])
		n_rest++;
	argv = calloc(SSH_FIXED_ARGS + n_rest + 1, sizeof(*argv));
	if (!argv)
		return NULL;
	for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
		argv[n++] = (char *)fixed[i];
	for (size_t i = 0; i < n_rest; i++)
		argv[n++] = rest[i];
	return argv;
}

static volatile sig_atomic_t child_pid;

static void forward_signal(int sig)
{
	if (child_pid > 0)
		(void)kill((pid_t)child_pid, sig);
}

/*
 * Runs ssh and returns its exit status. The terminal's signals reach ssh by themselves (same
 * process group) and are ignored here; those sent to this process alone are passed on.
 */
static int run_ssh(char **argv)
{
	const struct sigaction forward = {.sa_handler = forward_signal, .sa_flags = SA_RESTART};
	const struct sigaction ignore = {.sa_handler = SIG_IGN};
	struct sigaction old_int, old_quit;
	int status;
	pid_t pid;

	(void)sigaction(SIGINT, &ignore, &old_int);
	(void)sigaction(SIGQUIT, &ignore, &old_quit);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		(void)sigaction(SIGINT, &old_int, NULL);
		(void)sigaction(SIGQUIT, &old_quit, NULL);
		(void)execvp(argv[0], argv);
		fprintf(stderr, "qudatactl: cannot run ssh: %s\n", strerror(errno));
		_exit(EXIT_NO_SSH);
	}
	child_pid = pid;
	(void)sigaction(SIGTERM, &forward, NULL);
	(void)sigaction(SIGHUP, &forward, NULL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_SIGNAL + WTERMSIG(status);
}

static enum ctl_exit no_ssh(struct ctl *c, const struct instance *inst, int r)
{
	if (r == -EBADMSG)
		return ctl_fail(c, CTL_FAILED,
				"%s: the agent's SSH address or host key is malformed", inst->id);
	if (instance_ssh_refusal(inst) && STR_EQ(inst->status, "running"))
		return ctl_fail(c, CTL_CONFLICT, "%s cannot be reached by SSH: %.300s", inst->id,
				instance_ssh_refusal(inst));
	return ctl_fail(
		c, CTL_CONFLICT,
		"%s cannot be reached by SSH yet; it is %s%s%s\nWait for it with: qudatactl "
		"wait %s",
		inst->id, inst->status, inst->detail ? ": " : "", inst->detail ? inst->detail : "",
		inst->id);
}

static enum ctl_exit login(struct ctl *c, const struct instance *inst)
{
	_cleanup_close_ int fd = -EBADF;
	_cleanup_free_ char **argv = NULL;
	struct instance_ssh ssh;
	struct ssh_options o;
	char alias[64];
	int r = instance_read_ssh(inst, &ssh);

	/* The address is known before the guest listens there. */
	if (r == 0 && !STR_EQ(inst->status, "running"))
		r = -ENOENT;
	if (r < 0)
		return no_ssh(c, inst, r);
	snprintf(alias, sizeof(alias), "qudata-%s", inst->id);
	fd = known_hosts_fd(alias, ssh.host_key);
	if (fd < 0)
		return ctl_fail(c, CTL_FAILED, "cannot make a known_hosts file: %s", strerror(-fd));
	fill_options(&o, inst->id, &ssh, fd);
	argv = ssh_argv(&o, c->rest);
	if (!argv)
		return ctl_fail(c, CTL_FAILED, "out of memory");
	r = run_ssh(argv);
	if (r < 0)
		return ctl_fail(c, CTL_FAILED, "cannot run ssh: %s", strerror(-r));
	/* Documented: from here on the exit status is ssh's. */
	return (enum ctl_exit)r;
}

enum ctl_exit cmd_ssh(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	char id[PARSE_NAME_MAX + 1];
	struct instance inst;
	enum ctl_exit r = instance_pick(c, ctl_arg(c, 0), id);

	if (r == CTL_OK)
		r = instance_call(c, "GET", id, "", NULL, &reply);
	if (r != CTL_OK)
		return r;
	if (instance_read(reply.data, &inst) < 0)
		return ctl_fail(c, CTL_FAILED, "%s: the agent's answer describes no instance", id);
	return login(c, &inst);
}
