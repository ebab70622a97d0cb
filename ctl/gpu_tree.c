/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A picture of the host's GPUs: NUMA nodes, the cards on them, their IOMMU groups, who has what.
 *
 * Trust: runs as the operator; prints the agent's answers escaped.
 */
#include <langinfo.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "ctl/gpus.h"
#include "ctl/parse.h"

#define GROUPS_MAX 64 /* of one set of cards */

struct picture {
	FILE *f;
	const json_t *list;
	struct gpu_tree_style style;
};

/* What stands before a line: "│  ├─ " for the second level. */
struct branch {
	char before[64]; /* the levels above */
	bool last;       /* nothing follows on this level */
};

struct gpu_tree_style gpu_tree_style(const struct ctl *c)
{
	struct gpu_tree_style style = {
		.utf8 = STR_EQ(nl_langinfo(CODESET), "UTF-8"),
		.color = c->color_out,
	};
	const char *columns = getenv("COLUMNS");
	struct winsize size;
	uint32_t width;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
		style.width = size.ws_col;
	else if (columns && parse_u32(columns, 20, 10000, &width) == 0)
		style.width = width;
	return style;
}

static const char *branch_mark(const struct picture *p, const struct branch *b)
{
	if (p->style.utf8)
		return b->last ? "└─ " : "├─ ";
	return b->last ? "`- " : "|- ";
}

/* The branch below @b. */
static struct branch below(const struct picture *p, const struct branch *b)
{
	struct branch inner = {.last = false};

	snprintf(inner.before, sizeof(inner.before), "%.50s%s", b->before,
		 b->last         ? "   "
		 : p->style.utf8 ? "│  "
				 : "|  ");
	return inner;
}

/* One line at @b, or one that goes on under it when @mark is false. */
static void put(const struct picture *p, const struct branch *b, bool mark, int color,
		const char *fmt, ...) _printf_(5, 6);

static void put(const struct picture *p, const struct branch *b, bool mark, int color,
		const char *fmt, ...)
{
	struct branch rest = b ? below(p, b) : (struct branch){0};
	const char *before = b ? (mark ? b->before : rest.before) : "";
	size_t used = text_width(before) + (b && mark ? 3 : 0);
	_cleanup_free_ char *text = NULL, *safe = NULL;
	va_list ap;

	va_start(ap, fmt);
	text = text_vformat(fmt, ap);
	va_end(ap);
	safe = text_safe(text);
	fprintf(p->f, "%s%s", before, b && mark ? branch_mark(p, b) : "");
	if (color && p->style.color)
		fprintf(p->f, "\033[%dm", color);
	if (p->style.width > used)
		text_put_cut(p->f, safe, p->style.width - used, p->style.utf8 ? "…" : "~");
	else
		fputs(safe, p->f);
	fputs(color && p->style.color ? "\033[0m\n" : "\n", p->f);
}

/* Sets: a GPU and those that it names as going together with it. */

static bool goes_with(const json_t *gpu, const char *address)
{
	const json_t *other;
	size_t i;

	if (STR_EQ(gpu_text(gpu, "address"), address))
		return true;
	json_array_foreach (json_object_get(gpu, "together"), i, other)
		if (json_is_string(other) && STR_EQ(json_string_value(other), address))
			return true;
	return false;
}

/* Is @i the first of the list in its set? */
static bool leads(const struct picture *p, size_t i)
{
	const char *address = gpu_text(json_array_get(p->list, i), "address");

	for (size_t k = 0; k < i; k++)
		if (goes_with(json_array_get(p->list, k), address))
			return false;
	return true;
}

static int64_t node_of(const json_t *gpu)
{
	const json_t *node = json_object_get(gpu, "node");

	return json_is_integer(node) ? (int64_t)json_integer_value(node) : -1;
}

static void put_card(const struct picture *p, const struct branch *b, bool first, const json_t *gpu)
{
	const char *owner = gpu_text(gpu, "instance"), *driver = gpu_text(gpu, "driver");
	bool leased = json_is_true(json_object_get(gpu, "leased"));
	const char *how = "no driver has it", *who = "";

	if (*owner) {
		how = leased ? "instance " : "promised to instance ";
		who = owner;
	} else if (*driver) {
		how = "the host, driver ";
		who = driver;
	}
	put(p, b, first, gpu_verdict_color(gpu), "%s  %s  %s  [%s%s]", gpu_text(gpu, "address"),
	    gpu_text(gpu, "name"), gpu_text(gpu, "verdict"), how, who);
}

