/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log's hash, records and chain: every byte changed, every line cut or moved has to show.
 * Trust: runs in tests only.
 */
#include "common/audit.h"
#include "common/fd.h"
#include "common/sha256.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>

#include <cmocka.h>

#define N_LINES 5

static void hash_is(const char *text, size_t repeat, const char *want)
{
	uint8_t digest[SHA256_SIZE];
	char hex[SHA256_SIZE * 2 + 1];
	struct sha256 s;

	sha256_init(&s);
	for (size_t i = 0; i < repeat; i++)
		sha256_add(&s, text, strlen(text));
	sha256_end(&s, digest);
	for (size_t i = 0; i < SHA256_SIZE; i++)
		(void)snprintf(hex + i * 2, 3, "%02x", digest[i]);
	assert_string_equal(hex, want);
}

/* The examples of FIPS 180-4. */
static void test_sha256(void **state)
{
	(void)state;
	hash_is("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	hash_is("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	hash_is("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
		"248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	hash_is("a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static size_t make_log(char *buf, size_t size)
{
	struct audit_chain chain = AUDIT_CHAIN_INIT;
	char line[AUDIT_LINE_MAX];
	size_t len = 0;

	for (uint64_t i = 0; i < N_LINES; i++) {
		const struct log_field fields[] = {LOG_STR("VM", "vm-1"), LOG_NUM("N", i)};
		ssize_t n = audit_format(&chain, 1700000000 + i, "vm-start", fields, 2, line);

		assert_true(n > 0 && len + (size_t)n < size);
		memcpy(buf + len, line, (size_t)n);
		len += (size_t)n;
	}
	return len;
}

static int verify_after(const char *text, size_t len, const struct audit_chain *before,
			struct audit_report *ret_report)
{
	_cleanup_close_ int fd = memfd_create("log", MFD_CLOEXEC);

	assert_int_equal(fd_write_all(fd, text, len), 0);
	return audit_verify(fd, before, ret_report);
}

static int verify(const char *text, size_t len, struct audit_report *ret_report)
{
	const struct audit_chain init = AUDIT_CHAIN_INIT;

	return verify_after(text, len, &init, ret_report);
}

static void test_whole(void **state)
{
	struct audit_report report;
	char buf[4096];
	size_t len = make_log(buf, sizeof(buf));

	(void)state;
	assert_int_equal(verify(buf, len, &report), 0);
	assert_int_equal(report.n_records, N_LINES);
	assert_int_equal(report.chain.seq, N_LINES);
	assert_int_equal(report.torn_bytes, 0);
	assert_int_equal(verify(buf, 0, &report), 0);
	assert_int_equal(report.n_records, 0);
}

/* Two files of one chain: the second is proved from the end of the first, or believed to begin
 * right, but never proved to be the first. */
static void test_files(void **state)
{
	const struct audit_chain unknown = {0};
	struct audit_report report, second;
	char buf[4096];
	size_t len = make_log(buf, sizeof(buf)), at;

	(void)state;
	at = (size_t)((char *)memchr(buf, '\n', len) + 1 - buf);
	assert_int_equal(verify(buf, at, &report), 0);
	assert_int_equal(verify_after(buf + at, len - at, &report.chain, &second), 0);
	assert_int_equal(second.n_records, N_LINES - 1);
	assert_int_equal(second.chain.seq, N_LINES);
	assert_int_equal(verify_after(buf + at, len - at, &unknown, &second), 0);
	assert_int_equal(verify(buf + at, len - at, &second), -EBADMSG);
	report.chain.hash[3] ^= 1;
	assert_int_equal(verify_after(buf + at, len - at, &report.chain, &second), -EBADMSG);
}

/* A changed last line reads as a torn one at worst, but never as a good log with as many records.
 */
static void test_every_byte(void **state)
{
	struct audit_report report;
	char buf[4096];
	size_t len = make_log(buf, sizeof(buf));

	(void)state;
	for (size_t i = 0; i < len; i++) {
		buf[i] ^= 1;
		assert_true(verify(buf, len, &report) == -EBADMSG || report.torn_bytes > 0);
		assert_true(report.n_records < N_LINES);
		buf[i] ^= 1;
	}
}

static void test_missing_line(void **state)
{
	struct audit_report report;
	char buf[4096];
	size_t len = make_log(buf, sizeof(buf));

	(void)state;
	for (size_t at = 0, n; at < len; at += n) {
		char cut[4096];

		n = (size_t)((char *)memchr(buf + at, '\n', len - at) + 1 - (buf + at));
		memcpy(cut, buf, at);
		memcpy(cut + at, buf + at + n, len - at - n);
		if (at + n < len)
			assert_int_equal(verify(cut, len - n, &report), -EBADMSG);
		else /* a cut at the end shows by the number of records only */
			assert_int_equal(verify(cut, len - n, &report), 0);
	}
}

static void test_torn(void **state)
{
	struct audit_report report;
	char buf[8192], line[AUDIT_LINE_MAX];
	size_t len = make_log(buf, sizeof(buf)), torn = len - 20;
	ssize_t n;

	(void)state;
	assert_int_equal(verify(buf, torn, &report), 0);
	assert_int_equal(report.n_records, N_LINES - 1);
	assert_true(report.torn_bytes > 0);
	/* The next start ends the line and owns up to it. */
	buf[torn] = '\n';
	n = audit_format(&report.chain, 1, AUDIT_TORN, NULL, 0, line);
	assert_true(n > 0);
	memcpy(buf + torn + 1, line, (size_t)n);
	assert_int_equal(verify(buf, torn + 1 + (size_t)n, &report), 0);
	assert_int_equal(report.n_torn, 1);
	/* Without that record it is an edit. */
	assert_int_equal(verify(buf, torn + 1, &report), -EBADMSG);
}

static int resume(const char *text, size_t len, struct audit_chain *ret_chain, size_t *ret_torn)
{
	_cleanup_close_ int fd = memfd_create("log", MFD_CLOEXEC);

	assert_int_equal(fd_write_all(fd, text, len), 0);
	return audit_resume(fd, len, ret_chain, ret_torn);
}

/* Wherever the log ends, what is resumed is where the proof ended. */
static void test_resume(void **state)
{
	struct audit_report report;
	struct audit_chain chain;
	char buf[4096];
	size_t len = make_log(buf, sizeof(buf)), torn;

	(void)state;
	for (size_t cut = 0; cut <= len; cut++) {
		assert_int_equal(verify(buf, cut, &report), 0);
		assert_int_equal(resume(buf, cut, &chain, &torn), 0);
		assert_int_equal(torn, report.torn_bytes);
		assert_int_equal(chain.seq, report.chain.seq);
		assert_string_equal(chain.hash, report.chain.hash);
	}
	/* The last record edited. */
	buf[len - 3] ^= 1;
	assert_int_equal(resume(buf, len, &chain, &torn), -EBADMSG);
	assert_int_equal(chain.seq, N_LINES - 1);
	buf[len - 3] ^= 1;
	/* Zeros that a power cut left are a torn line. */
	memset(buf + len, 0, 100);
	assert_int_equal(resume(buf, len + 100, &chain, &torn), 0);
	assert_int_equal(chain.seq, N_LINES);
	assert_int_equal(torn, 100);
}

/* In a log longer than what is looked at, too. */
static void test_resume_long(void **state)
{
	struct audit_chain chain = AUDIT_CHAIN_INIT, got;
	static char buf[256 * 1024];
	char line[AUDIT_LINE_MAX], value[700];
	size_t len = 0, torn;

	(void)state;
	memset(value, 'x', sizeof(value));
	value[sizeof(value) - 1] = '\0';
	for (int i = 0; i < 240; i++) {
		const struct log_field field = LOG_STR("WHY", value + i % 60 * 10);
		ssize_t n = audit_format(&chain, 1, "refused", &field, 1, line);

		assert_true(n > 0 && len + (size_t)n < sizeof(buf));
		memcpy(buf + len, line, (size_t)n);
		len += (size_t)n;
		assert_int_equal(resume(buf, len, &got, &torn), 0);
		assert_int_equal(torn, 0);
		assert_int_equal(got.seq, chain.seq);
		assert_string_equal(got.hash, chain.hash);
	}
}

static void test_escaping(void **state)
{
	struct audit_chain chain = AUDIT_CHAIN_INIT, before = chain;
	char line[AUDIT_LINE_MAX], huge[AUDIT_LINE_MAX];
	const struct log_field forged[] = {LOG_STR("WHY", "x\n2 1 vm-start \x1b[0m\\")};
	struct log_field big[] = {LOG_STR("WHY", huge)};

	(void)state;
	assert_true(audit_format(&chain, 1, "refused", forged, 1, line) > 0);
	assert_null(memchr(line, '\n', strlen(line) - 1));
	assert_non_null(strstr(line, "WHY=x\\x0a2\\x201\\x20vm-start\\x20\\x1b[0m\\x5c "));
	memset(huge, 'x', sizeof(huge) - 1);
	huge[sizeof(huge) - 1] = '\0';
	before = chain;
	assert_int_equal(audit_format(&chain, 1, "refused", big, 1, line), -EMSGSIZE);
	assert_memory_equal(&before, &chain, sizeof(chain));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha256),       cmocka_unit_test(test_whole),
		cmocka_unit_test(test_files),        cmocka_unit_test(test_every_byte),
		cmocka_unit_test(test_missing_line), cmocka_unit_test(test_torn),
		cmocka_unit_test(test_resume),       cmocka_unit_test(test_resume_long),
		cmocka_unit_test(test_escaping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
