/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentd/http_parse.c: what a head means once accepted, and that it means the same however it is
 * cut. What must be refused is the table of tests/abuse/test-http-framing.c.
 * Trust: runs as whoever tests; no input but its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "agentd/http_parse.h"

/* Parses @text whole, then again from the start with one more byte at each call. */
static int parse(char *text, size_t len, struct http_head *head, struct http_error *err)
{
	struct http_scan whole = {0}, bytewise = {0};
	struct http_head other;
	struct http_error other_err = {0};
	int r = http_parse_head(text, len, &whole, head, err), r2 = -EAGAIN;

	for (size_t n = 1; n <= len && r2 == -EAGAIN; n++)
		r2 = http_parse_head(text, n, &bytewise, &other, &other_err);
	assert_int_equal(r, r2);
	if (r == -EBADMSG) {
		assert_int_equal(err->status, other_err.status);
		assert_string_equal(err->reason, other_err.reason);
	}
	if (r == 0)
		assert_int_equal(head->len, other.len);
	return r;
}

static int parse_str(char *text, struct http_head *head)
{
	struct http_error err = {0};
	int r = parse(text, strlen(text), head, &err);

	if (r == 0)
		http_head_seal(head, text);
	return r == -EBADMSG ? (int)err.status : r;
}

static void test_plain_get(void **state _unused_)
{
	char text[] = "GET /v1/instances/ab?logs=true HTTP/1.1\r\nHost: agent.example:15001\r\n"
		      "X-Agent-Secret:  sk-abc \t\r\nempty:\r\n\r\nGET /next";
	struct http_head h;
	const char *v;

	assert_int_equal(parse_str(text, &h), 0);
	assert_int_equal(h.method, HTTP_GET);
	assert_int_equal(h.minor, 1);
	assert_true(h.keep_alive);
	assert_false(h.chunked || h.upgrade || h.expect_continue);
	assert_int_equal(h.content_length, 0);
	assert_int_equal(h.len, sizeof(text) - 1 - strlen("GET /next"));
	assert_string_equal(text + h.path.off, "/v1/instances/ab");
	assert_string_equal(text + h.query.off, "logs=true");
	assert_int_equal(h.n_fields, 3);
	assert_int_equal(http_head_field(&h, text, "x-agent-SECRET", &v), 0);
	assert_string_equal(v, "sk-abc");
	assert_int_equal(http_head_field(&h, text, "Empty", &v), 0);
	assert_string_equal(v, "");
	assert_int_equal(http_head_field(&h, text, "X-Agent", &v), -ENOENT);
}

static void test_field_twice(void **state _unused_)
{
	char text[] = "GET / HTTP/1.1\r\nHost: h\r\nX-Agent-Secret: a\r\nx-agent-secret: a\r\n\r\n";
	struct http_head h;
	const char *v;

	assert_int_equal(parse_str(text, &h), 0);
	assert_int_equal(http_head_field(&h, text, "X-Agent-Secret", &v), -ENOTUNIQ);
}

static void test_methods(void **state _unused_)
{
	static const struct {
		const char *name;
		int expected; /* method, or status */
	} cases[] = {
		{"GET", HTTP_GET},
		{"HEAD", HTTP_HEAD},
		{"POST", HTTP_POST},
		{"PUT", HTTP_PUT},
		{"DELETE", HTTP_DELETE},
		{"OPTIONS", HTTP_OPTIONS},
		{"PATCH", 501},
		{"get", 501},
		{"G", 501},
		{"GETT", 501},
		{"CONNECT", 501},
		{"TRACE", 501},
		{"", 400},
		{"G(T", 400},
		{"GET:", 400},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char text[64];
		struct http_head h;
		int r;

		(void)snprintf(text, sizeof(text), "%s / HTTP/1.1\r\nHost: h\r\n\r\n",
			       cases[i].name);
		r = parse_str(text, &h);
		assert_int_equal(r == 0 ? (int)h.method : r, cases[i].expected);
	}
}