/* Groups: of all parts of the GPUs of a set. */

struct groups {
	json_int_t ids[GROUPS_MAX]; /* -1: in none */
	size_t n;
};

static json_int_t group_of(const json_t *part)
{
	const json_t *group = json_object_get(part, "group");

	return json_is_integer(group) ? json_integer_value(group) : -1;
}

static void add_group(struct groups *g, json_int_t id)
{
	for (size_t i = 0; i < g->n; i++)
		if (g->ids[i] == id)
			return;
	if (g->n < GROUPS_MAX)
		g->ids[g->n++] = id;
}

static void put_part(const struct picture *p, const struct branch *b, const json_t *part)
{
	const char *address = gpu_text(part, "address"), *what = gpu_text(part, "what");
	const char *driver = gpu_text(part, "driver");

	put(p, b, true, STR_EQ(gpu_text(part, "role"), "foreign") ? 33 : 0, "%-12s  %-9s  %s%s%s",
	    *address ? address : what, gpu_text(part, "role"), *driver ? driver : "-",
	    *address && *what ? "  " : "", *address ? what : "");
}

/* The members of group @id, each once: the GPUs of a set name each other's parts. */
static json_t *members(const json_t *set, json_int_t id)
{
	json_t *found = json_array();
	const json_t *gpu, *part;
	size_t i, k, m;

	json_array_foreach (set, i, gpu)
		json_array_foreach (json_object_get(gpu, "parts"), k, part) {
			const json_t *known;
			bool twice = false;

			json_array_foreach (found, m, known)
				twice = twice ||
					(STR_EQ(gpu_text(known, "address"),
						gpu_text(part, "address")) &&
					 STR_EQ(gpu_text(known, "what"), gpu_text(part, "what")));
			if (group_of(part) == id && !twice)
				json_array_append(found, (json_t *)part);
		}
	return found;
}

static void put_group(const struct picture *p, const struct branch *b, const json_t *set,
		      json_int_t id)
{
	struct branch inner = below(p, b);
	json_t *parts = members(set, id);
	const json_t *part;
	size_t i;

	if (id < 0)
		put(p, b, true, 33, "no IOMMU group");
	else
		put(p, b, true, 0, "IOMMU group %" JSON_INTEGER_FORMAT, id);
	json_array_foreach (parts, i, part) {
		inner.last = i + 1 == json_array_size(parts);
		put_part(p, &inner, part);
	}
	json_decref(parts);
}

static void put_set(const struct picture *p, const struct branch *b, size_t leader)
{
	const json_t *first = json_array_get(p->list, leader), *gpu, *part;
	struct branch inner = below(p, b);
	json_t *set = json_array();
	struct groups groups = {0};
	size_t i, k;

	json_array_foreach (p->list, i, gpu)
		if (goes_with(first, gpu_text(gpu, "address")))
			json_array_append(set, (json_t *)gpu);
	json_array_foreach (set, i, gpu) {
		put_card(p, b, i == 0, gpu);
		json_array_foreach (json_object_get(gpu, "parts"), k, part)
			add_group(&groups, group_of(part));
	}
	if (json_array_size(set) > 1)
		put(p, b, false, 33, "(rented together or not at all)");
	for (i = 0; i < groups.n; i++) {
		inner.last = i + 1 == groups.n;
		put_group(p, &inner, set, groups.ids[i]);
	}
	json_decref(set);
}

static void put_node(const struct picture *p, int64_t node)
{
	struct branch b = {.last = false};
	size_t left = 0;

	for (size_t i = 0; i < json_array_size(p->list); i++)
		left += leads(p, i) && node_of(json_array_get(p->list, i)) == node;
	if (node < 0)
		put(p, NULL, false, 1, "NUMA node not known");
	else
		put(p, NULL, false, 1, "NUMA node %lld", (long long)node);
	for (size_t i = 0; i < json_array_size(p->list); i++) {
		if (!leads(p, i) || node_of(json_array_get(p->list, i)) != node)
			continue;
		b.last = --left == 0;
		put_set(p, &b, i);
	}
}

void gpu_tree(FILE *f, const json_t *list, struct gpu_tree_style style)
{
	const struct picture p = {f, list, style};

	for (size_t i = 0; i < json_array_size(list); i++) {
		int64_t node = node_of(json_array_get(list, i));
		bool seen = !leads(&p, i);

		for (size_t k = 0; k < i && !seen; k++)
			seen = leads(&p, k) && node_of(json_array_get(list, k)) == node;
		if (!seen)
			put_node(&p, node);
	}
}
