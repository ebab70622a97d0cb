/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log: records are numbered, chained and appended here, and in no other process; what was
 * written is never touched again, but for the oldest file when there are too many.
 * Trust: runs as root; reads records of vfio-broker, whose values are peers' text.
 */
#include "vfio-helper/monitor/monitor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#define LOG_NAME    "audit.log"
#define NEXT_NAME   "audit.log.next"
#define BURST       4096 /* records of the broker */
#define INTERVAL_MS 250  /* one more each */
#define EVENT_MAX   32
#define KEY_MAX     24

static uint64_t now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MSEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000000;
}

static void file_name(int number, char name[static 24])
{
	(void)snprintf(name, 24, number == 0 ? LOG_NAME : LOG_NAME ".%d", number);
}

/* The new file is there before the old one moves: whatever fails, there is one to write to. */
static int rotate(struct audit *a)
{
	_cleanup_close_ int next = -EBADF;
	char from[24], to[24];

	(void)unlinkat(a->dir_fd, NEXT_NAME, 0);
	next = openat(a->dir_fd, NEXT_NAME,
		      O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (next < 0)
		return -errno;
	for (int i = AUDIT_KEEP; i > 0; i--) {
		file_name(i - 1, from);
		file_name(i, to);
		if (renameat(a->dir_fd, from, a->dir_fd, to) < 0 && errno != ENOENT)
			return -errno;
	}
	if (renameat(a->dir_fd, NEXT_NAME, a->dir_fd, LOG_NAME) < 0)
		return -errno;
	(void)safe_close(a->fd);
	a->fd = TAKE_FD(next);
	a->size = 0;
	return 0;
}

/* Appends one record; a part of one that a full disk left is taken away again. */
static int append(struct audit *a, const char *event, const struct log_field *fields, size_t n)
{
	struct audit_chain chain = a->chain;
	char line[AUDIT_LINE_MAX];
	ssize_t len = audit_format(&chain, (uint64_t)time(NULL), event, fields, n, line);
	int r;

	if (len < 0)
		return (int)len;
	if (a->size + len > (off_t)AUDIT_FILE_MAX) {
		r = rotate(a);
		if (r < 0)
			log_event(LOG_CRIT, "the audit log cannot be rotated", LOG_ERRNO(r));
	}
	r = fd_write_all(a->fd, line, (size_t)len);
	if (r < 0) {
		(void)!ftruncate(a->fd, a->size);
		return r;
	}
	a->size += len;
	a->chain = chain;
	return 0;
}

void audit_append(struct audit *a, int level, const char *event, const struct log_field *fields,
		  size_t n)
{
	struct log_field all[AUDIT_FIELDS_MAX + 2];
	int r = append(a, event, fields, n);

	if (r < 0)
		log_event(LOG_CRIT, "the audit log cannot be written", LOG_ERRNO(r));
	n = MIN_OF(n, AUDIT_FIELDS_MAX);
	if (n > 0)
		memcpy(all, fields, n * sizeof(*fields));
	all[n] = LOG_NUM("AUDIT_SEQ", a->chain.seq);
	all[n + 1] = LOG_STR("AUDIT_HASH", a->chain.hash);
	log_record(level, event, all, r == 0 ? n + 2 : n);
}

/* "vm-start": lower-case letters and '-'. The log's and the helper's own events are ours. */
static bool event_ok(const char *text)
{
	size_t len = strlen(text);

	return len > 0 && len <= EVENT_MAX &&
	       text[strspn(text, "abcdefghijklmnopqrstuvwxyz-")] == '\0' &&
	       strncmp(text, "audit-", 6) != 0 && strncmp(text, "helper-", 7) != 0;
}

/* Beginnings of names by which the log, or the journal with root's word, means something. */
static const char *const kept_keys[] = {
	"AUDIT_",    "SYSLOG_",     "MESSAGE", "PRIORITY", "OBJECT_", "UNIT",         "USER_",
	"COREDUMP_", "INVOCATION_", "JOB_",    "CODE_",    "TID",     "DOCUMENTATION"};

/* "PEER_UID". What the journal takes from us under such a name is ours, too. */
static bool key_ok(const char *text)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < ARRAY_LEN(kept_keys); i++)
		if (strncmp(text, kept_keys[i], strlen(kept_keys[i])) == 0)
			return false;
	return len > 0 && len <= KEY_MAX && text[0] != '_' &&
	       text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_")] == '\0';
}

