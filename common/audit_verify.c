/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a log whole?
 * Trust: runs in qudatactl; reads a log that may have been tampered with.
 */
#include "common/audit.h"

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
	if (*torn && !audit_owns_up(line))
		return -EBADMSG;
	r->n_torn += *torn ? 1 : 0;
	*torn = false;
	return 0;
}

int audit_verify(int fd, const struct audit_chain *before, struct audit_report *ret_report)
{
	struct audit_report *r = ret_report;
	char buf[AUDIT_LINE_MAX];
	uint64_t offset = 0;
	bool torn = false;

	*r = (struct audit_report){.chain = *before};
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
		if (verify_line(r, buf, &torn) < 0)
			return -EBADMSG;
		offset += (uint64_t)(end + 1 - buf);
	}
}