static void test_keep_alive(void **state _unused_)
{
	static const struct {
		const char *rest;
		bool keep, upgrade;
	} cases[] = {
		{"HTTP/1.1\r\nHost: h\r\n\r\n", true, false},
		{"HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", false, false},
		{"HTTP/1.1\r\nHost: h\r\nConnection: Keep-Alive , CLOSE\r\n\r\n", false, false},
		{"HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nConnection: close\r\n\r\n", false,
		 true},
		{"HTTP/1.1\r\nHost: h\r\nConnection: ,,Upgrade,\r\n\r\n", true, true},
		{"HTTP/1.1\r\nHost: h\r\nConnection: x-close\r\n\r\n", true, false},
		{"HTTP/1.0\r\n\r\n", false, false},
		{"HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true, false},
		{"HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n", false, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char text[128];
		struct http_head h;

		(void)snprintf(text, sizeof(text), "GET / %s", cases[i].rest);
		assert_int_equal(parse_str(text, &h), 0);
		assert_int_equal(h.keep_alive, cases[i].keep);
		assert_int_equal(h.upgrade, cases[i].upgrade);
	}
}

static void test_framing(void **state _unused_)
{
	char length[] = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999999999\r\n\r\n";
	char zero[] = "POST / HTTP/1.1\r\nHost: h\r\ncontent-length:0\r\n\r\n";
	char chunked[] = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n";
	char expects[] = "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\n"
			 "Content-Length: 5\r\n\r\n";
	char expects_1_0[] = "PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
	struct http_head h;

	assert_int_equal(parse_str(length, &h), 0);
	assert_true(h.content_length == UINT64_C(999999999999999999));
	assert_int_equal(parse_str(zero, &h), 0);
	assert_int_equal(h.content_length, 0);
	assert_int_equal(parse_str(chunked, &h), 0);
	assert_true(h.chunked);
	assert_int_equal(parse_str(expects, &h), 0);
	assert_true(h.expect_continue);
	assert_int_equal(parse_str(expects_1_0, &h), 0);
	assert_false(h.expect_continue);
}

static const struct {
	const char *target, *path, *query; /* path NULL: refused */
} target_cases[] = {
	{"/", "/", ""},
	{"/a/b/", "/a/b/", ""},
	{"/a%62c", "/abc", ""},
	{"/%25", "/%", ""},
	{"/%2541", "/%41", ""},
	{"/a.b/...", "/a.b/...", ""},
	{"/.a", "/.a", ""},
	{"/a?", "/a", ""},
	{"/a?b?c=/d", "/a", "b?c=/d"},
	{"/a;v=1", "/a;v=1", ""},
	{"http://h/a?b", "/a", "b"},
	{"HTTP://H/", "/", ""},
	{"", NULL, NULL},
	{"*", NULL, NULL},
	{"a", NULL, NULL},
	{"/a//b", NULL, NULL},
	{"//a", NULL, NULL},
	{"/.", NULL, NULL},
	{"/..", NULL, NULL},
	{"/a/../b", NULL, NULL},
	{"/a/./b", NULL, NULL},
	{"/a/%2e%2E/b", NULL, NULL},
	{"/a/.%2e", NULL, NULL},
	{"/a%2fb", NULL, NULL},
	{"/a%5cb", NULL, NULL},
	{"/a\\b", NULL, NULL},
	{"/%00", NULL, NULL},
	{"/%0a", NULL, NULL},
	{"/%7f", NULL, NULL},
	{"/%c3%a4", NULL, NULL},
	{"/\xc3\xa4", NULL, NULL},
	{"/%", NULL, NULL},
	{"/%4", NULL, NULL},
	{"/%4g", NULL, NULL},
	{"/%-1", NULL, NULL},
	{"/a?x=%00", NULL, NULL},
	{"/a?x=%4", NULL, NULL},
	{"/a?x=\"", NULL, NULL},
	{"/a#b", NULL, NULL},
	{"/a?b#c", NULL, NULL},
	{"/<a>", NULL, NULL},
	{"http://u@h/", NULL, NULL},
	{"http://u:p@h/", NULL, NULL},
	{"http://h", NULL, NULL},
	{"http:///a", NULL, NULL},
	{"http://other/a", NULL, NULL},
	{"https://h/", NULL, NULL},
	{"ftp://h/", NULL, NULL},
	{"h:80", NULL, NULL},
};

static void test_targets(void **state _unused_)
{
	for (size_t i = 0; i < ARRAY_LEN(target_cases); i++) {
		char text[128];
		struct http_head h;
		int r;

		(void)snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: h\r\n\r\n",
			       target_cases[i].target);
		r = parse_str(text, &h);
		if (!target_cases[i].path) {
			assert_int_equal(r, 400);
			continue;
		}
		assert_int_equal(r, 0);
		assert_string_equal(text + h.path.off, target_cases[i].path);
		assert_int_equal(h.query.len, strlen(target_cases[i].query));
		assert_memory_equal(text + h.query.off, target_cases[i].query, h.query.len);
	}
}

static void test_options_asterisk(void **state _unused_)
{
	char text[] = "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n";
	struct http_head h;

	assert_int_equal(parse_str(text, &h), 0);
	assert_string_equal(text + h.path.off, "*");
}

static void test_hosts(void **state _unused_)
{
	static const struct {
		const char *host;
		int expected;
	} cases[] = {
		{"127.0.0.1:15001", 0},
		{"[::1]", 0},
		{"[::ffff:1.2.3.4]:80", 0},
		{"a-b_c.example", 0},
		{"h:65535", 0},
		{"", 400},
		{"h:", 400},
		{"h:65536", 400},
		{"h:123456", 400},
		{"h:8a", 400},
		{":80", 400},
		{"u@h", 400},
		{"a b", 400},
		{"a,b", 400},
		{"h/", 400},
		{"h?", 400},
		{"[::1", 400},
		{"[]", 400},
		{"[::1]x", 400},
		{"[g::]", 400},
		{"h%41", 400},
		{"h\xc3\xa4", 400},
		{"h:80:80", 400},
		{"h#", 400},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char text[128];
		struct http_head h;

		(void)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: %s\r\n\r\n",
			       cases[i].host);
		assert_int_equal(parse_str(text, &h), cases[i].expected);
	}
}

