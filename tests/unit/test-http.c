/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentd/http.c over socket pairs and loopback: replies, late replies, cancellation, early answers,
 * deadlines, limits, upgrade, memory ownership (the latter through the sanitizer build).
 * Trust: runs as whoever tests; no input but its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/http-rig.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/un.h>

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"

/* A handler that answers "/later" when told so, and everything else at once. */
struct probe {
	struct rig rig;
	struct http_request *later;
	unsigned handled, cancelled, refusals;
	char last_path[64];
	char text[512 * 1024]; /* what a client has received */
	bool closed;
};

static struct probe probe;

static void on_cancel(struct http_request *req, void *arg)
{
	struct probe *p = arg;

	p->cancelled++;
	/* Still valid, and still to be replied to. */
	assert_string_equal(http_path(req), "/later");
	if (p->later == req)
		p->later = NULL;
	http_reply(req, 200, "text/plain", "dropped", 7);
}

static void reply_big(struct http_request *req)
{
	static char big[400 * 1024];

	memset(big, 'b', sizeof(big));
	http_reply(req, 200, "text/plain", big, sizeof(big));
}

static void on_request(struct http_request *req, void *arg)
{
	struct probe *p = arg;
	const char *path = http_path(req);
	size_t len;
	const void *body = http_body(req, &len);

	p->handled++;
	(void)snprintf(p->last_path, sizeof(p->last_path), "%s", path);
	assert_int_equal(http_tag(req), 7);
	if (STR_EQ(path, "/later")) {
		p->later = req;
		http_on_cancel(req, on_cancel, p);
	} else if (STR_EQ(path, "/big")) {
		reply_big(req);
	} else if (STR_EQ(path, "/none")) {
		http_reply(req, 204, NULL, NULL, 0);
	} else if (STR_EQ(path, "/fields")) {
		assert_int_equal(http_reply_header(req, "Allow", "GET, HEAD"), 0);
		assert_int_equal(http_reply_header(req, "X-A", "a\r\nb: c"), -EINVAL);
		assert_int_equal(http_reply_header(req, "X A", "a"), -EINVAL);
		http_reply(req, 405, "text/plain", "no", 2);
	} else {
		http_reply(req, 200, "text/plain", body, len);
	}
}

static int on_head(struct http_request *req, void *arg _unused_)
{
	const char *secret;

	if (!STR_EQ(http_path(req), "/secret") || http_header(req, "X-Agent-Secret", &secret) == 0)
		return 0;
	http_reply(req, 401, "text/plain", "who?", 4);
	return 1;
}

static void on_refusal(const struct http_error *error _unused_, int tag, uid_t uid, void *arg)
{
	struct probe *p = arg;

	assert_int_equal(tag, 7);
	assert_int_equal(uid, getuid());
	p->refusals++;
}

static void start(unsigned max_conns)
{
	const struct http_config config = {
		.on_head = on_head,
		.handler = on_request,
		.on_refusal = on_refusal,
		.arg = &probe,
		.idle_timeout_s = 1,
		.header_timeout_s = 1,
		.body_timeout_s = 1,
		.write_timeout_s = 1,
	};

	memset(&probe, 0, sizeof(probe));
	rig_start(&probe.rig, &config, max_conns);
}

static void say(int fd, const char *text)
{
	rig_send(&probe.rig, fd, text, strlen(text), SIZE_MAX);
}

static const char *hear(int fd)
{
	(void)rig_recv(&probe.rig, fd, probe.text, sizeof(probe.text), &probe.closed);
	return probe.text;
}

static long cpu_ms(void)
{
	struct timespec ts;

	assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts), 0);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &ts), 0);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Lets time pass in the loop. */
static void wait_ms(long ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	assert_int_equal(event_base_loopexit(probe.rig.base, &tv), 0);
	(void)event_base_dispatch(probe.rig.base);
	/* Without a connection the loop has nothing to wait for but this exit. */
}

static void end(int fd)
{
	(void)close(fd);
	rig_turn(&probe.rig);
	assert_int_equal(http_server_conns(probe.rig.server), 0);
	rig_stop(&probe.rig);
}

