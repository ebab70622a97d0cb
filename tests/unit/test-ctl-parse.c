/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tests of qudatactl's parsers, its command table and its choice of instances.
 *
 * Trust: a test; reads nothing from outside.
 */
#include "ctl/instance.h"
#include "ctl/parse.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define KEY  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVKo3YJ9Zk0sOgkQlgnFrHd1cSwpkBqlIOcmdqRyGAJ"
#define KEY2 "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVKo3YJ9Zk0sOgkQlgnFrHd1cSwpkBqlIOcmdqRyGAK"

static void test_numbers(void **state)
{
	uint32_t v = 7;

	(void)state;
	assert_int_equal(parse_u32("1", 1, 10, &v), 0);
	assert_int_equal(v, 1);
	assert_int_equal(parse_u32("10", 1, 10, &v), 0);
	assert_int_equal(v, 10);
	assert_int_equal(parse_u32("11", 1, 10, &v), -ERANGE);
	assert_int_equal(parse_u32("0", 1, 10, &v), -ERANGE);
	assert_int_equal(parse_u32("99999999999999999999", 1, UINT32_MAX, &v), -ERANGE);
	assert_int_equal(parse_u32("", 0, 10, &v), -EINVAL);
	assert_int_equal(parse_u32("-1", 0, 10, &v), -EINVAL);
	assert_int_equal(parse_u32("+1", 0, 10, &v), -EINVAL);
	assert_int_equal(parse_u32(" 1", 0, 10, &v), -EINVAL);
	assert_int_equal(parse_u32("1x", 0, 10, &v), -EINVAL);
	assert_int_equal(v, 10);
}

