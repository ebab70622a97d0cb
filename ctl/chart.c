/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Charts of guests' figures.
 *
 * Trust: pure; reads the agent's answers, in which a guest's figures may be any.
 */
#include "ctl/chart.h"

#include <math.h>

#define NEWEST_LOOK_BACK 6 /* samples in which something may be missing */
#define LEVELS           8 /* of a character */

static double number(const json_t *json, const char *key)
{
	const json_t *v = json_object_get(json, key);

	return json_is_number(v) ? json_number_value(v) : NAN;
}

static double percent(double part, double whole)
{
	return whole > 0 ? 100 * part / whole : NAN;
}

/* What a counter of two objects has grown by in a second. */
static double rate(const json_t *before, const json_t *now, double seconds, const char *key)
{
	double grown = number(now, key) - number(before, key);

	return seconds > 0 && grown >= 0 ? grown / seconds : NAN;
}

static double rate_of(const json_t *samples, size_t i, const char *member, const char *key)
{
	const json_t *now = json_array_get(samples, i);
	const json_t *before = i > 0 ? json_array_get(samples, i - 1) : NULL;
	double seconds = (number(now, "time_ms") - number(before, "time_ms")) / 1000;

	if (member)
		return rate(json_object_get(before, member), json_object_get(now, member), seconds,
			    key);
	return rate(before, now, seconds, key);
}

static double used_percent(const json_t *json, const char *total, const char *available)
{
	double whole = number(json, total);

	return percent(whole - number(json, available), whole);
}

double chart_figure(const json_t *samples, size_t i, enum chart_figure figure, size_t gpu)
{
	const json_t *s = json_array_get(samples, i);
	const json_t *g = json_array_get(json_object_get(s, "gpus"), gpu);

	switch (figure) {
	case CHART_CPU:
		return number(s, "cpu_percent");
	case CHART_MEMORY:
		return used_percent(s, "memory_total", "memory_available");
	case CHART_NETWORK_IN:
		return rate_of(samples, i, NULL, "network_in");
	case CHART_NETWORK_OUT:
		return rate_of(samples, i, NULL, "network_out");
	case CHART_DISK_READ:
		return rate_of(samples, i, NULL, "disk_read");
	case CHART_DISK_WRITTEN:
		return rate_of(samples, i, NULL, "disk_written");
	case CHART_ROOT:
		return percent(number(s, "root_used"), number(s, "root_total"));
	case CHART_QEMU_CPU: /* milliseconds in a second */
		return rate_of(samples, i, "qemu", "cpu_ms") / 10;
	case CHART_QEMU_MEMORY:
		return number(json_object_get(s, "qemu"), "rss");
	case CHART_GPU:
		return number(g, "percent");
	case CHART_GPU_MEMORY:
		return percent(number(g, "memory_used"), number(g, "memory_total"));
	}
	return NAN;
}

double chart_newest(const json_t *samples, enum chart_figure figure, size_t gpu)
{
	size_t n = json_array_size(samples);

	for (size_t i = 0; i < NEWEST_LOOK_BACK && i < n; i++) {
		double value = chart_figure(samples, n - 1 - i, figure, gpu);

		if (isfinite(value))
			return value;
	}
	return NAN;
}

void chart_columns(const json_t *samples, enum chart_figure figure, size_t gpu, size_t n,
		   double ret_columns[static CHART_COLUMNS_MAX])
{
	size_t count[CHART_COLUMNS_MAX] = {0}, n_samples = json_array_size(samples);
	double newest = number(json_array_get(samples, n_samples - 1), "time_ms");

	for (size_t i = 0; i < n; i++)
		ret_columns[i] = 0;
	for (size_t i = 0; i < n_samples; i++) {
		double value = chart_figure(samples, i, figure, gpu);
		double age = newest - number(json_array_get(samples, i), "time_ms");
		size_t column;

		if (!isfinite(value) || !(age >= 0) || age >= (double)n * CHART_BUCKET_MS)
			continue;
		column = n - 1 - (size_t)(age / CHART_BUCKET_MS);
		ret_columns[column] += value;
		count[column]++;
	}
	for (size_t i = 0; i < n; i++)
		ret_columns[i] = count[i] ? ret_columns[i] / (double)count[i] : NAN;
}

static double largest(const double columns[static CHART_COLUMNS_MAX], size_t n)
{
	double max = 0;

	for (size_t i = 0; i < n; i++)
		if (columns[i] > max)
			max = columns[i];
	return max;
}

void chart_put_row(FILE *f, const double columns[static CHART_COLUMNS_MAX], size_t n, double max,
		   size_t row, size_t rows, bool utf8)
{
	static const char *const blocks[LEVELS + 1] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	static const char ascii[LEVELS + 2] = " .:-=+*%#";
	double below = (double)(rows - 1 - row) * LEVELS;

	if (max <= 0)
		max = largest(columns, n);
	for (size_t i = 0; i < n; i++) {
		double height = max > 0 ? columns[i] / max * (double)rows * LEVELS : 0;
		size_t level = 0;

		/* Anything at all is more than nothing. */
		if (columns[i] > 0 && row == rows - 1 && height < 1)
			height = 1;
		if (isfinite(height) && height > below)
			level = (size_t)(MIN_OF(height - below, (double)LEVELS) + 0.5);
		if (utf8)
			fputs(blocks[level], f);
		else
			fputc(ascii[level], f);
	}
}

static void scaled(double value, double step, const char *const units[static 5],
		   char ret_text[static CHART_TEXT_MAX])
{
	size_t unit = 0;

	while (value >= 0.9995 * step && unit < 4) {
		value /= step;
		unit++;
	}
	snprintf(ret_text, CHART_TEXT_MAX, "%.*f %s", unit == 0 || value >= 99.95 ? 0 : 1, value,
		 units[unit]);
}

void chart_text(enum chart_figure figure, double value, char ret_text[static CHART_TEXT_MAX])
{
	static const char *const rates[] = {"B/s", "kB/s", "MB/s", "GB/s", "TB/s"};
	static const char *const sizes[] = {"B", "KiB", "MiB", "GiB", "TiB"};

	if (!isfinite(value) || value < 0 || value > 1e18) {
		snprintf(ret_text, CHART_TEXT_MAX, "-");
		return;
	}
	switch (figure) {
	case CHART_NETWORK_IN:
	case CHART_NETWORK_OUT:
	case CHART_DISK_READ:
	case CHART_DISK_WRITTEN:
		scaled(value, 1000, rates, ret_text);
		return;
	case CHART_QEMU_MEMORY:
		scaled(value, 1024, sizes, ret_text);
		return;
	case CHART_CPU:
	case CHART_MEMORY:
	case CHART_ROOT:
	case CHART_QEMU_CPU:
	case CHART_GPU:
	case CHART_GPU_MEMORY:
		snprintf(ret_text, CHART_TEXT_MAX, "%.0f %%", value);
		return;
	}
}
