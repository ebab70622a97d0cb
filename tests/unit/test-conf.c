/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration files: every type at and beyond its bounds, every kind of broken file.
 * Trust: runs in tests only.
 */
#include "common/conf.h"
#include "common/fd.h"
#include "tests/unit/rig.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

struct config {
	char text[8];
	char guard;
	char path[16];
	char name[40];
	uint32_t number;
	uint32_t wide;
	uint32_t size_mib;
	bool flag;
	int word;
	uint32_t after;
};

static const char *const words[] = {"auto", "kvm", "tcg", NULL};

static const struct conf_key keys[] = {
	{"text", CONF_TEXT, CONF_MEMBER(struct config, text)},
	{"path", CONF_PATH, CONF_MEMBER(struct config, path)},
	{"name", CONF_NAME, CONF_MEMBER(struct config, name)},
	{"number", CONF_U32, CONF_MEMBER(struct config, number), .low = 10, .high = 20},
	{"wide", CONF_U32, CONF_MEMBER(struct config, wide), .low = 0, .high = UINT32_MAX},
	{"size", CONF_MIB, CONF_MEMBER(struct config, size_mib), .low = 128, .high = 1024 * 1024},
	{"flag", CONF_BOOL, CONF_MEMBER(struct config, flag)},
	{"word", CONF_ENUM, CONF_MEMBER(struct config, word), .words = words},
};

static struct config fresh(void)
{
	struct config config;

	memset(&config, 0x5a, sizeof(config));
	config.flag = false;
	return config;
}

static int parse(const char *text, struct config *config, struct err *err)
{
	_cleanup_free_ char *copy = strdup(text); /* exactly as long as it is */

	assert_non_null(copy);
	*config = fresh();
	*err = (struct err){0};
	return conf_parse("test.conf", copy, keys, ARRAY_LEN(keys), config, err);
}

static void accept_text(const char *text, struct config *ret)
{
	struct err err;
	int r = parse(text, ret, &err);

	if (r != 0)
		fail_msg("refused `%s`: %s", text, err.text);
	assert_int_equal(ret->guard, 0x5a);
	assert_int_equal(ret->after, 0x5a5a5a5a);
}

/* An error names the file and the line, says something, and leaves the value alone. */
static void refuse_text(const char *text, unsigned int line)
{
	const struct config untouched = fresh();
	struct config config;
	struct err err;
	char want[64];
	int r = parse(text, &config, &err);

	if (r == 0)
		fail_msg("accepted `%s`", text);
	(void)snprintf(want, sizeof(want), "test.conf, line %u: ", line);
	if (strncmp(err.text, want, strlen(want)) != 0 || strlen(err.text) < strlen(want) + 5)
		fail_msg("`%s`: the error line is `%s`", text, err.text);
	for (const char *p = err.text; *p; p++)
		assert_true(*p >= 0x20 && *p <= 0x7e);
	if (line == 1)
		assert_memory_equal(&config, &untouched, sizeof(config));
}

static void test_syntax(void **state)
{
	struct config c;

	(void)state;
	accept_text("", &c);
	accept_text("\n\n\n", &c);
	accept_text("# only a comment", &c);
	accept_text("  \t # an indented comment\n", &c);
	accept_text("text=a", &c);
	assert_string_equal(c.text, "a");
	accept_text("\t text \t=\t a b \t\n", &c);
	assert_string_equal(c.text, "a b");
	accept_text("text = a # b", &c); /* `#` starts a comment line only */
	assert_string_equal(c.text, "a # b");
	accept_text("text = a=b\n", &c);
	assert_string_equal(c.text, "a=b");
	accept_text("text = a\r\nnumber = 11\r\n", &c);
	assert_string_equal(c.text, "a");
	assert_int_equal(c.number, 11);
	accept_text("number = 12\nword = kvm", &c); /* no newline at the end */
	assert_int_equal(c.word, 1);
	refuse_text("text", 1);
	refuse_text("=", 1);
	refuse_text("= a", 1);
	refuse_text("text =", 1);
	refuse_text("text = \t ", 1);
	refuse_text("unknown = 1", 1);
	refuse_text("Text = a", 1);
	refuse_text("tex = a", 1);
	refuse_text("textt = a", 1);
	refuse_text("te xt = a", 1);
	refuse_text("[section]", 1);
	refuse_text("text = a\n\n# c\nnumber = 9", 4);
	refuse_text("\x1b[31m = a", 1);
	refuse_text("\xff\xfe = a", 1);
	refuse_text("text = a\ntext = a", 2);
	refuse_text("flag = yes\nnumber = 10\nflag = no", 3);
	refuse_text("text = a\vb", 1);
}

