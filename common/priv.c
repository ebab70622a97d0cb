/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start-up stages, signals, capabilities, undumpable.
 * Trust: runs in every daemon before it reads input.
 */
#include "common/priv.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define CAP_MAX 64

static enum stage current_stage = STAGE_START;

void stage_enter(enum stage next)
{
	if (next != current_stage + 1) {
		(void)fprintf(stderr, "start-up stage %d entered from %d\n", (int)next,
			      (int)current_stage);
		abort();
	}
	current_stage = next;
}

void stage_assert_running(void)
{
	if (current_stage != STAGE_RUN) {
		(void)fprintf(stderr, "input wanted in start-up stage %d\n", (int)current_stage);
		abort();
	}
}

/* Whatever was blocked or ignored by who started us, is not; a reader that goes away is no reason
 * to die. */
static int sane_signals(struct err *reterr)
{
	struct sigaction old;
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		if (sigaction(number, NULL, &old) == 0 && old.sa_handler == SIG_IGN)
			(void)signal(number, SIG_DFL);
	(void)sigemptyset(&none);
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return err_errno(reterr, -errno, "cannot set up signals");
	return 0;
}

int priv_sane_start(int argc, unsigned int n_passed, struct err *reterr)
{
	int fd;

	if (argc < 1)
		return err_set(reterr, -EINVAL, "started without a program name");
	do {
		fd = open("/dev/null", O_RDWR | O_NOCTTY);
		if (fd < 0)
			return err_errno(reterr, -errno, "cannot open /dev/null");
	} while (fd < 3);
	(void)close(fd);
	if (close_range(3 + n_passed, ~0U, 0) < 0)
		return err_errno(reterr, -errno, "cannot close inherited descriptors");
	return sane_signals(reterr);
}

int priv_bound_caps(uint64_t keep)
{
	for (int cap = 0; cap < CAP_MAX; cap++)
		if (!(keep & UINT64_C(1) << cap) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return errno == EINVAL ? 0 : -errno; /* the kernel knows no more of them */
	return 0;
}

struct caps {
	struct __user_cap_header_struct head;
	struct __user_cap_data_struct words[2];
};

/* Permitted and effective, and nothing inheritable. */
static struct caps caps_of(uint64_t keep)
{
	struct caps caps = {.head.version = _LINUX_CAPABILITY_VERSION_3};

	for (int i = 0; i < 2; i++)
		caps.words[i].effective = caps.words[i].permitted = (uint32_t)(keep >> 32 * i);
	return caps;
}

static int apply_caps(uint64_t keep, struct err *reterr)
{
	struct caps caps = caps_of(keep);

	/* The bounding set can be lowered only with CAP_SETPCAP, which an ordinary user lacks. */
	if (geteuid() == 0 && priv_bound_caps(keep) < 0)
		return err_set(reterr, -EPERM,
			       "cannot lower the capability bounding set "
			       "(CAP_SETPCAP is needed at the start)");
	if (syscall(SYS_capset, &caps.head, caps.words) < 0)
		return err_set(reterr, -EPERM, "cannot set capabilities; are all of them granted?");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return err_errno(reterr, -errno, "cannot clear ambient capabilities");
	return 0;
}

static int check_caps(uint64_t keep, struct err *reterr)
{
	const struct caps want = caps_of(keep);
	struct caps now = caps_of(0);

	if (syscall(SYS_capget, &now.head, now.words) < 0)
		return err_set(reterr, -EPERM, "cannot read back the capabilities");
	if (memcmp(now.words, want.words, sizeof(want.words)) != 0)
		return err_set(reterr, -EPERM, "the kernel left other capabilities than asked for");
	return 0;
}

int priv_drop(uint64_t keep, struct err *reterr)
{
	const struct rlimit no_core = {0, 0};
	int r;

	if (keep == 0 && (getuid() == 0 || geteuid() == 0))
		return err_set(reterr, -EPERM,
			       "refusing to run as root: start it as its own user (the unit file "
			       "does, `setpriv --reuid` does)");
	if (setrlimit(RLIMIT_CORE, &no_core) < 0)
		return err_errno(reterr, -errno, "cannot forbid core files");
	r = apply_caps(keep, reterr);
	if (r < 0)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(reterr, -errno, "cannot set no_new_privs");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_errno(reterr, -errno, "cannot become undumpable");
	r = check_caps(keep, reterr);
	if (r < 0)
		return r;
	if (prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
		return err_set(reterr, -EPERM, "the kernel did not confine the process");
	return keep == 0 ? priv_prove_no_return(0, reterr) : 0;
}

int priv_prove_no_return(uid_t uid, struct err *reterr)
{
	if (setresuid(uid, uid, uid) == 0 || setreuid((uid_t)-1, uid) == 0 || seteuid(uid) == 0)
		return err_set(reterr, -EPERM, "uid %u could be taken back", uid);
	return 0;
}

int priv_confine(const char *name, uint64_t keep, const struct sock_filter *filter, size_t len,
		 struct err *reterr)
{
	int r;

	stage_enter(STAGE_DROP);
	r = priv_drop(keep, reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_SECCOMP);
	return priv_enter_filter(name, filter, len, reterr);
}
