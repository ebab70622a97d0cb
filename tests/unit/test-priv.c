/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start-up stages and the giving up of privilege, checked by asking the kernel in a child.
 * Trust: runs in tests only; as root it tries everything, otherwise what an ordinary user can.
 */
#include "common/notify.h"
#include "common/priv.h"
#include "tests/unit/rig.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#define NOBODY 65534

static bool died_by(int status, int sig)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == sig;
}

static void need_root(void)
{
	if (geteuid() == 0)
		return;
	print_message("skipped: needs root\n");
	skip();
}

/* A line of /proc/self/status as a hexadecimal number. */
static unsigned long long status_line(const char *key)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/status", "re");
	unsigned long long value = ~0ULL;
	char line[256];

	RIG_CHECK(f != NULL);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
			value = strtoull(line + strlen(key) + 1, NULL, 16);
	return value;
}

static void become_nobody(void)
{
	RIG_CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0);
	RIG_CHECK(setresuid(NOBODY, NOBODY, NOBODY) == 0);
}

static void check_confined(unsigned long long caps)
{
	struct rlimit core;
	const char *line[] = {"CapEff", "CapPrm"};

	for (size_t i = 0; i < ARRAY_LEN(line); i++)
		RIG_CHECK(status_line(line[i]) == caps);
	RIG_CHECK(status_line("CapAmb") == 0);
	RIG_CHECK(status_line("CapInh") == 0);
	RIG_CHECK(status_line("NoNewPrivs") == 1);
	RIG_CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	RIG_CHECK(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
	RIG_CHECK(getrlimit(RLIMIT_CORE, &core) == 0);
	RIG_CHECK(core.rlim_cur == 0 && core.rlim_max == 0);
}

static int drop_all(void *arg)
{
	struct err err = {0};

	(void)arg;
	if (geteuid() == 0)
		become_nobody();
	RIG_CHECK(priv_drop(0, &err) == 0);
	check_confined(0);
	RIG_CHECK(setuid(0) < 0 && seteuid(0) < 0 && setresuid(0, 0, 0) < 0);
	return 0;
}

static void test_drop_all(void **state)
{
	(void)state;
	assert_int_equal(rig_in_child(drop_all, NULL), 0);
}

/* Capabilities that an ordinary user was given (ambient and inheritable, too) go as well. */
static int drop_granted(void *arg)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{0}};
	const uint32_t net = 1u << CAP_NET_BIND_SERVICE | 1u << CAP_NET_ADMIN;

	(void)arg;
	RIG_CHECK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
	become_nobody();
	data[0].effective = data[0].permitted = data[0].inheritable = net;
	RIG_CHECK(syscall(SYS_capset, &head, data) == 0);
	RIG_CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) == 0);
	RIG_CHECK(status_line("CapAmb") != 0);
	RIG_CHECK(priv_drop(0, NULL) == 0);
	check_confined(0);
	return 0;
}

static void test_drop_granted(void **state)
{
	(void)state;
	need_root();
	assert_int_equal(rig_in_child(drop_granted, NULL), 0);
}

static int refuse_root(void *arg)
{
	struct err err = {0};

	if (arg)
		RIG_CHECK(setresuid(*(int *)arg ? NOBODY : 0, *(int *)arg ? 0 : NOBODY, 0) == 0);
	RIG_CHECK(priv_drop(0, &err) == -EPERM);
	RIG_CHECK(err.text[0] != '\0');
	return 0;
}

static void test_refuse_root(void **state)
{
	int real = 0, effective = 1;

	(void)state;
	need_root();
	assert_int_equal(rig_in_child(refuse_root, NULL), 0);
	assert_int_equal(rig_in_child(refuse_root, &real), 0);
	assert_int_equal(rig_in_child(refuse_root, &effective), 0);
}

/* Real and effective id are another's but the saved one is root's: there is a way back. */
static int refuse_saved_root(void *arg)
{
	struct err err = {0};

	(void)arg;
	RIG_CHECK(setresuid(NOBODY, NOBODY, 0) == 0);
	RIG_CHECK(priv_drop(0, &err) == -EPERM);
	RIG_CHECK(strstr(err.text, "uid 0") != NULL);
	return 0;
}

static void test_saved_root(void **state)
{
	(void)state;
	need_root();
	assert_int_equal(rig_in_child(refuse_saved_root, NULL), 0);
}

