/* SPDX-License-Identifier: Apache-2.0 */
/*
 * audit verify: proves the chain of the root helper's audit log.
 *
 * Trust: runs as the operator; reads a file that somebody may have tampered with.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>

#include "common/audit.h"
#include "ctl/ctl.h"

static void print_report(const struct audit_report *report, bool ok)
{
	json_t *json = json_pack("{s:b, s:I, s:I, s:s, s:I}", "ok", ok, "records",
				 (json_int_t)report->n_records, "torn", (json_int_t)report->n_torn,
				 "last_hash", report->chain.hash, "bad_offset",
				 ok ? (json_int_t)-1 : (json_int_t)report->bad_offset);

	ctl_print_json(json);
	json_decref(json);
}

/* Older files of the same log, FILE.8 to FILE.1, come before FILE itself. */
#define OLDER_MAX 8

static int verify_one(const char *path, const struct audit_chain *before,
		      struct audit_report *total)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct audit_report report;
	int r;

	if (fd < 0)
		return -errno;
	r = audit_verify(fd, before, &report);
	report.n_records += total->n_records;
	report.n_torn += total->n_torn;
	*total = report;
	return r;
}

/*
 * The chain goes on from file to file. Only where there are as many as are kept may the oldest one
 * begin in the middle of it.
 */
static int verify_all(const char *path, char *name, size_t size, struct audit_report *ret_report)
{
	struct audit_chain before = AUDIT_CHAIN_INIT;
	int r;

	*ret_report = (struct audit_report){.chain = AUDIT_CHAIN_INIT};
	for (int i = OLDER_MAX; i > 0; i--) {
		(void)snprintf(name, size, "%s.%d", path, i);
		if (access(name, F_OK) < 0 && errno == ENOENT)
			continue;
		if (i == OLDER_MAX)
			before.hash[0] = '\0';
		r = verify_one(name, &before, ret_report);
		if (r < 0)
			return r;
		before = ret_report->chain;
	}
	(void)snprintf(name, size, "%s", path);
	return verify_one(name, &before, ret_report);
}

enum ctl_exit cmd_audit_verify(struct ctl *c)
{
	char path[PATH_MAX];
	struct audit_report report;
	int r = verify_all(ctl_arg(c, 0), path, sizeof(path), &report);

	if (r < 0 && r != -EBADMSG)
		return ctl_fail(c, CTL_FAILED, "cannot read %s: %s%s", path, log_errno_text(r),
				r == -EACCES ? " (it is root's: run this as root)" : "");
	if (c->json)
		print_report(&report, r == 0);
	if (r == -EBADMSG)
		return ctl_fail(c, CTL_FAILED,
				"%s was cut or changed: the chain breaks at byte %" PRIu64
				", after %" PRIu64 " good records",
				path, report.bad_offset, report.n_records);
	if (!c->json)
		printf("%" PRIu64 " records, unbroken; last hash %s\n", report.n_records,
		       report.chain.hash);
	if (report.torn_bytes > 0 && !c->quiet)
		fprintf(stderr,
			"The last line is unfinished (%zu bytes): a crash while it was written\n",
			report.torn_bytes);
	return CTL_OK;
}
