/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's HTTP API, over its control socket or over TCP with the agent secret.
 *
 * Trust: runs as the operator; answers are bounded and parsed strictly, texts in them are hostile.
 */
#pragma once

#include <jansson.h>

#include "ctl/ctl.h"

struct api;
struct api_stream;

struct api_config {
	const char *socket;      /* path; used when @url is NULL */
	const char *url;         /* "http://127.0.0.1:15001", or NULL */
	const char *secret_file; /* only with @url; may be NULL */
};

struct api_reply {
	json_t *body;  /* owned; NULL when the answer was not JSON */
	json_t *data;  /* borrowed from body: its "data", or NULL */
	char *text;    /* owned; the body as it came, NUL-terminated */
	size_t n_text; /* its length: a text body may hold NUL bytes */
	char *error;   /* owned; why the call failed, with advice; NULL on success */
};

/* CTL_OK, or another code with @ret_error (owned by the caller) saying why. */
enum ctl_exit api_open(const struct api_config *config, struct api **ret_api, char **ret_error);
struct api *api_free(struct api *api);

/*
 * One request. @path is appended to the base ("/v1/instances"); @body (borrowed, may be NULL) is
 * sent as JSON. @timeout_ms bounds the whole exchange. @ret_reply is always initialised; on any
 * result but CTL_OK its .error is set.
 */
enum ctl_exit api_call(struct api *api, const char *method, const char *path, const json_t *body,
		       uint32_t timeout_ms, struct api_reply *ret_reply);
/* The same for an answer that is plain text: it is in .text, and no envelope is expected. */
enum ctl_exit api_get_text(struct api *api, const char *path, uint32_t timeout_ms,
			   struct api_reply *ret_reply);
void api_reply_done(struct api_reply *reply);

/*
 * Asks for an upgrade of the connection to @protocol. On CTL_OK the caller owns @ret_stream, a
 * full-duplex byte stream; otherwise @ret_error.
 */
enum ctl_exit api_upgrade(struct api *api, const char *path, const char *protocol,
			  struct api_stream **ret_stream, char **ret_error);
struct api_stream *api_stream_free(struct api_stream *s);
/* The descriptor to poll; call api_stream_read() until -EAGAIN before polling again. */
int api_stream_fd(const struct api_stream *s);
/* Bytes read, 0 at the end, -EAGAIN, or another negative errno. */
ssize_t api_stream_read(struct api_stream *s, void *buf, size_t size);
/* Bytes written (maybe fewer), -EAGAIN, or another negative errno. */
ssize_t api_stream_write(struct api_stream *s, const void *buf, size_t len);

/* The client of this run, made from its options and environment; NULL with the failure reported. */
struct api *ctl_api(struct ctl *c, enum ctl_exit *ret_code);

/* Exit code for an HTTP status. */
enum ctl_exit api_exit_of_status(long status);
/* Whether a secret may be sent to @url: TLS, or an address of this machine. */
bool api_url_keeps_secret(const char *url);

#define _cleanup_reply_ _cleanup_(api_reply_done)
#define API_TIMEOUT_MS  30000
