/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A command as people write it, as the words that a program gets. Runs nothing, expands nothing.
 * Trust: pure; reads text of strangers.
 */
#pragma once

#include "common/base.h"

/*
 * Splits @text as a POSIX shell would. Returns the number of words in *@ret_words, a
 * NULL-terminated array in one allocation that the caller frees; 0 when there is none. -ENOTSUP
 * when a shell would do more than split (operators, expansions, assignments, reserved words): such
 * a command needs one. -EINVAL when a quote is not closed, -ENOMEM.
 */
int cmdline_split(const char *text, char ***ret_words);
