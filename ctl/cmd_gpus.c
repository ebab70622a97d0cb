/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gpus and gpus recover.
 *
 * Trust: runs as the operator; prints the agent's answers escaped.
 */
#include <inttypes.h>

#include "ctl/api.h"
#include "ctl/gpus.h"
#include "ctl/parse.h"
#include "ctl/table.h"
#include "ctl/text.h"

#define COLOR_BROKEN   31
#define COLOR_RENTABLE 32
#define COLOR_REFUSED  33
#define COLOR_RENTED   36

#define LIST_TIMEOUT_MS    60000
#define RECOVER_TIMEOUT_MS 240000 /* more than the root helper may take for an act */

const char *gpu_text(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text ? text : "";
}

void gpu_number(const json_t *json, const char *key, char ret_text[static TEXT_AGE_MAX])
{
	const json_t *v = json_object_get(json, key);

	if (json_is_integer(v))
		snprintf(ret_text, TEXT_AGE_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else
		snprintf(ret_text, TEXT_AGE_MAX, "-");
}

int gpu_verdict_color(const json_t *gpu)
{
	const char *verdict = gpu_text(gpu, "verdict");

	if (STR_EQ(verdict, "rentable"))
		return COLOR_RENTABLE;
	if (STR_EQ(verdict, "quarantined") || STR_EQ(verdict, "half_bound"))
		return COLOR_BROKEN;
	return *gpu_text(gpu, "instance") ? COLOR_RENTED : COLOR_REFUSED;
}

/* "16M,32G,32M": those that the card has. */
static void bars_text(const json_t *gpu, char *buf, size_t size)
{
	const json_t *bars = json_object_get(gpu, "bars"), *bar;
	size_t i, len = 0;

	buf[0] = 0;
	json_array_foreach (bars, i, bar) {
		char text[TEXT_AGE_MAX];

		if (json_integer_value(bar) <= 0)
			continue;
		text_bytes((uint64_t)json_integer_value(bar), text);
		snprintf(buf + len, size - len, "%s%s", len ? "," : "", text);
		len = strlen(buf);
	}
	if (len == 0)
		snprintf(buf, size, "-");
}

static void add_figures(struct table *t, const json_t *gpu)
{
	struct gpu_figures text;

	gpu_figures_text(json_object_get(gpu, "figures"), &text);
	table_add(t, text.busy, 0);
	table_add(t, text.heat, 0);
	table_add(t, text.memory, 0);
}

static void add_gpu(struct table *t, const json_t *gpu, bool with_figures)
{
	char group[TEXT_AGE_MAX], node[TEXT_AGE_MAX], bars[128];

	gpu_number(gpu, "group", group);
	gpu_number(gpu, "node", node);
	bars_text(gpu, bars, sizeof(bars));
	table_add(t, gpu_text(gpu, "address"), 0);
	table_add(t, gpu_text(gpu, "name"), 0);
	table_add(t, gpu_text(gpu, "verdict"), gpu_verdict_color(gpu));
	table_add(t, *gpu_text(gpu, "driver") ? gpu_text(gpu, "driver") : "-", 0);
	table_add(t, group, 0);
	table_add(t, node, 0);
	table_add(t, bars, 0);
	table_add(t, *gpu_text(gpu, "instance") ? gpu_text(gpu, "instance") : "-", 0);
	if (with_figures)
		add_figures(t, gpu);
}

/* A line of the list below the table: escaped, for it is made of foreign text. */
/* Half-bound and quarantined GPUs have one remedy, which some reasons name themselves. */
static bool needs_remedy(const json_t *gpu)
{
	const json_t *reason;
	size_t i;

	json_array_foreach (json_object_get(gpu, "reasons"), i, reason)
		if (strstr(gpu_text(reason, "what"), "gpus recover"))
			return false;
	return gpu_verdict_color(gpu) == COLOR_BROKEN;
}

static void put_reasons(const json_t *gpu)
{
	const char *address = gpu_text(gpu, "address");
	const json_t *reason, *holder;
	size_t i;

	json_array_foreach (json_object_get(gpu, "reasons"), i, reason) {
		const char *about = gpu_text(reason, "address"), *what = gpu_text(reason, "what");
		bool self = *about == 0 || STR_EQ(about, address);

		text_line("%s  %s: %s%s%s%s%s%s", address, gpu_text(reason, "reason"),
			  gpu_text(reason, "text"), self && !*what ? "" : " (", self ? "" : about,
			  !self && *what ? ": " : "", what, self && !*what ? "" : ")");
	}
	json_array_foreach (json_object_get(gpu, "holders"), i, holder) {
		const char *service = gpu_text(holder, "service");
		char pid[TEXT_AGE_MAX];

		gpu_number(holder, "pid", pid);
		text_line("%s  process %s %s has %s open%s%s", address, pid,
			  gpu_text(holder, "program"), gpu_text(holder, "node"),
			  *service ? ", of " : "", service);
	}
	if (needs_remedy(gpu))
		text_line("%s  try: qudatactl gpus recover %s", address, address);
}

static void put_together(const json_t *gpu)
{
	const json_t *together = json_object_get(gpu, "together"), *other;
	char text[512] = "";
	size_t i;

	json_array_foreach (together, i, other) {
		const char *address = json_string_value(other);
		size_t len = strlen(text);

		snprintf(text + len, sizeof(text) - len, "%s%.31s", i > 0 ? ", " : "",
			 address ? address : "-");
	}
	if (*text)
		text_line("%s  is rented together with %s or not at all", gpu_text(gpu, "address"),
			  text);
}

static bool has_remarks(const json_t *gpu)
{
	static const char *const lists[] = {"reasons", "holders", "together"};

	for (size_t i = 0; i < ARRAY_LEN(lists); i++)
		if (json_array_size(json_object_get(gpu, lists[i])) > 0)
			return true;
	return false;
}

/* GPUs that the host's driver has tell how busy they are. */
static bool has_figures(const json_t *list)
{
	const json_t *gpu;
	size_t i;

	json_array_foreach (list, i, gpu)
		if (json_is_object(json_object_get(gpu, "figures")))
			return true;
	return false;
}

static void print_table(const struct ctl *c, const json_t *list)
{
	static const char *const headers[] = {"ADDRESS", "NAME",  "VERDICT", "DRIVER",
					      "GROUP",   "NODE",  "BARS",    "VM",
					      ">BUSY",   ">TEMP", ">MEMORY", NULL};
	static const char *const bare[] = {"ADDRESS", "NAME", "VERDICT", "DRIVER", "GROUP",
					   "NODE",    "BARS", "VM",      NULL};
	bool with_figures = has_figures(list);
	_cleanup_(table_done) struct table table = {0};
	const json_t *gpu;
	bool any = false;
	size_t i;

	table_init(&table, with_figures ? headers : bare);
	json_array_foreach (list, i, gpu)
		add_gpu(&table, gpu, with_figures);
	table_print(&table, stdout, c->color_out);
	json_array_foreach (list, i, gpu) {
		if (!has_remarks(gpu))
			continue;
		if (!any)
			putchar('\n');
		any = true;
		put_reasons(gpu);
		put_together(gpu);
	}
}

enum ctl_exit cmd_gpus(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(c, &r);
	const json_t *list;

	if (!api)
		return r;
	r = api_call(api, "GET", "/v1/gpus", NULL, LIST_TIMEOUT_MS, &reply);
	if (r != CTL_OK)
		return ctl_fail(c, r, "%s", reply.error);
	list = json_object_get(reply.data, "gpus");
	if (!json_is_array(list))
		return ctl_fail(c, CTL_FAILED, "the agent's answer holds no list of GPUs");
	if (c->json)
		ctl_print_json(reply.data);
	else if (json_array_size(list) == 0)
		ctl_note(c, "This host has no GPU that may be rented; see also: qudatactl check");
	else if (ctl_has(c, OPT_TREE))
		gpu_tree(stdout, list, gpu_tree_style(c));
	else
		print_table(c, list);
	if (!c->json)
		gpu_figures_remark(stdout, json_object_get(reply.data, "nvml"));
	return CTL_OK;
}

enum ctl_exit cmd_gpus_recover(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	const char *address = ctl_arg(c, 0);
	enum ctl_exit r = CTL_FAILED;
	struct api *api;
	char path[64];
	json_int_t recovered, left;

	if ((address != NULL) == ctl_has(c, OPT_ALL))
		return ctl_fail(c, CTL_USAGE, "gpus recover: give an ADDRESS or --all");
	if (address && !parse_is_gpu(address))
		return ctl_fail(c, CTL_USAGE,
				"gpus recover: not a PCI address such as 0000:01:00.0: %s",
				address);
	api = ctl_api(c, &r);
	if (!api)
		return r;
	snprintf(path, sizeof(path), "/v1/gpus/%s%srecover", address ? address : "",
		 address ? "/" : "");
	r = api_call(api, "POST", path, NULL, RECOVER_TIMEOUT_MS, &reply);
	if (r != CTL_OK)
		return ctl_fail(c, r, "%s", reply.error);
	recovered = json_integer_value(json_object_get(reply.data, "recovered"));
	left = json_integer_value(json_object_get(reply.data, "left"));
	if (c->json)
		ctl_print_json(reply.data);
	else
		ctl_note(c, "recovered: %" JSON_INTEGER_FORMAT ", left: %" JSON_INTEGER_FORMAT,
			 recovered, left);
	return left > 0 ? CTL_FAILED : CTL_OK;
}