static void test_texts(void **state)
{
	struct config c;

	(void)state;
	accept_text("text = 1234567", &c);
	assert_string_equal(c.text, "1234567");
	accept_text("text = ~", &c);
	assert_memory_equal(c.text, "~\0\0\0\0\0\0\0", 8);
	refuse_text("text = 12345678", 1);
	refuse_text("text = a\tb", 1);
	refuse_text("text = a\x7f", 1);
	refuse_text("text = a\x80", 1);
	refuse_text("text = caf\xc3\xa9", 1);
	refuse_text("text = a\x1b[0m", 1);
	refuse_text("text = a\rb", 1);
}

static void test_paths(void **state)
{
	static const char *const good[] = {"/",
					   "/a",
					   "/a/b",
					   "/.a",
					   "/a.",
					   "/..a",
					   "/a..",
					   "/a/...",
					   "/a b",
					   "/1234567890123",
					   "/12345678901234"};
	static const char *const bad[] = {"a",       "./a",    "../a",   "a/b",
					  "/.",      "/..",    "/./a",   "/../a",
					  "/a/.",    "/a/..",  "/a/./b", "/a/../b",
					  "/a/b/..", "/a//..", "/a\x01", "/123456789012345",
					  "~/a",     "-/a"};
	struct config c;
	char line[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		(void)snprintf(line, sizeof(line), "path = %s", good[i]);
		accept_text(line, &c);
		assert_string_equal(c.path, good[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		(void)snprintf(line, sizeof(line), "path = %s", bad[i]);
		refuse_text(line, 1);
	}
}

static void test_names(void **state)
{
	struct config c;

	(void)state;
	accept_text("name = a", &c);
	accept_text("name = abcdefghijklmnopqrstuvwxyz012345", &c);
	assert_string_equal(c.name, "abcdefghijklmnopqrstuvwxyz012345");
	refuse_text("name = abcdefghijklmnopqrstuvwxyz0123456", 1);
	refuse_text("name = -a", 1);
	refuse_text("name = A", 1);
	refuse_text("name = a_b", 1);
	refuse_text("name = ..", 1);
	refuse_text("name = a/b", 1);
	refuse_text("name = a b", 1);
	refuse_text("name = a,b", 1);
}

static void test_numbers(void **state)
{
	struct config c;

	(void)state;
	accept_text("number = 10", &c);
	assert_int_equal(c.number, 10);
	accept_text("number = 20\nwide = 4294967295", &c);
	assert_int_equal(c.number, 20);
	assert_true(c.wide == UINT32_MAX);
	accept_text("wide = 0", &c);
	assert_int_equal(c.wide, 0);
	refuse_text("number = 9", 1);
	refuse_text("number = 21", 1);
	refuse_text("number = -10", 1);
	refuse_text("number = +10", 1);
	refuse_text("number = 10 11", 1);
	refuse_text("number = 1e1", 1);
	refuse_text("number = 0xa", 1);
	refuse_text("number = ten", 1);
	refuse_text("number = 10M", 1);
	refuse_text("number = 4294967306", 1); /* 10 modulo 2^32 */
	refuse_text("number = 18446744073709551626", 1);
	refuse_text("wide = 4294967296", 1);
	refuse_text("wide = 99999999999999999999999999999999", 1);
}

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		int r;
		uint32_t mib;
	} cases[] = {
		{"512", 0, 512},
		{"512M", 0, 512},
		{"8G", 0, 8192},
		{"1T", 0, 1024 * 1024},
		{"0", 0, 0},
		{"4294967295", 0, UINT32_MAX},
		{"4095T", 0, 4095u * 1024 * 1024},
		{"4294967296", -ERANGE, 0},
		{"4194304G", -ERANGE, 0},
		{"4096T", -ERANGE, 0},
		{"18446744073709551615T", -ERANGE, 0},
		{"18446744073709551616", -ERANGE, 0},
		{"", -EINVAL, 0},
		{"M", -EINVAL, 0},
		{"8K", -EINVAL, 0},
		{"8g", -EINVAL, 0},
		{"8 G", -EINVAL, 0},
		{"8GG", -EINVAL, 0},
		{"8.5G", -EINVAL, 0},
		{"-8G", -EINVAL, 0},
		{"+8", -EINVAL, 0},
		{" 8", -EINVAL, 0},
		{"0x8", -EINVAL, 0},
	};
	struct config c;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint32_t mib = 77;

		if (conf_parse_mib(cases[i].text, &mib) != cases[i].r)
			fail_msg("`%s`", cases[i].text);
		assert_true(mib == (cases[i].r == 0 ? cases[i].mib : 77));
	}
	accept_text("size = 128", &c);
	assert_int_equal(c.size_mib, 128);
	accept_text("size = 1T", &c);
	assert_int_equal(c.size_mib, 1024 * 1024);
	refuse_text("size = 127", 1);
	refuse_text("size = 2T", 1);
	refuse_text("size = 4194305G", 1);
	refuse_text("size = 0", 1);
}

