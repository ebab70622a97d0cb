/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log: every refusal and every privileged act, to the system's log and to a chained file.
 * Trust: runs as root; peers' text gets in only as escaped values.
 */
#include "vfio-helper/helper.h"

#include "common/fd.h"

#include <fcntl.h>
#include <time.h>

#define REFUSAL_BURST       64
#define REFUSAL_INTERVAL_MS 2000 /* one more each */
#define MAX_FIELDS          16

/* Appends one record; a part of one that a full disk left is taken away again. */
static int append(struct helper *h, const char *event, const struct log_field *fields, size_t n)
{
	struct audit_chain chain = h->chain;
	char line[AUDIT_LINE_MAX];
	off_t before = lseek(h->audit_fd, 0, SEEK_END);
	ssize_t len = audit_format(&chain, (uint64_t)time(NULL), event, fields, n, line);
	int r;

	if (len < 0 || before < 0)
		return len < 0 ? (int)len : -errno;
	r = fd_write_all(h->audit_fd, line, (size_t)len);
	if (r < 0) {
		(void)!ftruncate(h->audit_fd, before);
		return r;
	}
	h->chain = chain;
	return 0;
}

void audit_record(struct helper *h, int level, const char *event, const struct log_field *fields,
		  size_t n)
{
	struct log_field all[MAX_FIELDS];
	int r = append(h, event, fields, n);

	if (r < 0)
		log_event(LOG_CRIT, "the audit log cannot be written", LOG_ERRNO(r));
	n = MIN_OF(n, MAX_FIELDS - 2);
	memcpy(all, fields, n * sizeof(*fields));
	all[n] = LOG_NUM("AUDIT_SEQ", h->chain.seq);
	all[n + 1] = LOG_STR("AUDIT_HASH", h->chain.hash);
	log_record(level, event, all, r == 0 ? n + 2 : n);
}

/* A hostile peer must not be able to fill the disk with its own refusals. */
static bool may_record_refusal(struct helper *h)
{
	struct bucket *b = &h->refusals;
	uint64_t now = loop_now_ms(), more = (now - b->last_ms) / REFUSAL_INTERVAL_MS;

	b->tokens = MIN_OF(b->tokens + more, (uint64_t)REFUSAL_BURST);
	b->last_ms += more * REFUSAL_INTERVAL_MS;
	if (b->tokens == 0) {
		b->suppressed++;
		return false;
	}
	b->tokens--;
	if (b->suppressed > 0) {
		audit_event(h, LOG_WARNING, "refusals-suppressed", LOG_NUM("COUNT", b->suppressed));
		b->suppressed = 0;
	}
	return true;
}

int refuse(struct helper *h, const struct peer *peer, const char *vm, enum proto_status status,
	   const char *why)
{
	const struct proto_op *op = proto_find(peer->op_number);

	if (may_record_refusal(h))
		audit_event(h, LOG_WARNING, "request-refused", LOG_STR("OP", op ? op->name : "?"),
			    LOG_STR("VM", vm), LOG_STR("STATUS", proto_status_name(status)),
			    LOG_STR("WHY", why), LOG_NUM("PEER_UID", peer->uid),
			    LOG_NUM("PEER_PID", peer->pid));
	return (int)status;
}

void on_refused(void *ctx, const struct peer *peer, enum server_refusal why, int detail)
{
	static const char *const words[] = {
		[SERVER_UNKNOWN_UID] = "unknown uid",
		[SERVER_TOO_MANY] = "too many connections",
		[SERVER_MALFORMED] = "malformed message",
		[SERVER_NOT_READING] = "does not read its answers",
	};
	struct helper *h = ctx;

	if (may_record_refusal(h))
		audit_event(h, LOG_WARNING, "peer-refused",
			    LOG_STR("WHY", (size_t)why < ARRAY_LEN(words) ? words[why] : ""),
			    LOG_NUM("PEER_UID", peer->uid), LOG_NUM("PEER_PID", peer->pid),
			    LOG_ERRNO(detail));
}

int audit_open(struct helper *h, struct err *reterr)
{
	struct stat st;
	size_t torn;
	int r;

	h->audit_fd = openat(h->state_fd, "audit.log",
			     O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (h->audit_fd < 0 || fstat(h->audit_fd, &st) < 0)
		return err_errno(reterr, -errno, "cannot open audit.log");
	/* `qudatactl audit verify` proves all of it; here the end has to fit. */
	r = audit_resume(h->audit_fd, (uint64_t)st.st_size, &h->chain, &torn);
	if (r < 0 && r != -EBADMSG)
		return err_errno(reterr, r, "cannot read audit.log");
	h->refusals = (struct bucket){.tokens = REFUSAL_BURST, .last_ms = loop_now_ms()};
	if (torn > 0)
		(void)!write(h->audit_fd, "\n", 1);
	if (r < 0)
		audit_event(h, LOG_CRIT, "audit-broken", LOG_NUM("OFFSET", st.st_size));
	else if (torn > 0)
		audit_event(h, LOG_WARNING, AUDIT_TORN, LOG_NUM("BYTES", torn));
	audit_event(h, LOG_NOTICE, "helper-start", LOG_STR("VERSION", QUDATA_VERSION),
		    LOG_STR("BOOT_ID", h->boot_id));
	return 0;
}
