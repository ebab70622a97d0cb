/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log records that a hostile peer tries to forge: one call is one line, whatever is in it.
 * Trust: runs in tests only.
 */
#include "common/log.h"
#include "tests/unit/rig.h"

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

#define OUTPUT_MAX 16384

static char output[OUTPUT_MAX];

/* Runs @fn with stderr going to a pipe; what was written is in @output. */
static size_t captured(void (*fn)(const char *text), const char *text)
{
	int pipes[2], saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	ssize_t n;

	assert_int_equal(pipe2(pipes, O_CLOEXEC | O_NONBLOCK), 0);
	assert_true(saved >= 0 && dup2(pipes[1], STDERR_FILENO) == STDERR_FILENO);
	fn(text);
	assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
	(void)close(saved);
	(void)close(pipes[1]);
	memset(output, 0, sizeof(output));
	n = read(pipes[0], output, sizeof(output) - 1);
	(void)close(pipes[0]);
	return n < 0 ? 0 : (size_t)n;
}

static void log_hostile(const char *text)
{
	log_event(LOG_WARNING, "request refused", LOG_STR("PEER", text), LOG_NUM("UID", 1234));
}

static void log_hostile_message(const char *text)
{
	log_event(LOG_WARNING, text, LOG_NUM("UID", 1234));
}

static void assert_one_line(size_t n)
{
	assert_in_range(n, 20, 4096);
	assert_int_equal(output[n - 1], '\n');
	for (size_t i = 0; i + 1 < n; i++)
		assert_in_range((unsigned char)output[i], 0x20, 0x7e);
}

static void test_plain(void **state)
{
	size_t n;

	(void)state;
	n = captured(log_hostile, "agentd");
	assert_one_line(n);
	assert_non_null(
		strstr(output, "test-log: warning: request refused PEER=agentd UID=1234\n"));
	n = captured(log_hostile, "");
	assert_one_line(n);
	assert_non_null(strstr(output, " PEER=\"\" UID=1234\n"));
	n = captured(log_hostile, NULL);
	assert_non_null(strstr(output, " PEER=\"\" UID=1234\n"));
}

static void test_forged(void **state)
{
	static const char *const attacks[] = {
		"a\nJan 1 test-log: emergency: forged",
		"a\r\nforged",
		"\x1b[2J\x1b[31mforged",
		"a\" UID=0 X=\"",
		"a UID=0",
		"x=y",
		"\\x0a",
		"\xe2\x80\xae"
		"forged",
		"\x9b"
		"31m",
		"\x01\x02\x03\x7f\x80\xff",
		"\n\n\n\n",
		"\nPRIORITY=0\nMESSAGE=forged",
		"tab\there",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(attacks); i++) {
		size_t n = captured(log_hostile, attacks[i]), quotes = 0;
		const char *peer = strstr(output, " PEER=");
		const char *end;

		assert_one_line(n);
		assert_non_null(peer);
		/* The value is one word, or in quotes that nothing in it can close. */
		peer += strlen(" PEER=");
		end = *peer == '"' ? strchr(peer + 1, '"') + 1 : peer + strcspn(peer, " \n=");
		assert_string_equal(end, " UID=1234\n");
		for (size_t k = 0; k < n; k++)
			quotes += output[k] == '"';
		assert_int_equal(quotes % 2, 0);
		assert_in_range(quotes, 0, 2);
		/* As a message it stays one line, too. */
		n = captured(log_hostile_message, attacks[i]);
		assert_one_line(n);
		assert_string_equal(output + n - strlen(" UID=1234\n"), " UID=1234\n");
	}
}

/* Every byte value on its own: printable or \xNN, and distinguishable. */
static void test_every_byte(void **state)
{
	char text[4] = "a?b", want[16];

	(void)state;
	for (int byte = 1; byte < 256; byte++) {
		bool plain = byte >= 0x20 && byte <= 0x7e && byte != '\\' && byte != '"';
		bool quoted = byte == ' ' || byte == '=';

		text[1] = (char)byte;
		assert_one_line(captured(log_hostile, text));
		(void)snprintf(want, sizeof(want), plain ? "%sa%cb%s" : "%sa\\x%02xb%s",
			       quoted ? "\"" : "", byte, quoted ? "\"" : "");
		assert_true(strncmp(strstr(output, "PEER=") + 5, want, strlen(want)) == 0);
	}
}

