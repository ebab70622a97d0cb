/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The console's escape sequences, recognised in what the operator types.
 *
 * Trust: pure.
 */
#include "ctl/escape.h"

enum escape_action escape_feed(struct escape *e, const char *in, size_t len, char *out,
			       size_t *ret_used, size_t *ret_n)
{
	enum escape_action action = ESCAPE_NONE;
	size_t n = 0, i;

	for (i = 0; i < len && action == ESCAPE_NONE; i++) {
		char ch = in[i];

		if (e->state == ESCAPE_LINE_START && ch == '~') {
			e->state = ESCAPE_TILDE; /* held back until the next byte decides */
			continue;
		}
		if (e->state == ESCAPE_TILDE && (ch == '.' || ch == '?')) {
			action = ch == '.' ? ESCAPE_LEAVE : ESCAPE_HELP;
			e->state = ESCAPE_LINE_START;
			continue;
		}
		if (e->state == ESCAPE_TILDE && ch != '~')
			out[n++] = '~';
		out[n++] = ch;
		e->state = ch == '\r' || ch == '\n' ? ESCAPE_LINE_START : ESCAPE_IN_LINE;
	}
	*ret_used = i;
	*ret_n = n;
	return action;
}