static void test_words(void **state)
{
	struct config c;

	(void)state;
	accept_text("flag = yes\nword = auto", &c);
	assert_true(c.flag);
	assert_int_equal(c.word, 0);
	accept_text("flag = no\nword = tcg", &c);
	assert_false(c.flag);
	assert_int_equal(c.word, 2);
	refuse_text("flag = true", 1);
	refuse_text("flag = YES", 1);
	refuse_text("flag = 1", 1);
	refuse_text("flag = y", 1);
	refuse_text("word = KVM", 1);
	refuse_text("word = kv", 1);
	refuse_text("word = kvmm", 1);
	refuse_text("word = 1", 1);
}

static void test_set(void **state)
{
	struct config c = fresh();
	struct err err = {0};

	(void)state;
	assert_int_equal(conf_set(&keys[3], "15", &c, &err), 0);
	assert_int_equal(c.number, 15);
	assert_true(conf_set(&keys[3], "21", &c, &err) < 0);
	assert_int_equal(c.number, 15);
	assert_non_null(strstr(err.text, "number"));
	assert_true(conf_set(&keys[0], "", &c, NULL) < 0);
	assert_true(conf_set(&keys[1], "", &c, NULL) < 0);
	assert_true(conf_set(&keys[2], "", &c, NULL) < 0);
	assert_true(conf_set(&keys[0], "a\nb", &c, NULL) < 0);
}

/* A list of words longer than any error line, and error lines longer than their buffer. */
static void test_long_errors(void **state)
{
	static const char *const many[] = {
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
		"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
		"dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd", NULL};
	const struct conf_key key = {"word", CONF_ENUM, CONF_MEMBER(struct config, word),
				     .words = many};
	struct config c = fresh();
	struct err err;
	char text[2048], name[1024];

	(void)state;
	assert_true(conf_set(&key, "x", &c, &err) < 0);
	assert_true(strlen(err.text) < sizeof(err.text));
	memset(text, 'k', sizeof(text));
	memcpy(text + sizeof(text) - 5, " = 1", 5);
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_true(conf_parse(name, text, keys, ARRAY_LEN(keys), &c, &err) < 0);
	assert_true(strlen(err.text) < sizeof(err.text));
	assert_int_equal(err_errno(&err, -ENOENT, "%0300d", 1), -ENOENT);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	assert_int_equal(err_errno(NULL, -ENOENT, "x"), -ENOENT);
	assert_int_equal(err_errno(&err, -123456, "x"), -123456);
}

