/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frpc's configuration file, from typed values only. A tunnel that has not changed is written byte
 * for byte as before: frpc then leaves it, and its connections, alone.
 * Pure. Trust: runs in frp-supervisor; writes what wanted.c has checked.
 */
#pragma once

#include "common/base.h"
#include "common/sha256.h"
#include "frp-supervisor/wanted.h"

#define RENDER_PASSWORD_SIZE 33
#define RENDER_DIGEST_SIZE   65 /* hexadecimal */

/* frpc's own HTTP interface, on 127.0.0.1. */
struct render_admin {
	uint16_t port;
	char password[RENDER_PASSWORD_SIZE]; /* hexadecimal; secret */
};

/*
 * The whole file, to be freed with render_free(). @ca_file is what PROTO_TLS_VERIFY verifies by.
 * NULL when a value is not of its grammar (nothing of the kind gets here) or memory is short.
 */
char *render_file(const struct wanted *w, const struct render_admin *admin, const char *ca_file);

/* Wipes it first: it holds the token. NULL is fine. */
void render_free(char *text);

static inline void cleanup_render(char **text)
{
	render_free(*text);
}

/* Of everything in the file but the tunnels: frpc reads that part at its start only. */
void render_digest(const char *text, char ret_digest[static RENDER_DIGEST_SIZE]);
