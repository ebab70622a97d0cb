/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text for terminals: escaping of foreign text, a filter for console logs, ages and sizes.
 *
 * Trust: pure; its input is the agent's and the guest's text and may be hostile.
 */
#include "ctl/text.h"

#include <inttypes.h>
#include <wchar.h>

#define ESC             0x1b
#define UTF8_INVALID    0
#define UTF8_INCOMPLETE -1
/* Longest control sequence that is taken for one; terminals' own limits are of this order. */
#define FILTER_SEQ_MAX  48

/* Decodes one character: bytes used, UTF8_INVALID, or UTF8_INCOMPLETE if more bytes could help. */
static int utf8_decode(const unsigned char *s, size_t len, uint32_t *ret_cp)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	uint32_t cp;
	int n;

	if (s[0] < 0x80) {
		*ret_cp = s[0];
		return 1;
	}
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		n = 2;
	else if (s[0] >= 0xe0 && s[0] <= 0xef)
		n = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		n = 4;
	else
		return UTF8_INVALID;
	cp = s[0] & (0xffu >> (n + 1));
	for (int i = 1; i < n; i++) {
		if ((size_t)i >= len)
			return UTF8_INCOMPLETE;
		if ((s[i] & 0xc0) != 0x80)
			return UTF8_INVALID;
		cp = cp << 6 | (s[i] & 0x3fu);
	}
	if (cp < least[n] || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
		return UTF8_INVALID;
	*ret_cp = cp;
	return n;
}

/* Characters that act on a terminal, or on how a reader sees the rest of the line. */
static bool is_unsafe(uint32_t cp)
{
	if (cp < 0x20 || (cp >= 0x7f && cp <= 0x9f))
		return true;
	if (cp == 0x2028 || cp == 0x2029 || cp == 0x200e || cp == 0x200f || cp == 0x061c)
		return true;
	return (cp >= 0x202a && cp <= 0x202e) || (cp >= 0x2066 && cp <= 0x2069);
}

static void put_char(FILE *f, const unsigned char *s, int n, uint32_t cp)
{
	if (!is_unsafe(cp))
		(void)fwrite(s, 1, (size_t)n, f);
	else if (cp == '\n')
		fputs("\\n", f);
	else if (cp == '\r')
		fputs("\\r", f);
	else if (cp == '\t')
		fputs("\\t", f);
	else if (cp < 0x80)
		fprintf(f, "\\x%02" PRIx32, cp);
	else
		fprintf(f, "\\u{%" PRIx32 "}", cp);
}

void text_put(FILE *f, const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s;

	while (len > 0) {
		uint32_t cp = 0;
		int n = utf8_decode(p, len, &cp);

		if (n <= 0) {
			fprintf(f, "\\x%02x", *p);
			n = 1;
		} else {
			put_char(f, p, n, cp);
		}
		p += n;
		len -= (size_t)n;
	}
}

_noreturn_ static void out_of_memory(void)
{
	fputs("qudatactl: out of memory\n", stderr);
	exit(1);
}

char *text_safe(const char *s)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		out_of_memory();
	if (s)
		text_put(f, s, strlen(s));
	if (fclose(f) != 0 || !text)
		out_of_memory();
	return text;
}

char *text_vformat(const char *fmt, va_list ap)
{
	char *text;

	if (vasprintf(&text, fmt, ap) < 0)
		out_of_memory();
	return text;
}

char *text_format(const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	text = text_vformat(fmt, ap);
	va_end(ap);
	return text;
}

void text_line(const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = text_vformat(fmt, ap);
	va_end(ap);
	text_put(stdout, text, strlen(text));
	putchar('\n');
}

size_t text_width(const char *s)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t len = strlen(s), width = 0;

	while (len > 0) {
		uint32_t cp = 0;
		int n = utf8_decode(p, len, &cp);
		int w = n > 0 ? wcwidth((wchar_t)cp) : 1;

		if (n <= 0)
			n = 1;
		/* In the C locale wcwidth() knows no more than ASCII. */
		width += w >= 0 ? (size_t)w : 1;
		p += n;
		len -= (size_t)n;
	}
	return width;
}

void text_put_cut(FILE *f, const char *s, size_t columns, const char *mark)
{
	size_t len = strlen(s), end = 0, used = 0;

	if (text_width(s) <= columns) {
		fputs(s, f);
		return;
	}
	for (size_t i = 0; i < len;) {
		uint32_t cp = 0;
		int n = utf8_decode((const unsigned char *)s + i, len - i, &cp);
		int w = n > 0 ? wcwidth((wchar_t)cp) : 1;

		i += n > 0 ? (size_t)n : 1;
		used += w >= 0 ? (size_t)w : 1;
		if (used >= columns)
			break;
		end = i;
	}
	(void)fwrite(s, 1, end, f);
	if (columns > 0)
		fputs(mark, f);
}

