/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1.1 server: connections, deadlines, requests and replies on a libevent base.
 * Trust: runs inside agentd; reads bytes of strangers (tenants, frp's proxy, local operators).
 *
 * The common request costs one recv() and one send(), no timer and no allocation: it is read into a
 * buffer that the server keeps for whoever needs one next, answered from the stack, and its
 * connection moves to the end of a list of deadlines. An idle connection owns nothing but its
 * struct.
 */
#include "agentd/http.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include <event2/event.h>
#include <event2/event_struct.h>

enum {
	READ_BUF_SIZE = 4096,   /* what a connection reads into until it needs more */
	REPLY_BUF_SIZE = 4096,  /* a reply that fits is sent in one piece from the stack */
	REPLY_EXTRA_MAX = 1024, /* fields added by http_reply_header() */
	ACCEPT_BURST = 16,      /* connections accepted before others get their turn */
	LINGER_MS = 2000,       /* how long a client may go on sending, unread, */
	LINGER_BYTES = 1 << 20, /* and how much, after the last answer */
	ACCEPT_RETRY_MS = 1000, /* pause of a listener when descriptors or memory ran out */
	TIMER_SLACK_MS = 10,
	BODY_MAX_DEFAULT = 256 * 1024,
};

#define NO_DEADLINE UINT64_MAX

enum phase {
	PHASE_IDLE,    /* kept alive; nothing of a next request is there */
	PHASE_HEAD,    /* new, or part of a head has arrived */
	PHASE_BODY,    /* conn->req has its head */
	PHASE_PENDING, /* conn->req is the handler's */
	PHASE_WRITE,   /* conn->out is going out */
	PHASE_LINGER,  /* answered and shut down; what still comes is thrown away */
	N_PHASES,
};

TAILQ_HEAD(conn_list, http_conn);
TAILQ_HEAD(listener_list, http_listener);

struct http_conn {
	TAILQ_ENTRY(http_conn) link;    /* in listener->conns[phase] */
	struct http_listener *listener; /* borrowed */
	struct event ev;
	uint64_t deadline_ms; /* monotonic */
	int fd;               /* owned */
	uid_t peer_uid;
	enum phase phase;
	short watched; /* what @ev waits for */
	struct http_scan scan;
	bool busy;   /* conn_process() is at work: conn_close() must leave the struct to it */
	bool dead;   /* closed while busy */
	bool keep;   /* after the reply going out */
	bool resume; /* woken to process what is in @buf, not to read */
	char *buf;   /* owned; NULL while empty. Bytes [start, end) have arrived, the request */
	size_t cap;  /* at hand begins at start */
	size_t start, end;
	struct http_request *req; /* owned until PHASE_PENDING */
	char *out;                /* owned; the rest of a reply */
	size_t out_off, out_len;
	size_t linger_left; /* bytes */
};

struct http_request {
	struct http_conn *conn; /* borrowed; NULL once cancelled */
	char *base;             /* the head's first byte, in conn->buf or own_buf */
	char *own_buf;          /* owned; conn->buf outliving its connection */
	int tag;
	uid_t peer_uid;
	bool complete;   /* the body has been read to its end */
	size_t body_len; /* decoded, so far */
	size_t taken;    /* bytes of conn->buf that are this request's, once complete */
	struct http_chunked chunked;
	void (*cancel)(struct http_request *req, void *arg);
	void *cancel_arg;
	char *extra; /* owned; field lines for the reply */
	size_t extra_len;
	struct http_head head;
};

struct http_listener {
	TAILQ_ENTRY(http_listener) link;
	struct http_server *server; /* borrowed */
	struct event ev;
	int fd; /* owned; -EBADF without one */
	int tag;
	unsigned n_conns, max_conns;
	bool paused;
	uint64_t retry_ms; /* NO_DEADLINE, or when to leave the pause at the latest */
	struct conn_list conns[N_PHASES]; /* each in the order of its deadlines */
};

struct http_server {
	struct event_base *base; /* borrowed */
	struct http_config config;
	uint64_t timeout_ms[N_PHASES];
	struct listener_list listeners;
	struct event timer;
	uint64_t timer_at_ms; /* NO_DEADLINE while not armed */
	size_t n_conns;
	bool draining;
	char *spare_buf;                /* owned; READ_BUF_SIZE bytes, or NULL */
	struct http_request *spare_req; /* owned, or NULL */
};

static void conn_close(struct http_conn *c);
static void conn_process(struct http_conn *c);
static void on_conn_event(evutil_socket_t fd, short what, void *arg);

/* Deadlines. */

/* Coarse is enough for seconds, and costs no system call anywhere. */
static uint64_t now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * MSEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000000;
}

