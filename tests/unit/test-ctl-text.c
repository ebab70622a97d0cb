/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tests of qudatactl's text functions, tables and console escapes.
 *
 * Trust: a test; reads nothing from outside.
 */
#include "ctl/escape.h"
#include "ctl/table.h"
#include "ctl/text.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void test_safe(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{NULL, ""},
		{"plain text", "plain text"},
		{"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",
		 "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
		{"a\x1b[31mb\x07", "a\\x1b[31mb\\x07"},
		{"a\nb\rc\td", "a\\nb\\rc\\td"},
		{"\x7f", "\\x7f"},
		{"\x9b\x80", "\\x9b\\x80"},                   /* bare continuation bytes */
		{"\xc2\x9b", "\\u{9b}"},                      /* CSI as a C1 character */
		{"\xe2\x80\xae", "\\u{202e}"},                /* right-to-left override */
		{"\xc0\xaf", "\\xc0\\xaf"},                   /* overlong */
		{"\xe0\x80\xaf", "\\xe0\\x80\\xaf"},          /* overlong */
		{"\xed\xa0\x80", "\\xed\\xa0\\x80"},          /* surrogate */
		{"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}, /* above U+10FFFF */
		{"\xe2\x82", "\\xe2\\x82"},                   /* cut off */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		_cleanup_free_ char *text = text_safe(cases[i].in);

		assert_string_equal(text, cases[i].out);
	}
}

/* Feeds @in in chunks of @chunk bytes; the result is owned by the caller. */
static char *filtered(const char *in, size_t len, size_t chunk)
{
	struct text_filter filter = {0};
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	assert_non_null(f);
	for (size_t at = 0; at < len; at += chunk)
		text_filter_feed(&filter, in + at, MIN_OF(chunk, len - at), f);
	text_filter_flush(&filter, f);
	assert_int_equal(fclose(f), 0);
	return text;
}

static void test_filter(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{"one\r\ntwo\r\r\nthree\n", "one\ntwo\nthree\n"},
		{"over\rwrite", "over\\rwrite"},
		{"[\x1b[0;32m  OK  \x1b[0m] x", "[  OK  ] x"},
		{"\x1b[2J\x1b[Htop", "top"},
		{"\x1b]0;title\x07", "\\x1b]0;title\\x07"},
		{"\x1b[1\x01m", "\\x1b[1\\x01m"},
		{"\x1b"
		 "c",
		 "\\x1bc"},
		{"caf\xc3\xa9\xc3", "caf\xc3\xa9\\xc3"},
		{"end\r", "end"},
		{"end\x1b[", "end\\x1b["},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		for (size_t chunk = 1; chunk < 8; chunk++) {
			_cleanup_free_ char *text =
				filtered(cases[i].in, strlen(cases[i].in), chunk);

			assert_string_equal(text, cases[i].out);
		}
}

/* A sequence without an end must neither be swallowed for ever nor outgrow the filter's memory. */
static void test_filter_is_bounded(void **state)
{
	char in[500];

	(void)state;
	memset(in, '0', sizeof(in));
	memcpy(in, "\x1b[", 2);
	for (size_t chunk = 1; chunk < 200; chunk += 7) {
		_cleanup_free_ char *text = filtered(in, sizeof(in), chunk);

		assert_int_equal(strlen(text), sizeof(in) + 3);
		assert_memory_equal(text, "\\x1b[000", 8);
	}
}

static void test_ages_and_sizes(void **state)
{
	char text[TEXT_AGE_MAX];

	(void)state;
	text_age(-5, text);
	assert_string_equal(text, "0s");
	text_age(59, text);
	assert_string_equal(text, "59s");
	text_age(60, text);
	assert_string_equal(text, "1m 0s");
	text_age(3600, text);
	assert_string_equal(text, "1h 0m");
	text_age(90061, text);
	assert_string_equal(text, "1d 1h");
	text_age(INT64_MAX, text);
	assert_int_equal(strlen(text) < TEXT_AGE_MAX, 1);
	text_mib(512, text);
	assert_string_equal(text, "512 MiB");
	text_mib(8192, text);
	assert_string_equal(text, "8 GiB");
	text_mib(1536, text);
	assert_string_equal(text, "1.5 GiB");
}