static void test_reply_bytes(void **state _unused_)
{
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	say(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
	assert_string_equal(hear(fd), "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
				      "Content-Length: 5\r\nCache-Control: no-store\r\n\r\nhello");
	say(fd, "HEAD /fields HTTP/1.1\r\nHost: h\r\n\r\n");
	assert_string_equal(hear(fd),
			    "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\n"
			    "Content-Length: 2\r\nCache-Control: no-store\r\n"
			    "Allow: GET, HEAD\r\n\r\n");
	say(fd, GET("/none"));
	assert_string_equal(hear(fd), "HTTP/1.1 204 No Content\r\nCache-Control: no-store\r\n\r\n");
	say(fd, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
	assert_non_null(strstr(hear(fd), "\r\nConnection: keep-alive\r\n"));
	assert_false(probe.closed);
	say(fd, "GET / HTTP/1.0\r\n\r\n");
	assert_non_null(strstr(hear(fd), "\r\nConnection: close\r\n"));
	assert_true(probe.closed);
	end(fd);
}

static void test_chunked_body(void **state _unused_)
{
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	for (size_t piece = 1; piece < 6; piece++) {
		static const char text[] = "PUT /echo HTTP/1.1\r\nHost: h\r\n"
					   "Transfer-Encoding: chunked\r\n\r\n"
					   "5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n" GET("/x");

		rig_send(&probe.rig, fd, text, sizeof(text) - 1, piece);
		assert_non_null(strstr(hear(fd), "\r\n\r\nhello, worldHTTP/1.1 200 OK\r\n"));
		assert_string_equal(probe.last_path, "/x");
	}
	assert_int_equal(probe.handled, 10);
	end(fd);
}

static void test_large_body(void **state _unused_)
{
	static const char head[] =
		"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 262144\r\n\r\n";
	static char body[262144];
	size_t len;
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	for (size_t i = 0; i < sizeof(body); i++)
		body[i] = (char)('a' + i % 23);
	rig_send(&probe.rig, fd, head, sizeof(head) - 1, SIZE_MAX);
	rig_send(&probe.rig, fd, body, sizeof(body), 10000);
	len = rig_recv(&probe.rig, fd, probe.text, sizeof(probe.text), &probe.closed);
	assert_true(len > sizeof(body));
	assert_memory_equal(probe.text + len - sizeof(body), body, sizeof(body));
	say(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 262145\r\n\r\n");
	assert_int_equal(rig_status(hear(fd)), 413);
	assert_true(probe.closed);
	assert_int_equal(probe.handled, 1);
	end(fd);
}

static void test_expect_continue(void **state _unused_)
{
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	say(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
		"Content-Length: 2\r\n\r\n");
	assert_string_equal(hear(fd), "HTTP/1.1 100 Continue\r\n\r\n");
	say(fd, "ok");
	assert_int_equal(rig_status(hear(fd)), 200);
	/* Whoever sends the body at once is not waiting. */
	say(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
		"Content-Length: 2\r\n\r\nok");
	assert_int_equal(rig_status(hear(fd)), 200);
	/* The early answer comes instead of the invitation. */
	say(fd, "POST /secret HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
		"Content-Length: 2\r\n\r\n");
	assert_int_equal(rig_status(hear(fd)), 401);
	assert_true(probe.closed);
	end(fd);
}

/* More than one read behind the last request must not reset the connection under its answer. */
static void test_close_is_no_reset(void **state _unused_)
{
	static char text[16384] = "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
	char more[16];
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	memset(text + strlen(text), 'x', sizeof(text) - strlen(text));
	rig_send(&probe.rig, fd, text, sizeof(text), SIZE_MAX);
	assert_int_equal(rig_status(hear(fd)), 200);
	assert_int_equal(recv(fd, more, sizeof(more), 0), 0);
	assert_int_equal(probe.handled, 1);
	end(fd);
}

/* What is sent after an early answer is swallowed, and the answer arrives in spite of it. */
static void test_early_answer_lingers(void **state _unused_)
{
	static char body[100000];
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	say(fd, "POST /secret HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
	rig_send(&probe.rig, fd, body, sizeof(body), 5000);
	say(fd, GET("/smuggled"));
	assert_int_equal(rig_status(hear(fd)), 401);
	assert_true(probe.closed);
	assert_int_equal(probe.handled, 0);
	end(fd);

	/* It has an end, though. */
	start(4);
	fd = rig_connect(&probe.rig);
	say(fd, "bad\n");
	for (unsigned i = 0; i < 12; i++)
		rig_send(&probe.rig, fd, body, sizeof(body), 50000);
	assert_int_equal(http_server_conns(probe.rig.server), 0);
	assert_int_equal(probe.refusals, 1);
	end(fd);
}

static void test_late_reply_in_order(void **state _unused_)
{
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	say(fd, GET("/later") GET("/second"));
	assert_non_null(probe.later);
	assert_int_equal(probe.handled, 1);
	assert_string_equal(hear(fd), "");
	say(fd, GET("/third") "GET /fou");
	assert_int_equal(probe.handled, 1);
	http_reply(probe.later, 200, "text/plain", "1st", 3);
	/* Not from within http_reply(): the caller's state may not be ready for another request. */
	assert_int_equal(probe.handled, 1);
	assert_int_equal(rig_count(hear(fd), "HTTP/1.1 200 OK"), 3);
	assert_int_equal(probe.handled, 3);
	assert_string_equal(probe.last_path, "/third");
	say(fd, "rth HTTP/1.1\r\nHost: h\r\n\r\n");
	assert_int_equal(rig_status(hear(fd)), 200);
	assert_string_equal(probe.last_path, "/fourth");
	assert_int_equal(probe.cancelled, 0);
	end(fd);
}

static void test_cancel(void **state _unused_)
{
	int fd;

	/* The client goes away. */
	start(4);
	fd = rig_connect(&probe.rig);
	say(fd, GET("/later"));
	assert_non_null(probe.later);
	(void)close(fd);
	rig_turn(&probe.rig);
	assert_int_equal(probe.cancelled, 1);

	/* It goes away with more requests in the pipe, which must not hide it. */
	fd = rig_connect(&probe.rig);
	say(fd, GET("/later") GET("/x"));
	say(fd, GET("/x"));
	say(fd, GET("/x"));
	assert_int_equal(probe.cancelled, 1);
	(void)close(fd);
	rig_turn(&probe.rig);
	assert_int_equal(probe.cancelled, 2);
	assert_int_equal(probe.handled, 2);

	/* Without a callback, the late reply is dropped. */
	fd = rig_connect(&probe.rig);
	say(fd, GET("/later"));
	http_on_cancel(probe.later, NULL, NULL);
	(void)close(fd);
	rig_turn(&probe.rig);
	assert_string_equal(http_path(probe.later), "/later");
	http_reply(probe.later, 200, "text/plain", "x", 1);

	/* The server goes away. */
	fd = rig_connect(&probe.rig);
	say(fd, GET("/later"));
	rig_stop(&probe.rig);
	assert_int_equal(probe.cancelled, 3);
	(void)close(fd);
}

/* A pipelining client may not make the loop spin while its answer is pending. */
static void test_pending_does_not_spin(void **state _unused_)
{
	long before;
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	say(fd, GET("/later"));
	say(fd, GET("/x"));
	before = cpu_ms();
	wait_ms(200);
	assert_true(cpu_ms() - before < 100);
	http_reply(probe.later, 200, "text/plain", "x", 1);
	assert_int_equal(rig_count(hear(fd), "HTTP/1.1 200 OK"), 2);
	end(fd);
}

/* More than the socket takes at once: the rest follows, then the next request. */
static void test_big_reply(void **state _unused_)
{
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	say(fd, GET("/big") GET("/after"));
	assert_int_equal(probe.handled, 1);
	(void)hear(fd);
	assert_int_equal(rig_count(probe.text, "HTTP/1.1 200 OK"), 2);
	assert_non_null(strstr(probe.text, "Content-Length: 409600\r\n"));
	assert_string_equal(probe.last_path, "/after");
	end(fd);
}

static void test_deadlines(void **state _unused_)
{
	int idle, silent, head, body, reader;
	uint64_t begun_ms = now_ms();

	start(8);
	idle = rig_connect(&probe.rig);
	say(idle, GET("/x"));
	(void)hear(idle);
	silent = rig_connect(&probe.rig);
	head = rig_connect(&probe.rig);
	say(head, "GET / HTTP/1.1\r\nHo");
	body = rig_connect(&probe.rig);
	say(body, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nhell");
	reader = rig_connect(&probe.rig);
	say(reader, GET("/big"));
	wait_ms(400);
	/* Trickling in does not buy time for the head, nor for the body. */
	say(head, "s");
	say(body, "o");
	if (now_ms() - begun_ms < 1000) /* else this machine has slept over them */
		assert_int_equal(http_server_conns(probe.rig.server), 5);
	wait_ms(1000);
	assert_string_equal(hear(idle), "");
	assert_true(probe.closed);
	assert_string_equal(hear(silent), "");
	assert_true(probe.closed);
	assert_int_equal(rig_status(hear(head)), 408);
	assert_true(probe.closed);
	assert_int_equal(rig_status(hear(body)), 408);
	assert_true(probe.closed);
	(void)hear(reader);
	assert_true(probe.closed);
	assert_true(strlen(probe.text) < 409600);
	(void)close(idle);
	(void)close(silent);
	(void)close(head);
	(void)close(body);
	end(reader);
}

/* An idle server, also with a request pending, has no timer that wakes it. */
static void test_idle_sleeps(void **state _unused_)
{
	int fd;

	start(4);
	fd = rig_connect(&probe.rig);
	say(fd, GET("/x"));
	(void)hear(fd);
	(void)close(fd);
	rig_turn(&probe.rig);
	assert_int_equal(event_base_get_num_events(probe.rig.base, EVENT_BASE_COUNT_ADDED), 0);
	rig_stop(&probe.rig);
}

static void test_limit_evicts_idle(void **state _unused_)
{
	int first, second, third, sv[2];

	start(2);
	first = rig_connect(&probe.rig);
	say(first, GET("/x"));
	second = rig_connect(&probe.rig);
	say(second, GET("/later"));
	/* Full: the idle one makes room, the busy one does not. */
	third = rig_connect(&probe.rig);
	(void)hear(first);
	assert_true(probe.closed);
	assert_int_equal(http_server_conns(probe.rig.server), 2);
	say(third, "GET /");
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv), 0);
	assert_int_equal(http_server_adopt(probe.rig.listener, sv[0]), -ENOSPC);
	(void)close(sv[1]);
	http_reply(probe.later, 200, "text/plain", "x", 1);
	assert_int_equal(rig_status(hear(second)), 200);
	(void)close(first);
	(void)close(second);
	end(third);
}

static int dial(const struct sockaddr *addr, socklen_t len)
{
	int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, addr, len), 0);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	return fd;
}

/* Binds to *@addr of *@len bytes, and says what it has become: up to @size bytes. */
static int listen_at(struct sockaddr *addr, socklen_t *len, socklen_t size)
{
	int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, addr, *len), 0);
	assert_int_equal(listen(fd, 16), 0);
	*len = size;
	assert_int_equal(getsockname(fd, addr, len), 0);
	return fd;
}

