/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures of guests as lines and charts.
 *
 * Trust: pure; reads the agent's answers, in which a guest's figures may be any.
 */
#pragma once

#include <jansson.h>

#include "common/base.h"

#define CHART_COLUMNS_MAX 200
#define CHART_BUCKET_MS   2000 /* that one column stands for */

enum chart_figure {
	CHART_CPU,    /* % of all CPUs of the guest */
	CHART_MEMORY, /* % */
	CHART_NETWORK_IN,
	CHART_NETWORK_OUT,
	CHART_DISK_READ,
	CHART_DISK_WRITTEN, /* these four in bytes a second */
	CHART_ROOT,         /* % */
	CHART_QEMU_CPU,     /* % of one CPU of the host */
	CHART_QEMU_MEMORY,  /* bytes */
	CHART_GPU,          /* % */
	CHART_GPU_MEMORY,   /* % */
};

/*
 * Figure @figure of sample @i of @samples (array of the agent's metrics), of GPU @gpu where it is
 * one of a GPU: rates are since the sample before. NAN when it is not known.
 */
double chart_figure(const json_t *samples, size_t i, enum chart_figure figure, size_t gpu);

/* The newest that is known of the last few samples, or NAN. */
double chart_newest(const json_t *samples, enum chart_figure figure, size_t gpu);

/*
 * Means of CHART_BUCKET_MS each into @ret_columns, the newest last; NAN where nothing is known.
 * @n is at most CHART_COLUMNS_MAX.
 */
void chart_columns(const json_t *samples, enum chart_figure figure, size_t gpu, size_t n,
		   double ret_columns[static CHART_COLUMNS_MAX]);

/*
 * Draws row @row (0 is the top) of @rows of a chart of @columns, where @max fills it all. @max 0:
 * the largest of the columns does.
 */
void chart_put_row(FILE *f, const double columns[static CHART_COLUMNS_MAX], size_t n, double max,
		   size_t row, size_t rows, bool utf8);

#define CHART_TEXT_MAX 32
/* "37 %", "1.2 MB/s", "512 MiB": of a figure in its unit; "-" when it is not known. */
void chart_text(enum chart_figure figure, double value, char ret_text[static CHART_TEXT_MAX]);