/* Makes the timer fire no later than @at_ms; it may well fire earlier and find nothing to do. */
static void timer_arm(struct http_server *s, uint64_t at_ms, uint64_t now)
{
	/* Late by more than the clock is coarse, so as not to wake up just before the time. */
	uint64_t in_ms = (at_ms > now ? at_ms - now : 0) + TIMER_SLACK_MS;
	struct timeval tv;

	if (at_ms >= s->timer_at_ms)
		return;
	tv.tv_sec = (time_t)(in_ms / MSEC_PER_SEC);
	tv.tv_usec = (suseconds_t)(in_ms % MSEC_PER_SEC * 1000);
	if (evtimer_add(&s->timer, &tv) == 0)
		s->timer_at_ms = at_ms;
}

/*
 * Moves @c to @phase and gives it that phase's time. All connections of a phase have the same
 * timeout, so that appending keeps the list in order and only its first is ever looked at.
 */
static void conn_enter(struct http_conn *c, enum phase phase)
{
	struct http_listener *l = c->listener;
	uint64_t now = now_ms(), timeout_ms = l->server->timeout_ms[phase];

	TAILQ_REMOVE(&l->conns[c->phase], c, link);
	c->phase = phase;
	TAILQ_INSERT_TAIL(&l->conns[phase], c, link);
	c->deadline_ms = timeout_ms == NO_DEADLINE ? NO_DEADLINE : now + timeout_ms;
	timer_arm(l->server, c->deadline_ms, now);
}

/* Waits for @what; says 0 or -EIO (out of memory in libevent or the kernel). */
static int conn_arm(struct http_conn *c, short what)
{
	c->watched = 0;
	if (event_assign(&c->ev, c->listener->server->base, c->fd, (short)(what | EV_PERSIST),
			 on_conn_event, c) < 0 ||
	    event_add(&c->ev, NULL) < 0)
		return -EIO;
	c->watched = what;
	return 0;
}

/* The same for a connection that waits for something already. */
static int conn_watch(struct http_conn *c, short what)
{
	if (c->watched == what)
		return 0;
	(void)event_del(&c->ev);
	return conn_arm(c, what);
}

/* Buffers and requests. */

static struct http_server *conn_server(const struct http_conn *c)
{
	return c->listener->server;
}

static void conn_drop_buf(struct http_conn *c)
{
	struct http_server *s = conn_server(c);

	if (c->cap == READ_BUF_SIZE && !s->spare_buf)
		s->spare_buf = TAKE_PTR(c->buf);
	free(TAKE_PTR(c->buf));
	c->cap = c->start = c->end = 0;
}

/*
 * Makes room for at least one more byte, moving what is there if need be. Memory follows what has
 * arrived, never what a client has announced.
 */
static int conn_make_room(struct http_conn *c)
{
	struct http_server *s = conn_server(c);
	char *grown;

	if (!c->buf) {
		c->buf = s->spare_buf ? TAKE_PTR(s->spare_buf) : malloc(READ_BUF_SIZE);
		c->cap = c->buf ? READ_BUF_SIZE : 0;
		return c->buf ? 0 : -ENOMEM;
	}
	if (c->end < c->cap)
		return 0;
	if (c->start > 0) {
		memmove(c->buf, c->buf + c->start, c->end - c->start);
		c->end -= c->start;
		c->start = 0;
	} else {
		grown = realloc(c->buf, c->cap * 2);
		if (!grown)
			return -ENOMEM;
		c->buf = grown;
		c->cap *= 2;
	}
	if (c->req)
		c->req->base = c->buf;
	return 0;
}

static void request_free(struct http_server *s, struct http_request *req)
{
	free(req->extra);
	free(req->own_buf);
	if (s && !s->spare_req)
		s->spare_req = req;
	else
		free(req);
}

/* Takes the request from a connection that ends: from the handler with notice, else silently. */
static void conn_drop_request(struct http_conn *c)
{
	struct http_request *req = TAKE_PTR(c->req);

	if (!req)
		return;
	if (c->phase != PHASE_PENDING) {
		request_free(conn_server(c), req);
		return;
	}
	req->conn = NULL;
	req->own_buf = TAKE_PTR(c->buf);
	if (req->cancel)
		req->cancel(req, req->cancel_arg);
}