static void log_many(const char *text)
{
	log_event(LOG_ERR, "many", LOG_STR("A", text), LOG_STR("B", text), LOG_STR("C", text),
		  LOG_STR("D", text), LOG_STR("E", text), LOG_STR("F", text), LOG_STR("G", text),
		  LOG_STR("H", text), LOG_NUM("LAST", 1));
}

static void test_long(void **state)
{
	_cleanup_free_ char *text = malloc(1 << 20);

	(void)state;
	assert_non_null(text);
	for (size_t len = 1; len < 1 << 20; len = len < 600 ? len + 1 : len * 3) {
		size_t n;

		memset(text, 'a', len);
		text[len] = '\0';
		n = captured(log_hostile, text);
		assert_one_line(n);
		/* Its own value may be cut; the fields after it are whole. */
		assert_string_equal(output + n - strlen(" UID=1234\n"), " UID=1234\n");
		memset(text, '\n', len);
		n = captured(log_hostile, text);
		assert_one_line(n);
		assert_string_equal(output + n - strlen(" UID=1234\n"), " UID=1234\n");
		assert_one_line(captured(log_many, text));
		assert_one_line(captured(log_hostile_message, text));
	}
}

static void log_levels(const char *text)
{
	for (int level = LOG_EMERG; level <= LOG_DEBUG; level++)
		log_record(level, text, NULL, 0);
}

static size_t count_lines(void)
{
	size_t lines = 0;

	for (const char *p = output; *p; p++)
		lines += *p == '\n';
	return lines;
}

static void test_levels(void **state)
{
	(void)state;
	log_open("test-log", LOG_INFO);
	(void)captured(log_levels, "level");
	assert_int_equal(count_lines(), 7);
	assert_null(strstr(output, "debug"));
	log_open("test-log", LOG_DEBUG);
	(void)captured(log_levels, "level");
	assert_int_equal(count_lines(), 8);
	assert_non_null(strstr(output, "test-log: debug: level\n"));
	log_open("test-log", LOG_INFO);
}

static void log_numbers(const char *text)
{
	log_event(LOG_INFO, text, LOG_NUM("ZERO", 0), LOG_NUM("MAX", UINT64_MAX),
		  LOG_ERRNO(-ENOENT), LOG_ERRNO(ENOENT));
}

static void log_bare(const char *text)
{
	log_event(LOG_INFO, text);
}

static void test_values(void **state)
{
	(void)state;
	assert_one_line(captured(log_numbers, "numbers"));
	assert_non_null(strstr(output, "numbers ZERO=0 MAX=18446744073709551615 "
				       "ERROR=\"No such file or directory\" ERROR=\"No such file"));
	assert_one_line(captured(log_bare, "bare"));
	assert_non_null(strstr(output, "info: bare\n"));
	for (int r = -5000; r < 5000; r++)
		assert_true(*log_errno_text(r) != '\0');
	assert_non_null(log_errno_text(INT32_MIN + 1));
	assert_string_equal(log_errno_text(-ENOSPC), log_errno_text(ENOSPC));
}

/* Stderr that cannot be written must not hurt. */
static void log_to_closed(const char *text)
{
	(void)close(STDERR_FILENO);
	log_hostile(text);
}

static void test_closed_stderr(void **state)
{
	(void)state;
	assert_int_equal(captured(log_to_closed, "a"), 0);
}

/*
 * The journal's socket has a fixed path, so the fake one needs a mount namespace of its own: a
 * child with an empty /run and itself in the journal's place.
 */
static int fake_journal(void)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX, .sun_path = "/run/systemd/journal/socket"};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", "/run", "tmpfs", 0, NULL) < 0)
		_exit(77);
	RIG_CHECK(mkdir("/run/systemd", 0755) == 0 && mkdir("/run/systemd/journal", 0755) == 0);
	RIG_CHECK(bind(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0);
	return fd;
}

