/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent secret: made once, kept in a file that only agentd's user can read, compared in
 * constant time.
 * Trust: runs inside agentd; compares what strangers send.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"

#define AUTH_PREFIX     "sk-"
#define AUTH_SECRET_LEN (3 + 43) /* of one that we make: 43 characters of 62, 256 bits */
#define AUTH_SECRET_MAX 63       /* of one that we are given */
#define AUTH_FILE       "secret"

struct auth {
	char secret[AUTH_SECRET_MAX + 1];
};

/*
 * Reads the secret from AUTH_FILE in @dirfd, making it (mode 0600) when it is not there. Refuses
 * (-EPERM) a file that others may read or write, and (-EINVAL) a content that is no secret.
 */
int auth_load(int dirfd, struct auth *ret_auth, struct err *reterr);

/* Makes @secret the secret, on disk first. -EINVAL when it is none; otherwise -errno, unchanged. */
int auth_replace(int dirfd, struct auth *auth, const char *secret);

/* Is @given the secret? Takes the same time for every wrong answer of one length. */
bool auth_matches(const struct auth *auth, const char *given);
