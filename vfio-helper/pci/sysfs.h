/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading sysfs below a directory descriptor: an attribute may be absent, change and vanish. No
 * symbolic link is followed for an attribute, nothing here waits, and a bad descriptor is as good
 * as an absent directory.
 */
#pragma once

#include "common/base.h"

#include <dirent.h>

#define SYSFS_TEXT_SIZE 4097 /* an attribute is a page at most; so is a link's target */

/* A directory of @dir_fd, or a negative errno. */
int sysfs_open_dir(int dir_fd, const char *name);
/* An attribute's text without its last newline. Returns its length or a negative errno. */
int sysfs_text(int dir_fd, const char *name, char ret_text[static SYSFS_TEXT_SIZE]);
/* The target of a symbolic link as it is written. Returns its length or a negative errno. */
int sysfs_link(int dir_fd, const char *name, char ret_text[static SYSFS_TEXT_SIZE]);
/* What follows the last slash of @path. */
const char *sysfs_base(const char *path);
/* "0x10de" or "12"; nothing before or after it. -EINVAL, -ERANGE. */
int sysfs_number(const char *text, uint64_t *ret_value);

/* Opens a directory for sysfs_next(); NULL without one, which sysfs_next() finds empty. */
DIR *sysfs_list(int dir_fd, const char *name);
/* The next name that does not begin with a dot; NULL at the end. Valid until the next call. */
const char *sysfs_next(DIR *dir);

static inline void cleanup_closedir(DIR **dir)
{
	if (*dir)
		(void)closedir(*dir);
}

#define _cleanup_closedir_ _cleanup_(cleanup_closedir)
