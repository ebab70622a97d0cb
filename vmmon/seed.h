/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seed disk of a guest: its name, its host key, who may log in; once for our own light script
 * and once more for cloud-init (NoCloud).
 * Trust: runs in vmmon; writes keys that vmmon made itself.
 */
#pragma once

#include "common/base.h"

/* All are lines or blocks of text; nothing comes from a request but @name, a protocol NAME. */
struct seed {
	const char *name;            /* host name and cloud-init's instance id */
	const char *host_key;        /* OpenSSH private key */
	const char *host_key_public; /* one line without newline */
	const char *management_key;  /* one line without newline: may log in as root */
};

/*
 * Makes the image, at most PROTO_SEED_MAX bytes, with the volume id "cidata". The caller wipes and
 * frees it: it holds a private key. Returns 0, -ENOMEM or -EFBIG.
 */
int seed_build(const struct seed *seed, uint8_t **ret_image, size_t *ret_len);
