/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parser of a guest's figures.
 * Trust: runs in vmmon; reads what a guest sends, which its tenant owns.
 */
#include "vmmon/metrics/lines.h"

#define NUMBERS_MAX 8
#define SECTOR_SIZE 512
#define DIGITS_MAX  16 /* of a number: more than PROTO_FIGURE_MAX has none */
#define GPU_FIELDS  6
#define MILLI       1000

enum kind {
	KIND_CPU,
	KIND_MEM,
	KIND_NET,
	KIND_DSK,
	KIND_FS,
	KIND_END,
	KIND_COUNT,
};

static const struct {
	const char *word;
	size_t numbers;
	uint64_t unit; /* what a number counts */
} kinds[KIND_COUNT] = {
	[KIND_CPU] = {"cpu", 8, 1}, [KIND_MEM] = {"mem", 2, 1},
	[KIND_NET] = {"net", 2, 1}, [KIND_DSK] = {"dsk", 2, SECTOR_SIZE},
	[KIND_FS] = {"fs", 2, 1},   [KIND_END] = {"end", 0, 1},
};

#define NEEDED ((1u << KIND_CPU) | (1u << KIND_MEM))

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Reads digits at *@at and moves it behind them. */
static int take_number(const char **at, uint64_t unit, uint64_t *ret_value)
{
	uint64_t value = 0;
	size_t n = 0;

	for (; is_digit((*at)[n]); n++) {
		if (n == DIGITS_MAX)
			return -EBADMSG;
		value = value * 10 + (uint64_t)((*at)[n] - '0');
	}
	if (n == 0 || value > PROTO_FIGURE_MAX / unit)
		return -EBADMSG;
	*at += n;
	*ret_value = value * unit;
	return 0;
}

static int add_cpu(struct lines_look *look, const uint64_t v[static NUMBERS_MAX])
{
	uint64_t total = 0;

	for (size_t i = 0; i < NUMBERS_MAX; i++)
		total += v[i];
	look->cpu_total = total;
	look->cpu_busy = total - v[3] - v[4]; /* idle, and idle with I/O under way */
	return 0;
}

/* A part that is larger than its whole is no figure. */
static int add_part(uint64_t whole, uint64_t part, uint64_t *ret_whole, uint64_t *ret_part)
{
	if (part > whole)
		return -EBADMSG;
	*ret_whole = whole;
	*ret_part = part;
	return 0;
}

static int take_in(struct lines *l, enum kind kind, const uint64_t v[static NUMBERS_MAX])
{
	struct lines_look *look = &l->look;

	switch (kind) {
	case KIND_CPU:
		return add_cpu(look, v);
	case KIND_MEM:
		return add_part(v[0], v[1], &look->memory_kib, &look->available_kib);
	case KIND_NET:
		look->network_in = v[0];
		look->network_out = v[1];
		return 0;
	case KIND_DSK:
		look->disk_read = v[0];
		look->disk_written = v[1];
		return 0;
	case KIND_FS:
		return add_part(v[0], v[1], &look->root_kib, &look->root_used_kib);
	case KIND_END:
		return (l->given & NEEDED) == NEEDED ? 0 : -EBADMSG;
	case KIND_COUNT:
		break;
	}
	return -EBADMSG;
}

static int find_kind(const char *line, enum kind *ret_kind)
{
	size_t len = strcspn(line, " ");

	for (size_t i = 0; i < KIND_COUNT; i++)
		if (strlen(kinds[i].word) == len && memcmp(kinds[i].word, line, len) == 0) {
			*ret_kind = (enum kind)i;
			return 0;
		}
	return -EBADMSG;
}

static int read_figures(struct lines *l, const struct lines_handler *handler)
{
	uint64_t numbers[NUMBERS_MAX] = {0};
	const char *at = l->line;
	enum kind kind;
	int r = find_kind(at, &kind);

	if (r < 0)
		return r;
	at += strlen(kinds[kind].word);
	for (size_t i = 0; i < kinds[kind].numbers; i++) {
		if (*at++ != ' ' || take_number(&at, kinds[kind].unit, &numbers[i]) < 0)
			return -EBADMSG;
	}
	if (*at != '\0' || (l->given & 1u << kind))
		return -EBADMSG;
	r = take_in(l, kind, numbers);
	if (r < 0)
		return r;
	l->given |= 1u << kind;
	if (kind == KIND_END) {
		l->given = 0;
		handler->on_look(handler->arg, &l->look);
	}
	return 0;
}

