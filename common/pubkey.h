/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Public keys as people paste them: one line of `type base64 [comment]`, checked down to the key's
 * own encoding. No options, no certificates, no weak or unknown types.
 * Trust: runs in agentd and vmmon; reads text of API clients. Allocates nothing, never logs.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"

#define PUBKEY_LINE_MAX    8192 /* bytes of one line */
#define PUBKEY_COMMENT_MAX 256  /* bytes of a comment */
#define PUBKEY_RSA_BITS    2048 /* at least */

/* Parts of a checked line; they point into it and are not terminated. */
struct pubkey {
	const char *type;
	size_t type_len;
	const char *base64; /* canonical: equal keys have equal text */
	size_t base64_len;
	const char *comment; /* NULL when there is none */
	size_t comment_len;
};

/*
 * Checks one line of @len bytes without its newline. Blanks around and between the parts are
 * allowed. Returns 0 and fills @ret_key, or -EINVAL (no public key), -EPERM (a key type or size
 * that is not accepted), -E2BIG (too long), with words for the client in @reterr.
 */
int pubkey_parse(const char *line, size_t len, struct pubkey *ret_key, struct err *reterr);

/* Are they the same key, whatever their comments? */
bool pubkey_same(const struct pubkey *a, const struct pubkey *b);

/*
 * Checks a list of keys, one on each line; empty lines are skipped, so that "\n" is a list without
 * keys. Returns 0 and the number of keys, or an error of pubkey_parse() that names the line.
 */
int pubkey_check_list(const char *text, size_t len, size_t *ret_keys, struct err *reterr);