static void turn_while_silent(int fd)
{
	for (unsigned i = 0; i < 60000 && hear(fd)[0] == '\0'; i++)
		(void)usleep(1000);
}

/* At the limit a listener pauses, the other one goes on, and it resumes. */
static void test_listeners(void **state _unused_)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	socklen_t sin_len = sizeof(sin), sun_len = sizeof(sa_family_t);
	int tcp, blocked, ctl;

	start(1);
	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(
		http_server_add_fd(probe.rig.server,
				   listen_at((struct sockaddr *)&sin, &sin_len, sizeof(sin)), 7, 1,
				   NULL),
		0);
	/* Binding nothing but the family asks the kernel for an abstract name. */
	assert_int_equal(
		http_server_add_fd(probe.rig.server,
				   listen_at((struct sockaddr *)&sun, &sun_len, sizeof(sun)), 7, 1,
				   NULL),
		0);
	tcp = dial((struct sockaddr *)&sin, sin_len);
	say(tcp, "GET /x HTTP");
	blocked = dial((struct sockaddr *)&sin, sin_len);
	say(blocked, GET("/blocked"));
	ctl = dial((struct sockaddr *)&sun, sun_len);
	say(ctl, GET("/ctl"));
	turn_while_silent(ctl);
	assert_int_equal(rig_status(probe.text), 200);
	assert_string_equal(probe.last_path, "/ctl");
	assert_string_equal(hear(blocked), "");
	(void)close(tcp);
	turn_while_silent(blocked);
	assert_int_equal(rig_status(probe.text), 200);
	(void)close(blocked);
	(void)close(ctl);
	rig_stop(&probe.rig);
}

