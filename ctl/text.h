/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text for terminals: escaping of foreign text, a filter for console logs, ages and sizes.
 *
 * Trust: pure; its input is the agent's and the guest's text and may be hostile.
 */
#pragma once

#include <stdarg.h>

#include "common/base.h"

/* Writes @len bytes of @s with control, C1, bidirectional and invalid characters made visible. */
void text_put(FILE *f, const char *s, size_t len);
/* The same as a new string, owned by the caller. NULL is taken as "". Exits when out of memory. */
char *text_safe(const char *s);
/* Formatted strings, owned by the caller. Exit when out of memory. */
char *text_format(const char *fmt, ...) _printf_(1, 2);
char *text_vformat(const char *fmt, va_list ap) _printf_(1, 0);
/* Writes a formatted line to stdout, with foreign text made visible as by text_put(). */
void text_line(const char *fmt, ...) _printf_(1, 2);
/* Columns that the valid UTF-8 string @s takes on a terminal. */
size_t text_width(const char *s);

/*
 * Writes the valid UTF-8 string @s cut to at most @columns columns; what is cut ends in @mark,
 * which takes one.
 */
void text_put_cut(FILE *f, const char *s, size_t columns, const char *mark);

/*
 * A stream of console bytes on its way to a terminal: line ends become "\n", colour and cursor
 * sequences are dropped, everything else that could move or reprogram the terminal is made visible.
 */
struct text_filter {
	unsigned char carry[64]; /* the start of a sequence that the next chunk may complete */
	size_t n_carry;
};

void text_filter_feed(struct text_filter *t, const void *bytes, size_t len, FILE *f);
/* Ends the stream: what was still incomplete is shown as it is. */
void text_filter_flush(struct text_filter *t, FILE *f);

#define TEXT_AGE_MAX 32
/* "7s", "5m 10s", "3h 2m", "2d 4h"; negative ages (clocks differ) are "0s". */
void text_age(int64_t age_s, char ret_text[static TEXT_AGE_MAX]);
/* "512 MiB", "8 GiB", "1.5 GiB". */
void text_mib(int64_t mib, char ret_text[static TEXT_AGE_MAX]);
/* "16M", "32G", "256K": a size in bytes that is a power of two, as BARs are. */
void text_bytes(uint64_t bytes, char ret_text[static TEXT_AGE_MAX]);
