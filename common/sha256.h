/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SHA-256 (FIPS 180-4), for the chain of audit records and the checksums of images: small and
 * plain, not fast.
 */
#pragma once

#include "common/base.h"

#define SHA256_SIZE 32

struct sha256 {
	uint32_t state[8];
	uint64_t n_bytes;
	uint8_t block[64];
};

void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t len);
void sha256_end(struct sha256 *s, uint8_t ret_digest[static SHA256_SIZE]);
