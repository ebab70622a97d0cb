/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the small files that an operator names: public keys, environment lists.
 *
 * Trust: runs as the operator; reads files that the operator names.
 */
#pragma once

#include "ctl/ctl.h"

/*
 * The text of @path ("-" is standard input), at most 64 KiB, NUL-terminated and without NUL bytes
 * inside; owned by the caller. NULL with the failure reported and its code in @ret_code.
 */
char *file_read_text(struct ctl *c, const char *path, enum ctl_exit *ret_code);
/* The one public key in file @path; NULL with the failure reported. */
char *file_read_public_key(struct ctl *c, const char *path, enum ctl_exit *ret_code);