/* A listener on loopback of the rig's server. */
static socklen_t serve_tcp(struct sockaddr_in *sin, unsigned max_conns)
{
	socklen_t len = sizeof(*sin);
	int fd;

	*sin = (struct sockaddr_in){.sin_family = AF_INET};
	sin->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = listen_at((struct sockaddr *)sin, &len, sizeof(*sin));
	assert_int_equal(http_server_add_fd(probe.rig.server, fd, 7, max_conns, NULL), 0);
	return len;
}

/* A reset is reported by other events than an orderly end, also once the peer is only watched. */
static void test_cancel_by_reset(void **state _unused_)
{
	const struct linger reset = {.l_onoff = 1};
	struct sockaddr_in sin;
	socklen_t len;
	long before;

	start(1);
	len = serve_tcp(&sin, 4);
	for (unsigned more = 0; more < 2; more++) {
		int fd = dial((struct sockaddr *)&sin, len);

		probe.later = NULL;
		say(fd, GET("/later"));
		for (unsigned i = 0; i < 6000 && !probe.later; i++)
			wait_ms(10);
		assert_non_null(probe.later);
		if (more)
			say(fd, GET("/more"));
		wait_ms(50);
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
		(void)close(fd);
		for (unsigned i = 0; i < 6000 && probe.cancelled <= more; i++)
			wait_ms(10);
		before = cpu_ms();
		wait_ms(100);
		assert_true(cpu_ms() - before < 50);
		assert_int_equal(probe.cancelled, more + 1);
		assert_int_equal(http_server_conns(probe.rig.server), 0);
	}
	rig_stop(&probe.rig);
}

