/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Acts of vfio-bind as the broker waits for them: answers, nonsense, death, hanging. The other
 * side of the pair, and vfio-bind, are scripted here.
 * Trust: runs in tests only.
 */
#include "common/fd.h"
#include "common/ipc.h"
#include "vfio-helper/broker/broker.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#define BIND_MS     100
#define PATIENCE_MS 60000

enum script {
	ANSWER,  /* as bind.h says */
	GARBAGE, /* other bytes */
	SHORT,   /* an answer that ends early */
	OTHER,   /* the answer to another act */
	STATUS,  /* a status that there is none of */
	DEVICES, /* more devices than there may be */
	DIE,     /* no answer */
	HANG,    /* neither an answer nor an end */
};

static struct broker broker;
static enum script script;
static pid_t monitor_pid;
static struct bind_answer got;
static int n_done;

_noreturn_ static void bind_main(int fd)
{
	struct bind_answer answer = {.status = PROTO_OK, .done = 7, .why = "because"};
	struct proto_header header = {.op = BIND_TAKE, .kind = PROTO_REPLY, .request_id = 1};
	_cleanup_(fdlist_done) struct fdlist none = {0};
	uint8_t buf[PROTO_MSG_MAX];

	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (script == HANG)
		(void)pause();
	if (ipc_recv(fd, buf, sizeof(buf), &none) !=
	    (ssize_t)(sizeof(header) + sizeof(struct bind_request)))
		_exit(3);
	header.op += script == OTHER;
	answer.status = script == STATUS ? PROTO_STATUS_COUNT : PROTO_OK;
	answer.n_devices = script == DEVICES ? PROTO_MAX_DEVICES + 1 : 0;
	header.len = script == GARBAGE ? 5 : (uint32_t)sizeof(answer) - (script == SHORT);
	if (script != DIE)
		(void)ipc_send(fd, &header, &answer, NULL, 0);
	_exit(0);
}

static int spawn(int fd, int *ret_pidfd)
{
	pid_t pid = fork();

	if (pid == 0)
		bind_main(fd);
	*ret_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	return pid;
}

/* vfio-helper, as far as it is needed here: BIND and REAP. */
_noreturn_ static void monitor_main(int fd)
{
	for (;;) {
		_cleanup_(fdlist_done) struct fdlist fds = {0};
		_cleanup_close_ int pidfd = -EBADF;
		struct pair_answer answer = {.exit_kind = PROTO_EXIT_UNKNOWN};
		struct proto_header header;
		uint8_t buf[PROTO_MSG_MAX];
		struct pollfd wait = {.fd = fd, .events = POLLIN};
		ssize_t n;

		(void)poll(&wait, 1, -1);
		n = ipc_recv_fds(fd, buf, sizeof(buf), &fds, 2);
		if (n < (ssize_t)sizeof(header))
			_exit(0);
		memcpy(&header, buf, sizeof(header));
		if (header.op == PAIR_BIND) {
			answer.result = spawn(fds.fds[1], &pidfd);
		} else if (header.op == PAIR_REAP) {
			siginfo_t info = {0};

			(void)waitid(P_ALL, 0, &info, WEXITED);
			answer.exit_kind = PROTO_EXIT_CODE;
		}
		header.len = sizeof(answer);
		(void)ipc_send(fd, &header, &answer, &pidfd, pidfd >= 0 ? 1 : 0);
	}
}

static void on_done(struct broker *b, struct act *a, const struct bind_answer *answer, int *fd)
{
	(void)b;
	assert_string_equal(a->vm, "vm-1");
	assert_int_equal(*fd, -EBADF);
	got = *answer;
	n_done++;
}

static void begin(enum script which)
{
	int pair[2];

	script = which;
	n_done = 0;
	/* Only who hangs is to be given up. */
	broker = (struct broker){
		.setup = {.gpus = true, .bind_ms = which == HANG ? BIND_MS : PATIENCE_MS}};
	broker.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	monitor_pid = fork();
	if (monitor_pid == 0) {
		(void)close(pair[0]);
		monitor_main(pair[1]);
	}
	(void)close(pair[1]);
	broker.monitor.fd = pair[0];
}

static void end(void)
{
	(void)close(broker.monitor.fd);
	(void)close(broker.epoll_fd);
	(void)kill(monitor_pid, SIGKILL);
	(void)waitpid(monitor_pid, NULL, 0);
}

static bool idle(void)
{
	for (size_t i = 0; i < ACT_MAX; i++)
		if (broker.acts[i].used)
			return false;
	return true;
}