/*
 * Length of the control sequence "ESC [ parameters final" at @s: 0 when it is none, and
 * UTF8_INCOMPLETE when it ends too early.
 */
static int csi_length(const unsigned char *s, size_t len)
{
	if (len < 2)
		return UTF8_INCOMPLETE;
	if (s[1] != '[')
		return 0;
	for (size_t i = 2; i < FILTER_SEQ_MAX; i++) {
		if (i >= len)
			return UTF8_INCOMPLETE;
		if (s[i] >= 0x40 && s[i] <= 0x7e)
			return (int)i + 1;
		if (s[i] < 0x20 || s[i] > 0x3f)
			return 0;
	}
	return 0;
}

/* Handles what begins at @s; returns the bytes used, or UTF8_INCOMPLETE. */
static int filter_one(const unsigned char *s, size_t len, FILE *f)
{
	uint32_t cp = 0;
	int n;

	if (s[0] == '\n' || s[0] == '\t') {
		fputc(s[0], f);
		return 1;
	}
	if (s[0] == '\r') {
		if (len < 2)
			return UTF8_INCOMPLETE;
		/* Serial consoles end lines with any of "\r\n" and "\r\r\n". */
		if (s[1] != '\n' && s[1] != '\r')
			fputs("\\r", f);
		return 1;
	}
	if (s[0] == ESC) {
		n = csi_length(s, len);
		if (n != 0)
			return n;
	}
	n = utf8_decode(s, len, &cp);
	if (n == UTF8_INCOMPLETE)
		return n;
	if (n == UTF8_INVALID) {
		fprintf(f, "\\x%02x", s[0]);
		return 1;
	}
	put_char(f, s, n, cp);
	return n;
}

void text_filter_feed(struct text_filter *t, const void *bytes, size_t len, FILE *f)
{
	const unsigned char *p = bytes;

	/* The carried start is completed byte by byte; it can not outgrow its array because every
	   sequence is either complete or refused after FILTER_SEQ_MAX bytes. */
	while (t->n_carry > 0 && len > 0) {
		int n;

		t->carry[t->n_carry++] = *p++;
		len--;
		n = filter_one(t->carry, t->n_carry, f);
		while (n > 0) {
			t->n_carry -= (size_t)n;
			memmove(t->carry, t->carry + n, t->n_carry);
			n = t->n_carry > 0 ? filter_one(t->carry, t->n_carry, f) : 0;
		}
	}
	while (len > 0) {
		int n = filter_one(p, len, f);

		if (n < 0) {
			memcpy(t->carry, p, len);
			t->n_carry = len;
			return;
		}
		p += n;
		len -= (size_t)n;
	}
}

void text_filter_flush(struct text_filter *t, FILE *f)
{
	if (t->n_carry == 1 && t->carry[0] == '\r')
		t->n_carry = 0;
	text_put(f, (const char *)t->carry, t->n_carry);
	t->n_carry = 0;
}

void text_age(int64_t age_s, char ret_text[static TEXT_AGE_MAX])
{
	int64_t s = age_s > 0 ? age_s : 0;

	if (s < 60)
		snprintf(ret_text, TEXT_AGE_MAX, "%" PRId64 "s", s);
	else if (s < 3600)
		snprintf(ret_text, TEXT_AGE_MAX, "%" PRId64 "m %" PRId64 "s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(ret_text, TEXT_AGE_MAX, "%" PRId64 "h %" PRId64 "m", s / 3600,
			 s % 3600 / 60);
	else
		snprintf(ret_text, TEXT_AGE_MAX, "%" PRId64 "d %" PRId64 "h", s / 86400,
			 s % 86400 / 3600);
}

void text_mib(int64_t mib, char ret_text[static TEXT_AGE_MAX])
{
	if (mib >= 1024 && mib % 1024 == 0)
		snprintf(ret_text, TEXT_AGE_MAX, "%" PRId64 " GiB", mib / 1024);
	else if (mib >= 1024)
		snprintf(ret_text, TEXT_AGE_MAX, "%.1f GiB", (double)mib / 1024.0);
	else
		snprintf(ret_text, TEXT_AGE_MAX, "%" PRId64 " MiB", mib);
}

void text_bytes(uint64_t bytes, char ret_text[static TEXT_AGE_MAX])
{
	static const char units[] = " KMGTPE";
	size_t unit = 0;

	while (bytes >= 1024 && bytes % 1024 == 0 && units[unit + 1]) {
		bytes /= 1024;
		unit++;
	}
	if (unit > 0)
		snprintf(ret_text, TEXT_AGE_MAX, "%" PRIu64 "%c", bytes, units[unit]);
	else
		snprintf(ret_text, TEXT_AGE_MAX, "%" PRIu64, bytes);
}
