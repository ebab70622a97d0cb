/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service manager's protocols, with this test in the manager's place.
 * Trust: runs in tests only.
 */
#include "common/notify.h"
#include "tests/unit/rig.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#define FIRST 3

/* Everything is tried in children: both the environment and descriptors 3 and up are global. */
struct passed {
	const char *pid; /* NULL: unset, "self": the child's own */
	const char *fds;
	const char *names;
	const char *ask;
	int type;
	int want; /* result of notify_listen_fd() */
};

static int listening(int type)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type, 0);

	RIG_CHECK(fd >= 0);
	RIG_CHECK(bind(fd, (struct sockaddr *)&sun, sizeof(sa_family_t)) == 0);
	RIG_CHECK(type == SOCK_DGRAM || listen(fd, 1) == 0);
	return fd;
}

/* 3 stream, 4 seqpacket, 5 datagram, 6 not listening, 7 a file, 8 nothing. */
static void pass_descriptors(void)
{
	int fds[5] = {listening(SOCK_STREAM), listening(SOCK_SEQPACKET), listening(SOCK_DGRAM),
		      socket(AF_UNIX, SOCK_STREAM, 0), open("/dev/null", O_RDONLY)};

	for (int i = 0; i < 5; i++)
		RIG_CHECK(fcntl(fds[i], F_DUPFD, 50) >= 0);
	RIG_CHECK(close_range(FIRST, 49, 0) == 0);
	for (int i = 0; i < 5; i++)
		RIG_CHECK(dup2(50 + i, FIRST + i) == FIRST + i);
	RIG_CHECK(close_range(50, ~0U, 0) == 0);
}

static void set_or_unset(const char *name, const char *value)
{
	if (value)
		RIG_CHECK(setenv(name, value, 1) == 0);
	else
		RIG_CHECK(unsetenv(name) == 0);
}

static int ask_for_one(void *arg)
{
	const struct passed *p = arg;
	char self[32];
	int r;

	(void)snprintf(self, sizeof(self), "%d", (int)getpid());
	pass_descriptors();
	set_or_unset("LISTEN_PID", p->pid && STR_EQ(p->pid, "self") ? self : p->pid);
	set_or_unset("LISTEN_FDS", p->fds);
	set_or_unset("LISTEN_FDNAMES", p->names);
	notify_listen_begin();
	r = notify_listen_fd(p->ask, p->type);
	if (r != p->want) {
		(void)fprintf(stderr, "%s of %s: got %d, expected %d\n", p->ask,
			      p->names ? p->names : "(null)", r, p->want);
		return 1;
	}
	if (r >= 0) {
		RIG_CHECK(fcntl(r, F_GETFD) & FD_CLOEXEC);
		RIG_CHECK(fcntl(r, F_GETFL) & O_NONBLOCK);
		RIG_CHECK(notify_listen_fd(p->ask, p->type) == -ENOENT); /* it was taken */
	}
	notify_listen_done();
	RIG_CHECK(!getenv("LISTEN_PID") && !getenv("LISTEN_FDS") && !getenv("LISTEN_FDNAMES"));
	RIG_CHECK(notify_listen_fd(p->ask, p->type) == -ENOENT);
	return 0;
}

