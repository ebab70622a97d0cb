/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of GPUs.
 * Trust: pure; reads text of the administrator and of agentd.
 */
#include "common/gpuname.h"

#define DIGITS "0123456789"

bool gpuname_is_number(const char *name)
{
	return name[0] >= '0' && name[0] <= '9';
}

bool gpuname_ok(const char *name)
{
	size_t n = strlen(name);

	if (n > GPUNAME_MAX)
		return false;
	if (gpuname_is_number(name))
		return name[strspn(name, DIGITS)] == '\0' && (name[0] != '0' || n == 1);
	if (strncmp(name, "GPU-", 4) != 0 && strncmp(name, "MIG-", 4) != 0)
		return false;
	return n > 4 && name[4] != '-' && name[4 + strspn(name + 4, DIGITS "abcdef-")] == '\0';
}

bool gpuname_may_be_one(const char *a, size_t a_len, const char *b, size_t b_len)
{
	if (gpuname_is_number(a) != gpuname_is_number(b))
		return true;
	return a_len == b_len && memcmp(a, b, a_len) == 0;
}
