/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Abuse case 16: requests that two HTTP parsers might frame differently. Each goes through the real
 * server as raw bytes, in one piece and byte by byte: the answer, the number of requests that reach
 * the handler and the fate of the connection must be the same, and nothing behind a refused request
 * may ever be read as a request of its own.
 * Trust: runs as whoever tests; no input but its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/http-rig.h"

#define H        "Host: h\r\n"
#define GET      "GET /ok HTTP/1.1\r\n" H
#define POST     "POST /ok HTTP/1.1\r\n" H
#define CHUNKED  POST "Transfer-Encoding: chunked\r\n\r\n"
/* What an attacker would like to see served as the next user's request: 35 bytes. */
#define SMUGGLED "GET /smuggled HTTP/1.1\r\n" H "\r\n"
_Static_assert(sizeof(SMUGGLED) - 1 == 35, "the lengths in the table count on it");
#define BYTES(s) s, sizeof(s) - 1

enum fate { OPEN, CLOSED };

struct abuse {
	const char *name;
	const char *bytes;
	size_t len;
	unsigned status;  /* of the first answer */
	unsigned handled; /* requests that reach the handler */
	enum fate fate;
};

static const struct abuse table[] = {
	/* What must work, so that the refusals below mean something. */
	{"plain", BYTES(GET "\r\n"), 200, 1, OPEN},
	{"pipelined", BYTES(GET "\r\n" GET "\r\n" GET "\r\n"), 200, 3, OPEN},
	{"body and next", BYTES(POST "Content-Length: 5\r\n\r\nhello" GET "\r\n"), 200, 2, OPEN},
	{"chunks and next", BYTES(CHUNKED "5\r\nhello\r\n0\r\n\r\n" GET "\r\n"), 200, 2, OPEN},
	{"GET with body", BYTES(GET "Content-Length: 45\r\n\r\n" SMUGGLED "0123456789"), 200, 1,
	 OPEN},
	{"close wins", BYTES(GET "Connection: close\r\n\r\n" SMUGGLED), 200, 1, CLOSED},
	{"1.0 closes", BYTES("GET /ok HTTP/1.0\r\n\r\n" SMUGGLED), 200, 1, CLOSED},

	/* Content-Length. */
	{"length: plus", BYTES(POST "Content-Length: +5\r\n\r\nhello" SMUGGLED), 400, 0, CLOSED},
	{"length: minus", BYTES(POST "Content-Length: -5\r\n\r\nhello" SMUGGLED), 400, 0, CLOSED},
	{"length: minus zero", BYTES(POST "Content-Length: -0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"length: hex", BYTES(POST "Content-Length: 0x5\r\n\r\nhello" SMUGGLED), 400, 0, CLOSED},
	{"length: octal", BYTES(POST "Content-Length: 005\r\n\r\nhello" SMUGGLED), 400, 0, CLOSED},
	{"length: empty", BYTES(POST "Content-Length:\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"length: word", BYTES(POST "Content-Length: five\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"length: tail", BYTES(POST "Content-Length: 5b\r\n\r\nhello" SMUGGLED), 400, 0, CLOSED},
	{"length: inner blank", BYTES(POST "Content-Length: 5 0\r\n\r\nhello" SMUGGLED), 400, 0,
	 CLOSED},
	{"length: fraction", BYTES(POST "Content-Length: 5.0\r\n\r\nhello" SMUGGLED), 400, 0,
	 CLOSED},
	{"length: exponent", BYTES(POST "Content-Length: 1e1\r\n\r\nhello" SMUGGLED), 400, 0,
	 CLOSED},
	{"length: quoted", BYTES(POST "Content-Length: \"5\"\r\n\r\nhello" SMUGGLED), 400, 0,
	 CLOSED},
	{"length: list", BYTES(POST "Content-Length: 5, 5\r\n\r\nhello" SMUGGLED), 400, 0, CLOSED},
	{"length: differing list", BYTES(POST "Content-Length: 5, 6\r\n\r\nhello" SMUGGLED), 400, 0,
	 CLOSED},
	{"length: comma", BYTES(POST "Content-Length: 5,\r\n\r\nhello" SMUGGLED), 400, 0, CLOSED},
	{"length: twice the same",
	 BYTES(POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" SMUGGLED), 400, 0,
	 CLOSED},
	{"length: twice differing",
	 BYTES(POST "Content-Length: 0\r\ncontent-length: 35\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"length: 2^32+5", BYTES(POST "Content-Length: 4294967301\r\n\r\nhello" SMUGGLED), 413, 0,
	 CLOSED},
	{"length: 2^64+5", BYTES(POST "Content-Length: 18446744073709551621\r\n\r\nhello" SMUGGLED),
	 400, 0, CLOSED},
	{"length: 30 digits",
	 BYTES(POST "Content-Length: 100000000000000000000000000005\r\n\r\nhello" SMUGGLED), 400, 0,
	 CLOSED},
	{"length: over the cap", BYTES(POST "Content-Length: 1025\r\n\r\n" SMUGGLED), 413, 0,
	 CLOSED},
	{"length: form feed", BYTES(POST "Content-Length: \f5\r\n\r\nhello" SMUGGLED), 400, 0,
	 CLOSED},
	{"length: full-width digit",
	 BYTES(POST "Content-Length: \xef\xbc\x95\r\n\r\nhello" SMUGGLED), 400, 0, CLOSED},

	/* Transfer-Encoding. */
	{"coding and length",
	 BYTES(POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED),
	 400, 0, CLOSED},
	{"length and coding",
	 BYTES(POST "Transfer-Encoding: chunked\r\nContent-Length: 40\r\n\r\n0\r\n\r\n" SMUGGLED),
	 400, 0, CLOSED},
	{"coding before chunked",
	 BYTES(POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" SMUGGLED), 501, 0, CLOSED},
	{"identity before chunked",
	 BYTES(POST "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n" SMUGGLED), 501, 0,
	 CLOSED},
	{"coding behind chunked",
	 BYTES(POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" SMUGGLED), 400, 0,
	 CLOSED},
	{"chunked twice", BYTES(POST "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"), 400,
	 0, CLOSED},
	{"chunked in two fields",
	 BYTES(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
	 400, 0, CLOSED},
	{"another field hides it",
	 BYTES(POST "Transfer-Encoding: chunked\r\nTransfer-encoding: x\r\n\r\n0\r\n\r\n"), 400, 0,
	 CLOSED},
	{"identity", BYTES(POST "Transfer-Encoding: identity\r\n\r\n" SMUGGLED), 501, 0, CLOSED},
	{"unknown coding", BYTES(POST "Transfer-Encoding: xchunked\r\n\r\n" SMUGGLED), 501, 0,
	 CLOSED},
	{"chunked with parameter",
	 BYTES(POST "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"chunked quoted", BYTES(POST "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n" SMUGGLED),
	 400, 0, CLOSED},
	{"chunked, comma", BYTES(POST "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n" SMUGGLED), 400,
	 0, CLOSED},
	{"comma, chunked", BYTES(POST "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n" SMUGGLED), 400,
	 0, CLOSED},
	{"coding empty", BYTES(POST "Transfer-Encoding:\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"coding after vertical tab",
	 BYTES(POST "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"coding in 1.0",
	 BYTES("POST /ok HTTP/1.0\r\nConnection: keep-alive\r\n"
	       "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" SMUGGLED),
	 400, 0, CLOSED},
	{"coding, blank before colon",
	 BYTES(POST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"length, tab before colon", BYTES(POST "Content-Length\t: 5\r\n\r\nhello" SMUGGLED), 400,
	 0, CLOSED},

	/* Chunks. */
	{"chunk: signed", BYTES(CHUNKED "+5\r\nhello\r\n0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"chunk: 0x", BYTES(CHUNKED "0x5\r\nhello\r\n0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"chunk: 2^64", BYTES(CHUNKED "10000000000000005\r\nhello\r\n0\r\n\r\n" SMUGGLED), 400, 0,
	 CLOSED},
	{"chunk: 2^32", BYTES(CHUNKED "100000005\r\nhello\r\n0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"chunk: over the cap", BYTES(CHUNKED "401\r\n" SMUGGLED), 413, 0, CLOSED},
	{"chunk: bare LF", BYTES(CHUNKED "5\nhello\n0\n\n" SMUGGLED), 400, 0, CLOSED},
	{"chunk: bare CR", BYTES(CHUNKED "5\rhello\r0\r\r" SMUGGLED), 400, 0, CLOSED},
	{"chunk: LF in extension", BYTES(CHUNKED "5;a\nhello\r\n0\r\n\r\n" SMUGGLED), 400, 0,
	 CLOSED},
	{"chunk: blank", BYTES(CHUNKED "5 \r\nhello\r\n0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"chunk: no end", BYTES(CHUNKED "5\r\nhelloXX0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"chunk: longer than said", BYTES(CHUNKED "4\r\nhello\r\n0\r\n\r\n" SMUGGLED), 400, 0,
	 CLOSED},
	{"chunk: empty size", BYTES(CHUNKED "\r\nhello\r\n0\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"chunk: trailer", BYTES(CHUNKED "0\r\nContent-Length: 35\r\n\r\n" SMUGGLED), 400, 0,
	 CLOSED},

	/* Line ends and control bytes. */
	{"LF only", BYTES("GET /ok HTTP/1.1\nHost: h\n\n" SMUGGLED), 400, 0, CLOSED},
	{"LF in a field", BYTES(GET "A: b\nContent-Length: 35\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"LF at the end", BYTES(GET "\n" SMUGGLED), 400, 0, CLOSED},
	{"CR in a field", BYTES(GET "A: b\rContent-Length: 35\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"CR CR LF", BYTES(GET "A: b\r\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"CR at the end", BYTES(GET "\r\r\n" SMUGGLED), 400, 0, CLOSED},
	{"CR in the request line", BYTES("GET /ok\rHTTP/1.1\r\n" H "\r\n" SMUGGLED), 400, 0,
	 CLOSED},
	{"NUL in a value", BYTES(GET "A: b\0c\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"NUL in a name", BYTES(GET "A\0: b\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"NUL in the target", BYTES("GET /ok\0 HTTP/1.1\r\n" H "\r\n" SMUGGLED), 400, 0, CLOSED},
	{"NUL first", BYTES("\0" SMUGGLED), 400, 0, CLOSED},
	{"escape in a value", BYTES(GET "A: \033[2J\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"DEL in a value", BYTES(GET "A: \177\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"empty line first", BYTES("\r\n" SMUGGLED), 400, 0, CLOSED},
	{"TLS hello", BYTES("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400, 0, CLOSED},

	/* Fields. */
	{"folded with blank", BYTES(GET "A: b\r\n c\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"folded with tab", BYTES(GET "A: b\r\n\tc\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"folded coding", BYTES(POST "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" SMUGGLED),
	 400, 0, CLOSED},
	{"blank before the first", BYTES("GET /ok HTTP/1.1\r\n Host: h\r\n" H "\r\n" SMUGGLED), 400,
	 0, CLOSED},
	{"blank before the colon", BYTES(GET "A : b\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"no colon", BYTES(GET "Ab\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"no name", BYTES(GET ": b\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"name with bracket", BYTES(GET "A[]: b\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"name not ASCII", BYTES(GET "\xc3\xa4: b\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"Connection not a list", BYTES(GET "Connection: a b\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"expects the unknown", BYTES(POST "Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello"), 417,
	 0, CLOSED},
	{"expects twice",
	 BYTES(POST "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n"),
	 400, 0, CLOSED},

	/* Host and target. */
	{"no Host", BYTES("GET /ok HTTP/1.1\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"Host twice", BYTES(GET H "\r\n" SMUGGLED), 400, 0, CLOSED},
	{"Host differing", BYTES(GET "Host: other\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"Host twice in 1.0", BYTES("GET /ok HTTP/1.0\r\n" H H "\r\n" SMUGGLED), 400, 0, CLOSED},
	{"Host with user", BYTES("GET /ok HTTP/1.1\r\nHost: u@h\r\n\r\n"), 400, 0, CLOSED},
	{"Host with path", BYTES("GET /ok HTTP/1.1\r\nHost: h/x\r\n\r\n"), 400, 0, CLOSED},
	{"absolute, same host", BYTES("GET http://h/ok HTTP/1.1\r\n" H "\r\n"), 200, 1, OPEN},
	{"absolute, other host", BYTES("GET http://x/ok HTTP/1.1\r\n" H "\r\n" SMUGGLED), 400, 0,
	 CLOSED},
	{"absolute with user", BYTES("GET http://u:p@h/ok HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"fragment", BYTES("GET /ok#x HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"dot segments", BYTES("GET /x/../ok HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"escaped dot segments", BYTES("GET /x/%2e%2e/ok HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"escaped slash", BYTES("GET /x%2fok HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"escaped NUL", BYTES("GET /ok%00 HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"escaped CR LF", BYTES("GET /ok%0d%0a HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"half an escape", BYTES("GET /ok%4 HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"escape in the query", BYTES("GET /ok?a=%zz HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"target with blank", BYTES("GET /o k HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"two blanks", BYTES("GET  /ok HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"tabs", BYTES("GET\t/ok\tHTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},
	{"blank at the end", BYTES("GET /ok HTTP/1.1 \r\n" H "\r\n"), 400, 0, CLOSED},
	{"blank first", BYTES(" GET /ok HTTP/1.1\r\n" H "\r\n"), 400, 0, CLOSED},

	/* Methods and versions. */
	{"0.9", BYTES("GET /ok\r\n\r\n" SMUGGLED), 400, 0, CLOSED},
	{"2.0", BYTES("GET /ok HTTP/2.0\r\n" H "\r\n" SMUGGLED), 505, 0, CLOSED},
	{"HTTP/2 preface", BYTES("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505, 0, CLOSED},
	{"1.2", BYTES("GET /ok HTTP/1.2\r\n" H "\r\n" SMUGGLED), 505, 0, CLOSED},
	{"1.10", BYTES("GET /ok HTTP/1.10\r\n" H "\r\n" SMUGGLED), 400, 0, CLOSED},
	{"http/1.1", BYTES("GET /ok http/1.1\r\n" H "\r\n" SMUGGLED), 400, 0, CLOSED},
	{"CONNECT", BYTES("CONNECT h:22 HTTP/1.1\r\n" H "\r\n" SMUGGLED), 501, 0, CLOSED},
	{"TRACE", BYTES("TRACE /ok HTTP/1.1\r\n" H "\r\n" SMUGGLED), 501, 0, CLOSED},
	{"lower case", BYTES("get /ok HTTP/1.1\r\n" H "\r\n" SMUGGLED), 501, 0, CLOSED},

	/* An early answer leaves the body in the pipe: it must die there. */
	{"early answer, body behind",
	 BYTES("POST /early HTTP/1.1\r\n" H "Content-Length: 35\r\n\r\n" SMUGGLED), 401, 0, CLOSED},
	{"early answer, chunks behind",
	 BYTES("POST /early HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n" SMUGGLED), 401, 0,
	 CLOSED},
	{"early answer, expecting",
	 BYTES("POST /early HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 35\r\n\r\n"),
	 401, 0, CLOSED},
	{"early answer without body", BYTES("GET /early HTTP/1.1\r\n" H "\r\n" GET "\r\n"), 401, 1,
	 OPEN},
};

struct seen {
	unsigned handled, smuggled, refusals;
};

static int on_head(struct http_request *req, void *arg _unused_)
{
	if (!STR_EQ(http_path(req), "/early"))
		return 0;
	http_reply(req, 401, NULL, NULL, 0);
	return 1;
}

static void on_request(struct http_request *req, void *arg)
{
	struct seen *seen = arg;

	seen->handled++;
	seen->smuggled += STR_EQ(http_path(req), "/smuggled");
	http_reply(req, 200, "text/plain", "ok", 2);
}

static void on_refusal(const struct http_error *error _unused_, int tag _unused_,
		       uid_t uid _unused_, void *arg)
{
	struct seen *seen = arg;

	seen->refusals++;
}

static void check(const struct abuse *a, size_t piece)
{
	struct seen seen = {0};
	const struct http_config config = {
		.on_head = on_head,
		.handler = on_request,
		.on_refusal = on_refusal,
		.arg = &seen,
		.body_max = 1024,
	};
	_cleanup_close_ int fd = -EBADF;
	char answer[8192];
	struct rig rig;
	bool closed;

	rig_start(&rig, &config, 4);
	fd = rig_connect(&rig);
	rig_send(&rig, fd, a->bytes, a->len, piece);
	(void)rig_recv(&rig, fd, answer, sizeof(answer), &closed);
	if (rig_status(answer) != a->status || seen.handled != a->handled ||
	    closed != (a->fate == CLOSED))
		print_error("%s, pieces of %zu: status %u, %u handled, %s\n", a->name, piece,
			    rig_status(answer), seen.handled, closed ? "closed" : "open");
	assert_int_equal(rig_status(answer), a->status);
	assert_int_equal(seen.handled, a->handled);
	assert_int_equal(seen.smuggled, 0);
	assert_int_equal(closed, a->fate == CLOSED);
	if (a->status != 200 && a->fate == CLOSED) {
		/* One answer that announces the end, and one record for the log of each refusal. */
		assert_int_equal(rig_count(answer, "HTTP/1.1 "), 1);
		assert_int_equal(rig_count(answer, "Connection: close\r\n"), 1);
		assert_int_equal(seen.refusals, a->status != 401);
	}
	rig_stop(&rig);
}

static void test_table(void **state _unused_)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		check(&table[i], SIZE_MAX);
		check(&table[i], 7);
		check(&table[i], 1);
	}
}

/* A refused request never poisons the request of another connection. */
static void test_neighbours(void **state _unused_)
{
	struct seen seen = {0};
	const struct http_config config = {.handler = on_request, .arg = &seen};
	struct rig rig;
	char answer[4096];
	bool closed;
	int good, bad;

	rig_start(&rig, &config, 4);
	good = rig_connect(&rig);
	bad = rig_connect(&rig);
	rig_send(&rig, good, "GET /o", 6, SIZE_MAX);
	rig_send(&rig, bad, "GET /ok HTTP/1.1\nHost", 21, SIZE_MAX);
	rig_send(&rig, good, "k HTTP/1.1\r\nHost: h\r\n\r\n", 23, SIZE_MAX);
	(void)rig_recv(&rig, bad, answer, sizeof(answer), &closed);
	assert_int_equal(rig_status(answer), 400);
	assert_true(closed);
	(void)rig_recv(&rig, good, answer, sizeof(answer), &closed);
	assert_int_equal(rig_status(answer), 200);
	assert_false(closed);
	assert_int_equal(seen.handled, 1);
	(void)close(good);
	(void)close(bad);
	rig_stop(&rig);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_neighbours),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
