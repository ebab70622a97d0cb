/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References to container images: [host[:port]/]path[:tag][@digest], by the registries' grammar.
 * Trust: pure; reads text of strangers.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"

#define IMAGEREF_MAX 512 /* bytes of a whole reference */

/* Parts of the text that was parsed, which must outlive them; lengths 0: not there. */
struct imageref {
	const char *host; /* with its port; not there: the engine's default registry */
	size_t host_len;
	const char *name; /* host and path */
	size_t name_len;
	const char *tag;
	size_t tag_len;
	const char *digest; /* "sha256:…" */
	size_t digest_len;
};

/* Returns 0, or -EINVAL with the reason. */
int imageref_parse(const char *text, struct imageref *ret_ref, struct err *reterr);
