/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pictures of `qudatactl top`.
 *
 * Trust: pure; prints the agent's answers escaped.
 */
#include "ctl/top.h"

#include <math.h>

#include "ctl/chart.h"
#include "ctl/gpus.h"
#include "ctl/table.h"
#include "ctl/text.h"

#define LABEL_WIDTH  8
#define VALUE_WIDTH  10
#define EXTRA_WIDTH  21
#define LINES_FIXED  13 /* all but the large chart and the GPUs */
#define CHART_ROWS   6
#define LIST_COLUMNS 16 /* of the chart in a list's line */
#define LIST_WIDE    112

#define COLOR_CALM 32
#define COLOR_BUSY 33
#define COLOR_FULL 31

static const json_t *samples_of(const struct top_entry *entry)
{
	return json_object_get(entry->metrics, "samples");
}

/* An object for a container on this host, of which there are no samples. */
static const json_t *host_gpus_of(const struct top_entry *entry)
{
	return json_object_get(entry->metrics, "host_gpus");
}

static const json_t *newest_sample(const json_t *samples)
{
	size_t n = json_array_size(samples);

	return n > 0 ? json_array_get(samples, n - 1) : NULL;
}

static int color_of(double percent)
{
	return percent >= 90 ? COLOR_FULL : percent >= 60 ? COLOR_BUSY : COLOR_CALM;
}

static bool is_percent(enum chart_figure figure)
{
	return figure == CHART_CPU || figure == CHART_MEMORY || figure == CHART_ROOT ||
	       figure == CHART_GPU || figure == CHART_GPU_MEMORY;
}

static void begin_color(FILE *f, const struct top_style *style, double percent)
{
	if (style->color && isfinite(percent))
		fprintf(f, "\033[%dm", color_of(percent));
}

static void end_color(FILE *f, const struct top_style *style, double percent)
{
	if (style->color && isfinite(percent))
		fputs("\033[0m", f);
}

/* One figure: its name, what it is now, more words, and how it was. */
static void put_line(FILE *f, const struct top_style *style, const json_t *samples,
		     const char *label, enum chart_figure figure, size_t gpu, const char *extra)
{
	const size_t used = LABEL_WIDTH + VALUE_WIDTH + EXTRA_WIDTH + 4;
	size_t n = style->columns > used ? MIN_OF(style->columns - used, CHART_COLUMNS_MAX) : 0;
	double columns[CHART_COLUMNS_MAX], now = chart_newest(samples, figure, gpu);
	double shade = is_percent(figure) ? now : NAN;
	char value[CHART_TEXT_MAX];

	chart_text(figure, now, value);
	fprintf(f, "%-*s ", LABEL_WIDTH, label);
	begin_color(f, style, shade);
	fprintf(f, "%*s", VALUE_WIDTH, value);
	end_color(f, style, shade);
	fprintf(f, "  %-*s ", EXTRA_WIDTH, extra);
	chart_columns(samples, figure, gpu, n, columns);
	chart_put_row(f, columns, n, is_percent(figure) ? 100 : 0, 0, 1, style->utf8);
	fputc('\n', f);
}

static void put_cpu_chart(FILE *f, const struct top_style *style, const json_t *samples,
			  size_t rows)
{
	size_t n = style->columns > LABEL_WIDTH + 2
			   ? MIN_OF(style->columns - LABEL_WIDTH - 2, CHART_COLUMNS_MAX)
			   : 0;
	double columns[CHART_COLUMNS_MAX], now = chart_newest(samples, CHART_CPU, 0);

	chart_columns(samples, CHART_CPU, 0, n, columns);
	for (size_t row = 0; row < rows; row++) {
		char label[LABEL_WIDTH + 1] = "";

		if (row == 0)
			snprintf(label, sizeof(label), "%s", rows > 1 ? "100 %" : "CPU");
		else if (row == rows - 1)
			snprintf(label, sizeof(label), "0 %%");
		fprintf(f, "%*s ", LABEL_WIDTH, label);
		fputs(style->utf8 ? "│" : "|", f);
		begin_color(f, style, now);
		chart_put_row(f, columns, n, 100, row, rows, style->utf8);
		end_color(f, style, now);
		fputc('\n', f);
	}
}

