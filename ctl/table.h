/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables for terminals: columns as wide as their widest cell, cells escaped, colour where wanted.
 *
 * Trust: pure; cells may hold hostile text.
 */
#pragma once

#include "common/base.h"

#define TABLE_COLUMNS_MAX 12

struct table {
	size_t n_columns;
	size_t n_cells;
	struct table_cell *cells; /* owned */
	bool right[TABLE_COLUMNS_MAX];
};

/* @headers ends with NULL; a leading '>' aligns the column to the right. */
void table_init(struct table *t, const char *const *headers);
/* Adds the next cell, row by row. @text (NULL is "") is copied and escaped; @color is an SGR number
 * or 0. */
void table_add(struct table *t, const char *text, int color);
/* Prints it; a row that was begun must be complete. @color: whether colours may be used. */
void table_print(const struct table *t, FILE *f, bool color);
void table_done(struct table *t);
