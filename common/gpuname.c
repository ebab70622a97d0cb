/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of GPUs.
 * Trust: pure; reads text of the administrator and of agentd.
 */
#include "common/gpuname.h"

#define DIGITS     "0123456789"
#define NUMBER_MAX 4 /* digits */

bool gpuname_is_number(const char *name)
{
	return name[0] >= '0' && name[0] <= '9';
}

static bool is_uuid(const char *text)
{
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

	for (size_t i = 0; i < sizeof(form) - 1; i++)
		if (text[i] == '\0' || !strchr(form[i] == 'x' ? DIGITS "abcdef" : "-", text[i]))
			return false;
	return text[sizeof(form) - 1] == '\0';
}

bool gpuname_ok(const char *name)
{
	size_t n = strlen(name);

	if (gpuname_is_number(name))
		return n <= NUMBER_MAX && name[strspn(name, DIGITS)] == '\0' &&
		       (name[0] != '0' || n == 1);
	return (strncmp(name, "GPU-", 4) == 0 || strncmp(name, "MIG-", 4) == 0) &&
	       is_uuid(name + 4);
}

bool gpuname_may_be_one(const char *a, size_t a_len, const char *b, size_t b_len)
{
	if (gpuname_is_number(a) != gpuname_is_number(b))
		return true;
	return a_len == b_len && memcmp(a, b, a_len) == 0;
}
