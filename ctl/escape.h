/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The console's escape sequences, recognised in what the operator types: "~." at the beginning of a
 * line leaves, "~?" shows help, "~~" is one tilde.
 *
 * Trust: pure.
 */
#pragma once

#include "common/base.h"

enum escape_state { ESCAPE_LINE_START, ESCAPE_IN_LINE, ESCAPE_TILDE };
enum escape_action { ESCAPE_NONE, ESCAPE_LEAVE, ESCAPE_HELP };

struct escape {
	enum escape_state state; /* zero: as after a new line */
};

/*
 * Looks at @len typed bytes; those to be sent are written to @out (room for 2 * @len) and counted
 * in
 * @ret_n. Stops at the first action; @ret_used says how many bytes were looked at.
 */
enum escape_action escape_feed(struct escape *e, const char *in, size_t len, char *out,
			       size_t *ret_used, size_t *ret_n);
