/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON texts before they are parsed. Pure.
 * Trust: runs in agentd, control-client and vmmon; reads texts of strangers.
 */
#include "common/json_text.h"

bool json_nesting_ok(const char *text, size_t len, int max)
{
	bool in_string = false;
	int depth = 0;

	for (size_t i = 0; i < len; i++) {
		if (in_string && text[i] == '\\')
			i++;
		else if (text[i] == '"')
			in_string = !in_string;
		else if (!in_string && (text[i] == '{' || text[i] == '['))
			depth++;
		else if (!in_string && (text[i] == '}' || text[i] == ']'))
			depth--;
		if (depth > max)
			return false;
	}
	return true;
}
