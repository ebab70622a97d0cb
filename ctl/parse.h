/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict parsers for what an operator types: sizes, times, ports, environment, keys, names.
 *
 * Trust: pure; reads argv and files that the operator names.
 *
 * All return 0, or -EINVAL (malformed) or -ERANGE (beyond the stated range); @ret_x is written on
 * success only.
 */
#pragma once

#include <jansson.h>

#include "common/base.h"

#define PARSE_NAME_MAX 32
#define PARSE_PORT_MAX 65535

/* A whole decimal number without sign or blanks, low <= value <= high. */
int parse_u32(const char *s, uint32_t low, uint32_t high, uint32_t *ret_value);
/* A size in MiB: "512" and "512M" and "512MiB" are MiB, "8G", "8GiB" and "1T" larger ones. 1 MiB –
 * 64 TiB. */
int parse_size_mib(const char *s, uint32_t *ret_mib);
/* A time in seconds: "90", "90s", "5m", "1h"; at most one day. */
int parse_seconds(const char *s, uint32_t *ret_seconds);
/* Whether @s may name an instance on the wire: [a-z0-9-]{1,32}. */
bool parse_is_name(const char *s);
/* Whether @s may be typed for an instance: an id's beginning or a name, [A-Za-z0-9._-]{1,63}. */
bool parse_is_ref(const char *s);
/* Whether @s is a full instance id: 16 lowercase hexadecimal digits. */
bool parse_is_full_id(const char *s);

/*
 * Whether @s is a PCI address, "0000:01:00.0": four to eight hexadecimal digits of domain, and not
 * more functions and slots than PCI has.
 */
bool parse_is_gpu(const char *s);
/* Addresses with commas between them, as a JSON array of strings (owned), or NULL. */
json_t *parse_gpus(const char *s);

struct parse_port {
	uint16_t container_port;
	uint16_t remote_port; /* 0: any */
	const char *proto;    /* "tcp", "http", or NULL when not said */
};
/* PORT[:HOST_PORT|:auto][/tcp|/http] */
int parse_port(const char *s, struct parse_port *ret_port);

/*
 * KEY=VALUE, or KEY alone for the variable's value in this program's environment (so that a secret
 * need not be typed into an argument list that others can read). Added to @env, replacing an
 * earlier one. -ENOENT: KEY alone, and not in the environment.
 */
int parse_env(const char *s, json_t *env);

/*
 * One public key, by the rules of common/pubkey.h, white space around it allowed. @ret_line (owned
 * by the caller) is its one form, "type base64[ comment]". -EPERM: a private key, which must never
 * be sent anywhere.
 */
int parse_public_key(const char *text, char **ret_line);
/* The key's comment inside a line accepted by parse_public_key(), or "". */
const char *parse_key_comment(const char *line);
/* Whether two lines hold the same key: type and base64 are equal, comments do not count. */
bool parse_same_key(const char *a, const char *b);
