/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of the audit log.
 * Trust: runs in vfio-helper (root) and qudatactl; peers' text is in the values.
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

void audit_hash(const char *previous, const char *line, size_t len,
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
	audit_hash(chain->hash, line, t.len, hash);
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
		audit_hash(chain->hash, line, (size_t)(last + 1 - line), hash);
		if (!STR_EQ(hash, last + 1) || seq != chain->seq + 1)
			return -EBADMSG;
	}
	chain->seq = seq;
	memcpy(chain->hash, last + 1, AUDIT_HASH_SIZE);
	return 0;
}

bool audit_owns_up(const char *line)
{
	char event[sizeof(AUDIT_TORN) + 1];

	return sscanf(line, "%*u %*u %11s", event) == 1 && STR_EQ(event, AUDIT_TORN);
}

int audit_resume(int fd, uint64_t size, struct audit_chain *ret_chain, size_t *ret_torn)
{
	static char buf[64 * AUDIT_LINE_MAX + 1];
	char *line = buf, *end;
	bool whole = size < sizeof(buf);
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, whole ? 0 : (off_t)(size + 1 - sizeof(buf)));
	bool torn = false, broken = false;

	if (n < 0)
		return -errno;
	buf[n] = '\0';
	*ret_chain = AUDIT_CHAIN_INIT;
	if (!whole) {
		ret_chain->hash[0] = '\0'; /* the first whole line is believed */
		line = strchr(buf, '\n');
		line = line ? line + 1 : buf;
	}
	for (; (end = strchr(line, '\n')); line = end + 1) {
		bool good;

		*end = '\0';
		good = audit_check(ret_chain, line) == 0;
		/* A line that is no record has to be owned up to by the next one. */
		if (torn && !(good && audit_owns_up(line)))
			broken = true;
		torn = !good;
	}
	*ret_torn = (size_t)(buf + n - line);
	return broken || torn ? -EBADMSG : 0;
}
