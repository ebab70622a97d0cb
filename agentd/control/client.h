/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control-client's own parts: bodies as JSON, and one HTTP exchange at a time.
 */
#pragma once

#include "agentd/control/control.h"
#include "common/err.h"

#include <curl/curl.h>

#define ANSWER_MAX     (64 * 1024) /* bytes of an answer that are looked at; more is refused */
#define CALL_TIMEOUT_S 10

/* ---- body.c: pure ---- */

/* JSON texts, to be freed; NULL when out of memory. What is unknown is left out. */
char *body_init(const struct control_setup *setup, const char *address);
char *body_host(const struct control_host *host);
char *body_stats(const struct control_stats *stats);

/*
 * Reads the answer to /init. -EBADMSG when it is not of the agreed form, or when a string in it is
 * not of its grammar: nothing of it is used then. @reterr never repeats what a string held.
 */
int body_parse_init(const char *text, size_t len, struct control_init *ret_init,
		    struct err *reterr);
/* The same for answers whose data does not matter: is it {"ok":true,…}? */
int body_parse_ok(const char *text, size_t len, struct err *reterr);

/* ---- call.c ---- */

struct call {
	CURL *curl;                 /* owned */
	struct curl_slist *resolve; /* owned; the addresses that the host's name had */
	char host[CONTROL_TEXT];
	uint16_t port;
	bool numeric;            /* @host is an address already */
	uint64_t resolved_ms;    /* monotonic; when @resolve was asked for */
	char answer[ANSWER_MAX]; /* of the last exchange */
	size_t answer_len;
	bool too_long;
	long http;          /* its status; 0: no answer */
	long retry_after_s; /* what it asked for; 0: nothing */
	char local[64];     /* our address towards the control plane */
};

/* Checks the URL of @setup and prepares @ret_call. -EINVAL with the reason. */
int call_open(const struct control_setup *setup, struct call *ret_call, struct err *reterr);
void call_done(struct call *call);

/*
 * One request: POST with @body, GET without one. @secret and @api_key: one of them is NULL. Blocks
 * for CALL_TIMEOUT_S at most, apart from the resolver's own time. Returns 0 when an answer of
 * bearable size came, whatever its status; a negative errno otherwise.
 */
int call_exchange(struct call *call, const struct control_setup *setup, const char *path,
		  const char *body, const char *secret, const char *api_key, struct err *reterr);

uint64_t call_now_ms(void);