/* "12" or "12.34" as thousandths; words such as "[N/A]" are nothing known. */
static uint32_t read_thousandths(const char *text, size_t len)
{
	uint64_t value = 0, unit = MILLI;
	bool point = false;

	if (len == 0 || len > DIGITS_MAX)
		return PROTO_NO_FIGURE;
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '.' && !point && i > 0) {
			point = true;
			continue;
		}
		if (!is_digit(text[i]))
			return PROTO_NO_FIGURE;
		if (point && unit == 1) /* finer than that is not told */
			continue;
		unit /= point ? 10 : 1;
		value = value * 10 + (uint64_t)(text[i] - '0');
		if (value > UINT32_MAX)
			return PROTO_NO_FIGURE;
	}
	value *= unit;
	return value < PROTO_NO_FIGURE ? (uint32_t)value : PROTO_NO_FIGURE;
}

static uint32_t read_whole(const char *text, size_t len, uint32_t max)
{
	const char *point = memchr(text, '.', len);
	uint64_t value = 0;

	len = point ? (size_t)(point - text) : len;
	if (len == 0 || len > DIGITS_MAX)
		return PROTO_NO_FIGURE;
	for (size_t i = 0; i < len; i++) {
		if (!is_digit(text[i]))
			return PROTO_NO_FIGURE;
		value = value * 10 + (uint64_t)(text[i] - '0');
	}
	return value <= max ? (uint32_t)value : PROTO_NO_FIGURE;
}

static void read_gpu(const char *text, const struct lines_handler *handler)
{
	const char *fields[GPU_FIELDS];
	size_t lens[GPU_FIELDS];
	struct lines_gpu gpu;
	uint32_t index;

	for (size_t i = 0; i < GPU_FIELDS; i++) {
		fields[i] = text;
		lens[i] = strcspn(text, ",");
		text += lens[i];
		if ((*text == ',') != (i < GPU_FIELDS - 1))
			return;
		text += *text == ',';
		text += *text == ' ';
	}
	index = read_whole(fields[0], lens[0], PROTO_MAX_GPUS - 1);
	if (index == PROTO_NO_FIGURE)
		return;
	gpu = (struct lines_gpu){
		.percent = read_whole(fields[1], lens[1], 100),
		.celsius = read_whole(fields[2], lens[2], 250),
		.used_mib = read_whole(fields[3], lens[3], UINT32_MAX - 1),
		.total_mib = read_whole(fields[4], lens[4], UINT32_MAX - 1),
		.milliwatts = read_thousandths(fields[5], lens[5]),
	};
	if (gpu.used_mib != PROTO_NO_FIGURE && gpu.used_mib > gpu.total_mib)
		gpu.used_mib = PROTO_NO_FIGURE;
	handler->on_gpu(handler->arg, index, &gpu);
}

static int read_line(struct lines *l, const struct lines_handler *handler)
{
	if (!l->begun) {
		l->begun = STR_EQ(l->line, LINES_HEAD);
		return 0;
	}
	if (strncmp(l->line, "gpu ", 4) == 0) {
		read_gpu(l->line + 4, handler);
		return 0;
	}
	return read_figures(l, handler);
}

/* What a login shell says may have lines of any length, and bytes of any kind. */
static int add_byte(struct lines *l, char c)
{
	if (l->used < LINES_MAX - 1) {
		l->line[l->used++] = c;
		return c == '\0' && l->begun ? -EBADMSG : 0;
	}
	return l->begun ? -EMSGSIZE : 0;
}

int lines_feed(struct lines *l, const void *data, size_t len, const struct lines_handler *handler)
{
	const char *bytes = data;

	for (size_t i = 0; i < len; i++) {
		int r;

		if (!l->begun && ++l->skipped > LINES_SKIP_MAX)
			return -EMSGSIZE;
		if (bytes[i] != '\n') {
			r = add_byte(l, bytes[i]);
		} else {
			l->line[l->used] = '\0';
			l->used = 0;
			r = read_line(l, handler);
		}
		if (r < 0)
			return r;
	}
	return 0;
}