/* Splits the text into event and fields, which point into it. */
static int parse(const struct pair_audit *record, const char **ret_event,
		 struct log_field fields[static AUDIT_FIELDS_MAX], size_t *ret_n)
{
	const char *p = record->text, *end = p + record->len;
	size_t n = 0;

	/* The journal sends what is graver to everyone's terminal. */
	if (record->level < LOG_CRIT || record->level > LOG_DEBUG || record->len == 0 ||
	    record->len > sizeof(record->text) || end[-1] != '\0' || !event_ok(p))
		return -EBADMSG;
	*ret_event = p;
	for (p += strlen(p) + 1; p < end; n++) {
		const char *key = p;

		p += strlen(p) + 1;
		if (n == AUDIT_FIELDS_MAX || p >= end || !key_ok(key))
			return -EBADMSG;
		fields[n] = LOG_STR(key, p);
		p += strlen(p) + 1;
	}
	*ret_n = n;
	return 0;
}

/* A broker that was taken over must not push out what the log has of how that came. */
static bool may_append(struct audit *a)
{
	uint64_t more = (now_ms() - a->last_ms) / INTERVAL_MS;
	struct log_field count;

	a->tokens = MIN_OF(a->tokens + more, (uint64_t)BURST);
	a->last_ms += more * INTERVAL_MS;
	if (a->tokens == 0) {
		a->dropped++;
		return false;
	}
	a->tokens--;
	if (a->dropped > 0) {
		count = LOG_NUM("COUNT", a->dropped);
		a->dropped = 0;
		audit_append(a, LOG_CRIT, "audit-suppressed", &count, 1);
	}
	return true;
}

int audit_take(struct audit *a, const void *body, size_t len)
{
	struct log_field fields[AUDIT_FIELDS_MAX];
	struct pair_audit record;
	const char *event;
	size_t n;
	int r;

	if (len != sizeof(record))
		return -EBADMSG;
	memcpy(&record, body, sizeof(record));
	r = parse(&record, &event, fields, &n);
	if (r < 0)
		return r;
	if (!may_append(a))
		return -EAGAIN;
	audit_append(a, (int)record.level, event, fields, n);
	return 0;
}

/* The chain's end in @fd, or, while that is empty, in the file before it. */
static int resume(struct audit *a, size_t *ret_torn)
{
	_cleanup_close_ int before = -EBADF;
	struct stat st;

	if (fstat(a->fd, &st) < 0)
		return -errno;
	a->size = st.st_size;
	if (a->size == 0)
		before = openat(a->dir_fd, LOG_NAME ".1", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (before >= 0 && fstat(before, &st) < 0)
		return -errno;
	return audit_resume(before >= 0 ? before : a->fd, (uint64_t)st.st_size, &a->chain,
			    ret_torn);
}

int audit_open(int dir_fd, const char *boot_id, struct audit *ret_audit, struct err *reterr)
{
	struct audit *a = ret_audit;
	const struct log_field start[] = {LOG_STR("VERSION", QUDATA_VERSION),
					  LOG_STR("BOOT_ID", boot_id)};
	struct log_field offset, bytes;
	size_t torn = 0;
	int r;

	*a = (struct audit){.dir_fd = dir_fd, .tokens = BURST, .last_ms = now_ms()};
	a->fd = openat(dir_fd, LOG_NAME, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
		       0600);
	if (a->fd < 0)
		return err_errno(reterr, -errno, "cannot open " LOG_NAME);
	/* `qudatactl audit verify` proves all of it; here the end has to fit. */
	r = resume(a, &torn);
	if (r < 0 && r != -EBADMSG)
		return err_errno(reterr, r, "cannot read " LOG_NAME);
	offset = LOG_NUM("OFFSET", a->size);
	bytes = LOG_NUM("BYTES", torn);
	if (torn > 0 && write(a->fd, "\n", 1) == 1)
		a->size++;
	if (r < 0)
		audit_append(a, LOG_CRIT, "audit-broken", &offset, 1);
	else if (torn > 0)
		audit_append(a, LOG_WARNING, AUDIT_TORN, &bytes, 1);
	audit_append(a, LOG_NOTICE, "helper-start", start, ARRAY_LEN(start));
	return 0;
}

void audit_done(struct audit *a)
{
	a->fd = safe_close(a->fd);
}
