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

/* What NVML tells of a GPU that the host's driver has; "-" for what it does not tell. */
struct gpu_figures {
	char busy[16], heat[16], power[16], memory[64];
};
void gpu_figures_text(const json_t *figures, struct gpu_figures *ret_text);
/* Is there something wrong with how they are had? @nvml is the agent's word on it. */
bool gpu_figures_wrong(const json_t *nvml);
/* A line if they are made up, or there are none for a reason. */
void gpu_figures_remark(FILE *f, const json_t *nvml);
/* The agent's answer to /v1/gpus/figures as a table; nothing when there are no such GPUs. */
void gpu_figures_put(FILE *f, const json_t *answer, bool color);
/* What a container on the host has of them: host_gpus of an instance's metrics. */
void gpu_figures_put_own(FILE *f, const json_t *own, bool color);

struct gpu_tree_style {
	bool utf8, color;
	size_t width; /* columns; 0: lines are not cut */
};

/* As the terminal is: its character set, colours, width. */
struct gpu_tree_style gpu_tree_style(const struct ctl *c);
/* Draws the array @list: nodes, cards that go together, their groups, who has what. */
void gpu_tree(FILE *f, const json_t *list, struct gpu_tree_style style);
