/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Structured logging to the journal or to stderr.
 * Trust: runs in every program; values may be a hostile peer's text.
 */
#include "common/log.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define RECORD_MAX   3072
#define MESSAGE_MAX  1024 /* of the text in the journal; the fields are beside it whole */
#define VALUE_MAX    512
#define JOURNAL_PATH "/run/systemd/journal/socket"

static struct {
	const char *identifier;
	int level;
	int journal_fd;
} log_state = {.identifier = "qudata", .level = LOG_INFO, .journal_fd = -EBADF};

struct record {
	char bytes[RECORD_MAX];
	size_t len;
};

static void put(struct record *rec, const void *data, size_t len)
{
	if (len > sizeof(rec->bytes) - rec->len)
		len = sizeof(rec->bytes) - rec->len;
	memcpy(rec->bytes + rec->len, data, len);
	rec->len += len;
}

static void put_str(struct record *rec, const char *s)
{
	put(rec, s, strlen(s));
}

/* Printable ASCII as it is, everything else as \xNN; cut at VALUE_MAX. */
static void escape(char out[static VALUE_MAX], const char *in)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;

	for (const unsigned char *p = (const unsigned char *)in; *p && n + 5 < VALUE_MAX; p++) {
		if (*p >= 0x20 && *p <= 0x7e && *p != '\\' && *p != '"') {
			out[n++] = (char)*p;
			continue;
		}
		out[n++] = '\\';
		out[n++] = 'x';
		out[n++] = hex[*p >> 4];
		out[n++] = hex[*p & 15];
	}
	out[n] = '\0';
}

static void field_value(char out[static VALUE_MAX], const struct log_field *f)
{
	if (f->text)
		escape(out, f->text);
	else
		(void)snprintf(out, VALUE_MAX, "%llu", (unsigned long long)f->number);
}

/* JOURNAL_STREAM names the device and inode of the stream that the service manager gave us. */
static bool stderr_is_journal(void)
{
	const char *env = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	if (!env || sscanf(env, "%llu:%llu", &dev, &ino) != 2 || fstat(STDERR_FILENO, &st) < 0)
		return false;
	return st.st_dev == dev && st.st_ino == ino;
}

void log_open(const char *identifier, int level)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX, .sun_path = JOURNAL_PATH};
	int fd;

	log_state.identifier = identifier;
	log_state.level = level;
	tzset(); /* reads a file at its first use, which gmtime_r() must not do under a filter */
	if (!stderr_is_journal())
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		fd = safe_close(fd);
	log_state.journal_fd = fd;
}

/* "message KEY=value KEY="two words"": what a person reads, here and there. */
static void put_line(struct record *rec, const char *message, const struct log_field *fields,
		     size_t n)
{
	char value[VALUE_MAX];

	escape(value, message);
	put_str(rec, value);
	for (size_t i = 0; i < n; i++) {
		const char *quote;

		if (!fields[i].key)
			continue;
		field_value(value, &fields[i]);
		quote = value[0] == '\0' || strpbrk(value, " =") ? "\"" : "";
		put_str(rec, " ");
		put_str(rec, fields[i].key);
		put_str(rec, "=");
		put_str(rec, quote);
		put_str(rec, value);
		put_str(rec, quote);
	}
}

/* A field that does not fit is left out: the journal would take half of it for noise. */
static void put_journal_field(struct record *rec, const char *key, const char *value)
{
	if (strlen(key) + strlen(value) + 2 > sizeof(rec->bytes) - rec->len)
		return;
	put_str(rec, key);
	put_str(rec, "=");
	put_str(rec, value); /* escaped: no newline can be in it */
	put_str(rec, "\n");
}

static bool to_journal(int level, const char *message, const struct log_field *fields, size_t n)
{
	struct record rec = {.len = 0}, line = {.len = 0};
	char value[VALUE_MAX];
	const char priority[] = {(char)('0' + level), '\0'};

	if (log_state.journal_fd < 0)
		return false;
	put_journal_field(&rec, "PRIORITY", priority);
	put_journal_field(&rec, "SYSLOG_IDENTIFIER", log_state.identifier);
	put_line(&line, message, fields, n);
	line.bytes[MIN_OF(line.len, MESSAGE_MAX - 1)] = '\0';
	put_journal_field(&rec, "MESSAGE", line.bytes);
	for (size_t i = 0; i < n; i++) {
		if (!fields[i].key)
			continue;
		field_value(value, &fields[i]);
		put_journal_field(&rec, fields[i].key, value);
	}
	return send(log_state.journal_fd, rec.bytes, rec.len, MSG_NOSIGNAL) == (ssize_t)rec.len;
}

static const char *level_word(int level)
{
	static const char *const words[] = {"emergency", "alert",  "critical", "error",
					    "warning",   "notice", "info",     "debug"};

	return words[level & 7];
}

static void put_time(struct record *rec)
{
	struct timespec ts;
	struct tm tm;
	char text[96]; /* wider than any date, for the compiler */

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	(void)gmtime_r(&ts.tv_sec, &tm);
	(void)snprintf(text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ ",
		       tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min,
		       tm.tm_sec, ts.tv_nsec / 1000000);
	put_str(rec, text);
}

static void to_stderr(int level, const char *message, const struct log_field *fields, size_t n)
{
	struct record rec = {.len = 0};

	put_time(&rec);
	put_str(&rec, log_state.identifier);
	put_str(&rec, ": ");
	put_str(&rec, level_word(level));
	put_str(&rec, ": ");
	put_line(&rec, message, fields, n);
	if (rec.len == sizeof(rec.bytes))
		rec.len--;
	put_str(&rec, "\n");
	/* Nothing can be done about a log that cannot be written. */
	(void)!write(STDERR_FILENO, rec.bytes, rec.len);
}

void log_record(int level, const char *message, const struct log_field *fields, size_t n)
{
	if (level > log_state.level)
		return;
	if (!to_journal(level, message, fields, n))
		to_stderr(level, message, fields, n);
}

const char *log_errno_text(int r)
{
	const char *words = strerrordesc_np(r < 0 ? -r : r);

	return words ? words : "unknown error";
}