/* Out of descriptors, the listener rests instead of spinning, and takes up again by itself. */
static void test_no_descriptors(void **state _unused_)
{
	struct rlimit old, low;
	struct sockaddr_in sin;
	socklen_t len;
	long before;
	int fd;

	start(1);
	len = serve_tcp(&sin, 4);
	fd = dial((struct sockaddr *)&sin, len);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	low = (struct rlimit){.rlim_cur = 0, .rlim_max = old.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	before = cpu_ms();
	wait_ms(200);
	assert_true(cpu_ms() - before < 50);
	assert_int_equal(http_server_conns(probe.rig.server), 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	say(fd, GET("/x"));
	turn_while_silent(fd);
	assert_int_equal(rig_status(probe.text), 200);
	(void)close(fd);
	rig_stop(&probe.rig);
}

static void on_upgrade(struct http_request *req, void *arg)
{
	struct probe *p = arg;

	p->handled++;
	p->later = req;
	assert_int_equal(http_peer_uid(req), getuid());
}

static void test_take_connection(void **state _unused_)
{
	const struct http_config config = {.handler = on_upgrade, .arg = &probe};
	size_t rest_len = 0;
	void *rest = NULL;
	int fd, taken = -EBADF;

	memset(&probe, 0, sizeof(probe));
	rig_start(&probe.rig, &config, 4);
	fd = rig_connect(&probe.rig);
	say(fd, GET("/console"));
	assert_int_equal(http_take_connection(probe.later, "qudata", &taken, &rest, &rest_len),
			 -EPROTO);
	http_reply(probe.later, 426, NULL, NULL, 0);
	assert_int_equal(rig_status(hear(fd)), 426);
	say(fd, "GET /console HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: Qudata\r\n\r\n"
		"raw");
	assert_int_equal(http_take_connection(probe.later, "qudata", &taken, &rest, &rest_len), 0);
	assert_int_equal(rest_len, 3);
	assert_memory_equal(rest, "raw", 3);
	free(rest);
	assert_int_equal(http_server_conns(probe.rig.server), 0);
	assert_string_equal(hear(fd), "HTTP/1.1 101 Switching Protocols\r\n"
				      "Connection: Upgrade\r\nUpgrade: qudata\r\n\r\n");
	assert_false(probe.closed);
	assert_int_equal(write(taken, "bytes", 5), 5);
	assert_string_equal(hear(fd), "bytes");
	(void)close(taken);
	end(fd);
}

static void test_drain(void **state _unused_)
{
	int idle, busy;

	start(4);
	idle = rig_connect(&probe.rig);
	say(idle, GET("/x"));
	busy = rig_connect(&probe.rig);
	say(busy, GET("/later"));
	http_server_drain(probe.rig.server);
	(void)hear(idle);
	assert_true(probe.closed);
	assert_int_equal(http_server_conns(probe.rig.server), 1);
	http_reply(probe.later, 200, "text/plain", "x", 1);
	assert_int_equal(rig_status(hear(busy)), 200);
	assert_true(probe.closed);
	(void)close(idle);
	end(busy);
}

static void test_config(void **state _unused_)
{
	const struct http_config config = {0};
	struct event_base *base = event_base_new();
	struct http_server *server = NULL;

	assert_int_equal(http_server_new(base, &config, &server), -EINVAL);
	assert_null(server);
	http_server_free(NULL);
	event_base_free(base);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reply_bytes),
		cmocka_unit_test(test_chunked_body),
		cmocka_unit_test(test_large_body),
		cmocka_unit_test(test_expect_continue),
		cmocka_unit_test(test_close_is_no_reset),
		cmocka_unit_test(test_early_answer_lingers),
		cmocka_unit_test(test_late_reply_in_order),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_pending_does_not_spin),
		cmocka_unit_test(test_big_reply),
		cmocka_unit_test(test_deadlines),
		cmocka_unit_test(test_idle_sleeps),
		cmocka_unit_test(test_limit_evicts_idle),
		cmocka_unit_test(test_listeners),
		cmocka_unit_test(test_cancel_by_reset),
		cmocka_unit_test(test_no_descriptors),
		cmocka_unit_test(test_take_connection),
		cmocka_unit_test(test_drain),
		cmocka_unit_test(test_config),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
