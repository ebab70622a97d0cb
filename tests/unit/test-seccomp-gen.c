/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filter generator: what it must refuse, so that no line of a list is ignored in silence.
 * Usage: test-seccomp-gen SECCOMP-GEN
 * Trust: runs in tests only.
 */
#include "common/fd.h"
#include "tests/unit/rig.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/wait.h>

#include <cmocka.h>

static const char *generator;
static const char *mode;

static int generate(void *arg)
{
	int null = open("/dev/null", O_WRONLY);

	(void)dup2(null, STDERR_FILENO);
	(void)execl(generator, generator, mode, rig_dir(), arg, rig_path("out.h"), (char *)NULL);
	return 126;
}

/* Exit status of the generator over a list of that text. */
static int run(const char *with_mode, const char *text)
{
	_cleanup_close_ int dir = open(rig_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int status;

	assert_int_equal(fd_replace_file(dir, "a-list.allow", text, strlen(text), 0600), 0);
	(void)unlinkat(dir, "out.h", 0);
	mode = with_mode;
	status = rig_in_child(generate, rig_path("a-list.allow"));
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void read_header(char *text, size_t size)
{
	_cleanup_close_ int dir = open(rig_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd_read_file(dir, "out.h", text, size) > 0);
}

static void test_good(void **state)
{
	static char text[64 * 1024];

	(void)state;
	assert_int_equal(run("kill", "# comment\n\nread # why() needs it\n"
				     "mprotect arg2 & 4 == 0 # why()\n"
				     "socket\targ0 == 1\t# why()\n"
				     "ioctl arg1 == 0xAE80 # why()"),
			 0);
	read_header(text, sizeof(text));
	assert_non_null(strstr(text, "static const struct sock_filter filter_a_list[] = {"));
	assert_non_null(strstr(text, "filter_a_list_len = "));
	assert_null(strstr(text, "filter_a_list_len = 0;"));
	assert_int_equal(run("log", "read # why()\n"), 0);
	assert_int_equal(run("off", "read # why()\n"), 0);
	read_header(text, sizeof(text));
	assert_non_null(strstr(text, "filter_a_list_len = 0;"));
}

static void test_includes(void **state)
{
	_cleanup_close_ int dir = open(rig_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)state;
	assert_int_equal(fd_replace_file(dir, "good.allow", "write # why()\n", 14, 0600), 0);
	assert_int_equal(fd_replace_file(dir, "bad.allow", "write\n", 6, 0600), 0);
	assert_int_equal(run("kill", "@good\nread # why()\n"), 0);
	assert_int_equal(run("kill", "@bad\nread # why()\n"), 1);
	assert_int_equal(run("kill", "@absent\nread # why()\n"), 1);
	assert_int_equal(run("kill", "@\nread # why()\n"), 1);
}

static void test_refused(void **state)
{
	static const char *const lists[] = {
		"read\n",   /* no reason */
		"read #\n", /* an empty one */
		"read # \n",
		"read #    \n",   /* only blanks */
		"raed # why()\n", /* no such call */
		"READ # why()\n",
		"read, # why()\n",
		"0 # why()\n",
		"read write # why()\n", /* no condition */
		"read arg0 # why()\n",
		"read arg0 == # why()\n",
		"read arg0 == x # why()\n",
		"read arg0 = 1 # why()\n",
		"read arg0 != 1 # why()\n",
		"read arg6 == 1 # why()\n", /* calls have six arguments */
		"read arg == 1 # why()\n",
		"read arg0 == 1 2 # why()\n",
		"read arg0 == 1, arg1 == 1 # why()\n",
		"read arg0 & 4 # why()\n",
		"read arg0 & == 4 # why()\n",
		"read arg0 & 4 == 0 1 # why()\n",
		"read arg0 & 4 == 2 # why()\n",       /* can never hold */
		"read # why()\nfrobnicate # why()\n", /* later lines count, too */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lists); i++)
		for (int log = 0; log < 2; log++)
			if (run(log ? "log" : "kill", lists[i]) == 0)
				fail_msg("accepted: %s", lists[i]);
}

/* A line that does not fit must not be read as two. */
static void test_long_line(void **state)
{
	char text[2048];

	(void)state;
	memset(text, 'y', sizeof(text));
	memcpy(text, "read # wh", 9);
	/* From byte 511 on, where a reader with a small buffer goes on. */
	(void)snprintf(text + 511, sizeof(text) - 511, "ptrace # smuggled in\n");
	assert_true(run("kill", text) != 0);
	memset(text, ' ', 600);
	(void)snprintf(text + 600, sizeof(text) - 600, "read # why()\n");
	assert_true(run("kill", text) != 0);
}

static void test_unusable(void **state)
{
	int status;

	(void)state;
	mode = "kill";
	status = rig_in_child(generate, rig_path("absent.allow"));
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	assert_true(run("kil", "read # why()\n") != 0); /* no such mode */
	assert_true(run("", "read # why()\n") != 0);
}

static int teardown(void **state)
{
	(void)state;
	rig_done();
	return 0;
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),     cmocka_unit_test(test_includes),
		cmocka_unit_test(test_refused),  cmocka_unit_test(test_long_line),
		cmocka_unit_test(test_unusable),
	};

	if (argc != 2)
		return 2;
	generator = argv[1];
	(void)rig_dir();
	return cmocka_run_group_tests(tests, NULL, teardown);
}
