/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of everything that runs as a slot's user, when that fights back: it looks for the process
 * that is to end it, whose id is one of the next, and stops it first.
 * Trust: runs in tests only; as another user than root nothing is tried.
 */
#include "vfio-helper/monitor/monitor.h"

#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cmocka.h>

#define ROUNDS     200
#define AHEAD      6 /* process ids that are tried */
#define PATIENCE_S 90

static const struct account user = {.uid = 987654321, .gid = 987654321};

_noreturn_ static void fight_main(pid_t tester, int ready)
{
	pid_t me = getpid();

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (setresgid(user.gid, user.gid, user.gid) < 0 ||
	    setresuid(user.uid, user.uid, user.uid) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ||
	    getppid() != tester)
		_exit(1);
	if (write(ready, "x", 1) != 1)
		_exit(1);
	for (;;)
		for (pid_t pid = me + 1; pid <= me + AHEAD; pid++)
			(void)kill(pid, SIGSTOP);
}

static void fight_and_sweep(void)
{
	char byte;
	int pipes[2], status = 0;
	pid_t tester = getpid(), pid;

	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		fight_main(tester, pipes[1]);
	assert_int_equal(read(pipes[0], &byte, 1), 1);
	(void)close(pipes[0]);
	(void)close(pipes[1]);
	assert_int_equal(child_sweep(&user), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_fights_back(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	(void)alarm(PATIENCE_S); /* before the end of it, the sweep has been stopped */
	for (int i = 0; i < ROUNDS; i++)
		fight_and_sweep();
	(void)alarm(0);
}

/* Nobody else's process ends. */
static void test_spares_others(void **state)
{
	struct pollfd wait = {.events = POLLIN};
	pid_t pid;

	(void)state;
	if (geteuid() != 0)
		skip();
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)pause();
		_exit(0);
	}
	wait.fd = pidfd_open(pid, 0);
	assert_true(wait.fd >= 0);
	assert_int_equal(child_sweep(&user), 0);
	assert_int_equal(poll(&wait, 1, 100), 0);
	(void)kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	(void)close(wait.fd);
}

static int all_tests(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spares_others),
		cmocka_unit_test(test_fights_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

static int status_of(pid_t pid)
{
	int status = 0;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/*
 * In a PID namespace: two sweeps on one machine, of another test or of a real vfio-helper, share
 * nobody's id and would end one another. Not as its first process, which signals cannot end.
 */
int main(void)
{
	pid_t pid;
	int result;

	if (geteuid() != 0 || unshare(CLONE_NEWPID) < 0)
		return all_tests();
	pid = fork();
	if (pid != 0)
		_exit(status_of(
			pid)); /* without a leak checker, which forks: it would be lost there */
	pid = fork();
	if (pid != 0)
		_exit(status_of(pid));
	result = all_tests();
	(void)fflush(NULL);
	_exit(result);
}