/* A head of exactly @size bytes, in lines of at most @line bytes. */
static void make_head(char *buf, size_t size, size_t line)
{
	size_t n = (size_t)sprintf(buf, "GET / HTTP/1.1\r\nHost: h\r\n");

	while (size - n - 2 > 0) {
		size_t len = MIN_OF(line, size - n - 2);

		if (size - n - 2 - len > 0 && size - n - 2 - len < 8)
			len -= 8; /* leave enough for one more line */
		memset(buf + n, 'a', len);
		buf[n + 1] = ':';
		memcpy(buf + n + len - 2, "\r\n", 2);
		n += len;
	}
	memcpy(buf + n, "\r\n", 2);
}

static void test_limits(void **state _unused_)
{
	static char buf[HTTP_HEAD_MAX + 64];
	struct http_error err;
	struct http_head h;
	size_t n;

	make_head(buf, HTTP_HEAD_MAX, 1000);
	assert_int_equal(parse(buf, HTTP_HEAD_MAX, &h, &err), 0);
	assert_int_equal(h.len, HTTP_HEAD_MAX);
	make_head(buf, HTTP_HEAD_MAX + 1, 1000);
	assert_int_equal(parse(buf, HTTP_HEAD_MAX + 1, &h, &err), -EBADMSG);
	assert_int_equal(err.status, 431);

	for (unsigned fields = HTTP_FIELDS_MAX; fields <= HTTP_FIELDS_MAX + 1; fields++) {
		n = (size_t)sprintf(buf, "GET / HTTP/1.1\r\nHost: h\r\n");
		for (unsigned i = 1; i < fields; i++)
			n += (size_t)sprintf(buf + n, "f%u: x\r\n", i);
		n += (size_t)sprintf(buf + n, "\r\n");
		assert_int_equal(parse(buf, n, &h, &err), fields <= 64 ? 0 : -EBADMSG);
	}
	assert_int_equal(err.status, 431);

	for (size_t target = HTTP_TARGET_MAX; target <= HTTP_TARGET_MAX + 1; target++) {
		memcpy(buf, "GET /", 5);
		memset(buf + 5, 'a', target - 1);
		n = 4 + target;
		n += (size_t)sprintf(buf + n, " HTTP/1.1\r\nHost: h\r\n\r\n");
		assert_int_equal(parse(buf, n, &h, &err), target <= 2048 ? 0 : -EBADMSG);
	}
	assert_int_equal(err.status, 414);

	memset(buf, 'A', sizeof(buf));
	assert_int_equal(parse(buf, sizeof(buf), &h, &err), -EBADMSG);
	assert_int_equal(err.status, 414);
	assert_int_equal(parse(buf, HTTP_HEAD_MAX - 1, &h, &err), -EAGAIN);
}

