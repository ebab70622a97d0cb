/* SPDX-License-Identifier: Apache-2.0 */
/*
 * audit verify: proves the chain of the root helper's audit log.
 *
 * Trust: runs as the operator; reads a file that somebody may have tampered with.
 */
#include <fcntl.h>
#include <inttypes.h>

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

enum ctl_exit cmd_audit_verify(struct ctl *c)
{
	const char *path = ctl_arg(c, 0);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct audit_report report;
	int r;

	if (fd < 0)
		return ctl_fail(c, CTL_FAILED, "cannot read %s: %s%s", path, strerror(errno),
				errno == EACCES ? " (it is root's: run this as root)" : "");
	r = audit_verify(fd, 0, &report);
	if (r < 0 && r != -EBADMSG)
		return ctl_fail(c, CTL_FAILED, "cannot read %s: %s", path, log_errno_text(r));
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
