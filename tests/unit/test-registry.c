/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of which registries an engine on this host may be sent to.
 * Trust: a test; reads nothing from outside.
 */
#include "common/registry.h"

#include <setjmp.h>
#include <stdarg.h>
/* cmocka wants those above first */
#include <cmocka.h>

/* By the default list. */
static void test_any(void **state)
{
	static const char *const allowed[] = {
		"debian",
		"library/debian:12",
		"docker.io/library/debian",
		"index.docker.io/library/debian",
		"quay.io/a/"
		"b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		"registry.example.org:5000/a",
		"8.8.8.8/a",
		"8.8.8.8:5000/a",
		"172.32.0.1/a",
		"100.128.0.1/a",
		"192.169.0.1/a",
		"localhost.example.org/a",
		"127.0.0.1.example.org/a",
		"registry/a", /* of docker.io */
	};
	static const char *const refused[] = {
		"localhost/a",
		"localhost:5000/a",
		"a.localhost/a",
		"registry:5000/a",
		"registry.local/a",
		"registry.LAN:5000/a",
		"metadata.google.internal/a",
		"1.0.0.127.in-addr.arpa/a",
		"0.0.0.0/a",
		"0.0.0.0:5000/a",
		"10.1.2.3/a",
		"100.64.0.1/a",
		"127.0.0.1/a",
		"127.0.0.1:5000/a",
		"127.255.255.254/a",
		"169.254.169.254/latest",
		"172.16.0.1/a",
		"172.31.255.255/a",
		"192.168.0.1/a",
		"198.18.0.1/a",
		"224.0.0.1/a",
		"255.255.255.255/a",
		/* What only some resolvers take for addresses. */
		"127.1/a",
		"127.0.1:80/a",
		"2130706433:80/a",
		"0x7f000001:80/a",
		"0x7f.1/a",
		"127.0.0.0x1/a",
		"0177.0.0.1/a",
		"127.0.0.01/a",
		"8.8.8.8.8/a",
		"256.8.8.8/a",
	};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(allowed); i++)
		if (registry_allowed(REGISTRY_ANY, allowed[i], &err) != 0)
			fail_msg("%s: %s", allowed[i], err.text);
	for (size_t i = 0; i < ARRAY_LEN(refused); i++)
		if (registry_allowed(REGISTRY_ANY, refused[i], &err) != -EACCES)
			fail_msg("%s was taken", refused[i]);
	assert_int_equal(registry_allowed(REGISTRY_ANY, "[::1]:5000/a", &err), -EINVAL);
	assert_int_equal(registry_allowed(REGISTRY_ANY, "", &err), -EINVAL);
}

static void test_lists(void **state)
{
	static const struct {
		const char *list, *image;
		int r;
	} cases[] = {
		{"*, 127.0.0.1:5000", "127.0.0.1:5000/a", 0},
		{"*, 127.0.0.1:5000", "127.0.0.1:5001/a", -EACCES},
		{"*, 127.0.0.1:5000", "127.0.0.1/a", -EACCES},
		{"*, 127.0.0.1:5000", "quay.io/a", 0},
		{"localhost:5000,*", "localhost:5000/a", 0},
		{"docker.io", "debian", 0},
		{"docker.io", "docker.io/debian", 0},
		{"docker.io", "index.docker.io/debian", 0},
		{"docker.io", "quay.io/a", -EACCES},
		{"quay.io", "debian", -EACCES},
		{"Quay.IO", "quay.io/a", 0},
		{"quay.io", "quay.io.example.org/a", -EACCES},
		{"quay.io", "a.quay.io/a", -EACCES},
		{"", "debian", -EACCES},
	};
	static const char *const good[] = {"", "*", "*,docker.io", "localhost", "a.b:1, c:5000"};
	static const char *const bad[] = {"registry", "http://a.b", "a.b/c", "a b.c",
					  ",",        "*.b.c",      "-a.b",  "a.b:x"};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		if (registry_allowed(cases[i].list, cases[i].image, &err) != cases[i].r)
			fail_msg("%s by \"%s\"", cases[i].image, cases[i].list);
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		if (registry_list_check(good[i], &err) != 0)
			fail_msg("%s: %s", good[i], err.text);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (registry_list_check(bad[i], &err) != -EINVAL)
			fail_msg("%s was taken", bad[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any),
		cmocka_unit_test(test_lists),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
