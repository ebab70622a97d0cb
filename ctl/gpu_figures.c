/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures of the host's own GPUs, as text.
 *
 * Trust: runs as the operator; prints the agent's answers escaped.
 */
#include <math.h>

#include "ctl/gpus.h"
#include "ctl/table.h"

#define GIB (1024.0 * 1024 * 1024)

static double number(const json_t *figures, const char *key, double high)
{
	const json_t *v = json_object_get(figures, key);
	double value = json_is_number(v) ? json_number_value(v) : NAN;

	return value >= 0 && value <= high ? value : NAN;
}

static void put_number(char *text, size_t size, double value, const char *unit)
{
	if (isfinite(value))
		snprintf(text, size, "%.0f %s", value, unit);
	else
		snprintf(text, size, "-");
}

void gpu_figures_text(const json_t *figures, struct gpu_figures *ret_text)
{
	double used = number(figures, "memory_used", 1e18);
	double total = number(figures, "memory_total", 1e18);

	put_number(ret_text->busy, sizeof(ret_text->busy), number(figures, "percent", 100), "%");
	put_number(ret_text->heat, sizeof(ret_text->heat), number(figures, "celsius", 1000), "C");
	put_number(ret_text->power, sizeof(ret_text->power), number(figures, "watts", 1e6), "W");
	if (isfinite(used) && isfinite(total))
		snprintf(ret_text->memory, sizeof(ret_text->memory), "%.1f of %.1f GiB", used / GIB,
			 total / GIB);
	else
		snprintf(ret_text->memory, sizeof(ret_text->memory), "-");
}

bool gpu_figures_wrong(const json_t *nvml)
{
	static const char *const fine[] = {"", "ok", "no_gpu", "off", "not_asked", "fake"};
	const char *state = gpu_text(nvml, "state");

	for (size_t i = 0; i < ARRAY_LEN(fine); i++)
		if (STR_EQ(state, fine[i]))
			return false;
	return true;
}

void gpu_figures_remark(FILE *f, const json_t *nvml)
{
	const char *detail = gpu_text(nvml, "detail");

	if (json_is_true(json_object_get(nvml, "fake_gpus"))) {
		fputs("GPU figures are made up: debug is on in agentd.conf\n", f);
	} else if (gpu_figures_wrong(nvml)) {
		fputs("No figures of the host's GPUs: ", f);
		text_put(f, detail, strlen(detail));
		fputc('\n', f);
	}
}

static void add_figures(struct table *t, const json_t *figures)
{
	struct gpu_figures text;

	gpu_figures_text(figures, &text);
	table_add(t, text.busy, 0);
	table_add(t, text.heat, 0);
	table_add(t, text.memory, 0);
	table_add(t, text.power, 0);
}

void gpu_figures_put_own(FILE *f, const json_t *own, bool color)
{
	static const char *const headers[] = {"GPU", ">BUSY", ">TEMP", ">MEMORY", ">POWER", NULL};
	const json_t *list = json_object_get(own, "gpus"), *gpu;
	_cleanup_(table_done) struct table table = {0};
	size_t i;

	if (json_array_size(list) == 0) {
		fputs("A container on this host, without GPUs: there are no figures of it.\n", f);
		return;
	}
	fputs("A container on this host: there are figures of its GPUs only.\n\n", f);
	table_init(&table, headers);
	json_array_foreach (list, i, gpu) {
		const char *name = gpu_text(gpu, "name");

		table_add(&table, *name ? name : "none", 0);
		add_figures(&table, json_object_get(gpu, "figures"));
	}
	table_print(&table, f, color);
	gpu_figures_remark(f, own);
}

void gpu_figures_put(FILE *f, const json_t *answer, bool color)
{
	static const char *const headers[] = {"HOST GPU", "NAME",   ">BUSY", ">TEMP",
					      ">MEMORY",  ">POWER", NULL};
	const json_t *list = json_object_get(answer, "gpus"), *gpu;
	_cleanup_(table_done) struct table table = {0};
	size_t i;

	if (json_array_size(list) > 0) {
		table_init(&table, headers);
		json_array_foreach (list, i, gpu) {
			const char *address = gpu_text(gpu, "address");

			table_add(&table, *address ? address : "none", 0);
			table_add(&table, gpu_text(gpu, "name"), 0);
			add_figures(&table, gpu);
		}
		fputc('\n', f);
		table_print(&table, f, color);
	}
	gpu_figures_remark(f, answer);
}
