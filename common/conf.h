/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration files: `key = value` lines, `#` starts a comment line, every key known and given at
 * most once. One table per daemon says what each key is; the defaults are what the struct holds
 * before.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"

enum conf_type {
	CONF_TEXT, /* char[size]: printable ASCII, not empty */
	CONF_LIST, /* char[size]: the same, may be empty; the daemon splits it at commas */
	CONF_PATH, /* char[size]: absolute path without "." or ".." parts */
	CONF_NAME, /* char[size]: a protocol NAME, see proto/msgs.def */
	CONF_U32,  /* uint32_t within [low, high] */
	CONF_MIB,  /* uint32_t of MiB within [low, high]; written 512, 512M, 8G or 1T */
	CONF_BOOL, /* bool: yes or no */
	CONF_ENUM, /* int: index of the word in @words */
};

struct conf_key {
	const char *name;
	enum conf_type type;
	size_t offset; /* of the member in the daemon's struct */
	size_t size;   /* of the member */
	uint32_t low, high;
	const char *const *words; /* NULL-terminated */
	const char *initial;      /* what conf_load() sets first; NULL: what is there stays */
};

#define CONF_MEMBER(type, member)                                                                  \
	.offset = offsetof(type, member), .size = sizeof(((type *)0)->member)

/*
 * Reads @path into @ret_config by @keys. The error line names the file, the line and the remedy.
 * @root_owned demands a regular file that belongs to root and that nobody else can write, for
 * what the privileged side trusts. A missing file is -ENOENT. @ret_config may be partly changed on
 * error.
 */
int conf_load(const char *path, const struct conf_key *keys, size_t n_keys, bool root_owned,
	      void *ret_config, struct err *reterr);

/* The same from memory, for tests and fuzzing; @name stands for the file in error lines. */
int conf_parse(const char *name, char *text, const struct conf_key *keys, size_t n_keys,
	       void *ret_config, struct err *reterr);

/* Sets one key from a string (an environment variable, say) by the same rules. */
int conf_set(const struct conf_key *key, const char *value, void *ret_config, struct err *reterr);

/* "512", "512M", "8G", "1T" to MiB, or -EINVAL / -ERANGE. A plain number is MiB. */
int conf_parse_mib(const char *text, uint32_t *ret_mib);
