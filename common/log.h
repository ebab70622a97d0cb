/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One event, one record: native journal fields when stderr is the journal, one line on stderr
 * otherwise. Values are escaped and cut, so that no peer's text can forge a record.
 */
#pragma once

#include "common/base.h"

#include <syslog.h>

struct log_field {
	const char *key; /* upper case, as in the journal; NULL: no field */
	const char *text;
	uint64_t number; /* used when @text is NULL */
};

static inline const char *log_text(const char *text)
{
	return text ? text : "";
}

#define LOG_STR(k, v) ((struct log_field){.key = (k), .text = log_text(v)})
#define LOG_NUM(k, v) ((struct log_field){.key = (k), .number = (uint64_t)(v)})
/* The text of a negative errno (or 0). */
#define LOG_ERRNO(r)  LOG_STR("ERROR", log_errno_text((int)(r)))

/*
 * Opens the journal's socket if stderr is the journal, before the sandbox closes. @identifier is
 * the program's name and must live as long as the process. Messages less urgent than @level
 * (LOG_INFO, or LOG_DEBUG when asked for) are dropped.
 */
void log_open(const char *identifier, int level);

/* log_event(LOG_NOTICE, "device bound", LOG_STR("VM", vm), LOG_NUM("GENERATION", g)); */
#define log_event(level, message, ...)                                                             \
	log_record((level), (message), (const struct log_field[]){{0}, ##__VA_ARGS__},             \
		   ARRAY_LEN(((const struct log_field[]){{0}, ##__VA_ARGS__})))

void log_record(int level, const char *message, const struct log_field *fields, size_t n);

/* Words for a negative errno. Never NULL. */
const char *log_errno_text(int r);
