/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What has to be known of a JSON text before a parser that recurses may see it.
 */
#pragma once

#include "common/base.h"

/* Does nothing in @text nest deeper than @max? Judges no syntax: that is the parser's. */
bool json_nesting_ok(const char *text, size_t len, int max);
