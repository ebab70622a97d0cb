/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What strings may be to enter frpc's configuration: lists of what is allowed. frpc runs that file
 * through a template engine and then a TOML parser, so nothing with a brace, a quote, a backslash
 * or a control character is ever written into it.
 * Pure. Trust: runs in frp-supervisor; reads what agentd was told by a control plane.
 */
#pragma once

#include "common/base.h"

#define GRAMMAR_TOKEN_MAX  256
#define GRAMMAR_HOST_MAX   253
#define GRAMMAR_DOMAIN_MAX 120

/* A secret that the server shares: 1 to 256 of A-Z a-z 0-9 and -._~+/=:@!#$%^&*, */
bool grammar_token(const char *text);

/* A host name (labels of A-Z a-z 0-9 -), or an IPv4 or IPv6 address. */
bool grammar_host(const char *text);

/* A name that HTTP clients send: labels of a-z A-Z 0-9 - _, each at most 50 long, 120 in all. */
bool grammar_domain(const char *text);

/* A path: absolute, of A-Z a-z 0-9 and -._/+@ */
bool grammar_path(const char *text);
