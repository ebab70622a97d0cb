/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1.1 server: connections, deadlines, requests and replies on a libevent base.
 * Trust: runs inside agentd; reads bytes of strangers (tenants, frp's proxy, local operators).
 *
 * One thread, no callbacks from elsewhere. A connection carries one request at a time: the next one
 * is read only after the reply to the one before has been written. A request that cannot be read in
 * exactly one way (agentd/http_parse.h) is answered with an error and the connection is closed; so
 * is a connection whose request body was not read to its end. A peer that closes, also only its
 * sending half, while its answer is pending counts as gone.
 */
#pragma once

#include <sys/types.h>

#include "agentd/http_parse.h"

struct event_base;
struct http_server;
struct http_listener;
struct http_request;

struct http_config {
	/* Seconds, or 0 for the default in brackets. */
	unsigned idle_timeout_s;   /* [75] a kept connection waits for its next request */
	unsigned header_timeout_s; /* [10] from accept, or the first byte, to the end of the head */
	unsigned body_timeout_s;   /* [30] from the head to the end of the body */
	unsigned write_timeout_s;  /* [30] for the peer to take a reply */
	size_t body_max;           /* bytes; 0: 256 KiB; more is 413 */

	/*
	 * The head of a request is complete, its body has not been read: the place for 401 and 403.
	 * Returns 0 to go on; anything else after having called http_reply(). May be NULL.
	 */
	int (*on_head)(struct http_request *req, void *arg);

	/*
	 * A request is complete. It belongs to the handler now, which calls exactly one of
	 * http_reply() and http_take_connection() on it, at once or at any later time.
	 */
	void (*handler)(struct http_request *req, void *arg);

	/*
	 * The server itself has refused a request, for the log. @peer_uid is (uid_t)-1 unless the
	 * peer is local. May be NULL.
	 */
	void (*on_refusal)(const struct http_error *error, int tag, uid_t peer_uid, void *arg);

	void *arg; /* of all three; borrowed */
};

/*
 * Makes a server on @base, which must outlive it. @config is copied.
 * Returns 0, -EINVAL without a handler, or -ENOMEM.
 */
_must_check_ int http_server_new(struct event_base *base, const struct http_config *config,
				 struct http_server **ret_server);

/*
 * Closes every connection and listener. Pending requests are cancelled; they stay valid until their
 * http_reply(). Not to be called from a callback of the server. NULL is fine.
 */
void http_server_free(struct http_server *server);

/*
 * Serves the listening socket @listen_fd (TCP or Unix stream), of which the server becomes the
 * owner, and which it makes non-blocking; -EBADF makes a listener for adopted connections only.
 * Requests tell @tag. Each listener has its own @max_conns connections, so that a crowd on one
 * cannot lock out the users of another. When they are used up, one that is already over, or has
 * idled longest, makes room; when there is none, new ones wait in the backlog. Returns 0, or a
 * negative errno (@listen_fd stays the caller's). @ret_listener may be NULL.
 */
_must_check_ int http_server_add_fd(struct http_server *server, int listen_fd, int tag,
				    unsigned max_conns, struct http_listener **ret_listener);

/*
 * Serves the connected stream socket @fd as if @listener had accepted it; the server is its owner
 * in any case. Returns 0, -ENOSPC at the limit, or another negative errno.
 */
_must_check_ int http_server_adopt(struct http_listener *listener, int fd);

/*
 * Begins an orderly end: accepts no more, closes idle connections, the others after their reply.
 * http_server_conns() tells when it is over.
 */
void http_server_drain(struct http_server *server);
size_t http_server_conns(const struct http_server *server);

/*
 * What was asked. Everything returned is valid until the request is replied to (within on_head:
 * until that returns), also when the peer has gone meanwhile.
 */
enum http_method http_method(const struct http_request *req);
const char *http_method_name(const struct http_request *req);
/* Decoded once; begins with "/" and is printable ASCII; "*" for OPTIONS. */
const char *http_path(const struct http_request *req);
/* As http_query_find(). */
_must_check_ int http_query(const struct http_request *req, const char *name, char *buf,
			    size_t size);
/* As http_head_field(). */
_must_check_ int http_header(const struct http_request *req, const char *name,
			     const char **ret_value);
/* Not NUL-terminated; *@ret_len is 0 without a body. */
const void *http_body(const struct http_request *req, size_t *ret_len);
/* The listener's tag. */
int http_tag(const struct http_request *req);
/* Who connected to the Unix socket, by the kernel; (uid_t)-1 for TCP. */
uid_t http_peer_uid(const struct http_request *req);

/*
 * Calls @cb once if the peer disconnects before the reply. The request stays valid until its
 * http_reply(), which @cb may call and which then sends nothing. Only for the handler, not on_head.
 */
void http_on_cancel(struct http_request *req, void (*cb)(struct http_request *req, void *arg),
		    void *arg);

/*
 * Adds a field to the reply. Framing (Content-Length, Connection, Transfer-Encoding), Content-Type
 * and Cache-Control are the server's.
 * Returns 0, -EINVAL for a name or value that is not valid, -ENOSPC beyond 1 KiB, -ENOMEM.
 */
_must_check_ int http_reply_header(struct http_request *req, const char *name, const char *value);

/*
 * Answers and gives up @req, which must not be touched any more. @status is 200 to 599, @type the
 * media type (a constant of the program, or NULL without a body); @body is copied as needed and may
 * lie within the request.
 */
void http_reply(struct http_request *req, unsigned status, const char *type, const void *body,
		size_t len);

/*
 * Switches the connection to @protocol: sends 101 and hands the non-blocking socket to the caller,
 * with the bytes that the client has sent after the request (*@ret_rest: to be freed, or NULL).
 * Returns 0 and gives up @req; -EPROTO when the client did not ask for @protocol, -ENOMEM (in both
 * cases @req still wants its http_reply()); -ECONNRESET when the peer has gone: @req is given up.
 */
_must_check_ int http_take_connection(struct http_request *req, const char *protocol, int *ret_fd,
				      void **ret_rest, size_t *ret_rest_len);