/* "1.2 of 4.0 GiB", of two members in bytes. */
static void part_text(double part, double whole, char *text, size_t size)
{
	const double gib = 1024.0 * 1024 * 1024;

	if (isfinite(part) && isfinite(whole) && whole > 0 && whole < 1e18)
		snprintf(text, size, "%.1f of %.1f GiB", part / gib, whole / gib);
	else
		snprintf(text, size, "-");
}

static double member(const json_t *json, const char *key)
{
	const json_t *v = json_object_get(json, key);

	return json_is_number(v) ? json_number_value(v) : NAN;
}

static void put_gpu(FILE *f, const struct top_style *style, const json_t *samples, size_t i)
{
	const json_t *gpu = json_array_get(json_object_get(newest_sample(samples), "gpus"), i);
	double celsius = member(gpu, "celsius"), watts = member(gpu, "watts");
	char label[LABEL_WIDTH + 1], extra[64], heat[16] = "-", power[16] = "-";

	snprintf(label, sizeof(label), "GPU %u", (unsigned int)(i % 100));
	if (celsius >= 0 && celsius < 1000)
		snprintf(heat, sizeof(heat), "%.0f C", celsius);
	if (watts >= 0 && watts < 100000)
		snprintf(power, sizeof(power), "%.0f W", watts);
	snprintf(extra, sizeof(extra), "%s, %s", heat, power);
	put_line(f, style, samples, label, CHART_GPU, i, extra);
	part_text(member(gpu, "memory_used"), member(gpu, "memory_total"), extra, sizeof(extra));
	put_line(f, style, samples, "  memory", CHART_GPU_MEMORY, i, extra);
}

static void put_head(FILE *f, const struct top_entry *entry, const struct top_style *style)
{
	const struct instance *inst = &entry->inst;
	int color = style->color ? instance_status_color(inst->status) : 0;

	fprintf(f, "%s  ", inst->id);
	if (inst->name) {
		text_put(f, inst->name, strlen(inst->name));
		fputs("  ", f);
	}
	if (color)
		fprintf(f, "\033[%dm", color);
	text_put(f, inst->status, strlen(inst->status));
	fputs(color ? "\033[0m" : "", f);
	if (inst->health && !STR_EQ(inst->health, "unknown")) {
		fputs(", ", f);
		text_put(f, inst->health, strlen(inst->health));
	}
	fprintf(f, ", %lld CPU%s", (long long)inst->cpus, inst->cpus == 1 ? "" : "s");
	if (json_is_true(json_object_get(entry->metrics, "fake_gpus")))
		fputs(", GPU figures are made up (debug)", f);
	fputc('\n', f);
	if (inst->health_detail) {
		text_put(f, inst->health_detail, strlen(inst->health_detail));
		fputc('\n', f);
	}
}

static void put_figures(FILE *f, const struct top_style *style, const json_t *samples)
{
	const json_t *newest = newest_sample(samples);
	double total = member(newest, "memory_total");
	char extra[64];

	part_text(total - member(newest, "memory_available"), total, extra, sizeof(extra));
	put_line(f, style, samples, "Memory", CHART_MEMORY, 0, extra);
	part_text(member(newest, "root_used"), member(newest, "root_total"), extra, sizeof(extra));
	put_line(f, style, samples, "Disk", CHART_ROOT, 0, extra);
	put_line(f, style, samples, "Net in", CHART_NETWORK_IN, 0, "");
	put_line(f, style, samples, "Net out", CHART_NETWORK_OUT, 0, "");
	put_line(f, style, samples, "Read", CHART_DISK_READ, 0, "");
	put_line(f, style, samples, "Written", CHART_DISK_WRITTEN, 0, "");
	put_line(f, style, samples, "QEMU", CHART_QEMU_CPU, 0, "of one host CPU");
	put_line(f, style, samples, "", CHART_QEMU_MEMORY, 0, "of host memory");
}

