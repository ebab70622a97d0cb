/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The envelope of answers.
 * Trust: runs inside agentd; pure but for the sending.
 */
#include "agentd/reply.h"

#include "agentd/view.h"

#include <stdarg.h>

#define JSON_TYPE "application/json"

static const char no_memory[] = "{\"ok\":false,\"error\":\"out of memory\"}";

void reply_text(struct http_request *req, const char *json)
{
	if (json)
		http_reply(req, 200, JSON_TYPE, json, strlen(json));
	else
		http_reply(req, 500, JSON_TYPE, no_memory, strlen(no_memory));
}

void reply_data(struct http_request *req, json_t *data)
{
	json_t *json = data ? json_pack("{s:b, s:o}", "ok", 1, "data", data) : NULL;
	_cleanup_free_ char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	reply_text(req, text);
}

void reply_error(struct http_request *req, unsigned status, const char *format, ...)
{
	_cleanup_free_ char *text = NULL, *body = NULL;
	json_t *json;
	va_list ap;
	int n;

	va_start(ap, format);
	n = vasprintf(&text, format, ap);
	va_end(ap);
	if (n < 0)
		text = NULL;
	json = text ? json_pack("{s:b, s:s}", "ok", 0, "error", text) : NULL;
	body = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (body)
		http_reply(req, status, JSON_TYPE, body, strlen(body));
	else
		http_reply(req, 500, JSON_TYPE, no_memory, strlen(no_memory));
}

void reply_instance(struct http_request *req, struct instance *inst)
{
	_cleanup_free_ char *text = NULL;
	const char *view = view_instance(inst);

	if (!view || asprintf(&text, "{\"ok\":true,\"data\":%s}", view) < 0)
		text = NULL;
	reply_text(req, text);
}
