/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPUs as the agent describes them, and their picture.
 *
 * Trust: runs as the operator; reads the agent's answers, texts in them are hostile.
 */
#pragma once

#include <jansson.h>

#include "ctl/ctl.h"
#include "ctl/text.h"

/* A member that is text; "" when it is none. */
const char *gpu_text(const json_t *json, const char *key);
/* A member that is a number, as text; "-" when it is none. */
void gpu_number(const json_t *json, const char *key, char ret_text[static TEXT_AGE_MAX]);
/* SGR colour of a GPU's verdict. */
int gpu_verdict_color(const json_t *gpu);

struct gpu_tree_style {
	bool utf8, color;
	size_t width; /* columns; 0: lines are not cut */
};

/* As the terminal is: its character set, colours, width. */
struct gpu_tree_style gpu_tree_style(const struct ctl *c);
/* Draws the array @list: nodes, cards that go together, their groups, who has what. */
void gpu_tree(FILE *f, const json_t *list, struct gpu_tree_style style);
