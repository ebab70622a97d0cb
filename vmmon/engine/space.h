/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room on the disk of an engine on this host.
 * Trust: runs in vmmon; follows a path that the engine tells.
 */
#pragma once

#include "common/base.h"

/*
 * How much is free where the engine keeps what it has; false: there is no telling. It waits for the
 * file system, which is why vmmon.conf(5) wants a local one there.
 */
bool space_free_mib(const char *root, uint64_t *ret_mib);