static void test_query(void **state _unused_)
{
	static const char query[] = "logs=true&n%61me=a%20b+c&flag&dup=1&dup=2&=x&&long=123456";
	char buf[7];
	size_t len = sizeof(query) - 1;

	assert_int_equal(http_query_find(query, len, "logs", buf, sizeof(buf)), 4);
	assert_string_equal(buf, "true");
	assert_int_equal(http_query_find(query, len, "name", buf, sizeof(buf)), 5);
	assert_string_equal(buf, "a b c");
	assert_int_equal(http_query_find(query, len, "flag", buf, sizeof(buf)), 0);
	assert_string_equal(buf, "");
	assert_int_equal(http_query_find(query, len, "log", buf, sizeof(buf)), -ENOENT);
	assert_int_equal(http_query_find(query, len, "logss", buf, sizeof(buf)), -ENOENT);
	assert_int_equal(http_query_find(query, len, "dup", buf, sizeof(buf)), -ENOTUNIQ);
	assert_int_equal(http_query_find(query, len, "long", buf, sizeof(buf)), 6);
	assert_int_equal(http_query_find(query, len, "long", buf, 6), -ENOSPC);
	assert_int_equal(http_query_find(query, 0, "logs", buf, sizeof(buf)), -ENOENT);
}

static void test_field_valid(void **state _unused_)
{
	assert_true(http_field_valid("Allow", "GET, HEAD"));
	assert_true(http_field_valid("X", ""));
	assert_false(http_field_valid("", "x"));
	assert_false(http_field_valid("a b", "x"));
	assert_false(http_field_valid("a:", "x"));
	assert_false(http_field_valid("a", "x\r\nSet-Cookie: y"));
	assert_false(http_field_valid("a", "\n"));
	assert_false(http_field_valid("a", "\x7f"));
}

/*
 * Decodes @text in pieces of @piece bytes. Returns 0, -EAGAIN, or the status of the refusal; the
 * content is in @out, *@ret_used the raw bytes taken.
 */
static int unchunk(const char *text, size_t piece, size_t room, char *out, size_t *ret_used)
{
	struct http_chunked c = {0};
	struct http_error err;
	size_t len = strlen(text), in = 0, total = 0, used, got;
	int r = -EAGAIN;

	while (r == -EAGAIN && in < len) {
		size_t n = MIN_OF(piece, len - in);

		memcpy(out + total, text + in, n);
		r = http_chunked_feed(&c, out + total, n, room - total, &used, &got, &err);
		if (r == -EBADMSG)
			return (int)err.status;
		in += used;
		total += got;
	}
	out[total] = '\0';
	*ret_used = in;
	return r;
}

