/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-512 (FIPS 180-4), for lists of checksums that have nothing else: small and plain, not fast.
 */
#pragma once

#include "common/base.h"

#define SHA512_SIZE 64

struct sha512 {
	uint64_t state[8];
	uint64_t n_bytes;
	uint8_t block[128];
};

void sha512_init(struct sha512 *s);
void sha512_add(struct sha512 *s, const void *data, size_t len);
void sha512_end(struct sha512 *s, uint8_t ret_digest[static SHA512_SIZE]);
