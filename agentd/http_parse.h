/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One strict reading of HTTP/1.x request heads and chunked bodies (RFC 9112, server side).
 * Trust: runs inside agentd; reads bytes of strangers (tenants, frp's proxy, local operators).
 *
 * Everything here is pure: no allocation, no I/O, no state outside the caller's structs. The API
 * stands behind a proxy that has a parser of its own, so whatever two parsers might read
 * differently is an error here even where the RFC would allow a lenient reading. Deliberately
 * refused:
 *  - line ends other than CR LF, empty lines before the request line, folded fields, control bytes;
 *  - more than one Content-Length, also when they agree; signs, lists, leading zeros in it;
 *  - Transfer-Encoding beside Content-Length, in HTTP/1.0, or other than a single "chunked";
 *  - a Host that is missing, repeated, empty or no plain host[:port]; one that differs from the
 *    authority of an absolute-form target;
 *  - target characters outside the URI grammar, fragments, userinfo, bad percent escapes, and, once
 *    decoded, paths with dot or empty segments, "/", "\" or anything but printable ASCII escaped;
 *  - trailer fields after a chunked body (chunk extensions are skipped, within a limit).
 */
#pragma once

#include "common/base.h"

#define HTTP_HEAD_MAX      8192 /* bytes of request line and fields; more is 431 (or 414) */
#define HTTP_TARGET_MAX    2048 /* bytes of the request target; more is 414 */
#define HTTP_FIELDS_MAX    64   /* field lines; more is 431 */
#define HTTP_CHUNK_EXT_MAX 256  /* bytes of all chunk extensions of one body; more is 400 */

enum http_method {
	HTTP_GET = 1,
	HTTP_HEAD,
	HTTP_POST,
	HTTP_PUT,
	HTTP_DELETE,
	HTTP_OPTIONS,
};

/* Why a request is refused. @reason is a constant of printable ASCII without quotes. */
struct http_error {
	unsigned status;
	const char *reason;
};

/* Bytes of the head, counted from its first byte. */
struct http_span {
	uint16_t off, len;
};

struct http_field {
	struct http_span name, value;
};

struct http_head {
	enum http_method method;
	uint8_t minor;           /* HTTP/1.<minor>: 0 or 1 */
	bool keep_alive;         /* what the client asks for, by version and Connection */
	bool upgrade;            /* Connection names "upgrade" */
	bool expect_continue;    /* the client waits for 100 Continue (never set for HTTP/1.0) */
	bool chunked;            /* body in chunks; else exactly @content_length bytes follow */
	uint64_t content_length; /* bytes; 0 when there is no such field */
	size_t len;              /* bytes of the head with its last empty line */
	struct http_span path;   /* undecoded until http_head_seal(); "*" for OPTIONS only */
	struct http_span query;  /* without "?", undecoded */
	uint16_t n_fields;
	struct http_field fields[HTTP_FIELDS_MAX]; /* the first @n_fields are set */
};

/* How far a head has been looked at; all zero for a new one. */
struct http_scan {
	uint16_t at;
	uint8_t state;
	bool line_seen;
};

/*
 * Reads the head at @buf of which @len bytes have arrived. Call it again with the same @scan and a
 * longer @len: the outcome does not depend on how the bytes were cut.
 * Returns 0 and fills *@ret; -EAGAIN: more bytes are needed; -EBADMSG: refused, *@reterr says why
 * (the connection must not be read any further). *@ret is undefined unless 0 is returned.
 */
_must_check_ int http_parse_head(const char *buf, size_t len, struct http_scan *scan,
				 struct http_head *ret, struct http_error *reterr);

/*
 * Decodes the path in place and ends it, the query and every field value with a NUL, so that they
 * are C strings within @buf. @head and @buf are of one successful http_parse_head(); once only.
 */
void http_head_seal(struct http_head *head, char *buf);

/*
 * Finds the field @name (any case) of a sealed head.
 * Returns 0 and the value; -ENOENT: not there; -ENOTUNIQ: more than one (ambiguous: refuse it).
 */
_must_check_ int http_head_field(const struct http_head *head, const char *buf, const char *name,
				 const char **ret_value);

/*
 * Copies the decoded value ("+" is a space) of parameter @name out of a query string to @buf and
 * ends it with a NUL; a name without "=" has an empty value.
 * Returns its length; -ENOENT: not there; -ENOTUNIQ: given twice; -ENOSPC: longer than @size - 1.
 */
_must_check_ int http_query_find(const char *query, size_t query_len, const char *name, char *buf,
				 size_t size);

/* May this be sent as a field line? (A token, and no control bytes: nothing that ends the line.) */
bool http_field_valid(const char *name, const char *value);

/* Decoder of a chunked body; all zero for a new one. */
struct http_chunked {
	uint64_t left;    /* bytes of the chunk still to come */
	uint16_t ext_len; /* bytes of extensions so far */
	uint8_t state;
	uint8_t digits; /* of the chunk size so far */
};

/*
 * Decodes the next @len raw bytes at @buf in place: *@ret_out bytes of content are left at @buf,
 * *@ret_used raw bytes were taken (all of them unless the body ended).
 * Returns 0: the body is complete; -EAGAIN: more is needed; -EBADMSG: refused, with 413 when the
 * content would exceed @room bytes.
 */
_must_check_ int http_chunked_feed(struct http_chunked *c, char *buf, size_t len, size_t room,
				   size_t *ret_used, size_t *ret_out, struct http_error *reterr);