/* Stderr becomes a pipe that JOURNAL_STREAM names, as under the service manager. */
static void set_journal_stream(int skew)
{
	char env[64];
	struct stat st;

	RIG_CHECK(fstat(STDERR_FILENO, &st) == 0);
	(void)snprintf(env, sizeof(env), "%llu:%llu", (unsigned long long)st.st_dev,
		       (unsigned long long)st.st_ino + (unsigned long long)skew);
	RIG_CHECK(setenv("JOURNAL_STREAM", env, 1) == 0);
}

static int speak_to_journal(void *arg)
{
	static const char want[] =
		"PRIORITY=4\nSYSLOG_IDENTIFIER=test-log\n"
		"MESSAGE=request refused PEER=\"a\\x0aPRIORITY=0\\x0a\\x1b\" UID=1234\n"
		"PEER=a\\x0aPRIORITY=0\\x0a\\x1b\n"
		"UID=1234\n";
	static char got[OUTPUT_MAX], text[100000];
	int fd = fake_journal();
	ssize_t n;

	(void)arg;
	set_journal_stream(0);
	log_open("test-log", LOG_INFO);
	log_hostile("a\nPRIORITY=0\n\x1b");
	n = rig_recv(fd, got, sizeof(got) - 1, NULL);
	RIG_CHECK(n == (ssize_t)strlen(want) && memcmp(got, want, strlen(want)) == 0);
	/* Too much for one record: every line that arrives is KEY=printable, and it ends as one. */
	memset(text, 'a', sizeof(text) - 1);
	log_many(text);
	n = rig_recv(fd, got, sizeof(got) - 1, NULL);
	RIG_CHECK(n > 0);
	for (ssize_t i = 0; i < n; i++)
		RIG_CHECK(got[i] == '\n' || (got[i] >= 0x20 && got[i] <= 0x7e));
	RIG_CHECK(got[n - 1] == '\n');
	/* A journal that does not read must not stop the daemon; stderr takes over. */
	(void)alarm(60);
	for (int i = 0; i < 3000; i++)
		log_hostile("flood");
	(void)alarm(0);
	return 0;
}

/* JOURNAL_STREAM of somebody else: stderr was redirected since. */
static int speak_beside_journal(void *arg)
{
	static char got[OUTPUT_MAX];
	int fd = fake_journal();

	(void)arg;
	set_journal_stream(1);
	log_open("test-log", LOG_INFO);
	log_hostile("a");
	RIG_CHECK(rig_recv(fd, got, sizeof(got), NULL) == -EAGAIN);
	RIG_CHECK(setenv("JOURNAL_STREAM", "garbage", 1) == 0);
	log_open("test-log", LOG_INFO);
	log_hostile("a");
	RIG_CHECK(rig_recv(fd, got, sizeof(got), NULL) == -EAGAIN);
	return 0;
}

static void run_in_child(int (*fn)(void *arg))
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	int status;

	assert_true(null >= 0 && saved >= 0);
	assert_true(dup2(null, STDERR_FILENO) >= 0);
	status = rig_in_child(fn, NULL);
	assert_true(dup2(saved, STDERR_FILENO) >= 0);
	(void)close(null);
	(void)close(saved);
	if (status == 77 << 8) {
		print_message("skipped: a fake journal needs a mount namespace\n");
		skip();
	}
	assert_int_equal(status, 0);
}

static void test_journal(void **state)
{
	(void)state;
	run_in_child(speak_to_journal);
}

static void test_not_the_journal(void **state)
{
	(void)state;
	run_in_child(speak_beside_journal);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),           cmocka_unit_test(test_forged),
		cmocka_unit_test(test_every_byte),      cmocka_unit_test(test_long),
		cmocka_unit_test(test_levels),          cmocka_unit_test(test_values),
		cmocka_unit_test(test_closed_stderr),   cmocka_unit_test(test_journal),
		cmocka_unit_test(test_not_the_journal),
	};

	log_open("test-log", LOG_INFO);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