static void test_sizes_and_times(void **state)
{
	static const struct {
		const char *text;
		int size_r;
		uint32_t mib;
	} sizes[] = {
		{"512", 0, 512},        {"512M", 0, 512},
		{"512MiB", 0, 512},     {"8G", 0, 8192},
		{"8GiB", 0, 8192},      {"1T", 0, 1048576},
		{"64TiB", 0, 67108864}, {"65T", -ERANGE, 0},
		{"0", -ERANGE, 0},      {"0G", -ERANGE, 0},
		{"8X", -EINVAL, 0},     {"8 G", -EINVAL, 0},
		{"1.5G", -EINVAL, 0},   {"", -EINVAL, 0},
		{"-8G", -EINVAL, 0},    {"4294967296G", -ERANGE, 0},
	};
	uint32_t v = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		assert_int_equal(parse_size_mib(sizes[i].text, &v), sizes[i].size_r);
		if (sizes[i].size_r == 0)
			assert_int_equal(v, sizes[i].mib);
	}
	assert_int_equal(parse_seconds("90", &v), 0);
	assert_int_equal(v, 90);
	assert_int_equal(parse_seconds("0s", &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(parse_seconds("5m", &v), 0);
	assert_int_equal(v, 300);
	assert_int_equal(parse_seconds("24h", &v), 0);
	assert_int_equal(v, 86400);
	assert_int_equal(parse_seconds("25h", &v), -ERANGE);
	assert_int_equal(parse_seconds("1d", &v), -EINVAL);
}

static void test_ports(void **state)
{
	static const struct {
		const char *text;
		int r;
		unsigned int container, remote;
		const char *proto;
	} cases[] = {
		{"8080", 0, 8080, 0, NULL},
		{"8080:auto", 0, 8080, 0, NULL},
		{"8080:3000", 0, 8080, 3000, NULL},
		{"8080:auto/http", 0, 8080, 0, "http"},
		{"65535:65535/tcp", 0, 65535, 65535, "tcp"},
		{"0", -ERANGE, 0, 0, NULL},
		{"65536", -ERANGE, 0, 0, NULL},
		{"80:0", -ERANGE, 0, 0, NULL},
		{"80:65536", -ERANGE, 0, 0, NULL},
		{"80/udp", -EINVAL, 0, 0, NULL},
		{"80:", -EINVAL, 0, 0, NULL},
		{"80:autox", -EINVAL, 0, 0, NULL},
		{":80", -EINVAL, 0, 0, NULL},
		{"80/tcp/http", -EINVAL, 0, 0, NULL},
		{"", -EINVAL, 0, 0, NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct parse_port port = {0};

		assert_int_equal(parse_port(cases[i].text, &port), cases[i].r);
		assert_int_equal(port.container_port, cases[i].container);
		assert_int_equal(port.remote_port, cases[i].remote);
		if (cases[i].proto)
			assert_string_equal(port.proto, cases[i].proto);
		else
			assert_null(port.proto);
	}
}

static void test_env(void **state)
{
	json_t *env = json_object();

	(void)state;
	assert_int_equal(setenv("CTL_TEST_VALUE", "from here", 1), 0);
	assert_int_equal(unsetenv("CTL_TEST_ABSENT"), 0);
	assert_int_equal(parse_env("A=1", env), 0);
	assert_int_equal(parse_env("A=2=3", env), 0);
	assert_int_equal(parse_env("EMPTY=", env), 0);
	assert_int_equal(parse_env("CTL_TEST_VALUE", env), 0);
	assert_int_equal(parse_env("CTL_TEST_ABSENT", env), -ENOENT);
	assert_int_equal(parse_env("", env), -EINVAL);
	assert_int_equal(parse_env("=x", env), -EINVAL);
	assert_int_equal(parse_env("1A=x", env), -EINVAL);
	assert_int_equal(parse_env("A-B=x", env), -EINVAL);
	assert_int_equal(parse_env("BAD=\xff", env), -EINVAL);
	assert_int_equal(json_object_size(env), 3);
	assert_string_equal(json_string_value(json_object_get(env, "A")), "2=3");
	assert_string_equal(json_string_value(json_object_get(env, "EMPTY")), "");
	assert_string_equal(json_string_value(json_object_get(env, "CTL_TEST_VALUE")), "from here");
	json_decref(env);
}

static void test_keys(void **state)
{
	static const char *const bad[] = {
		"",      "ssh-ed25519", "ssh-ed25519 AAAA",   "hello world",
		KEY "!", KEY "\n" KEY2, "command=\"x\" " KEY,
	};
	char *line = NULL;

	(void)state;
	assert_int_equal(parse_public_key("  " KEY "  me @ here \r\n", &line), 0);
	assert_string_equal(line, KEY " me @ here");
	assert_string_equal(parse_key_comment(line), "me @ here");
	assert_true(parse_same_key(line, KEY));
	assert_false(parse_same_key(line, KEY2));
	assert_false(parse_same_key(line, "ssh-ed25519"));
	free(line);
	assert_int_equal(parse_public_key(KEY, &line), 0);
	assert_string_equal(parse_key_comment(line), "");
	free(line);
	line = NULL;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_true(parse_public_key(bad[i], &line) < 0);
	assert_int_equal(parse_public_key("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n", &line),
			 -EPERM);
	assert_null(line);
}

static void test_names(void **state)
{
	(void)state;
	assert_true(parse_is_name("a"));
	assert_true(parse_is_name("abcdefghijklmnopqrstuvwxyz-01234"));
	assert_false(parse_is_name("abcdefghijklmnopqrstuvwxyz-012345"));
	assert_false(parse_is_name(""));
	assert_false(parse_is_name("A"));
	assert_false(parse_is_name("../x"));
	assert_true(parse_is_ref("Web.1_x"));
	assert_false(parse_is_ref(""));
	assert_false(parse_is_ref("a/b"));
	assert_false(parse_is_ref("a%2f"));
	assert_true(parse_is_full_id("0123456789abcdef"));
	assert_false(parse_is_full_id("0123456789abcde"));
	assert_false(parse_is_full_id("0123456789abcdeg"));
}

static json_t *three(void)
{
	return json_pack("[{s:s, s:s}, {s:s, s:s, s:s}, {s:s, s:s}, {s:s}]", "instance_id",
			 "3f2a000000000000", "status", "running", "instance_id", "3f2b000000000000",
			 "status", "pending", "name", "ff", "instance_id", "ff00000000000000",
			 "status", "destroyed", "instance_id", "broken");
}

static void choose(const json_t *list, const char *arg, enum ctl_exit want, const char *want_id,
		   const char *want_error)
{
	_cleanup_free_ char *error = NULL;
	char id[PARSE_NAME_MAX + 1] = "";

	assert_int_equal(instance_choose(list, arg, id, &error), want);
	assert_string_equal(id, want_id);
	if (want_error)
		assert_non_null(strstr(error, want_error));
	else
		assert_null(error);
}

static void test_choose(void **state)
{
	json_t *list = three(), *one = json_array(), *none = json_array();

	(void)state;
	json_array_append(one, json_array_get(list, 0));
	json_array_append(one, json_array_get(list, 2));
	choose(list, "3f2a", CTL_OK, "3f2a000000000000", NULL);
	choose(list, "3f2b000000000000", CTL_OK, "3f2b000000000000", NULL);
	choose(list, "ff", CTL_OK, "3f2b000000000000", NULL); /* a name before a beginning */
	choose(list, "ff0", CTL_OK, "ff00000000000000", NULL);
	choose(list, "3f2", CTL_USAGE, "", "3f2b000000000000  pending  ff");
	choose(list, "a", CTL_NOT_FOUND, "", "there are:");
	choose(list, NULL, CTL_USAGE, "", "say which");
	choose(one, NULL, CTL_OK, "3f2a000000000000", NULL); /* a destroyed one does not count */
	choose(none, NULL, CTL_NOT_FOUND, "", "create");
	choose(none, "a", CTL_NOT_FOUND, "", "there is none");
	choose(NULL, "a", CTL_NOT_FOUND, "", "there is none");
	json_decref(list);
	json_decref(one);
	json_decref(none);
}

static void test_status_codes(void **state)
{
	(void)state;
	assert_int_equal(api_exit_of_status(200), CTL_OK);
	assert_int_equal(api_exit_of_status(202), CTL_OK);
	assert_int_equal(api_exit_of_status(301), CTL_FAILED);
	assert_int_equal(api_exit_of_status(0), CTL_FAILED);
	assert_int_equal(api_exit_of_status(404), CTL_NOT_FOUND);
}

static void test_secret_urls(void **state)
{
	(void)state;
	assert_true(api_url_keeps_secret("https://agent.example.org"));
	assert_true(api_url_keeps_secret("http://127.0.0.1:15001"));
	assert_true(api_url_keeps_secret("http://127.9.9.9"));
	assert_true(api_url_keeps_secret("http://localhost:1/x"));
	assert_true(api_url_keeps_secret("http://[::1]:15001"));
	assert_false(api_url_keeps_secret("http://127.0.0.1.example.org"));
	assert_false(api_url_keeps_secret("http://localhost@example.org"));
	assert_false(api_url_keeps_secret("http://10.0.0.1"));
	assert_false(api_url_keeps_secret("ftp://127.0.0.1"));
	assert_false(api_url_keeps_secret("127.0.0.1"));
	assert_false(api_url_keeps_secret(""));
}

/* The table is data that four texts and the dispatch derive from: it must be in order itself. */
static void test_gpus(void **state)
{
	static const char *const good[] = {"0000:01:00.0", "10000:ff:1f.7", "00000000:3B:00.0"};
	static const char *const wrong[] = {"",
					    "01:00.0",
					    "000:01:00.0",
					    "0000:1:00.0",
					    "0000:01:20.0",
					    "0000:01:00.8",
					    "0000:01:00.",
					    "0000:01:00.00",
					    "0000:01:00.0 ",
					    "123456789:01:00.0",
					    "0000:01:0g.0",
					    "0000-01-00.0"};
	json_t *list;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_true(parse_is_gpu(good[i]));
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		assert_false(parse_is_gpu(wrong[i]));
		assert_null(parse_gpus(wrong[i]));
	}
	assert_null(parse_gpus("0000:01:00.0,"));
	assert_null(parse_gpus(",0000:01:00.0"));
	assert_null(parse_gpus("0000:01:00.0;0000:02:00.0"));
	list = parse_gpus("0000:01:00.0,10000:81:00.1");
	assert_int_equal(json_array_size(list), 2);
	assert_string_equal(json_string_value(json_array_get(list, 1)), "10000:81:00.1");
	json_decref(list);
}

static void test_command_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < ctl_n_commands; i++) {
		const struct ctl_command *cmd = &ctl_commands[i];
		char *copy = strdup(cmd->name), *blank = strchr(copy, ' ');
		char *words[2] = {copy, blank ? blank + 1 : NULL};
		size_t n = 0;

		if (blank)
			*blank = 0;
		assert_ptr_equal(ctl_find(words, blank ? 2 : 1, &n), cmd);
		assert_int_equal(n, blank ? 2 : 1);
		assert_non_null(cmd->run);
		assert_true(cmd->min_args <= cmd->max_args);
		assert_true(!*cmd->args == !cmd->max_args || cmd->takes_rest);
		assert_true(cmd->help && cmd->help[strlen(cmd->help) - 1] == '.');
		for (size_t a = 0; a < cmd->n_options; a++)
			for (size_t b = 0; b < ctl_n_global_options; b++) {
				assert_int_not_equal(cmd->options[a].id, ctl_global_options[b].id);
				assert_false(cmd->options[a].letter &&
					     cmd->options[a].letter ==
						     ctl_global_options[b].letter);
			}
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers),     cmocka_unit_test(test_sizes_and_times),
		cmocka_unit_test(test_ports),       cmocka_unit_test(test_env),
		cmocka_unit_test(test_keys),        cmocka_unit_test(test_names),
		cmocka_unit_test(test_choose),      cmocka_unit_test(test_status_codes),
		cmocka_unit_test(test_secret_urls), cmocka_unit_test(test_command_table),
		cmocka_unit_test(test_gpus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
