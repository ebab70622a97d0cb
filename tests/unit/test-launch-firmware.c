/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which guests boot by OVMF, and that each has variables of its own which last.
 * Trust: runs in tests only.
 */
#include "common/fd.h"
#include "vfio-helper/launch/launch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

#define TEMPLATE "template of variables"

static char dir[] = "/tmp/test-launch-firmware.XXXXXX";
static struct spawn_setup setup;

static void put(const char *name, const char *text, char *ret_path, size_t size)
{
	_cleanup_close_ int fd = -EBADF;

	(void)snprintf(ret_path, size, "%s/%s", dir, name);
	fd = open(ret_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
}

static int prepare(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	put("code", "code", setup.firmware, sizeof(setup.firmware));
	put("vars", TEMPLATE, setup.firmware_vars, sizeof(setup.firmware_vars));
	return 0;
}

static int clean(void **state)
{
	(void)state;
	(void)unlink(setup.firmware);
	(void)unlink(setup.firmware_vars);
	return rmdir(dir);
}

/* The VM's file of variables, with @text in it, at its number. */
static void place_vars(const char *text)
{
	char path[128];
	int fd;

	put("vm", text, path, sizeof(path));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(unlink(path), 0);
	if (fd != CHILD_FD(FD_VARS)) {
		assert_int_equal(dup2(fd, CHILD_FD(FD_VARS)), CHILD_FD(FD_VARS));
		(void)close(fd);
	}
}

static void expect_vars(const char *text)
{
	char got[64];

	assert_int_equal(lseek(CHILD_FD(FD_VARS), 0, SEEK_SET), 0);
	assert_int_equal(fd_read_text(CHILD_FD(FD_VARS), got, sizeof(got)), strlen(text));
	assert_string_equal(got, text);
}

/* Asks for @roles and @n_devices with @c; returns what firmware_prepare() does, 1 for OVMF. */
static int ask(uint32_t roles, uint32_t n_devices, const struct spawn_setup *c)
{
	const struct spawn_spec s = {
		.program = PROGRAM_QEMU, .roles = roles, .n_devices = n_devices};
	struct machine m = {0};
	struct err err = {0};
	int r = firmware_prepare(&s, c, &m, &err);

	assert_int_equal(r < 0, err.text[0] != '\0');
	if (m.uefi) {
		assert_true(fcntl(CHILD_FD(FD_FIRMWARE), F_GETFD) == 0);
		assert_int_equal(fcntl(CHILD_FD(FD_FIRMWARE), F_GETFL) & O_ACCMODE, O_RDONLY);
		(void)close(CHILD_FD(FD_FIRMWARE));
	}
	return r < 0 ? r : m.uefi;
}

static void test_which(void **state)
{
	const struct spawn_setup none = {.firmware = "none"};
	uint32_t vars = FD_BIT(FD_VARS), kernel = FD_BIT(FD_KERNEL);

	(void)state;
	place_vars("");
	assert_int_equal(ask(vars, 0, &setup), 1);
	assert_int_equal(ask(vars | kernel, 0, &setup), 0);
	assert_int_equal(ask(vars | kernel, 1, &setup), 1);
	assert_int_equal(ask(vars, 1, &setup), 1);
	assert_int_equal(ask(0, 1, &setup), 0);
	assert_int_equal(ask(vars, 1, &none), 0);
}

static void test_vars(void **state)
{
	(void)state;
	place_vars("");
	assert_int_equal(ask(FD_BIT(FD_VARS), 0, &setup), 1);
	expect_vars(TEMPLATE);
	/* What the guest has written stays, a copy that a crash left half done does not. */
	place_vars("template OF variables");
	assert_int_equal(ask(FD_BIT(FD_VARS), 0, &setup), 1);
	expect_vars("template OF variables");
	place_vars("templ");
	assert_int_equal(ask(FD_BIT(FD_VARS), 0, &setup), 1);
	expect_vars(TEMPLATE);
	place_vars("of another build, which was larger");
	assert_int_equal(ask(FD_BIT(FD_VARS), 0, &setup), 1);
	expect_vars(TEMPLATE);
}

static void test_missing(void **state)
{
	struct spawn_setup c = setup;
	int null = open("/dev/null", O_RDWR);

	(void)state;
	place_vars("");
	(void)snprintf(c.firmware, sizeof(c.firmware), "%s/absent", dir);
	assert_int_equal(ask(FD_BIT(FD_VARS), 0, &c), -ENOENT);
	c = setup;
	(void)snprintf(c.firmware_vars, sizeof(c.firmware_vars), "%s/absent", dir);
	assert_int_equal(ask(FD_BIT(FD_VARS), 0, &c), -ENOENT);
	expect_vars("");
	(void)snprintf(c.firmware_vars, sizeof(c.firmware_vars), "/dev/zero");
	assert_int_equal(ask(FD_BIT(FD_VARS), 0, &c), -EINVAL);
	assert_int_equal(dup2(null, CHILD_FD(FD_VARS)), CHILD_FD(FD_VARS));
	assert_int_equal(ask(FD_BIT(FD_VARS), 0, &setup), -EINVAL);
	(void)close(null);
}

/* The distribution's own, where it is installed. */
static void test_auto(void **state)
{
	const struct spawn_setup c = {.firmware = "auto"};
	struct stat st;
	int r;

	(void)state;
	place_vars("");
	r = ask(FD_BIT(FD_VARS), 1, &c);
	if (r == -ENOENT) {
		assert_int_equal(ask(FD_BIT(FD_VARS), 0, &c), 0);
		skip();
	}
	assert_int_equal(r, 1);
	assert_int_equal(fstat(CHILD_FD(FD_VARS), &st), 0);
	assert_true(st.st_size > 0 && st.st_size % 4096 == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_which),
		cmocka_unit_test(test_vars),
		cmocka_unit_test(test_missing),
		cmocka_unit_test(test_auto),
	};

	return cmocka_run_group_tests(tests, prepare, clean);
}
