/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tenant's keys as what the engine's archive API unpacks in a container.
 * Trust: runs in vmmon; holds lists that were checked.
 */
#pragma once

#include "common/base.h"

/* Where it is unpacked, and the file that comes of it. */
#define KEYFILE_HOME "/root"
#define KEYFILE_NAME ".ssh/authorized_keys2"

/*
 * A tar archive with root's .ssh (0700) and in it the file with @text (0600). It is a file of our
 * own, one of the two that sshd reads by default, so that the tenant's own is left alone and ours
 * can be written whole. Returns the archive (allocated, *@ret_len bytes), NULL when out of memory.
 */
char *keyfile_archive(const char *text, size_t len, size_t *ret_len);