static int keep_some(void *arg)
{
	const uint64_t keep = *(const uint64_t *)arg;
	struct err err = {0};

	if (priv_drop(keep, &err) != 0) {
		(void)fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	check_confined(keep);
	RIG_CHECK(status_line("CapBnd") == keep);
	if (!(keep & UINT64_C(1) << CAP_SETUID))
		RIG_CHECK(setresuid(1, 1, 1) < 0);
	return 0;
}

static void test_keep_some(void **state)
{
	uint64_t masks[] = {UINT64_C(1) << CAP_CHOWN, UINT64_C(1) << CAP_SYS_ADMIN,
			    UINT64_C(1) << CAP_CHOWN | UINT64_C(1) << CAP_SETUID |
				    UINT64_C(1) << CAP_SETGID | UINT64_C(1) << CAP_KILL,
			    UINT64_C(1) << CAP_SETPCAP | UINT64_C(1) << CAP_BPF};

	(void)state;
	need_root();
	for (size_t i = 0; i < ARRAY_LEN(masks); i++)
		assert_int_equal(rig_in_child(keep_some, &masks[i]), 0);
}

/* What is asked for must be there: neither a capability that was never granted nor an unknown. */
static int keep_missing(void *arg)
{
	struct err err = {0};

	(void)arg;
	if (geteuid() == 0)
		become_nobody();
	RIG_CHECK(priv_drop(UINT64_C(1) << CAP_SYS_ADMIN, &err) < 0);
	RIG_CHECK(err.text[0] != '\0');
	return 0;
}

static int keep_unknown(void *arg)
{
	struct err err = {0};

	(void)arg;
	RIG_CHECK(priv_drop(UINT64_C(1) << 63, &err) < 0);
	RIG_CHECK(err.text[0] != '\0');
	return 0;
}

static void test_keep_missing(void **state)
{
	(void)state;
	assert_int_equal(rig_in_child(keep_missing, NULL), 0);
	assert_int_equal(rig_in_child(keep_unknown, NULL), 0);
}

static int prove(void *arg)
{
	const uid_t *ids = arg; /* real, effective, saved, uid to come back to, does it */
	struct err err = {0};
	int r;

	RIG_CHECK(setresuid(ids[0], ids[1], ids[2]) == 0);
	r = priv_prove_no_return(ids[3], &err);
	RIG_CHECK(r == (ids[4] ? -EPERM : 0));
	RIG_CHECK((err.text[0] != '\0') == (r < 0));
	return 0;
}

static void test_prove_no_return(void **state)
{
	uid_t cases[][5] = {
		{NOBODY, NOBODY, NOBODY, 0, 0},
		{NOBODY, NOBODY, NOBODY, 1234, 0},
		{NOBODY, NOBODY, NOBODY, NOBODY, 1},
		{1234, NOBODY, NOBODY, 1234, 1},
		{NOBODY, NOBODY, 1234, 1234, 1},
		{NOBODY, 1234, NOBODY, 1234, 1},
		{NOBODY, NOBODY, 0, 0, 1},
		{0, NOBODY, NOBODY, 0, 1},
		{0, 0, 0, 1234, 1},
	};

	(void)state;
	need_root();
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_int_equal(rig_in_child(prove, cases[i]), 0);
}

static int stages(void *arg)
{
	for (const int *next = arg; *next; next++) {
		const struct rlimit no_core = {0, 0};

		(void)setrlimit(RLIMIT_CORE, &no_core);
		if (*next < 0)
			stage_assert_running();
		else
			stage_enter((enum stage) * next);
	}
	return 0;
}

static void test_stages(void **state)
{
	static int in_order[] = {STAGE_CONFIG, STAGE_OPEN, STAGE_DROP, STAGE_SECCOMP,
				 STAGE_RUN,    -1,         -1,         0};
	static int skipped[] = {STAGE_CONFIG, STAGE_OPEN, STAGE_SECCOMP, 0};
	static int straight[] = {STAGE_RUN, 0};
	static int again[] = {STAGE_CONFIG, STAGE_CONFIG, 0};
	static int back[] = {STAGE_CONFIG, STAGE_OPEN, STAGE_CONFIG, 0};
	static int early[] = {-1, 0};
	static int almost[] = {STAGE_CONFIG, STAGE_OPEN, STAGE_DROP, STAGE_SECCOMP, -1, 0};
	static int past[] = {STAGE_CONFIG, STAGE_OPEN,          STAGE_DROP, STAGE_SECCOMP,
			     STAGE_RUN,    STAGE_RUN + 1 + 100, 0};
	int *const wrong[] = {skipped, straight, again, back, early, almost, past};

	(void)state;
	assert_int_equal(rig_in_child(stages, in_order), 0);
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_true(died_by(rig_in_child(stages, wrong[i]), SIGABRT));
}

struct start {
	int closed;      /* of 0 to 2, which is closed; -1: none, 3: all */
	int inherited;   /* descriptors above 2 that are open */
	const char *pid; /* LISTEN_PID: NULL unset, "self", or a text */
	const char *fds; /* LISTEN_FDS */
	int want;        /* descriptors above 2 that must remain */
};

static int sane_start(void *arg)
{
	const struct start *s = arg;
	struct err err = {0};
	char self[32];

	(void)snprintf(self, sizeof(self), "%d", (int)getpid());
	(void)close_range(3, ~0U, 0);
	for (int i = 0; i < s->inherited; i++)
		RIG_CHECK(dup(2) >= 3);
	(void)unsetenv("LISTEN_PID");
	(void)unsetenv("LISTEN_FDS");
	if (s->pid)
		RIG_CHECK(setenv("LISTEN_PID", STR_EQ(s->pid, "self") ? self : s->pid, 1) == 0);
	if (s->fds)
		RIG_CHECK(setenv("LISTEN_FDS", s->fds, 1) == 0);
	for (int fd = 0; fd < 3; fd++)
		if (s->closed == fd || s->closed == 3)
			(void)close(fd);
	if (priv_sane_start(1, notify_listen_begin(), &err) != 0)
		return 1;
	for (int fd = 0; fd < 3; fd++)
		if (fcntl(fd, F_GETFD) != 0) /* open, and not close-on-exec */
			return 2;
	for (int fd = 3; fd < 200; fd++)
		if ((fcntl(fd, F_GETFD) >= 0) != (fd < 3 + s->want))
			return fd;
	return 0;
}

static void test_sane_start(void **state)
{
	static struct start cases[] = {
		{-1, 0, NULL, NULL, 0},
		{-1, 40, NULL, NULL, 0},
		{0, 0, NULL, NULL, 0},
		{1, 5, NULL, NULL, 0},
		{2, 5, NULL, NULL, 0},
		{3, 0, NULL, NULL, 0},
		{3, 40, NULL, NULL, 0},
		{-1, 40, "self", "2", 2},
		{0, 40, "self", "2", 2},
		{3, 2, "self", "2", 2},
		{-1, 40, "self", "0", 0},
		/* What the service manager passed to somebody else is merely inherited. */
		{-1, 40, NULL, "30", 0},
		{-1, 40, "1", "30", 0},
		{-1, 40, "", "30", 0},
		{-1, 40, "x", "30", 0},
		{-1, 40, "self", NULL, 0},
		{-1, 40, "self", "", 0},
		{-1, 40, "self", "-5", 0},
		{-1, 40, "self", "2x", 0},
		{-1, 40, "self", " 2", 0},
		{-1, 40, "self", "99999999999999999999", 0},
		{-1, 40, "self", "4294967297", 0},
	};
	struct err err = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		int status = rig_in_child(sane_start, &cases[i]);

		if (status != 0)
			fail_msg("case %zu: status %#x", i, (unsigned int)status);
	}
	assert_int_equal(priv_sane_start(0, notify_listen_begin(), &err), -EINVAL);
	assert_true(err.text[0] != '\0');
}

