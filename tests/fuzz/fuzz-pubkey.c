/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz harness of common/pubkey.c: whatever is accepted has the shape that it promises.
 * Trust: a test; reads the fuzzer's input.
 */
#include "common/pubkey.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	struct pubkey key;
	size_t keys = 0;

	if (pubkey_parse(text, size, &key, NULL) == 0) {
		assert(key.type >= text && key.type + key.type_len < key.base64);
		assert(key.base64 + key.base64_len <= text + size && key.base64_len >= 32);
		assert(!memchr(text, '\n', size) &&
		       !memchr(text, '"', (size_t)(key.base64 - text)));
		assert(pubkey_same(&key, &key));
	}
	if (pubkey_check_list(text, size, &keys, NULL) == 0)
		assert(keys <= size / 32);
	return 0;
}
