/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of common/pubkey.c with keys that ssh-keygen made.
 * Trust: a test; reads nothing from outside.
 */
#include "common/pubkey.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define ED25519 "AAAAC3NzaC1lZDI1NTE5AAAAIFAeqTFU9ZduXwJbJH+jkGTwrfvbb9DB6MHw/Wfx/KPH"
#define ECDSA256                                                                                   \
	"AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNJykU+hHtkmjYTTawzr6rfeMO+TKGdoV"    \
	"LSPUn0soLLH6+4OPTa7Sh7CkvijLplzGcC8JNq7ryZTXMcADqQ6tjA="
#define ECDSA384                                                                                   \
	"AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBPv0FJ7ZmaqSHcfiC1JYpE8J1GWLuiyfF"    \
	"ktBJaPqcmlZPxPgAz3yWMrqKaiVx0hCiAS/CezsoF4ZsFiMRSH5VRHUP3V2uOGbSZt8/JAQ2SVl3o6iNpekQx"    \
	"vZ3DFkkOpY7w=="
#define ECDSA521                                                                                   \
	"AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAGngjYuNgJ/bWdgHXucX7qxc7TwZgfLk"    \
	"jVUrvFcBluBE7Se8WOyx6J/vwHxDaBcsfN/Cur3gDwRXd0kytNV3FFjdwFN8TXhYeFYLOOFqxyx7+IEfnthSg"    \
	"33xC4PpoNb2IpnBDuGCI73fbfY//JX8ePZdcrt0Kjz2I5jxHg6apUd9Kpixg=="
#define RSA2048                                                                                    \
	"AAAAB3NzaC1yc2EAAAADAQABAAABAQDL8sxk1JqaOHjXSlFhf+5QxfjilztU68/4Aztp3UGh6nTNmO2E8EKrr"    \
	"1Wqz5GtVnij1ms8+Lofhp5eTBpu1OmxTKt8KejFGj++tHKbZmp0OsECBfslhxBRCo15VIpGnVN0XgwR5OgtY+"    \
	"p70KLmTtnvhP7Tt2kqccLcZDb8REE0U/7+tJkcRGShh0Kf82oNsthvhaNMzdDCdqFDHOqW6D1Xiyw9eJjGPJk"    \
	"mm9aLo6VxfhvRje3Hm8leOjtYtx2BaPCGxeTtsxA6MDLGL/aEhJ/A5lrc1iFHQhY7G1vzPEAvfisBArGo5UuG"    \
	"c07wkTJoz9jRFWdw/X/2vtVJzTri1k4j"
#define RSA1024                                                                                    \
	"AAAAB3NzaC1yc2EAAAADAQABAAAAgQCrgVCFD+ek+MoNxFMx9n/GWIOT+egijQRERsq6uzuYo0btOhxLud3kk"    \
	"5HOvai4w3/Z7HtfI/PUgC7DKgSp7hiNnM2dVT8msoXU6NjqyRd3HmVzO1SdAM+ONdcrWcdOQ/fxb6AbKQNgol"    \
	"otP3K68E4Ff0b9cCpzgNwTXZMzKWcQmQ=="
#define SK_ED25519                                                                                 \
	"AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscH"    \
	"R4fAAAABHNzaDo="
#define SK_ECDSA                                                                                   \
	"AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBAABAgMEBQYHC"    \
	"AkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8AAAAEc3NoOg=="

static int parse(const char *line)
{
	struct pubkey key;

	return pubkey_parse(line, strlen(line), &key, NULL);
}