static void test_chunked(void **state _unused_)
{
	static const struct {
		const char *text;
		int expected;
		const char *content;
		const char *behind;
	} cases[] = {
		{"0\r\n\r\n", 0, "", ""},
		{"5\r\nhello\r\n0\r\n\r\nGET", 0, "hello", "GET"},
		{"00000005\r\nhello\r\nA;x=\"y;z\"\r\n0123456789\r\n000\r\n\r\n", 0,
		 "hello0123456789", ""},
		{"a ; b = c\r\n", 400, NULL, NULL},
		{"5;a = b\r\nhel", -EAGAIN, "hel", ""},
		{"", -EAGAIN, "", ""},
		{"5\r\nhello\r\n0\r\nX: y\r\n\r\n", 400, NULL, NULL},
		{"5\r\nhello!\r\n", 400, NULL, NULL},
		{"5\r\nhello\n", 400, NULL, NULL},
		{"5\nhello", 400, NULL, NULL},
		{"5\rhello", 400, NULL, NULL},
		{"\r\n5\r\n", 400, NULL, NULL},
		{"-5\r\n", 400, NULL, NULL},
		{"+5\r\n", 400, NULL, NULL},
		{"0x5\r\n", 400, NULL, NULL},
		{" 5\r\n", 400, NULL, NULL},
		{"5 \r\n", 400, NULL, NULL},
		{"g\r\n", 400, NULL, NULL},
		{"5;a\nb\r\n", 400, NULL, NULL},
		{"5;\x01\r\n", 400, NULL, NULL},
		{"000000005\r\n", 400, NULL, NULL},
		{"100000005\r\n", 400, NULL, NULL},
		{"ffffffff\r\n", 413, NULL, NULL},
		{"21\r\n", 413, NULL, NULL},
		{"10\r\n0123456789abcdef\r\n11\r\n", 413, NULL, NULL},
		{"20\r\n0123456789abcdef0123456789abcdef\r\n0\r\n\r\n", 0,
		 "0123456789abcdef0123456789abcdef", ""},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		for (size_t piece = 1; piece < 9; piece++) {
			size_t len = strlen(cases[i].text), used = 0;
			char out[128];
			int r = unchunk(cases[i].text, piece == 8 ? 100 : piece, 32, out, &used);

			assert_int_equal(r, cases[i].expected);
			if (!cases[i].content)
				continue;
			assert_string_equal(out, cases[i].content);
			assert_string_equal(cases[i].text + used, cases[i].behind);
			assert_true(used <= len);
		}
}

static void test_chunk_extensions_bounded(void **state _unused_)
{
	struct http_chunked c = {0};
	struct http_error err;
	size_t used, out, total = 0;
	int r = -EAGAIN;

	for (unsigned i = 0; i < 100 && r == -EAGAIN; i++) {
		char text[] = "1;abcdefghi\r\nx\r\n";

		r = http_chunked_feed(&c, text, sizeof(text) - 1, 1000, &used, &out, &err);
		total += r == -EAGAIN ? out : 0;
	}
	assert_int_equal(r, -EBADMSG);
	assert_int_equal(err.status, 400);
	assert_int_equal(total, HTTP_CHUNK_EXT_MAX / 9);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain_get),
		cmocka_unit_test(test_field_twice),
		cmocka_unit_test(test_methods),
		cmocka_unit_test(test_keep_alive),
		cmocka_unit_test(test_framing),
		cmocka_unit_test(test_targets),
		cmocka_unit_test(test_options_asterisk),
		cmocka_unit_test(test_hosts),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_query),
		cmocka_unit_test(test_field_valid),
		cmocka_unit_test(test_chunked),
		cmocka_unit_test(test_chunk_extensions_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
