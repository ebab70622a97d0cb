/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pictures of `qudatactl top`: one instance with its charts, or a line for each of several.
 *
 * Trust: pure; prints the agent's answers escaped.
 */
#pragma once

#include "ctl/instance.h"

struct top_style {
	bool utf8, color;
	size_t columns, rows; /* rows 0: as many as it takes */
};

/* One instance and its figures; borrowed. @metrics is the agent's answer, NULL: none came. */
struct top_entry {
	struct instance inst;
	const json_t *metrics;
};

void top_put_one(FILE *f, const struct top_entry *entry, const struct top_style *style);
void top_put_list(FILE *f, const struct top_entry *entries, size_t n,
		  const struct top_style *style);