static const char *write_file(const char *data, size_t len, mode_t mode)
{
	const char *path = rig_path("test.conf");
	_cleanup_close_ int fd = -EBADF;

	(void)unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, data, len), 0);
	assert_int_equal(fchmod(fd, mode), 0);
	return path;
}

static int load(const char *path, bool root_owned, struct err *err)
{
	struct config config = fresh();

	*err = (struct err){0};
	return conf_load(path, keys, ARRAY_LEN(keys), root_owned, &config, err);
}

static void test_files(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(load(rig_path("absent.conf"), false, &err), -ENOENT);
	assert_int_equal(load(rig_path("absent.conf"), true, &err), -ENOENT);
	assert_non_null(strstr(err.text, "absent.conf"));
	assert_int_equal(load(write_file("number = 11\n", 12, 0600), false, &err), 0);
	assert_true(load(write_file("number = 11\nx", 13, 0600), false, &err) < 0);
	assert_non_null(strstr(err.text, "test.conf"));
	assert_non_null(strstr(err.text, "line 2"));
	assert_true(load(write_file("number = 11\n\0", 13, 0600), false, &err) < 0);
	assert_true(load(write_file("text = a\0b\n", 11, 0600), false, &err) < 0);
	assert_true(load(write_file("\0", 1, 0600), false, &err) < 0);
	assert_int_equal(load(write_file("", 0, 0600), false, &err), 0);
	assert_true(load(rig_dir(), false, &err) < 0);
}

static void test_file_sizes(void **state)
{
	static const size_t sizes[] = {64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 1 << 20};
	_cleanup_free_ char *text = malloc(1 << 20);
	struct err err;

	(void)state;
	assert_non_null(text);
	memset(text, '\n', 1 << 20);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		assert_int_equal(load(write_file(text, sizes[i], 0600), false, &err),
				 i == 0 ? 0 : -EFBIG);
	memset(text, '#', 1 << 20); /* one line */
	assert_int_equal(load(write_file(text, sizes[0], 0600), false, &err), 0);
	memset(text, 'k', 1 << 20);
	assert_int_equal(load(write_file(text, sizes[0], 0600), false, &err), -EINVAL);
}

static void test_owner(void **state)
{
	static const struct {
		mode_t mode;
		bool good;
	} modes[] = {{0600, true},  {0644, true},  {0400, true},  {0755, true}, {0660, false},
		     {0666, false}, {0602, false}, {0620, false}, {0777, false}};
	struct err err;
	const char *path;

	(void)state;
	if (geteuid() != 0) {
		path = write_file("", 0, 0600);
		assert_int_equal(load(path, true, &err), -EPERM);
		print_message("skipped: the rest needs files of root\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		path = write_file("number = 11\n", 12, modes[i].mode);
		assert_int_equal(load(path, true, &err), modes[i].good ? 0 : -EPERM);
		assert_true(modes[i].good == (strstr(err.text, "chmod") == NULL));
		assert_int_equal(load(path, false, &err), 0);
	}
	path = write_file("number = 11\n", 12, 0600);
	assert_int_equal(chown(path, 65534, (gid_t)-1), 0);
	assert_int_equal(load(path, true, &err), -EPERM);
	assert_non_null(strstr(err.text, "root"));
	assert_int_equal(load(path, false, &err), 0);
	/* Nothing but a regular file, and no waiting for one that is a pipe. */
	assert_int_equal(mkfifo(rig_path("fifo"), 0600), 0);
	(void)alarm(60);
	assert_true(load(rig_path("fifo"), true, &err) < 0);
	assert_true(load("/dev/null", true, &err) < 0);
	assert_true(load("/dev/zero", false, &err) < 0);
	assert_true(load(rig_dir(), true, &err) < 0);
	(void)alarm(0);
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
		cmocka_unit_test(test_syntax),      cmocka_unit_test(test_texts),
		cmocka_unit_test(test_paths),       cmocka_unit_test(test_names),
		cmocka_unit_test(test_numbers),     cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_words),       cmocka_unit_test(test_set),
		cmocka_unit_test(test_long_errors), cmocka_unit_test(test_files),
		cmocka_unit_test(test_file_sizes),  cmocka_unit_test(test_owner),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}