static void listener_resume(struct http_listener *l)
{
	if (!l->paused || l->server->draining)
		return;
	if (event_add(&l->ev, NULL) < 0) {
		l->retry_ms = now_ms() + ACCEPT_RETRY_MS;
		timer_arm(l->server, l->retry_ms, now_ms());
		return;
	}
	l->paused = false;
	l->retry_ms = NO_DEADLINE;
}

static void conn_close(struct http_conn *c)
{
	struct http_listener *l = c->listener;
	struct http_server *s = l->server;

	if (c->dead)
		return;
	c->dead = true;
	if (c->watched)
		(void)event_del(&c->ev);
	c->fd = safe_close(c->fd);
	TAILQ_REMOVE(&l->conns[c->phase], c, link);
	l->n_conns--;
	s->n_conns--;
	conn_drop_request(c);
	conn_drop_buf(c);
	free(TAKE_PTR(c->out));
	if (!c->busy)
		free(c);
	listener_resume(l);
	/* Nobody left to watch: an idle server sleeps. */
	if (s->n_conns == 0 && !l->paused && s->timer_at_ms != NO_DEADLINE) {
		(void)evtimer_del(&s->timer);
		s->timer_at_ms = NO_DEADLINE;
	}
}

/* Replies. */

static const char *status_text(unsigned status)
{
	static const struct {
		unsigned status;
		const char *text;
	} texts[] = {
		{200, "OK"},
		{201, "Created"},
		{202, "Accepted"},
		{204, "No Content"},
		{304, "Not Modified"},
		{400, "Bad Request"},
		{401, "Unauthorized"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{405, "Method Not Allowed"},
		{408, "Request Timeout"},
		{409, "Conflict"},
		{410, "Gone"},
		{411, "Length Required"},
		{413, "Content Too Large"},
		{414, "URI Too Long"},
		{415, "Unsupported Media Type"},
		{417, "Expectation Failed"},
		{422, "Unprocessable Content"},
		{426, "Upgrade Required"},
		{429, "Too Many Requests"},
		{431, "Request Header Fields Too Large"},
		{500, "Internal Server Error"},
		{501, "Not Implemented"},
		{502, "Bad Gateway"},
		{503, "Service Unavailable"},
		{504, "Gateway Timeout"},
		{505, "HTTP Version Not Supported"},
		{507, "Insufficient Storage"},
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (texts[i].status == status)
			return texts[i].text;
	return "Unknown";
}

/* A buffer being filled; what does not fit is a broken invariant. */
struct text {
	char *at, *end;
};

static void put_bytes(struct text *t, const char *bytes, size_t len)
{
	if (len > (size_t)(t->end - t->at))
		abort();
	t->at = mempcpy(t->at, bytes, len);
}

static void put(struct text *t, const char *s)
{
	put_bytes(t, s, strlen(s));
}

static void put_number(struct text *t, size_t n)
{
	char digits[20];
	size_t i = sizeof(digits);

	do {
		digits[--i] = (char)('0' + n % 10);
		n /= 10;
	} while (n > 0);
	put_bytes(t, digits + i, sizeof(digits) - i);
}

struct reply {
	unsigned status;
	const char *type; /* NULL without a body */
	const char *extra;
	size_t extra_len;
	const void *body;
	size_t len;
	bool head_only; /* the answer to HEAD */
	bool keep;      /* the connection */
	bool say_keep;  /* to a client that does not expect it, HTTP/1.0 */
};

static void put_reply_head(struct text *t, const struct reply *r)
{
	put(t, "HTTP/1.1 ");
	put_number(t, r->status);
	put(t, " ");
	put(t, status_text(r->status));
	if (r->type) {
		put(t, "\r\nContent-Type: ");
		put(t, r->type);
	}
	/* These two are defined to have no content, and must not announce any. */
	if (r->status != 204 && r->status != 304) {
		put(t, "\r\nContent-Length: ");
		put_number(t, r->len);
	}
	put(t, "\r\nCache-Control: no-store\r\n");
	if (!r->keep)
		put(t, "Connection: close\r\n");
	else if (r->say_keep)
		put(t, "Connection: keep-alive\r\n");
	if (r->extra_len > 0)
		put_bytes(t, r->extra, r->extra_len);
	put(t, "\r\n");
}

/* Keeps what the socket did not take of @iov, after @sent bytes of it. */
static int conn_keep_rest(struct http_conn *c, const struct iovec iov[2], size_t sent)
{
	size_t total = iov[0].iov_len + iov[1].iov_len;

	c->out = malloc(total - sent);
	if (!c->out)
		return -ENOMEM;
	c->out_off = c->out_len = 0;
	for (int i = 0; i < 2; i++) {
		size_t skip = MIN_OF(sent, iov[i].iov_len);
		size_t n = iov[i].iov_len - skip;

		sent -= skip;
		if (n > 0)
			memcpy(c->out + c->out_len, (const char *)iov[i].iov_base + skip, n);
		c->out_len += n;
	}
	return 0;
}

/* Sends at once what the socket takes; the rest, if any, is in c->out then. */
static int conn_send(struct http_conn *c, const struct iovec iov[2])
{
	size_t total = iov[0].iov_len + iov[1].iov_len;
	ssize_t n;

	if (iov[1].iov_len == 0) {
		n = send(c->fd, iov[0].iov_base, total, MSG_NOSIGNAL | MSG_DONTWAIT);
	} else {
		struct iovec both[2] = {iov[0], iov[1]};
		struct msghdr mh = {.msg_iov = both, .msg_iovlen = 2};

		n = sendmsg(c->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return -errno;
	if (n < 0)
		n = 0;
	return (size_t)n == total ? 0 : conn_keep_rest(c, iov, (size_t)n);
}

/* The reply is out: on to the next request, or to the end. */
static void conn_sent(struct http_conn *c)
{
	if (c->keep) {
		conn_enter(c, PHASE_IDLE);
		if (conn_watch(c, EV_READ) < 0)
			conn_close(c);
		return;
	}
	/* Closing on bytes not read would send a reset, which may overtake the answer. */
	if (shutdown(c->fd, SHUT_WR) < 0) {
		conn_close(c);
		return;
	}
	conn_drop_buf(c);
	c->linger_left = LINGER_BYTES;
	conn_enter(c, PHASE_LINGER);
	if (conn_watch(c, EV_READ) < 0)
		conn_close(c);
}

/*
 * Answers the request at hand and lets go of it. The request is freed last: body and fields of the
 * reply may lie within.
 */
static void conn_reply(struct http_conn *c, const struct reply *reply)
{
	struct http_request *req = TAKE_PTR(c->req);
	size_t body_len = reply->head_only ? 0 : reply->len;
	char buf[REPLY_BUF_SIZE];
	struct text t = {.at = buf, .end = buf + sizeof(buf)};
	struct iovec iov[2] = {{.iov_base = buf}};
	int r;

	put_reply_head(&t, reply);
	if (body_len > 0 && body_len <= (size_t)(t.end - t.at))
		put_bytes(&t, reply->body, body_len);
	else
		iov[1] = (struct iovec){(void *)(uintptr_t)reply->body, body_len};
	iov[0].iov_len = (size_t)(t.at - buf);
	r = conn_send(c, iov);
	c->keep = reply->keep;
	c->scan = (struct http_scan){0};
	if (req) {
		c->start += req->complete ? req->taken : 0;
		request_free(conn_server(c), req);
	}
	if (r < 0) {
		conn_close(c);
	} else if (!c->out) {
		conn_sent(c);
	} else {
		conn_enter(c, PHASE_WRITE);
		if (conn_watch(c, EV_WRITE) < 0)
			conn_close(c);
	}
}

/* Answers what the handler shall never see, in the API's envelope, and ends the connection. */
static void conn_refuse(struct http_conn *c, const struct http_error *error)
{
	const struct http_config *config = &conn_server(c)->config;
	char body[128];
	int len = snprintf(body, sizeof(body), "{\"ok\":false,\"error\":\"%s\"}", error->reason);
	struct reply reply = {
		.status = error->status,
		.type = "application/json",
		.body = body,
		.len = MIN_OF((size_t)len, sizeof(body) - 1),
		.head_only = c->req && c->req->head.method == HTTP_HEAD,
	};

	if (config->on_refusal)
		config->on_refusal(error, c->listener->tag, c->peer_uid, config->arg);
	if (c->req)
		c->req->complete = false;
	conn_reply(c, &reply);
}

void http_reply(struct http_request *req, unsigned status, const char *type, const void *body,
		size_t len)
{
	struct http_conn *c = req->conn;
	bool bodiless = status == 204 || status == 304;
	struct reply reply = {
		.status = status,
		.type = bodiless ? NULL : type,
		.extra = req->extra,
		.extra_len = req->extra_len,
		.body = body,
		.len = bodiless ? 0 : len,
		.head_only = req->head.method == HTTP_HEAD,
		.say_keep = req->head.minor == 0,
	};
	bool outside;

	if (!c) {
		request_free(NULL, req);
		return;
	}
	reply.keep = req->head.keep_alive && req->complete && !conn_server(c)->draining;
	outside = !c->busy;
	c->busy = true;
	conn_reply(c, &reply);
	if (!outside)
		return;
	/* A late reply: the next request, if it is here already, waits for the loop's next turn. */
	c->busy = false;
	if (c->dead) {
		free(c);
	} else if (c->phase == PHASE_IDLE && c->start < c->end) {
		c->resume = true;
		event_active(&c->ev, EV_READ, 0);
	} else if (c->phase == PHASE_IDLE) {
		conn_drop_buf(c);
	}
}

/* Reading. */

static bool conn_dispatch(struct http_conn *c)
{
	const struct http_config *config = &conn_server(c)->config;

	conn_enter(c, PHASE_PENDING);
	config->handler(c->req, config->arg);
	return !c->dead && c->phase == PHASE_IDLE;
}

static bool conn_body(struct http_conn *c)
{
	struct http_request *req = c->req;
	size_t have = c->end - c->start - req->head.len, used, out;
	struct http_error error;
	int r;

	if (!req->head.chunked) {
		if (have < req->head.content_length)
			return false;
		req->body_len = (size_t)req->head.content_length;
		req->taken = req->head.len + req->body_len;
		req->complete = true;
		return conn_dispatch(c);
	}
	r = http_chunked_feed(&req->chunked, req->base + req->head.len + req->body_len,
			      have - req->body_len, conn_server(c)->config.body_max - req->body_len,
			      &used, &out, &error);
	if (r == -EBADMSG) {
		conn_refuse(c, &error);
		return false;
	}
	req->taken = req->head.len + req->body_len + used;
	req->body_len += out;
	if (r < 0) {
		c->end = c->start + req->head.len + req->body_len;
		return false;
	}
	req->complete = true;
	return conn_dispatch(c);
}

static int conn_say_continue(struct http_conn *c)
{
	static const char line[] = "HTTP/1.1 100 Continue\r\n\r\n";
	ssize_t n = send(c->fd, line, sizeof(line) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);

	return n == (ssize_t)sizeof(line) - 1 ? 0 : -EIO;
}

/* A head is complete: asks whether the request is welcome, and goes for its body if so. */
static bool conn_head(struct http_conn *c)
{
	const struct http_config *config = &conn_server(c)->config;
	struct http_request *req = c->req;
	const struct http_head *head = &req->head;

	http_head_seal(&req->head, req->base);
	req->complete = !head->chunked && head->content_length == 0;
	req->taken = head->len;
	if (config->on_head) {
		int r = config->on_head(req, config->arg);

		if (c->dead || c->req != req)
			return !c->dead && c->phase == PHASE_IDLE;
		if (r != 0)
			abort(); /* refused without an answer: a defect of the handler's */
	}
	if (req->complete)
		return conn_dispatch(c);
	if (head->content_length > config->body_max) {
		conn_refuse(c, &(struct http_error){413, "request body too large"});
		return false;
	}
	conn_enter(c, PHASE_BODY);
	/* A client that has begun to send its body does not wait any more. */
	if (head->expect_continue && c->end - c->start == head->len && conn_say_continue(c) < 0) {
		conn_close(c);
		return false;
	}
	return conn_body(c);
}

static struct http_request *request_get(struct http_conn *c)
{
	struct http_server *s = conn_server(c);

	if (!s->spare_req)
		s->spare_req = malloc(sizeof(*s->spare_req));
	return s->spare_req;
}

/* Looks for a request in what has arrived; true if there may be another one behind it. */
static bool conn_step(struct http_conn *c)
{
	struct http_request *req;
	struct http_error error;
	int r;

	if (c->phase == PHASE_BODY)
		return conn_body(c);
	if ((c->phase != PHASE_IDLE && c->phase != PHASE_HEAD) || c->start == c->end)
		return false;
	req = request_get(c);
	if (!req) {
		conn_close(c);
		return false;
	}
	r = http_parse_head(c->buf + c->start, c->end - c->start, &c->scan, &req->head, &error);
	if (r == -EAGAIN) {
		if (c->phase == PHASE_IDLE)
			conn_enter(c, PHASE_HEAD);
		return false;
	}
	if (r < 0) {
		conn_refuse(c, &error);
		return false;
	}
	memset(req, 0, offsetof(struct http_request, head));
	req->conn = c;
	req->base = c->buf + c->start;
	req->tag = c->listener->tag;
	req->peer_uid = c->peer_uid;
	c->req = TAKE_PTR(conn_server(c)->spare_req);
	return conn_head(c);
}

static void conn_process(struct http_conn *c)
{
	c->busy = true;
	while (conn_step(c))
		;
	c->busy = false;
	if (c->dead)
		free(c);
	else if (c->start == c->end && !c->req)
		conn_drop_buf(c);
}

static void conn_readable(struct http_conn *c)
{
	ssize_t n;

	if (c->resume) {
		c->resume = false;
		conn_process(c);
		return;
	}
	if (conn_make_room(c) < 0) {
		conn_close(c);
		return;
	}
	n = recv(c->fd, c->buf + c->end, c->cap - c->end, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		if (c->start == c->end)
			conn_drop_buf(c);
		return;
	}
	if (n <= 0) {
		conn_close(c);
		return;
	}
	c->end += (size_t)n;
	conn_process(c);
}

/*
 * Something happens while the answer is pending: has the peer gone, or only sent more? More is not
 * read before its turn; edge triggering then reports what follows without spinning on it.
 */
static void conn_watch_peer(struct http_conn *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};

	if (poll(&p, 1, 0) != 0 || conn_watch(c, EV_READ | EV_ET) < 0)
		conn_close(c);
}

static void conn_writable(struct http_conn *c)
{
	ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off,
			 MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		conn_close(c);
		return;
	}
	c->out_off += (size_t)n;
	if (c->out_off < c->out_len)
		return;
	free(TAKE_PTR(c->out));
	c->busy = true;
	conn_sent(c);
	conn_process(c);
}

static void conn_linger(struct http_conn *c)
{
	char waste[REPLY_BUF_SIZE];
	ssize_t n = recv(c->fd, waste, sizeof(waste), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || (size_t)n >= c->linger_left) {
		conn_close(c);
		return;
	}
	c->linger_left -= (size_t)n;
}

static void on_conn_event(evutil_socket_t fd _unused_, short what _unused_, void *arg)
{
	struct http_conn *c = arg;

	switch (c->phase) {
	case PHASE_IDLE:
	case PHASE_HEAD:
	case PHASE_BODY:
		conn_readable(c);
		break;
	case PHASE_PENDING:
		conn_watch_peer(c);
		break;
	case PHASE_WRITE:
		conn_writable(c);
		break;
	case PHASE_LINGER:
		conn_linger(c);
		break;
	case N_PHASES:
		abort();
	}
}

/* Time is up. A client that has said something is told why; a silent one needs no answer. */
static void conn_expire(struct http_conn *c)
{
	bool in_request = c->phase == PHASE_BODY || (c->phase == PHASE_HEAD && c->start < c->end);

	if (!in_request) {
		conn_close(c);
		return;
	}
	conn_refuse(c, &(struct http_error){408, "request timed out"});
}

static void on_timer(evutil_socket_t fd _unused_, short what _unused_, void *arg)
{
	struct http_server *s = arg;
	uint64_t now = now_ms(), next = NO_DEADLINE;
	struct http_listener *l;
	struct http_conn *c;

	s->timer_at_ms = NO_DEADLINE;
	TAILQ_FOREACH(l, &s->listeners, link)
	{
		if (l->retry_ms <= now)
			listener_resume(l);
		next = MIN_OF(next, l->retry_ms);
		for (int phase = 0; phase < N_PHASES; phase++) {
			while ((c = TAILQ_FIRST(&l->conns[phase])) && c->deadline_ms <= now)
				conn_expire(c);
			if (c)
				next = MIN_OF(next, c->deadline_ms);
		}
	}
	timer_arm(s, next, now);
}

/* Accepting. */

/* Takes ownership of @fd. */
static int conn_new(struct http_listener *l, int fd)
{
	_cleanup_close_ int own_fd = fd;
	struct http_server *s = l->server;
	struct ucred cred;
	socklen_t len = sizeof(int);
	struct http_conn *c;
	int domain, one = 1;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return -errno;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->peer_uid = (uid_t)-1;
	len = sizeof(cred);
	if (domain != AF_UNIX)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
		c->peer_uid = cred.uid;
	c->fd = TAKE_FD(own_fd);
	c->listener = l;
	l->n_conns++;
	s->n_conns++;
	c->phase = PHASE_HEAD;
	TAILQ_INSERT_TAIL(&l->conns[PHASE_HEAD], c, link);
	conn_enter(c, PHASE_HEAD);
	if (conn_arm(c, EV_READ) < 0) {
		conn_close(c);
		return -EIO;
	}
	return 0;
}

/* Says whether there is, or could be made, room for one more connection. */
static bool listener_has_room(struct http_listener *l)
{
	struct http_conn *over = TAILQ_FIRST(&l->conns[PHASE_LINGER]);

	if (l->n_conns < l->max_conns)
		return true;
	if (!over)
		over = TAILQ_FIRST(&l->conns[PHASE_IDLE]);
	if (!over)
		return false;
	conn_close(over);
	return true;
}

/* Stops accepting until a connection ends, or @retry_ms at the latest. */
static void listener_pause(struct http_listener *l, uint64_t retry_ms)
{
	(void)event_del(&l->ev);
	l->paused = true;
	l->retry_ms = retry_ms;
	timer_arm(l->server, retry_ms, now_ms());
}

static void on_accept(evutil_socket_t listen_fd, short what _unused_, void *arg)
{
	struct http_listener *l = arg;

	for (int i = 0; i < ACCEPT_BURST; i++) {
		int fd;

		/* Only the first is known to be there, and worth an idle connection. */
		if (i > 0 && l->n_conns >= l->max_conns)
			return;
		if (!listener_has_room(l)) {
			listener_pause(l, NO_DEADLINE);
			return;
		}
		fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0) {
			(void)conn_new(l, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			listener_pause(l, now_ms() + ACCEPT_RETRY_MS);
		if (errno != ECONNABORTED && errno != EINTR)
			return;
	}
}

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int http_server_adopt(struct http_listener *listener, int fd)
{
	_cleanup_close_ int own_fd = fd;
	int r = set_nonblocking(fd);

	if (r < 0)
		return r;
	if (!listener_has_room(listener))
		return -ENOSPC;
	return conn_new(listener, TAKE_FD(own_fd));
}

int http_server_add_fd(struct http_server *server, int listen_fd, int tag, unsigned max_conns,
		       struct http_listener **ret_listener)
{
	_cleanup_free_ struct http_listener *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	if (max_conns == 0)
		return -EINVAL;
	r = listen_fd >= 0 ? set_nonblocking(listen_fd) : 0;
	if (r < 0)
		return r;
	l->server = server;
	l->fd = -EBADF;
	l->tag = tag;
	l->max_conns = max_conns;
	l->retry_ms = NO_DEADLINE;
	for (int phase = 0; phase < N_PHASES; phase++)
		TAILQ_INIT(&l->conns[phase]);
	if (listen_fd >= 0) {
		if (event_assign(&l->ev, server->base, listen_fd, EV_READ | EV_PERSIST, on_accept,
				 l) < 0 ||
		    event_add(&l->ev, NULL) < 0)
			return -EIO;
		l->fd = listen_fd;
	}
	TAILQ_INSERT_TAIL(&server->listeners, l, link);
	if (ret_listener)
		*ret_listener = l;
	(void)TAKE_PTR(l);
	return 0;
}

static uint64_t timeout_of(unsigned timeout_s, unsigned default_s)
{
	return (timeout_s ? timeout_s : default_s) * MSEC_PER_SEC;
}

int http_server_new(struct event_base *base, const struct http_config *config,
		    struct http_server **ret_server)
{
	struct http_server *s;

	if (!config->handler)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->base = base;
	s->config = *config;
	if (s->config.body_max == 0)
		s->config.body_max = BODY_MAX_DEFAULT;
	s->timeout_ms[PHASE_IDLE] = timeout_of(config->idle_timeout_s, 75);
	s->timeout_ms[PHASE_HEAD] = timeout_of(config->header_timeout_s, 10);
	s->timeout_ms[PHASE_BODY] = timeout_of(config->body_timeout_s, 30);
	s->timeout_ms[PHASE_PENDING] = NO_DEADLINE;
	s->timeout_ms[PHASE_WRITE] = timeout_of(config->write_timeout_s, 30);
	s->timeout_ms[PHASE_LINGER] = LINGER_MS;
	s->timer_at_ms = NO_DEADLINE;
	TAILQ_INIT(&s->listeners);
	if (evtimer_assign(&s->timer, base, on_timer, s) < 0) {
		free(s);
		return -EINVAL;
	}
	*ret_server = s;
	return 0;
}

static void listener_stop(struct http_listener *l)
{
	if (l->fd < 0)
		return;
	if (!l->paused)
		(void)event_del(&l->ev);
	l->paused = false;
	l->retry_ms = NO_DEADLINE;
	l->fd = safe_close(l->fd);
}

void http_server_drain(struct http_server *server)
{
	struct http_listener *l;

	server->draining = true;
	TAILQ_FOREACH(l, &server->listeners, link)
	{
		listener_stop(l);
		while (TAILQ_FIRST(&l->conns[PHASE_IDLE]))
			conn_close(TAILQ_FIRST(&l->conns[PHASE_IDLE]));
	}
}

size_t http_server_conns(const struct http_server *server)
{
	return server->n_conns;
}

void http_server_free(struct http_server *server)
{
	struct http_listener *l;

	if (!server)
		return;
	http_server_drain(server);
	while ((l = TAILQ_FIRST(&server->listeners))) {
		for (int phase = 0; phase < N_PHASES; phase++)
			while (TAILQ_FIRST(&l->conns[phase]))
				conn_close(TAILQ_FIRST(&l->conns[phase]));
		TAILQ_REMOVE(&server->listeners, l, link);
		free(l);
	}
	(void)evtimer_del(&server->timer);
	free(server->spare_buf);
	free(server->spare_req);
	free(server);
}

/* What the handler asks and says. */

enum http_method http_method(const struct http_request *req)
{
	return req->head.method;
}

const char *http_method_name(const struct http_request *req)
{
	switch (req->head.method) {
	case HTTP_GET:
		return "GET";
	case HTTP_HEAD:
		return "HEAD";
	case HTTP_POST:
		return "POST";
	case HTTP_PUT:
		return "PUT";
	case HTTP_DELETE:
		return "DELETE";
	case HTTP_OPTIONS:
		return "OPTIONS";
	}
	abort();
}

const char *http_path(const struct http_request *req)
{
	return req->base + req->head.path.off;
}

int http_query(const struct http_request *req, const char *name, char *buf, size_t size)
{
	return http_query_find(req->base + req->head.query.off, req->head.query.len, name, buf,
			       size);
}

int http_header(const struct http_request *req, const char *name, const char **ret_value)
{
	return http_head_field(&req->head, req->base, name, ret_value);
}

const void *http_body(const struct http_request *req, size_t *ret_len)
{
	*ret_len = req->complete ? req->body_len : 0;
	return req->base + req->head.len;
}

int http_tag(const struct http_request *req)
{
	return req->tag;
}

uid_t http_peer_uid(const struct http_request *req)
{
	return req->peer_uid;
}

void http_on_cancel(struct http_request *req, void (*cb)(struct http_request *req, void *arg),
		    void *arg)
{
	req->cancel = cb;
	req->cancel_arg = arg;
}

int http_reply_header(struct http_request *req, const char *name, const char *value)
{
	size_t len = strlen(name) + strlen(value) + 4;
	char *grown;

	if (!http_field_valid(name, value))
		return -EINVAL;
	if (len > REPLY_EXTRA_MAX - req->extra_len)
		return -ENOSPC;
	grown = realloc(req->extra, req->extra_len + len + 1);
	if (!grown)
		return -ENOMEM;
	req->extra = grown;
	(void)snprintf(req->extra + req->extra_len, len + 1, "%s: %s\r\n", name, value);
	req->extra_len += len;
	return 0;
}

/* Does the client ask for @protocol, without a body in the way? */
static bool asks_for(const struct http_request *req, const char *protocol)
{
	const char *value;

	return req->head.minor == 1 && req->head.upgrade && req->body_len == 0 &&
	       http_header(req, "Upgrade", &value) == 0 && strcasecmp(value, protocol) == 0;
}

int http_take_connection(struct http_request *req, const char *protocol, int *ret_fd,
			 void **ret_rest, size_t *ret_rest_len)
{
	struct http_conn *c = req->conn;
	_cleanup_free_ void *rest = NULL;
	_cleanup_close_ int fd = -EBADF;
	char line[256];
	size_t rest_len;
	int len;

	if (!asks_for(req, protocol))
		return -EPROTO;
	if (!c) {
		request_free(NULL, req);
		return -ECONNRESET;
	}
	len = snprintf(line, sizeof(line),
		       "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
		       "Upgrade: %s\r\n\r\n",
		       protocol);
	if (len >= (int)sizeof(line))
		return -EPROTO;
	rest_len = c->end - c->start - req->taken;
	rest = rest_len > 0 ? malloc(rest_len) : NULL;
	if (rest_len > 0 && !rest)
		return -ENOMEM;
	if (rest)
		memcpy(rest, c->buf + c->start + req->taken, rest_len);
	/* Out of the event loop first: what is left to close is a connection without a socket. */
	(void)event_del(&c->ev);
	c->watched = 0;
	fd = TAKE_FD(c->fd);
	c->req = NULL;
	request_free(conn_server(c), req);
	conn_close(c);
	if (send(fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) != len)
		return -ECONNRESET;
	*ret_fd = TAKE_FD(fd);
	*ret_rest = TAKE_PTR(rest);
	*ret_rest_len = rest_len;
	return 0;
}