static void test_table(void **state)
{
	static const char *const headers[] = {"A", ">NUM", "TEXT", NULL};
	_cleanup_(table_done) struct table t = {0};
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	(void)state;
	assert_non_null(f);
	table_init(&t, headers);
	table_add(&t, "long one", 0);
	table_add(&t, "7", 31);
	table_add(&t, "x\n\x1b", 0);
	table_add(&t, NULL, 0);
	table_add(&t, "12345", 0);
	table_add(&t, "", 0);
	table_print(&t, f, false);
	table_print(&t, f, true);
	assert_int_equal(fclose(f), 0);
	assert_non_null(strstr(text, "A           NUM  TEXT\n"
				     "long one      7  x\\n\\x1b\n"
				     "          12345  \n"));
	assert_non_null(strstr(text, "\033[1mNUM\033[0m"));
	assert_non_null(strstr(text, "    \033[31m7\033[0m  x"));
}

struct fed {
	enum escape_action action;
	char out[64];
	size_t used;
};

static struct fed feed(struct escape *e, const char *in)
{
	struct fed fed = {0};
	size_t n;

	fed.action = escape_feed(e, in, strlen(in), fed.out, &fed.used, &n);
	fed.out[n] = 0;
	return fed;
}

static void test_escape(void **state)
{
	struct escape e = {0};
	struct fed fed;

	(void)state;
	fed = feed(&e, "ls ~.\r");
	assert_int_equal(fed.action, ESCAPE_NONE);
	assert_string_equal(fed.out, "ls ~.\r");
	fed = feed(&e, "~");
	assert_string_equal(fed.out, "");
	fed = feed(&e, "x");
	assert_string_equal(fed.out, "~x");
	fed = feed(&e, "\n~~~\r");
	assert_string_equal(fed.out, "\n~~\r");
	fed = feed(&e, "~?rest");
	assert_int_equal(fed.action, ESCAPE_HELP);
	assert_int_equal(fed.used, 2);
	assert_string_equal(fed.out, "");
	fed = feed(&e, "a\r~.more");
	assert_int_equal(fed.action, ESCAPE_LEAVE);
	assert_int_equal(fed.used, 4);
	assert_string_equal(fed.out, "a\r");
	fed = feed(&e, "~\r~.");
	assert_int_equal(fed.action, ESCAPE_LEAVE);
	assert_string_equal(fed.out, "~\r");
}

static void expect_cut(const char *text, size_t columns, const char *mark, const char *expected)
{
	_cleanup_free_ char *out = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&out, &size);

	text_put_cut(f, text, columns, mark);
	assert_int_equal(fclose(f), 0);
	assert_string_equal(out, expected);
}

static void test_cut(void **state)
{
	(void)state;
	expect_cut("abc", 3, "~", "abc");
	expect_cut("abcd", 3, "~", "ab~");
	expect_cut("abcd", 1, "~", "~");
	expect_cut("abcd", 0, "~", "");
	expect_cut("", 0, "~", "");
	expect_cut("\xc3\xa9\xc3\xa9\xc3\xa9", 2, "\xe2\x80\xa6", "\xc3\xa9\xe2\x80\xa6");
}

static void test_bytes(void **state)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
		{0, "0"},
		{1, "1"},
		{1000, "1000"},
		{4096, "4K"},
		{UINT64_C(16) << 20, "16M"},
		{UINT64_C(1) << 38, "256G"},
		{UINT64_C(1536) << 20, "1536M"},
		{UINT64_C(1) << 63, "8E"},
		{UINT64_MAX, "18446744073709551615"},
	};
	char text[TEXT_AGE_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		text_bytes(cases[i].bytes, text);
		assert_string_equal(text, cases[i].text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_safe),
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_filter_is_bounded),
		cmocka_unit_test(test_ages_and_sizes),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_escape),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
