/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What strings may be to enter frpc's configuration.
 * Trust: runs in frp-supervisor; reads what agentd was told by a control plane.
 */
#include "frp-supervisor/grammar.h"

#include <arpa/inet.h>

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define DIGITS  "0123456789"

static bool only(const char *text, size_t max, const char *allowed)
{
	size_t len = strnlen(text, max + 1);

	return len > 0 && len <= max && strspn(text, allowed) == len;
}

bool grammar_token(const char *text)
{
	return only(text, GRAMMAR_TOKEN_MAX, LETTERS DIGITS "-._~+/=:@!#$%^&*,");
}

/* Labels between dots: none empty, none beginning or ending with a dash, none over @max. */
static bool labels_ok(const char *text, size_t max)
{
	for (const char *p = text;; p++) {
		size_t len = strcspn(p, ".");

		if (len == 0 || len > max || p[0] == '-' || p[len - 1] == '-')
			return false;
		p += len;
		if (*p == '\0')
			return true;
	}
}

bool grammar_host(const char *text)
{
	uint8_t address[16];

	if (only(text, GRAMMAR_HOST_MAX, LETTERS DIGITS "-."))
		return labels_ok(text, 63);
	return only(text, INET6_ADDRSTRLEN, DIGITS "abcdefABCDEF:.") &&
	       inet_pton(AF_INET6, text, address) == 1;
}

bool grammar_domain(const char *text)
{
	/* A label may get "-65535" appended: at most 63 in all, with some to spare. */
	return only(text, GRAMMAR_DOMAIN_MAX, LETTERS DIGITS "-_.") && labels_ok(text, 50);
}

bool grammar_path(const char *text)
{
	return text[0] == '/' && only(text, 255, LETTERS DIGITS "-._/+@");
}