static const struct sock_filter kill_getppid[] = {
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

static int enter_filter(void *arg)
{
	struct err err = {0};

	(void)arg;
	RIG_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	RIG_CHECK(priv_enter_filter("test", kill_getppid, 0, &err) == 0); /* off: no filter */
	(void)getppid();
	RIG_CHECK(priv_enter_filter("test", kill_getppid, ARRAY_LEN(kill_getppid), &err) == 0);
	RIG_CHECK(status_line("Seccomp") == SECCOMP_MODE_FILTER);
	(void)getpid();
	(void)syscall(SYS_getppid);
	return 0;
}

static int enter_without_nnp(void *arg)
{
	struct err err = {0};

	(void)arg;
	if (geteuid() == 0)
		become_nobody();
	RIG_CHECK(priv_enter_filter("the-name", kill_getppid, ARRAY_LEN(kill_getppid), &err) < 0);
	RIG_CHECK(strstr(err.text, "the-name") != NULL);
	return 0;
}

static int enter_broken(void *arg)
{
	static const struct sock_filter no_return[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0)};

	(void)arg;
	RIG_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	RIG_CHECK(priv_enter_filter("test", no_return, 1, NULL) < 0);
	/* A length that fits 16 bits only when cut must not load the first part. */
	RIG_CHECK(priv_enter_filter("test", kill_getppid, 65536 + 4, NULL) < 0);
	(void)getppid();
	return 0;
}

static void test_enter_filter(void **state)
{
	(void)state;
	assert_true(died_by(rig_in_child(enter_filter, NULL), SIGSYS));
	assert_int_equal(rig_in_child(enter_without_nnp, NULL), 0);
	assert_int_equal(rig_in_child(enter_broken, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_drop_all),        cmocka_unit_test(test_drop_granted),
		cmocka_unit_test(test_refuse_root),     cmocka_unit_test(test_saved_root),
		cmocka_unit_test(test_keep_some),       cmocka_unit_test(test_keep_missing),
		cmocka_unit_test(test_prove_no_return), cmocka_unit_test(test_stages),
		cmocka_unit_test(test_sane_start),      cmocka_unit_test(test_enter_filter),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
