/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables for terminals: columns as wide as their widest cell, cells escaped, colour where wanted.
 *
 * Trust: pure; cells may hold hostile text.
 */
#include "ctl/table.h"

#include <assert.h>

#include "ctl/text.h"

struct table_cell {
	char *text; /* owned */
	int color;
};

#define TABLE_COLOR_HEADER 1 /* bold */

void table_add(struct table *t, const char *text, int color)
{
	struct table_cell *cells =
		reallocarray(t->cells, t->n_cells + 1, sizeof(struct table_cell));

	if (!cells) {
		fputs("qudatactl: out of memory\n", stderr);
		exit(1);
	}
	t->cells = cells;
	t->cells[t->n_cells++] = (struct table_cell){.text = text_safe(text), .color = color};
}

void table_init(struct table *t, const char *const *headers)
{
	*t = (struct table){0};
	for (size_t i = 0; headers[i]; i++) {
		assert(i < TABLE_COLUMNS_MAX);
		t->right[i] = headers[i][0] == '>';
		table_add(t, headers[i] + t->right[i], TABLE_COLOR_HEADER);
		t->n_columns++;
	}
}

static void print_cell(FILE *f, const struct table_cell *cell, size_t pad, bool right, bool color)
{
	if (right)
		fprintf(f, "%*s", (int)pad, "");
	if (color && cell->color)
		fprintf(f, "\033[%dm%s\033[0m", cell->color, cell->text);
	else
		fputs(cell->text, f);
	if (!right)
		fprintf(f, "%*s", (int)pad, "");
}

void table_print(const struct table *t, FILE *f, bool color)
{
	size_t widths[TABLE_COLUMNS_MAX] = {0};

	assert(t->n_columns > 0 && t->n_cells % t->n_columns == 0);
	for (size_t i = 0; i < t->n_cells; i++) {
		size_t *w = &widths[i % t->n_columns];

		*w = MAX_OF(*w, text_width(t->cells[i].text));
	}
	for (size_t i = 0; i < t->n_cells; i++) {
		size_t column = i % t->n_columns;
		bool last = column == t->n_columns - 1;
		size_t pad = widths[column] - text_width(t->cells[i].text);

		/* Nothing is padded at the end of a line: it would wrap, and diff shows it. */
		print_cell(f, &t->cells[i], last && !t->right[column] ? 0 : pad, t->right[column],
			   color);
		fputs(last ? "\n" : "  ", f);
	}
}

void table_done(struct table *t)
{
	for (size_t i = 0; i < t->n_cells; i++)
		free(t->cells[i].text);
	free(t->cells);
	*t = (struct table){0};
}
