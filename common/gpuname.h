/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names under which container engines know GPUs: numbers, and UUIDs of GPUs or of parts of them.
 * Trust: pure; reads text of the administrator and of agentd.
 */
#pragma once

#include "common/base.h"

#define GPUNAME_MAX 40 /* characters */

/*
 * Is it a number, without zeros before it, or GPU- or MIG- and a whole UUID in lower case? Nothing
 * else is, "all" the least. Engines take the first digits of a UUID, too; here they would make two
 * names of one GPU.
 */
bool gpuname_ok(const char *name);

bool gpuname_is_number(const char *name);

/*
 * May two names, of so many characters, be those of one GPU? Of a number and a UUID there is no
 * telling: they may. That a MIG-… is a part of a GPU-… cannot be seen: those count as two.
 */
bool gpuname_may_be_one(const char *a, size_t a_len, const char *b, size_t b_len);