void top_put_one(FILE *f, const struct top_entry *entry, const struct top_style *style)
{
	const json_t *samples = samples_of(entry), *on_host = host_gpus_of(entry);
	size_t gpus = json_array_size(json_object_get(newest_sample(samples), "gpus"));
	size_t rows = style->rows ? style->rows : 2 * gpus + LINES_FIXED + CHART_ROWS;
	size_t left = rows > LINES_FIXED ? rows - LINES_FIXED : 0, shown;

	put_head(f, entry, style);
	if (json_is_object(on_host)) {
		fputc('\n', f);
		gpu_figures_put_own(f, on_host, style->color);
		return;
	}
	if (json_array_size(samples) == 0) {
		fputs("\nNo figures have come from the guest yet.\n", f);
		return;
	}
	shown = MIN_OF(gpus, left / 2);
	left -= 2 * shown;
	put_line(f, style, samples, "CPU", CHART_CPU, 0, "");
	put_cpu_chart(f, style, samples, MIN_OF(left, (size_t)CHART_ROWS));
	put_figures(f, style, samples);
	for (size_t i = 0; i < shown; i++)
		put_gpu(f, style, samples, i);
	if (shown < gpus)
		fprintf(f, "and %zu more GPUs\n", gpus - shown);
}

/* ---- several ---- */

static void add_figure(struct table *t, const json_t *samples, enum chart_figure figure)
{
	double value = chart_newest(samples, figure, 0);
	char text[CHART_TEXT_MAX];

	chart_text(figure, value, text);
	table_add(t, text, is_percent(figure) && isfinite(value) ? color_of(value) : 0);
}

/* The busiest GPU. */
static void add_gpus(struct table *t, const struct top_entry *entry)
{
	const json_t *samples = samples_of(entry), *gpu;
	size_t n = json_array_size(json_object_get(newest_sample(samples), "gpus")), i;
	char text[CHART_TEXT_MAX];
	double most = NAN;

	for (i = 0; i < n; i++) {
		double value = chart_newest(samples, CHART_GPU, i);

		if (isfinite(value) && !(most >= value))
			most = value;
	}
	json_array_foreach (json_object_get(host_gpus_of(entry), "gpus"), i, gpu) {
		double value = member(json_object_get(gpu, "figures"), "percent");

		if (value >= 0 && value <= 100 && !(most >= value))
			most = value;
	}
	chart_text(CHART_GPU, most, text);
	table_add(t, text, isfinite(most) ? color_of(most) : 0);
}

static void add_chart(struct table *t, const json_t *samples, const struct top_style *style)
{
	_cleanup_free_ char *text = NULL;
	double columns[CHART_COLUMNS_MAX];
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return;
	chart_columns(samples, CHART_CPU, 0, LIST_COLUMNS, columns);
	chart_put_row(f, columns, LIST_COLUMNS, 100, 0, 1, style->utf8);
	table_add(t, fclose(f) == 0 ? text : "", 0);
}

void top_put_list(FILE *f, const struct top_entry *entries, size_t n, const struct top_style *style)
{
	static const char *const narrow[] = {"ID",      "STATUS", "HEALTH", ">CPU", ">MEM",
					     ">NET IN", ">OUT",   ">GPU",   NULL};
	static const char *const wide[] = {"ID",   "STATUS", "HEALTH",   ">CPU",
					   "",     ">MEM",   ">NET IN",  ">OUT",
					   ">GPU", ">READ",  ">WRITTEN", NULL};
	_cleanup_(table_done) struct table table = {0};
	bool is_wide = style->columns >= LIST_WIDE;

	table_init(&table, is_wide ? wide : narrow);
	for (size_t i = 0; i < n; i++) {
		const struct instance *inst = &entries[i].inst;
		const json_t *samples = samples_of(&entries[i]);

		table_add(&table, inst->id, 0);
		table_add(&table, inst->status, instance_status_color(inst->status));
		table_add(&table, inst->health ? inst->health : "-", 0);
		add_figure(&table, samples, CHART_CPU);
		if (is_wide)
			add_chart(&table, samples, style);
		add_figure(&table, samples, CHART_MEMORY);
		add_figure(&table, samples, CHART_NETWORK_IN);
		add_figure(&table, samples, CHART_NETWORK_OUT);
		add_gpus(&table, &entries[i]);
		if (!is_wide)
			continue;
		add_figure(&table, samples, CHART_DISK_READ);
		add_figure(&table, samples, CHART_DISK_WRITTEN);
	}
	table_print(&table, f, style->color);
}
