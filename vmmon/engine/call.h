/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One request to the engine on a connection of its own, and the answer to it.
 * Trust: runs in vmmon; reads bytes of a container engine in a guest.
 */
#pragma once

#include "common/base.h"
#include "vmmon/engine/link.h"

#include <event2/event.h>

#define CALL_BODY_MAX (2 * 1024 * 1024) /* an inspection repeats the environment */
#define CALL_LINE_MAX (64 * 1024)

struct call_result {
	int error; /* 0: an answer came whole. -ECONNREFUSED: there is no engine; -EPIPE: cut;
		      -ETIMEDOUT; -EBADMSG, -EFBIG: no sense or too much */
	unsigned int status; /* of HTTP, when there is no error */
	const char *body;    /* what was not given to on_line or on_bytes; NUL-terminated */
	size_t len;
};

struct call_request {
	const char *method;
	const char *path;    /* encoded, with the version and the query */
	const char *auth;    /* of X-Registry-Auth; NULL: none */
	const char *body;    /* NULL: none */
	size_t body_len;     /* 0: it is a text */
	const char *type;    /* of the body; NULL: JSON */
	uint32_t silence_ms; /* without a byte, it has failed; 0: it may last */
	void *arg;
	/* At most one of the two, for the body of an answer with status 200. A negative errno ends
	 * it. */
	int (*on_line)(void *arg, const char *line, size_t len);
	int (*on_bytes)(void *arg, const uint8_t *data, size_t len);
	/* The end, once, unless it is freed before. The call must then be freed: here, or later. */
	void (*on_done)(void *arg, const struct call_result *result);
};

struct call;

/* Begins. on_done is never called from within. @request is not needed any more afterwards. */
int call_start(struct event_base *base, struct engine_link *link,
	       const struct call_request *request, struct call **ret_call);

/* Ends the call, whatever it was doing. NULL is fine. */
void call_free(struct call *c);
