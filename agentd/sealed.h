/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists and texts that come as sealed memory, because they are too long for a message.
 */
#pragma once

#include "common/base.h"

/*
 * Reads the whole memfd @fd, which stays the caller's. @ret_bytes is owned, with a NUL behind it
 * that @ret_len does not count. -EINVAL when it is no sealed memory or is empty, -EFBIG above @max
 * bytes, -ENOMEM, another negative errno when it cannot be read.
 */
_must_check_ int sealed_read(int fd, size_t max, char **ret_bytes, size_t *ret_len);