static void test_listen_fds(void **state)
{
	static struct passed cases[] = {
		{"self", "2", "http:ctl", "http", SOCK_STREAM, 3},
		{"self", "2", "http:ctl", "ctl", SOCK_SEQPACKET, 4},
		{"self", "1", "http", "http", SOCK_STREAM, 3},
		{"self", "2", ":ctl", "ctl", SOCK_SEQPACKET, 4},
		{"self", "2", "http:http", "http", SOCK_STREAM, 3},
		{"self", "2", "ctl:http:", "http", SOCK_SEQPACKET, 4},
		/* Not a name, a part of one, or a name beyond the number of descriptors. */
		{"self", "2", "http:ctl", "htt", SOCK_STREAM, -ENOENT},
		{"self", "2", "http:ctl", "httpd", SOCK_STREAM, -ENOENT},
		{"self", "2", "http:ctl", "ttp", SOCK_STREAM, -ENOENT},
		{"self", "2", "http:ctl", "http:ctl", SOCK_STREAM, -ENOENT},
		{"self", "2", "http:ctl", "HTTP", SOCK_STREAM, -ENOENT},
		{"self", "1", "http:ctl", "ctl", SOCK_SEQPACKET, -ENOENT},
		{"self", "0", "http", "http", SOCK_STREAM, -ENOENT},
		/* Not for this process, or numbers that are none. */
		{NULL, "1", "http", "http", SOCK_STREAM, -ENOENT},
		{"1", "1", "http", "http", SOCK_STREAM, -ENOENT},
		{"", "1", "http", "http", SOCK_STREAM, -ENOENT},
		{"0", "1", "http", "http", SOCK_STREAM, -ENOENT},
		{"self", NULL, "http", "http", SOCK_STREAM, -ENOENT},
		{"self", "", "http", "http", SOCK_STREAM, -ENOENT},
		{"self", "-1", "http", "http", SOCK_STREAM, -ENOENT},
		{"self", "1x", "http", "http", SOCK_STREAM, -ENOENT},
		{"self", " 1", "http", "http", SOCK_STREAM, -ENOENT},
		{"self", "99999999999999999999", "http", "http", SOCK_STREAM, -ENOENT},
		{"self", "2", NULL, "http", SOCK_STREAM, -ENOENT},
		{"self", "2", "", "http", SOCK_STREAM, -ENOENT},
		/* There, but not what is wanted. */
		{"self", "2", "http:ctl", "http", SOCK_SEQPACKET, -EINVAL},
		{"self", "2", "http:ctl", "ctl", SOCK_STREAM, -EINVAL},
		{"self", "6", "a:b:dgram:idle:file:none", "dgram", SOCK_STREAM, -EINVAL},
		{"self", "6", "a:b:dgram:idle:file:none", "idle", SOCK_STREAM, -EINVAL},
		{"self", "6", "a:b:dgram:idle:file:none", "file", SOCK_STREAM, -EINVAL},
		{"self", "6", "a:b:dgram:idle:file:none", "none", SOCK_STREAM, -ENOENT},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_int_equal(rig_in_child(ask_for_one, &cases[i]), 0);
}

/* A LISTEN_PID that is this process's only modulo 2^32 or with a tail is another's. */
static int ask_with_odd_pids(void *arg)
{
	char text[64];

	(void)arg;
	pass_descriptors();
	RIG_CHECK(setenv("LISTEN_FDS", "1", 1) == 0 && setenv("LISTEN_FDNAMES", "http", 1) == 0);
	for (int i = 0; i < 4; i++) {
		(void)snprintf(text, sizeof(text),
			       i == 0   ? "%dx"
			       : i == 1 ? " %d"
					: "-%d",
			       (int)getpid());
		if (i == 3)
			(void)snprintf(text, sizeof(text), "%llu",
				       (1ULL << 32) + (unsigned long long)getpid());
		RIG_CHECK(setenv("LISTEN_PID", text, 1) == 0);
		RIG_CHECK(notify_listen_fd("http", SOCK_STREAM) == -ENOENT);
	}
	return 0;
}

static void test_listen_pid(void **state)
{
	(void)state;
	assert_int_equal(rig_in_child(ask_with_odd_pids, NULL), 0);
}

struct manager {
	int fd;
	const char *env;
};

static struct manager manager_open(const char *path)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	struct manager m = {socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), path};
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));

	assert_true(m.fd >= 0 && strlen(path) < sizeof(sun.sun_path));
	memcpy(sun.sun_path, path, strlen(path));
	if (path[0] == '@')
		sun.sun_path[0] = '\0';
	assert_int_equal(bind(m.fd, (struct sockaddr *)&sun, len), 0);
	return m;
}

