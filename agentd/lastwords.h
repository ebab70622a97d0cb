/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest's console said before its boot failed.
 * Trust: runs inside agentd; makes printable ASCII of what a guest has written.
 */
#pragma once

#include "agentd/instance.h"

#define LASTWORDS_LINES 8
#define LASTWORDS_SIZE  1024

/* @words: the last lines with " | " between them, "" when there are none. */
typedef void lastwords_fn(struct instance *inst, const char *words);

/*
 * Asks vmmon what the console of that generation said last, and calls @fn, perhaps at once and at
 * the latest after a few seconds. The instance is in flight until then.
 */
void lastwords_ask(struct instance *inst, uint64_t generation, lastwords_fn *fn);

/* The text of @len bytes: without colours and empty lines, printable, the last lines of it. */
void lastwords_text(const char *bytes, size_t len, char ret_words[static LASTWORDS_SIZE]);
