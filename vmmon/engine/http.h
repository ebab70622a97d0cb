/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HTTP/1.1 response, read strictly and piece by piece. Keeps one line, never a body.
 * Trust: runs in vmmon; reads bytes of a container engine in a guest.
 */
#pragma once

#include "common/base.h"

#define HTTP_LINE_MAX   4096
#define HTTP_HEADER_MAX (32 * 1024)

enum http_place {
	HTTP_STATUS,
	HTTP_HEADER,
	HTTP_BODY_LENGTH, /* so many bytes */
	HTTP_BODY_CLOSE,  /* up to the connection's end */
	HTTP_CHUNK_SIZE,
	HTTP_CHUNK_DATA,
	HTTP_CHUNK_END,
	HTTP_TRAILER,
	HTTP_DONE,
};

/* Begins zeroed. */
struct http_response {
	enum http_place place;
	unsigned int status; /* of the final response; 0: not known yet */
	bool chunked, has_length;
	uint64_t left; /* bytes of the body or of the chunk */
	size_t header_bytes;
	size_t used;
	char line[HTTP_LINE_MAX];
};

/*
 * Takes @len bytes; gives those of the body to @on_body, whose negative errno is passed on.
 * -EBADMSG when it is no HTTP, or more comes than was announced.
 */
int http_response_feed(struct http_response *h, const uint8_t *data, size_t len,
		       int (*on_body)(void *arg, const uint8_t *data, size_t len), void *arg);

/* The connection has ended. 0 when the response is whole, otherwise -EPIPE. */
int http_response_end(struct http_response *h);

static inline bool http_response_done(const struct http_response *h)
{
	return h->place == HTTP_DONE;
}