static int speak(void *arg)
{
	char longer[600];

	RIG_CHECK(setenv("NOTIFY_SOCKET", arg, 1) == 0);
	notify_open();
	RIG_CHECK(!getenv("NOTIFY_SOCKET"));
	notify_ready("up and running");
	notify_ready(NULL);
	notify_status("3 VMs");
	memset(longer, 's', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	notify_status(longer);
	notify_stopping();
	return 0;
}

static void expect(const struct manager *m, const char *want)
{
	char got[1024] = "";
	ssize_t n = rig_recv(m->fd, got, sizeof(got) - 1, NULL);

	assert_int_equal(n, strlen(want));
	assert_string_equal(got, want);
}

static void expect_conversation(struct manager m)
{
	char got[1024] = "";
	ssize_t n;

	assert_int_equal(rig_in_child(speak, m.env), 0);
	expect(&m, "READY=1\nSTATUS=up and running");
	expect(&m, "READY=1\n");
	expect(&m, "STATUS=3 VMs");
	n = rig_recv(m.fd, got, sizeof(got) - 1, NULL);
	assert_in_range(n, 100, 600);
	assert_int_equal(strspn(got + 7, "s"), n - 7); /* cut, with nothing strange at the end */
	expect(&m, "STOPPING=1");
	assert_int_equal(rig_recv(m.fd, got, sizeof(got), NULL), -EAGAIN);
	(void)close(m.fd);
}

static void test_notify_path(void **state)
{
	(void)state;
	expect_conversation(manager_open(rig_path("notify")));
}

static void test_notify_abstract(void **state)
{
	char name[80];

	(void)state;
	(void)snprintf(name, sizeof(name), "@qudata-test-notify/%d", (int)getpid());
	expect_conversation(manager_open(name));
}

/* The longest path that fits, whose last byte is not a NUL. */
static void test_notify_long_path(void **state)
{
	char name[109] = "@";

	(void)state;
	memset(name + 1, 'n', 106);
	(void)snprintf(name + 90, sizeof(name) - 90, "%017d", (int)getpid());
	assert_int_equal(strlen(name), 107);
	expect_conversation(manager_open(name));
}

static int speak_into_nothing(void *arg)
{
	size_t n_fds = rig_count_fds();

	(void)arg;
	if (arg)
		RIG_CHECK(setenv("NOTIFY_SOCKET", arg, 1) == 0);
	else
		RIG_CHECK(unsetenv("NOTIFY_SOCKET") == 0);
	notify_open();
	RIG_CHECK(!getenv("NOTIFY_SOCKET"));
	notify_ready("nobody hears it");
	notify_status("nobody hears it");
	notify_stopping();
	RIG_CHECK(rig_count_fds() == n_fds);
	return 0;
}

static void test_no_manager(void **state)
{
	char huge[300];

	(void)state;
	memset(huge, '/', sizeof(huge) - 1);
	huge[sizeof(huge) - 1] = '\0';
	assert_int_equal(rig_in_child(speak_into_nothing, NULL), 0);
	assert_int_equal(rig_in_child(speak_into_nothing, ""), 0);
	assert_int_equal(rig_in_child(speak_into_nothing, "@"), 0);
	assert_int_equal(rig_in_child(speak_into_nothing, "/"), 0);
	assert_int_equal(rig_in_child(speak_into_nothing, "relative/path"), 0);
	assert_int_equal(rig_in_child(speak_into_nothing, "/nonexistent/notify"), 0);
	assert_int_equal(rig_in_child(speak_into_nothing, huge), 0);
}

/* The manager goes away, or does not read: the daemon neither dies nor waits. */
static int speak_to_the_deaf(void *arg)
{
	(void)alarm(60);
	RIG_CHECK(setenv("NOTIFY_SOCKET", arg, 1) == 0);
	notify_open();
	for (int i = 0; i < 5000; i++)
		notify_status("nobody reads it");
	return 0;
}

static void test_deaf_manager(void **state)
{
	struct manager m = manager_open(rig_path("deaf"));

	(void)state;
	assert_int_equal(rig_in_child(speak_to_the_deaf, m.env), 0);
	(void)close(m.fd);
	assert_int_equal(rig_in_child(speak_into_nothing, rig_path("deaf")), 0);
}

static int teardown(void **state)
{
	(void)state;
	rig_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_listen_fds),       cmocka_unit_test(test_listen_pid),
		cmocka_unit_test(test_notify_path),      cmocka_unit_test(test_notify_abstract),
		cmocka_unit_test(test_notify_long_path), cmocka_unit_test(test_no_manager),
		cmocka_unit_test(test_deaf_manager),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}
