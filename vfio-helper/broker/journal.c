/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is recorded: every refusal and every privileged act. vfio-helper numbers, chains and writes.
 * Trust: runs as qudata-helper; peers' text gets in only as values, which vfio-helper escapes.
 */
#include "vfio-helper/broker/broker.h"

#define REFUSAL_INTERVAL_MS 2000 /* one more each */

struct text {
	struct pair_audit *record;
	bool full;
};

/* Adds a string with its NUL, whole or not at all. */
static void put(struct text *t, const char *text)
{
	size_t size = strlen(text) + 1;

	t->full |= size > sizeof(t->record->text) - t->record->len;
	if (t->full)
		return;
	memcpy(t->record->text + t->record->len, text, size);
	t->record->len += (uint32_t)size;
}

void audit_record(struct broker *b, int level, const char *event, const struct log_field *fields,
		  size_t n)
{
	struct pair_audit record = {.level = (uint32_t)level};
	struct text t = {.record = &record};
	char number[24];
	int r;

	put(&t, event);
	for (size_t i = 0; i < n; i++) {
		if (!fields[i].key)
			continue;
		(void)snprintf(number, sizeof(number), "%llu",
			       (unsigned long long)fields[i].number);
		put(&t, fields[i].key);
		put(&t, fields[i].text ? fields[i].text : number);
	}
	r = t.full ? -EMSGSIZE : monitor_audit(&b->monitor, &record);
	if (r < 0)
		log_event(LOG_CRIT, "an audit record is lost", LOG_STR("EVENT", event),
			  LOG_ERRNO(r));
}

/* A hostile peer must not be able to fill the disk with its own refusals. */
static bool may_record_refusal(struct broker *b)
{
	struct bucket *bucket = &b->refusals;
	uint64_t more = (loop_now_ms() - bucket->last_ms) / REFUSAL_INTERVAL_MS;

	bucket->tokens = MIN_OF(bucket->tokens + more, (uint64_t)REFUSAL_BURST);
	bucket->last_ms += more * REFUSAL_INTERVAL_MS;
	if (bucket->tokens == 0) {
		bucket->suppressed++;
		return false;
	}
	bucket->tokens--;
	if (bucket->suppressed > 0) {
		audit_event(b, LOG_WARNING, "refusals-suppressed",
			    LOG_NUM("COUNT", bucket->suppressed));
		bucket->suppressed = 0;
	}
	return true;
}

int refuse(struct broker *b, const struct peer *peer, const char *vm, enum proto_status status,
	   const char *why)
{
	const struct proto_op *op = proto_find(peer->op_number);

	if (may_record_refusal(b))
		audit_event(b, LOG_WARNING, "request-refused", LOG_STR("OP", op ? op->name : "?"),
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
	struct broker *b = ctx;

	if (may_record_refusal(b))
		audit_event(b, LOG_WARNING, "peer-refused",
			    LOG_STR("WHY", (size_t)why < ARRAY_LEN(words) ? words[why] : ""),
			    LOG_NUM("PEER_UID", peer->uid), LOG_NUM("PEER_PID", peer->pid),
			    LOG_ERRNO(detail));
}
