/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A writer of small ISO 9660 images in memory: one directory, a few files, no extensions.
 * Trust: runs in vmmon; writes what vmmon made itself.
 */
#pragma once

#include "common/base.h"

#define ISO_MAX_FILES 16
#define ISO_NAME_MAX  28 /* characters of a name, so that 16 entries fit into one sector */

/* Name in lower case, of a-z, 0-9, '-', '_' and at most one '.'. */
struct iso_file {
	const char *name;
	const void *data;
	size_t len;
};

/*
 * Makes an image of @n files with the volume id @volume, at most @max bytes. Names are stored in
 * upper case, as the standard has it; Linux shows them in lower case by default. The same files
 * give the same bytes. Returns 0 and an image that the caller frees, -EINVAL for a bad name, -EFBIG
 * when it does not fit, -ENOMEM.
 */
int iso_build(const char *volume, const struct iso_file *files, size_t n, size_t max,
	      uint8_t **ret_image, size_t *ret_len);