static void accepts_every_type(void **state)
{
	static const char *const lines[] = {
		"ssh-ed25519 " ED25519,
		"ssh-ed25519 " ED25519 " someone@somewhere",
		" \tssh-ed25519 \t " ED25519 "  a comment of words ",
		"ecdsa-sha2-nistp256 " ECDSA256,
		"ecdsa-sha2-nistp384 " ECDSA384,
		"ecdsa-sha2-nistp521 " ECDSA521,
		"ssh-rsa " RSA2048,
		"sk-ssh-ed25519@openssh.com " SK_ED25519,
		"sk-ecdsa-sha2-nistp256@openssh.com " SK_ECDSA,
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		assert_int_equal(parse(lines[i]), 0);
}

static void names_the_parts(void **state)
{
	static const char line[] = "ssh-ed25519 " ED25519 "  two words ";
	struct pubkey key, other;

	(void)state;
	assert_int_equal(pubkey_parse(line, strlen(line), &key, NULL), 0);
	assert_int_equal(key.type_len, strlen("ssh-ed25519"));
	assert_memory_equal(key.base64, ED25519, key.base64_len);
	assert_int_equal(key.base64_len, strlen(ED25519));
	assert_int_equal(key.comment_len, strlen("two words"));
	assert_memory_equal(key.comment, "two words", key.comment_len);

	assert_int_equal(
		pubkey_parse("ssh-ed25519 " ED25519, strlen("ssh-ed25519 " ED25519), &other, NULL),
		0);
	assert_null(other.comment);
	assert_true(pubkey_same(&key, &other));
	assert_int_equal(pubkey_parse("ssh-rsa " RSA2048, strlen("ssh-rsa " RSA2048), &other, NULL),
			 0);
	assert_false(pubkey_same(&key, &other));
}

static void refuses_options_and_types(void **state)
{
	static const char *const lines[] = {
		"command=\"id\" ssh-ed25519 " ED25519,
		"no-pty,ssh-ed25519 " ED25519,
		"ssh-dss " ED25519,
		"ssh-ed25519-cert-v01@openssh.com " ED25519,
		"SSH-ED25519 " ED25519,
		"cert-authority ssh-ed25519 " ED25519,
		"-----BEGIN OPENSSH PRIVATE KEY-----",
		"# comment",
		"ssh-rsa " RSA1024,
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		assert_int_equal(parse(lines[i]), -EPERM);
	assert_int_equal(parse(""), -EPERM);
}

static void refuses_damage(void **state)
{
	static const char *const lines[] = {
		"ssh-ed25519",
		"ssh-ed25519 ",
		"ssh-ed25519 AAAA",
		"ssh-ed25519 " ED25519 "=",
		"ssh-ed25519 " ED25519 "AAAA",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFAeqTFU9ZduXwJbJH",
		"ssh-ed25519 A===",
		"ssh-ed25519 ====",
		"ssh-ed25519 " ED25519 "\x01",
		"ssh-ed25519 " ED25519 " com\rment",
		"ssh-ed25519 " ED25519 " com\x1b[2Jment",
		"ssh-ed25519 " RSA2048,
		"ssh-rsa " ED25519,
		"ecdsa-sha2-nistp384 " ECDSA256,
		/* the same as SK_ED25519, unused bits set: a second text for the same key */
		"sk-ssh-ed25519@openssh.com "
		"AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGh"
		"scHR4fAAAABHNzaDp=",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		assert_int_equal(parse(lines[i]), -EINVAL);
}

/* Every cut of a good key is refused, and reads nothing beyond it (the sanitizer watches). */
static void refuses_every_cut(void **state)
{
	static const char *const lines[] = {"ssh-rsa " RSA2048, "ecdsa-sha2-nistp521 " ECDSA521,
					    "sk-ecdsa-sha2-nistp256@openssh.com " SK_ECDSA};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		for (size_t len = 0; len < strlen(lines[i]); len++) {
			_cleanup_free_ char *copy = malloc(len + 1);
			struct pubkey key;

			assert_non_null(copy);
			memcpy(copy, lines[i], len);
			assert_true(pubkey_parse(copy, len, &key, NULL) < 0);
		}
	}
}

static void refuses_what_is_too_long(void **state)
{
	char line[PUBKEY_LINE_MAX + 2];
	size_t used = strlen("ssh-ed25519 " ED25519 " ");

	(void)state;
	memset(line, 'c', sizeof(line));
	memcpy(line, "ssh-ed25519 " ED25519 " ", used);
	line[used + PUBKEY_COMMENT_MAX] = '\0';
	assert_int_equal(parse(line), 0);
	line[used + PUBKEY_COMMENT_MAX] = 'c';
	line[used + PUBKEY_COMMENT_MAX + 1] = '\0';
	assert_int_equal(parse(line), -E2BIG);
	memset(line, 'c', sizeof(line));
	line[PUBKEY_LINE_MAX + 1] = '\0';
	assert_int_equal(parse(line), -E2BIG);
}

static int check_list(const char *text, size_t *ret_keys, struct err *reterr)
{
	return pubkey_check_list(text, strlen(text), ret_keys, reterr);
}

static void counts_lists(void **state)
{
	struct err err = {0};
	size_t keys = 99;

	(void)state;
	assert_int_equal(check_list("\n", &keys, NULL), 0);
	assert_int_equal(keys, 0);
	assert_int_equal(
		check_list("ssh-ed25519 " ED25519 "\n\nssh-rsa " RSA2048 " me\n", &keys, NULL), 0);
	assert_int_equal(keys, 2);
	assert_int_equal(check_list("ssh-ed25519 " ED25519, &keys, NULL), 0);
	assert_int_equal(keys, 1);
	assert_int_equal(check_list("ssh-ed25519 " ED25519 "\nrubbish\n", &keys, &err), -EPERM);
	assert_non_null(strstr(err.text, "line 2"));
	assert_int_equal(pubkey_check_list("ssh-ed25519 " ED25519 "\0\n",
					   sizeof("ssh-ed25519 " ED25519 "\0\n") - 1, &keys, NULL),
			 -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts_every_type),
		cmocka_unit_test(names_the_parts),
		cmocka_unit_test(refuses_options_and_types),
		cmocka_unit_test(refuses_damage),
		cmocka_unit_test(refuses_every_cut),
		cmocka_unit_test(refuses_what_is_too_long),
		cmocka_unit_test(counts_lists),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