/* One turn of the loop, as loop_run() makes it. */
static void turn(int timeout_ms)
{
	struct epoll_event event;

	if (epoll_wait(broker.epoll_fd, &event, 1, timeout_ms) == 1) {
		struct watch *w = event.data.ptr;

		if (w->fn)
			w->fn(&broker, w->arg);
	}
	act_expire(&broker, loop_now_ms());
}

static void turn_until_idle(void)
{
	for (int i = 0; i < PATIENCE_MS / 20 && !idle(); i++)
		turn(20);
	assert_true(idle());
}

static enum proto_status take(void)
{
	struct bind_request req = {.version = BIND_VERSION, .act = BIND_TAKE};

	assert_int_equal(proto_name_set(req.vm, "vm-1"), 0);
	return act_start(&broker, &req, NULL, on_done);
}

static void test_answers(void **state)
{
	static const enum script nonsense[] = {GARBAGE, SHORT, OTHER, STATUS, DEVICES, DIE};

	(void)state;
	begin(ANSWER);
	assert_int_equal(take(), PROTO_OK);
	assert_true(act_of_vm(&broker, "vm-1"));
	assert_false(act_of_vm(&broker, "vm-2"));
	turn_until_idle();
	assert_int_equal(n_done, 1);
	assert_int_equal(got.status, PROTO_OK);
	assert_int_equal(got.done, 7);
	end();
	for (size_t i = 0; i < ARRAY_LEN(nonsense); i++) {
		begin(nonsense[i]);
		assert_int_equal(take(), PROTO_OK);
		turn_until_idle();
		assert_int_equal(n_done, 1);
		assert_int_equal(got.status, PROTO_FAILED);
		end();
	}
}

/* Given up at its deadline: answered for, left alone, and collected should it ever end. */
static void test_hanging(void **state)
{
	pid_t pid = 0;

	(void)state;
	begin(HANG);
	assert_int_equal(take(), PROTO_OK);
	for (size_t i = 0; i < ACT_MAX; i++)
		if (broker.acts[i].used)
			pid = broker.acts[i].child.pid;
	for (int i = 0; i < PATIENCE_MS / 10 && n_done == 0; i++)
		turn(10);
	assert_int_equal(n_done, 1);
	assert_int_equal(got.status, PROTO_TIMEOUT);
	assert_false(act_of_vm(&broker, "vm-1"));
	assert_false(idle());
	assert_int_equal(kill(pid, 0), 0);
	assert_int_equal(kill(pid, SIGKILL), 0);
	turn_until_idle();
	assert_int_equal(n_done, 1);
	end();
}

/* Those that hang fill the table, and then no more are started; what is about no VM earlier. */
static void test_full(void **state)
{
	const struct bind_request list = {.version = BIND_VERSION, .act = BIND_LIST};
	int started = 0;

	(void)state;
	begin(HANG);
	broker.setup.bind_ms = 100000;
	for (; take() == PROTO_OK; started++)
		if (started == ACT_MAX - PROTO_MAX_VMS)
			assert_int_equal(act_start(&broker, &list, NULL, on_done), PROTO_BUSY);
	assert_int_equal(started, ACT_MAX);
	for (size_t i = 0; i < ACT_MAX; i++)
		assert_int_equal(kill(broker.acts[i].child.pid, SIGKILL), 0);
	turn_until_idle();
	assert_int_equal(n_done, ACT_MAX);
	end();
	begin(ANSWER);
	broker.setup.gpus = false;
	assert_int_equal(take(), PROTO_DENIED);
	assert_int_equal(act_start(&broker, &list, NULL, on_done), PROTO_DENIED);
	end();
}

/* The child's part of test_helper_gone(): the act has ended, and who could tell how has gone. */
_noreturn_ static void collect_without_monitor(void)
{
	turn_until_idle();
	_exit(n_done == 0 ? 0 : 9);
}

/* That vfio-helper has gone is no failure of what was asked: the broker ends and tells nobody. */
static void test_helper_gone(void **state)
{
	int status = 0;
	pid_t pid;

	(void)state;
	begin(ANSWER);
	assert_int_equal(take(), PROTO_OK);
	(void)kill(monitor_pid, SIGKILL);
	(void)waitpid(monitor_pid, NULL, 0);
	pid = fork();
	if (pid == 0)
		collect_without_monitor();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 1);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_hanging),
		cmocka_unit_test(test_full),
		cmocka_unit_test(test_helper_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
