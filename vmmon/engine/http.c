/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reading of HTTP responses.
 * Trust: runs in vmmon; reads bytes of a container engine in a guest.
 */
#include "vmmon/engine/http.h"

#define CHUNK_DIGITS_MAX  8
#define LENGTH_DIGITS_MAX 15

#define TOKEN "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"

/* "HTTP/1.1 200 OK" */
static int take_status(struct http_response *h)
{
	const char *line = h->line, *code = line + strlen("HTTP/1.x ");
	unsigned int status = 0;

	if (h->used < strlen("HTTP/1.x 200") || memcmp(line, "HTTP/1.", 7) != 0 ||
	    (line[7] != '0' && line[7] != '1') || line[8] != ' ')
		return -EBADMSG;
	for (int i = 0; i < 3; i++) {
		if (code[i] < '0' || code[i] > '9')
			return -EBADMSG;
		status = status * 10 + (unsigned int)(code[i] - '0');
	}
	if ((code[3] != '\0' && code[3] != ' ') || status < 100 || status > 599)
		return -EBADMSG;
	if (status == 101)
		return -EBADMSG; /* nothing that is asked for switches protocols */
	h->status = status;
	h->place = HTTP_HEADER;
	return 0;
}

static int take_length(struct http_response *h, const char *value)
{
	size_t n = strspn(value, "0123456789");

	if (h->has_length || n == 0 || n > LENGTH_DIGITS_MAX || value[n] != '\0')
		return -EBADMSG;
	h->has_length = true;
	h->left = strtoull(value, NULL, 10);
	return 0;
}

/* The empty line: what kind of body follows? */
static int headers_end(struct http_response *h)
{
	if (h->status < 200) { /* an interim response: the real one follows */
		if (h->chunked || h->has_length)
			return -EBADMSG;
		h->status = 0;
		h->place = HTTP_STATUS;
		return 0;
	}
	if (h->chunked && h->has_length)
		return -EBADMSG;
	if (h->status == 204 || h->status == 304 || (h->has_length && h->left == 0))
		h->place = HTTP_DONE;
	else if (h->chunked)
		h->place = HTTP_CHUNK_SIZE;
	else
		h->place = h->has_length ? HTTP_BODY_LENGTH : HTTP_BODY_CLOSE;
	return 0;
}

static int take_header(struct http_response *h)
{
	size_t name = strspn(h->line, TOKEN);
	char *value, *end;

	if (h->used == 0)
		return headers_end(h);
	if (name == 0 || h->line[name] != ':')
		return -EBADMSG; /* also a line that continues the one before */
	h->line[name] = '\0';
	value = h->line + name + 1;
	value += strspn(value, " \t");
	end = value + strlen(value);
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = '\0';
	if (strcasecmp(h->line, "Content-Length") == 0)
		return take_length(h, value);
	if (strcasecmp(h->line, "Transfer-Encoding") != 0)
		return 0;
	if (h->chunked || strcasecmp(value, "chunked") != 0)
		return -EBADMSG;
	h->chunked = true;
	return 0;
}

static int take_chunk_size(struct http_response *h)
{
	size_t n = strspn(h->line, "0123456789abcdefABCDEF");

	/* Extensions are allowed by the standard and sent by no engine. */
	if (n == 0 || n > CHUNK_DIGITS_MAX || h->line[n] != '\0')
		return -EBADMSG;
	h->left = strtoull(h->line, NULL, 16);
	h->place = h->left > 0 ? HTTP_CHUNK_DATA : HTTP_TRAILER;
	return 0;
}

static int take_line(struct http_response *h)
{
	switch (h->place) {
	case HTTP_STATUS:
		return take_status(h);
	case HTTP_HEADER:
		return take_header(h);
	case HTTP_CHUNK_SIZE:
		return take_chunk_size(h);
	case HTTP_CHUNK_END:
		h->place = HTTP_CHUNK_SIZE;
		return h->used == 0 ? 0 : -EBADMSG;
	case HTTP_TRAILER:
		if (h->used == 0)
			h->place = HTTP_DONE;
		return 0;
	case HTTP_BODY_LENGTH:
	case HTTP_BODY_CLOSE:
	case HTTP_CHUNK_DATA:
	case HTTP_DONE:
		break;
	}
	return -EBADMSG;
}

/* One byte of a line, which ends with CR LF and has no other control characters but tabs. */
static int take_byte(struct http_response *h, uint8_t c)
{
	bool after_cr = h->used > 0 && h->line[h->used - 1] == '\r';
	bool is_header =
		h->place == HTTP_STATUS || h->place == HTTP_HEADER || h->place == HTTP_TRAILER;
	int r;

	if (is_header && ++h->header_bytes > HTTP_HEADER_MAX)
		return -EBADMSG;
	if (after_cr != (c == '\n'))
		return -EBADMSG;
	if (!after_cr) {
		if ((c < 0x20 && c != '\t' && c != '\r') || c == 0x7f ||
		    h->used == sizeof(h->line) - 1)
			return -EBADMSG;
		h->line[h->used++] = (char)c;
		return 0;
	}
	h->line[--h->used] = '\0';
	r = take_line(h);
	h->used = 0;
	return r;
}

static bool in_body(const struct http_response *h)
{
	return h->place == HTTP_BODY_LENGTH || h->place == HTTP_BODY_CLOSE ||
	       h->place == HTTP_CHUNK_DATA;
}

int http_response_feed(struct http_response *h, const uint8_t *data, size_t len,
		       int (*on_body)(void *arg, const uint8_t *data, size_t len), void *arg)
{
	while (len > 0) {
		size_t n = 1;
		int r;

		if (h->place == HTTP_DONE)
			return -EBADMSG;
		if (in_body(h)) {
			if (h->place != HTTP_BODY_CLOSE)
				h->left -= n = (size_t)MIN_OF((uint64_t)len, h->left);
			else
				n = len;
			if (h->left == 0 && h->place == HTTP_BODY_LENGTH)
				h->place = HTTP_DONE;
			else if (h->left == 0 && h->place == HTTP_CHUNK_DATA)
				h->place = HTTP_CHUNK_END;
			r = on_body(arg, data, n);
		} else {
			r = take_byte(h, *data);
		}
		if (r < 0)
			return r;
		data += n;
		len -= n;
	}
	return 0;
}

int http_response_end(struct http_response *h)
{
	if (h->place == HTTP_BODY_CLOSE)
		h->place = HTTP_DONE;
	return h->place == HTTP_DONE ? 0 : -EPIPE;
}
