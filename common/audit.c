/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of the audit log.
 * Trust: runs in vfio-helper (root) and qudatactl; reads a log that may have been tampered with.
 */
#include "common/audit.h"

#include "common/sha256.h"

#include <inttypes.h>
#include <stdarg.h>

struct text {
	char *buf;
	size_t len;
	bool full;
};

static void _printf_(2, 3) put(struct text *t, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(t->buf + t->len, AUDIT_LINE_MAX - t->len, format, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= AUDIT_LINE_MAX - t->len)
		t->full = true;
	else
		t->len += (size_t)n;
}

static void put_value(struct text *t, const char *value)
{
	for (const unsigned char *p = (const unsigned char *)value; *p; p++)
		put(t, *p > 0x20 && *p <= 0x7e && *p != '\\' ? "%c" : "\\x%02x", *p);
}

static void chain_hash(const char *previous, const char *line, size_t len,
		       char ret_hash[static AUDIT_HASH_SIZE])
{
	uint8_t digest[SHA256_SIZE];
	struct sha256 s;

	sha256_init(&s);
	sha256_add(&s, previous, AUDIT_HASH_SIZE - 1);
	sha256_add(&s, line, len);
	sha256_end(&s, digest);
	for (size_t i = 0; i < SHA256_SIZE; i++)
		(void)snprintf(ret_hash + i * 2, 3, "%02x", digest[i]);
}

ssize_t audit_format(struct audit_chain *chain, uint64_t seconds, const char *event,
		     const struct log_field *fields, size_t n, char line[static AUDIT_LINE_MAX])
{
	struct text t = {.buf = line};
	char hash[AUDIT_HASH_SIZE];

	put(&t, "%" PRIu64 " %" PRIu64 " %s ", chain->seq + 1, seconds, event);
	for (size_t i = 0; i < n; i++) {
		if (!fields[i].key)
			continue;
		put(&t, "%s=", fields[i].key);
		if (fields[i].text)
			put_value(&t, fields[i].text);
		else
			put(&t, "%" PRIu64, fields[i].number);
		put(&t, " ");
	}
	if (t.full || t.len + AUDIT_HASH_SIZE + 1 > AUDIT_LINE_MAX)
		return -EMSGSIZE;
	chain_hash(chain->hash, line, t.len, hash);
	put(&t, "%s\n", hash);
	chain->seq++;
	memcpy(chain->hash, hash, sizeof(hash));
	return (ssize_t)t.len;
}

int audit_check(struct audit_chain *chain, const char *line)
{
	const char *last = strrchr(line, ' ');
	char hash[AUDIT_HASH_SIZE];
	uint64_t seq, seconds;

	if (!last || strlen(last + 1) != AUDIT_HASH_SIZE - 1)
		return -EBADMSG;
	if (sscanf(line, "%" SCNu64 " %" SCNu64, &seq, &seconds) != 2)
		return -EBADMSG;
	if (chain->hash[0] != '\0') {
		chain_hash(chain->hash, line, (size_t)(last + 1 - line), hash);
		if (!STR_EQ(hash, last + 1) || seq != chain->seq + 1)
			return -EBADMSG;
	}
	chain->seq = seq;
	memcpy(chain->hash, last + 1, AUDIT_HASH_SIZE);
	return 0;
}

static bool is_torn_event(const char *line)
{
	char event[sizeof(AUDIT_TORN) + 1];

	return sscanf(line, "%*u %*u %11s", event) == 1 && STR_EQ(event, AUDIT_TORN);
}

/* One line of the log: a record, or a torn line that the next record must own up to. */
static int verify_line(struct audit_report *r, const char *line, bool *torn)
{
	if (audit_check(&r->chain, line) < 0) {
		if (*torn)
			return -EBADMSG;
		*torn = true;
		return 0;
	}
	r->n_records++;
	if (*torn && !is_torn_event(line))
		return -EBADMSG;
	r->n_torn += *torn ? 1 : 0;
	*torn = false;
	return 0;
}

int audit_verify(int fd, uint64_t offset, struct audit_report *ret_report)
{
	struct audit_report *r = ret_report;
	char buf[AUDIT_LINE_MAX];
	bool skip = offset > 0, torn = false;

	*r = (struct audit_report){.chain = AUDIT_CHAIN_INIT, .bad_offset = offset};
	if (offset > 0)
		r->chain.hash[0] = '\0';
	for (;;) {
		ssize_t n = pread(fd, buf, sizeof(buf) - 1, (off_t)offset);
		char *end = n > 0 ? memchr(buf, '\n', (size_t)n) : NULL;

		if (n < 0)
			return -errno;
		if (!end && (size_t)n < sizeof(buf) - 1) { /* the end of the log */
			r->torn_bytes = (size_t)n;
			return torn ? -EBADMSG : 0;
		}
		if (!end)
			return -EBADMSG;
		*end = '\0';
		if (strlen(buf) != (size_t)(end - buf))
			buf[0] = '\0'; /* zeros left by a power cut, or hidden text: no record */
		if (!torn)
			r->bad_offset = offset;
		if (!skip && verify_line(r, buf, &torn) < 0)
			return -EBADMSG;
		skip = false;
		offset += (uint64_t)(end + 1 - buf);
	}
}
