/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The serving side against real sockets: the table walked by a hostile client, floods, peers that
 * do not read, tickets that outlive their connection.
 * Trust: runs in tests only.
 */
#include "common/ipc.h"
#include "common/server.h"
#include "tests/unit/msgtable.h"
#include "tests/unit/rig.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

/* A server, what its callbacks saw, and how its handlers shall behave. */
struct rig {
	struct server server;
	int listen_fd;
	int watched; /* connections that the daemon would poll */
	unsigned int refused;
	enum server_refusal why;
	int detail;
	unsigned int dispatched;
	bool defer;
	bool subscribe;
	bool drop_in_handler;
	bool refuse_watch;
	enum proto_status status;
	struct ticket tickets[600];
	size_t n_tickets;
	size_t extra_fds; /* descriptors in a reply beyond the row's */
	bool keep_fds;    /* leave the request's descriptors in the list */
	bool bad_reply;   /* break the reply's declaration */
};

static int any_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static const struct row_info *row_of(uint32_t number)
{
	for (size_t i = 0; i < row_n_infos; i++)
		if (row_infos[i].number == number)
			return &row_infos[i];
	abort();
}

static int rig_dispatch(void *ctx, struct peer *peer, const struct proto_op *op,
			const union proto_body *req, union proto_body *rep, struct fdlist *fds)
{
	struct rig *rig = ctx;
	const struct msg_info *info = msg_find(op->stem, "rep");
	static const uint8_t zero[sizeof(union proto_body)];

	rig->dispatched++;
	assert_int_equal(op->check_req(req), 0);
	assert_memory_equal(rep, zero, op->rep_size); /* "@rep, which is zeroed" */
	assert_int_equal(fds->n, op->req_fds);
	for (size_t i = 0; i < fds->n; i++)
		assert_true(fcntl(fds->fds[i], F_GETFD) & FD_CLOEXEC);
	if (!rig->keep_fds)
		fdlist_done(fds);
	if (rig->subscribe)
		peer->subscribed = true;
	if (rig->defer) {
		rig->tickets[rig->n_tickets++] = server_defer(peer);
		return PROTO_DEFERRED;
	}
	if (rig->drop_in_handler)
		server_drop(&rig->server, peer);
	if (row_of(op->number)->states & PROTO_ST_NEW)
		peer->conn.state = PROTO_ST_READY;
	msg_fill(info, true, rep);
	if (rig->bad_reply)
		memset(rep, 0xff, op->rep_size);
	for (size_t i = 0; i < op->rep_fds + rig->extra_fds; i++)
		assert_int_equal(fdlist_add(fds, any_fd()), 0);
	return rig->status;
}

static int rig_watch(void *ctx, struct peer *peer, bool on)
{
	struct rig *rig = ctx;

	assert_true(peer->fd >= 0);
	if (on && rig->refuse_watch) {
		rig->watched++; /* server_drop() takes it back */
		return -ENOMEM;
	}
	rig->watched += on ? 1 : -1;
	return 0;
}

static void rig_refused(void *ctx, const struct peer *peer, enum server_refusal why, int detail)
{
	struct rig *rig = ctx;

	assert_non_null(peer);
	assert_true(detail < 0);
	rig->refused++;
	rig->why = why;
	rig->detail = detail;
}

static void rig_open(struct rig *rig, enum proto_role self, enum proto_role peer)
{
	struct err err = {0};
	struct server_config config = {
		.self = self,
		.n_roles = 1,
		.max_per_role = 3,
		.ctx = rig,
		.dispatch = rig_dispatch,
		.watch = rig_watch,
		.refused = rig_refused,
	};

	memset(rig, 0, sizeof(*rig));
	config.roles[0].uid = geteuid();
	config.roles[0].role = peer;
	server_init(&rig->server, &config);
	rig->listen_fd = ipc_listen(rig_path("sock"), SOCK_SEQPACKET, 0666, IPC_KEEP_GID, &err);
	assert_true(rig->listen_fd >= 0);
}

static void rig_close(struct rig *rig)
{
	server_done(&rig->server);
	assert_int_equal(rig->watched, 0);
	(void)close(rig->listen_fd);
}

/* Connects a client and accepts it; the peer it became, or NULL when it was refused. */
static struct peer *rig_join(struct rig *rig, int *ret_client)
{
	unsigned int refused = rig->refused;
	uint32_t serial = rig->server.next_serial;

	*ret_client = rig_connect(rig_path("sock"), SOCK_SEQPACKET);
	assert_true(*ret_client >= 0);
	server_accept(&rig->server, rig->listen_fd);
	if (rig->refused != refused)
		return NULL;
	for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
		if (rig->server.peers[i].fd >= 0 && rig->server.peers[i].serial == serial)
			return &rig->server.peers[i];
	return NULL;
}

static bool closed(int client)
{
	char byte[PROTO_MSG_MAX];
	ssize_t n = rig_recv(client, byte, sizeof(byte), NULL);

	return n == 0 || n == -ECONNRESET;
}

/* Sends one datagram and lets the server handle it. */
static int rig_say(struct rig *rig, struct peer *peer, int client, const void *msg, size_t len,
		   const int *fds, size_t n_fds)
{
	int r = rig_send(client, msg, len, fds, n_fds);

	if (r == 0)
		server_receive(&rig->server, peer);
	return r;
}

/* A whole valid exchange on that connection: proves that it and the server still work. */
static void assert_works(struct rig *rig, const struct row_info *row, struct peer *peer, int client)
{
	uint8_t msg[PROTO_MSG_MAX], got[PROTO_MSG_MAX], want[PROTO_MSG_MAX];
	size_t len = msg_build(row, true, msg), n_fds = 0;
	_cleanup_close_ int fd = any_fd();
	ssize_t n;

	peer->conn.state = row_state(row);
	peer->conn.used = 0;
	assert_int_equal(rig_say(rig, peer, client, msg, len, &fd, row->req_fds), 0);
	n = rig_recv(client, got, sizeof(got), &n_fds);
	len = msg_build_reply(row, true, want);
	assert_int_equal(n, len);
	assert_memory_equal(got, want, len);
	assert_int_equal(n_fds, row->rep_fds);
}

static void test_every_row(void **state)
{
	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		struct rig rig;
		struct peer *peer;
		int client;

		if (row->is_event)
			continue;
		rig_open(&rig, row->to, row->from);
		peer = rig_join(&rig, &client);
		assert_non_null(peer);
		assert_int_equal(peer->conn.state, PROTO_ST_NEW);
		assert_int_equal(peer->uid, geteuid());
		assert_int_equal(peer->pid, getpid());
		assert_works(&rig, row, peer, client);
		assert_int_equal(rig.refused, 0);
		(void)close(client);
		server_receive(&rig.server, peer);
		assert_int_equal(peer->fd, -EBADF);
		assert_int_equal(rig.refused, 0); /* to go away is no offence */
		rig_close(&rig);
	}
}

/* Sends what must be refused on a connection of its own, then checks everything around it. */
static void offend(struct rig *rig, const struct row_info *row, const char *what, const void *msg,
		   size_t len, size_t n_fds)
{
	unsigned int refused = rig->refused, dispatched = rig->dispatched;
	int fds[2] = {any_fd(), any_fd()};
	int client;
	struct peer *peer = rig_join(rig, &client);

	assert_non_null(peer);
	peer->conn.state = row_state(row);
	assert_int_equal(rig_say(rig, peer, client, msg, len, fds, n_fds), 0);
	if (rig->refused != refused + 1 || rig->why != SERVER_MALFORMED || peer->fd >= 0 ||
	    !closed(client) || rig->dispatched != dispatched)
		fail_msg("%s: %s: was not refused", row->name, what);
	(void)close(client);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

static void offend_by_fields(struct rig *rig, const struct row_info *row, bool high)
{
	const struct msg_info *info = msg_of_row(row);
	uint8_t msg[PROTO_MSG_MAX];
	size_t len;

	for (size_t f = 0; f < info->n_fields; f++)
		for (unsigned int way = 0;; way++) {
			const char *what;

			len = msg_build(row, high, msg);
			what = msg_spoil(info, f, way, msg + sizeof(struct proto_header));
			if (!what)
				break;
			if (*what)
				offend(rig, row, what, msg, len, row->req_fds);
		}
}

static void offend_by_frame(struct rig *rig, const struct row_info *row)
{
	uint8_t msg[PROTO_MSG_MAX + 64] = {0};
	size_t len = msg_build(row, false, msg);

	offend(rig, row, "a descriptor too many", msg, len, row->req_fds + 1);
	if (row->req_fds > 0)
		offend(rig, row, "a descriptor too few", msg, len, row->req_fds - 1);
	offend(rig, row, "one byte short", msg, len - 1, row->req_fds);
	offend(rig, row, "one byte long", msg, len + 1, row->req_fds);
	offend(rig, row, "the header only", msg, sizeof(struct proto_header), row->req_fds);
	offend(rig, row, "less than a header", msg, 15, row->req_fds);
	offend(rig, row, "one byte", msg, 1, row->req_fds);
	offend(rig, row, "a full datagram", msg, PROTO_MSG_MAX, row->req_fds);
	offend(rig, row, "an oversized datagram", msg, PROTO_MSG_MAX + 1, row->req_fds);
	offend(rig, row, "an oversized datagram", msg, sizeof(msg), row->req_fds);
	len = msg_build_reply(row, false, msg);
	offend(rig, row, "a reply", msg, len, row->req_fds);
}

static void test_every_row_malformed(void **state)
{
	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		struct peer *bystander;
		struct rig rig;
		size_t n_fds;
		int client;

		if (row->is_event)
			continue;
		rig_open(&rig, row->to, row->from);
		bystander = rig_join(&rig, &client);
		assert_non_null(bystander);
		n_fds = rig_count_fds();
		offend_by_frame(&rig, row);
		offend_by_fields(&rig, row, false);
		offend_by_fields(&rig, row, true);
		assert_int_equal(rig_count_fds(), n_fds);
		assert_works(&rig, row, bystander, client);
		(void)close(client);
		rig_close(&rig);
	}
}

static void test_state_and_reuse(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		size_t len = msg_build(row, false, msg);
		struct peer *peer;
		struct rig rig;
		int client, fd = any_fd();

		if (row->is_event) {
			(void)close(fd);
			continue;
		}
		rig_open(&rig, row->to, row->from);
		peer = rig_join(&rig, &client);
		assert_non_null(peer);
		if (!(row->states & PROTO_ST_NEW)) {
			/* A fresh connection has to say hello first. */
			assert_int_equal(rig_say(&rig, peer, client, msg, len, &fd, row->req_fds),
					 0);
			assert_int_equal(rig.detail, -EACCES);
		} else {
			assert_works(&rig, row, peer, client);
			assert_int_equal(rig_say(&rig, peer, client, msg, len, &fd, row->req_fds),
					 0);
		}
		assert_true(closed(client));
		assert_int_equal(rig.refused, 1);
		assert_int_equal(rig.why, SERVER_MALFORMED);
		(void)close(client);
		(void)close(fd);
		rig_close(&rig);
	}
}

/* The row that the tests below use: two fixed ones would go stale. */
static const struct row_info *some_row(size_t req_fds, size_t rep_fds)
{
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];

		if (!row->is_event && !row->once && row->req_fds == req_fds &&
		    row->rep_fds == rep_fds && row->to != PROTO_FRP)
			return row;
	}
	abort();
}

static void test_zero_length(void **state)
{
	const struct row_info *row = some_row(1, 0);
	struct rig rig;
	struct peer *peer, *other;
	int client, other_client, fd = any_fd();
	size_t n_fds;

	(void)state;
	rig_open(&rig, row->to, row->from);
	other = rig_join(&rig, &other_client);
	assert_non_null(other);
	n_fds = rig_count_fds();
	for (size_t with_fd = 0; with_fd < 2; with_fd++) {
		peer = rig_join(&rig, &client);
		assert_non_null(peer);
		assert_int_equal(rig_say(&rig, peer, client, "", 0, &fd, with_fd), 0);
		assert_int_equal(peer->fd, -EBADF);
		assert_true(closed(client));
		(void)close(client);
	}
	assert_int_equal(rig_count_fds(), n_fds);
	assert_works(&rig, row, other, other_client);
	(void)close(fd);
	(void)close(other_client);
	rig_close(&rig);
}

static void test_fd_flood(void **state)
{
	static const size_t counts[] = {2, 3, 7, 8, 9, 10, 100, 253};
	const struct row_info *row = some_row(1, 0);
	uint8_t msg[PROTO_MSG_MAX];
	size_t len = msg_build(row, false, msg), before;
	int fds[253], client;
	struct peer *peer;
	struct rig rig;

	(void)state;
	rig_open(&rig, row->to, row->from);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = any_fd();
	before = rig_count_fds();
	for (size_t i = 0; i < 40 * ARRAY_LEN(counts); i++) {
		peer = rig_join(&rig, &client);
		assert_non_null(peer);
		peer->conn.state = PROTO_ST_READY;
		assert_int_equal(
			rig_say(&rig, peer, client, msg, len, fds, counts[i % ARRAY_LEN(counts)]),
			0);
		assert_int_equal(rig.refused, i + 1);
		assert_int_equal(rig.detail, -EBADMSG);
		assert_true(closed(client));
		(void)close(client);
		assert_int_equal(rig_count_fds(), before);
	}
	assert_int_equal(rig.dispatched, 0);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		(void)close(fds[i]);
	rig_close(&rig);
}

/* The server's own table of descriptors is full when descriptors arrive. */
static void exhaust(const struct row_info *row)
{
	uint8_t msg[PROTO_MSG_MAX];
	size_t len = msg_build(row, false, msg), before;
	struct rlimit old, tight;
	int client, fd = any_fd();
	struct peer *peer;
	struct rig rig;

	rig_open(&rig, row->to, row->from);
	peer = rig_join(&rig, &client);
	assert_non_null(peer);
	peer->conn.state = PROTO_ST_READY;
	before = rig_count_fds();
	assert_int_equal(rig_send(client, msg, len, &fd, 1), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	tight = (struct rlimit){.rlim_cur = 3, .rlim_max = old.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
	server_receive(&rig.server, peer);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(rig.dispatched, 0);
	assert_int_equal(peer->fd, -EBADF);
	assert_int_equal(rig_count_fds(), before - 1);
	(void)close(client);
	(void)close(fd);
	rig_close(&rig);
}

static void test_fd_exhaustion(void **state)
{
	(void)state;
	exhaust(some_row(1, 0));
	/* A row without descriptors must not be taken for one that came without. */
	exhaust(some_row(0, 0));
}

static void test_truncation(void **state)
{
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	uint8_t buf[32] = {0};
	int sockets[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
	assert_int_equal(rig_send(sockets[0], buf, 17, NULL, 0), 0);
	assert_int_equal(ipc_recv(sockets[1], buf, 16, &fds), -EBADMSG);
	assert_int_equal(rig_send(sockets[0], buf, 16, NULL, 0), 0);
	assert_int_equal(ipc_recv(sockets[1], buf, 16, &fds), 16);
	assert_int_equal(ipc_recv(sockets[1], buf, 16, &fds), -EAGAIN);
	(void)close(sockets[0]);
	assert_int_equal(ipc_recv(sockets[1], buf, 16, &fds), 0);
	(void)close(sockets[1]);
}

static int connect_as_nobody(void *arg)
{
	char byte;
	int fd;

	(void)arg;
	RIG_CHECK(setresgid(65534, 65534, 65534) == 0);
	RIG_CHECK(setresuid(65534, 65534, 65534) == 0);
	fd = rig_connect(rig_path("sock"), SOCK_SEQPACKET);
	RIG_CHECK(fd >= 0);
	/* Blocks until the server has decided. */
	RIG_CHECK(recv(fd, &byte, 1, 0) <= 0);
	return 7;
}

static void test_unknown_uid(void **state)
{
	struct rig rig;
	int status = 0;
	size_t n_fds;
	pid_t pid;

	(void)state;
	if (geteuid() != 0) {
		print_message("skipped: only root can connect as another user\n");
		skip();
	}
	rig_open(&rig, PROTO_HELPER, PROTO_AGENTD);
	n_fds = rig_count_fds();
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(connect_as_nobody(NULL));
	while (rig.refused == 0 && waitpid(pid, &status, WNOHANG) == 0) {
		server_accept(&rig.server, rig.listen_fd);
		(void)usleep(1000);
	}
	if (status == 0)
		assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 7);
	assert_int_equal(rig.refused, 1);
	assert_int_equal(rig.why, SERVER_UNKNOWN_UID);
	assert_int_equal(rig.watched, 0);
	assert_int_equal(rig_count_fds(), n_fds);
	rig_close(&rig);
}

static void test_too_many(void **state)
{
	const struct row_info *row = some_row(0, 0);
	int clients[12];
	struct peer *first, *peer;
	struct rig rig;
	size_t n_fds;

	(void)state;
	rig_open(&rig, row->to, row->from);
	first = rig_join(&rig, &clients[0]);
	assert_non_null(first);
	for (size_t i = 1; i < ARRAY_LEN(clients); i++) {
		n_fds = rig_count_fds();
		peer = rig_join(&rig, &clients[i]);
		assert_true((peer != NULL) == (i < 3));
		if (peer)
			continue;
		assert_int_equal(rig.why, SERVER_TOO_MANY);
		assert_true(closed(clients[i]));
		assert_int_equal(rig_count_fds(), n_fds + 1);
	}
	assert_int_equal(rig.refused, ARRAY_LEN(clients) - 3);
	assert_works(&rig, row, first, clients[0]);
	/* A place that becomes free can be taken again. */
	server_drop(&rig.server, first);
	(void)close(clients[0]);
	assert_non_null(rig_join(&rig, &clients[0]));
	for (size_t i = 0; i < ARRAY_LEN(clients); i++)
		(void)close(clients[i]);
	rig_close(&rig);
}

/* More connections than slots, with a generous limit per role. */
static void test_all_slots(void **state)
{
	int clients[SERVER_MAX_PEERS + 1];
	struct rig rig;

	(void)state;
	rig_open(&rig, PROTO_HELPER, PROTO_AGENTD);
	rig.server.config.max_per_role = 1000;
	for (size_t i = 0; i < ARRAY_LEN(clients); i++)
		assert_true((rig_join(&rig, &clients[i]) != NULL) == (i < SERVER_MAX_PEERS));
	assert_int_equal(rig.why, SERVER_TOO_MANY);
	for (size_t i = 0; i < ARRAY_LEN(clients); i++)
		(void)close(clients[i]);
	rig_close(&rig);
}

static void test_watch_fails(void **state)
{
	struct rig rig;
	size_t n_fds;
	int client;

	(void)state;
	rig_open(&rig, PROTO_HELPER, PROTO_AGENTD);
	rig.refuse_watch = true;
	n_fds = rig_count_fds();
	assert_null(rig_join(&rig, &client));
	assert_true(closed(client));
	(void)close(client);
	assert_int_equal(rig_count_fds(), n_fds);
	rig_close(&rig);
}

static void test_nobody_waits(void **state)
{
	struct peer *peer;
	struct rig rig;
	int client;

	(void)state;
	rig_open(&rig, PROTO_HELPER, PROTO_AGENTD);
	server_accept(&rig.server, rig.listen_fd); /* a spurious wake-up */
	assert_int_equal(rig.watched, 0);
	peer = rig_join(&rig, &client);
	assert_non_null(peer);
	server_receive(&rig.server, peer); /* the same on a connection */
	assert_true(peer->fd >= 0);
	(void)close(client);
	rig_close(&rig);
}

/* A peer that asks and asks and never reads: the server must neither block nor grow. */
static void test_not_reading(void **state)
{
	const struct row_info *row = some_row(0, 0);
	uint8_t msg[PROTO_MSG_MAX];
	size_t len = msg_build(row, false, msg);
	struct peer *peer, *other;
	int client, other_client;
	struct rig rig;
	unsigned int asked = 0;

	(void)state;
	rig_open(&rig, row->to, row->from);
	other = rig_join(&rig, &other_client);
	peer = rig_join(&rig, &client);
	assert_true(other && peer);
	peer->conn.state = row_state(row);
	(void)alarm(60); /* a server that blocks ends the test */
	while (peer->fd >= 0 && asked < 100000) {
		assert_int_equal(rig_say(&rig, peer, client, msg, len, NULL, 0), 0);
		asked++;
	}
	(void)alarm(0);
	assert_true(asked < 100000);
	assert_int_equal(rig.refused, 1);
	assert_int_equal(rig.why, SERVER_NOT_READING);
	assert_works(&rig, row, other, other_client);
	(void)close(client);
	(void)close(other_client);
	rig_close(&rig);
}

static const struct row_info *some_event(void)
{
	for (size_t i = 0; i < row_n_infos; i++)
		if (row_infos[i].is_event)
			return &row_infos[i];
	abort();
}

static void test_events(void **state)
{
	const struct row_info *event = some_event();
	uint8_t want[PROTO_MSG_MAX], got[PROTO_MSG_MAX];
	size_t len = msg_build(event, true, want), n_fds;
	int subscriber, deaf, second;
	struct peer *peer, *peer2;
	struct rig rig;

	(void)state;
	/* Events go from the row's sender, which is the serving side. */
	rig_open(&rig, event->from, event->to);
	peer = rig_join(&rig, &subscriber);
	assert_non_null(peer);
	assert_false(peer->subscribed);
	assert_non_null(rig_join(&rig, &deaf));
	peer2 = rig_join(&rig, &second);
	assert_non_null(peer2);
	peer->subscribed = peer2->subscribed = true;
	server_event(&rig.server, event->to, event->number, want + sizeof(struct proto_header));
	assert_int_equal(rig_recv(subscriber, got, sizeof(got), &n_fds), len);
	assert_memory_equal(got, want, len);
	assert_int_equal(n_fds, 0);
	assert_int_equal(rig_recv(second, got, sizeof(got), &n_fds), len);
	assert_int_equal(rig_recv(deaf, got, sizeof(got), &n_fds), -EAGAIN);
	/* Nobody of another role hears it. */
	peer->conn.peer = event->to == PROTO_AGENTD ? PROTO_VMMON : PROTO_AGENTD;
	server_event(&rig.server, event->to, event->number, want + sizeof(struct proto_header));
	assert_int_equal(rig_recv(subscriber, got, sizeof(got), &n_fds), -EAGAIN);
	assert_int_equal(rig_recv(second, got, sizeof(got), &n_fds), len);
	/* A new connection in the slot of a subscriber is none. */
	server_drop(&rig.server, peer2);
	(void)close(second);
	peer2 = rig_join(&rig, &second);
	assert_non_null(peer2);
	assert_false(peer2->subscribed);
	server_event(&rig.server, event->to, event->number, want + sizeof(struct proto_header));
	assert_int_equal(rig_recv(second, got, sizeof(got), &n_fds), -EAGAIN);
	(void)close(subscriber);
	(void)close(deaf);
	(void)close(second);
	rig_close(&rig);
}

/* A subscriber that never reads its events loses its connection; the others get them all. */
static void test_events_unread(void **state)
{
	const struct row_info *event = some_event();
	uint8_t msg[PROTO_MSG_MAX], got[PROTO_MSG_MAX];
	size_t len = msg_build(event, true, msg);
	struct peer *lazy, *good;
	int lazy_client, good_client;
	struct rig rig;
	int sent = 0;

	(void)state;
	rig_open(&rig, event->from, event->to);
	lazy = rig_join(&rig, &lazy_client);
	good = rig_join(&rig, &good_client);
	assert_true(lazy && good);
	lazy->subscribed = good->subscribed = true;
	(void)alarm(60);
	while (lazy->fd >= 0 && sent++ < 100000) {
		server_event(&rig.server, event->to, event->number,
			     msg + sizeof(struct proto_header));
		assert_int_equal(rig_recv(good_client, got, sizeof(got), NULL), len);
	}
	(void)alarm(0);
	assert_int_equal(lazy->fd, -EBADF);
	assert_int_equal(rig.refused, 1);
	assert_int_equal(rig.why, SERVER_NOT_READING);
	assert_true(good->fd >= 0);
	(void)close(lazy_client);
	(void)close(good_client);
	rig_close(&rig);
}

static void reply_to(struct rig *rig, const struct row_info *row, size_t ticket,
		     enum proto_status status)
{
	union proto_body body;
	struct fdlist fds = {0};

	msg_fill(msg_find(row->stem, "rep"), true, &body);
	for (size_t i = 0; i < row->rep_fds; i++)
		assert_int_equal(fdlist_add(&fds, any_fd()), 0);
	server_reply(&rig->server, &rig->tickets[ticket], status, status == PROTO_OK ? &body : NULL,
		     &fds);
	assert_int_equal(fds.n, 0);
	assert_int_equal(rig->tickets[ticket].serial, 0);
}

/* Answers in another order than the questions', each with its own id, each once. */
static void test_deferred(void **state)
{
	const struct row_info *row = some_row(0, 1);
	uint8_t msg[PROTO_MSG_MAX];
	size_t len = msg_build(row, true, msg), n_fds;
	struct proto_header header;
	struct peer *peer;
	struct rig rig;
	int client;

	(void)state;
	rig_open(&rig, row->to, row->from);
	rig.defer = true;
	peer = rig_join(&rig, &client);
	assert_non_null(peer);
	peer->conn.state = row_state(row);
	for (uint32_t id = 1; id <= 3; id++) {
		memcpy(&header, msg, sizeof(header));
		header.request_id = id;
		memcpy(msg, &header, sizeof(header));
		assert_int_equal(rig_say(&rig, peer, client, msg, len, NULL, 0), 0);
		assert_int_equal(rig_recv(client, msg + 2000, 1000, NULL), -EAGAIN);
	}
	reply_to(&rig, row, 2, PROTO_OK);
	reply_to(&rig, row, 0, PROTO_BUSY);
	reply_to(&rig, row, 1, PROTO_OK);
	reply_to(&rig, row, 1, PROTO_OK); /* the ticket is used up */
	for (uint32_t id = 3, i = 0; i < 3; id = i == 0 ? 1 : 2, i++) {
		bool ok = id != 1;
		ssize_t n = rig_recv(client, msg, sizeof(msg), &n_fds);

		assert_true(n >= (ssize_t)sizeof(header));
		memcpy(&header, msg, sizeof(header));
		assert_int_equal(header.kind, PROTO_REPLY);
		assert_int_equal(header.op, row->number);
		assert_int_equal(header.request_id, id);
		assert_int_equal(header.status, ok ? PROTO_OK : PROTO_BUSY);
		assert_int_equal(n_fds, ok ? row->rep_fds : 0);
		assert_int_equal((size_t)n - sizeof(header), header.len);
		assert_int_equal(header.len, ok ? msg_find(row->stem, "rep")->size : 0);
	}
	assert_int_equal(rig_recv(client, msg, sizeof(msg), NULL), -EAGAIN);
	(void)close(client);
	rig_close(&rig);
}

/* A ticket of a dead connection never reaches whoever sits in its slot now. */
static void test_tickets_outlive(void **state)
{
	const struct row_info *row = some_row(0, 1);
	uint8_t msg[PROTO_MSG_MAX], got[PROTO_MSG_MAX];
	size_t len = msg_build(row, true, msg), before;
	struct peer *peer, *again;
	struct rig rig;
	int client;

	(void)state;
	rig_open(&rig, row->to, row->from);
	rig.defer = true;
	for (size_t round = 0; round < 500; round++) {
		peer = rig_join(&rig, &client);
		assert_non_null(peer);
		peer->conn.state = row_state(row);
		assert_int_equal(rig_say(&rig, peer, client, msg, len, NULL, 0), 0);
		(void)close(client);
		server_receive(&rig.server, peer);
		assert_int_equal(peer->fd, -EBADF);
	}
	reply_to(&rig, row, 499, PROTO_OK); /* nobody is there */
	again = rig_join(&rig, &client);
	assert_ptr_equal(again, peer);
	/* The new one even asks the same thing under the same id. */
	again->conn.state = row_state(row);
	assert_int_equal(rig_say(&rig, again, client, msg, len, NULL, 0), 0);
	before = rig_count_fds();
	for (size_t i = 0; i < 499; i++)
		reply_to(&rig, row, i, i & 1 ? PROTO_OK : PROTO_FAILED);
	assert_int_equal(rig_recv(client, got, sizeof(got), NULL), -EAGAIN);
	assert_int_equal(rig_count_fds(), before);
	reply_to(&rig, row, 500, PROTO_OK);
	assert_true(rig_recv(client, got, sizeof(got), NULL) > 0);
	(void)close(client);
	rig_close(&rig);
}

static void test_failed_status(void **state)
{
	const struct row_info *row = some_row(0, 1);
	uint8_t msg[PROTO_MSG_MAX], got[PROTO_MSG_MAX];
	size_t len = msg_build(row, true, msg), before, n_fds;
	struct proto_header header;
	struct peer *peer;
	struct rig rig;
	int client;

	(void)state;
	rig_open(&rig, row->to, row->from);
	peer = rig_join(&rig, &client);
	assert_non_null(peer);
	peer->conn.state = row_state(row);
	before = rig_count_fds();
	for (int status = PROTO_OK + 1; status < PROTO_STATUS_COUNT; status++) {
		rig.status = (enum proto_status)status;
		assert_int_equal(rig_say(&rig, peer, client, msg, len, NULL, 0), 0);
		assert_int_equal(rig_recv(client, got, sizeof(got), &n_fds), sizeof(header));
		memcpy(&header, got, sizeof(header));
		assert_int_equal(header.status, status);
		assert_int_equal(header.len, 0);
		assert_int_equal(n_fds, 0);
		assert_int_equal(rig_count_fds(), before);
	}
	(void)close(client);
	rig_close(&rig);
}

static void test_drop_in_handler(void **state)
{
	const struct row_info *row = some_row(0, 1);
	uint8_t msg[PROTO_MSG_MAX];
	size_t len = msg_build(row, true, msg), before;
	struct peer *peer;
	struct rig rig;
	int client;

	(void)state;
	rig_open(&rig, row->to, row->from);
	before = rig_count_fds();
	rig.drop_in_handler = true;
	peer = rig_join(&rig, &client);
	assert_non_null(peer);
	peer->conn.state = row_state(row);
	assert_int_equal(rig_say(&rig, peer, client, msg, len, NULL, 0), 0);
	assert_true(closed(client));
	(void)close(client);
	assert_int_equal(rig_count_fds(), before);
	rig_close(&rig);
}

/*
 * A handler's mistake must not leave the process: a reply that breaks its own declaration, or
 * carries a descriptor that the row does not name (the request's own, say), is a failure.
 */
static void test_handler_mistakes(void **state)
{
	(void)state;
	for (int mistake = 0; mistake < 3; mistake++) {
		const struct row_info *row = mistake == 1 ? some_row(1, 0) : some_row(0, 0);
		uint8_t msg[PROTO_MSG_MAX], got[PROTO_MSG_MAX];
		size_t len = msg_build(row, true, msg), before, n_fds = 0;
		struct proto_header header;
		struct peer *peer;
		struct rig rig;
		int client, fd = any_fd();

		rig_open(&rig, row->to, row->from);
		rig.bad_reply = mistake == 0;
		rig.keep_fds = mistake == 1;
		rig.extra_fds = mistake == 2;
		peer = rig_join(&rig, &client);
		assert_non_null(peer);
		peer->conn.state = row_state(row);
		before = rig_count_fds();
		assert_int_equal(rig_say(&rig, peer, client, msg, len, &fd, row->req_fds), 0);
		assert_int_equal(rig_recv(client, got, sizeof(got), &n_fds), sizeof(header));
		memcpy(&header, got, sizeof(header));
		assert_int_equal(header.status, PROTO_FAILED);
		assert_int_equal(n_fds, 0);
		assert_int_equal(rig_count_fds(), before);
		(void)close(client);
		(void)close(fd);
		rig_close(&rig);
	}
}

static void test_listen(void **state)
{
	_cleanup_close_ int first = -EBADF, second = -EBADF, file = -EBADF;
	const char *path = rig_path("listen");
	char longer[200];
	struct err err = {0};
	struct stat st;

	(void)state;
	first = ipc_listen(path, SOCK_SEQPACKET, 0620, IPC_KEEP_GID, &err);
	assert_true(first >= 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0620);
	assert_true(fcntl(first, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(first, F_GETFL) & O_NONBLOCK);
	first = safe_close(first); /* dies and leaves its socket behind */
	assert_true(ipc_connect(path, SOCK_SEQPACKET) == -ECONNREFUSED);
	second = ipc_listen(path, SOCK_SEQPACKET, 0600, IPC_KEEP_GID, &err);
	assert_true(second >= 0);
	file = open(rig_path("file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(file >= 0);
	assert_true(ipc_listen(rig_path("file"), SOCK_SEQPACKET, 0600, IPC_KEEP_GID, &err) < 0);
	assert_int_equal(stat(rig_path("file"), &st), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_true(ipc_listen(rig_dir(), SOCK_SEQPACKET, 0600, IPC_KEEP_GID, &err) < 0);
	assert_int_equal(symlink(path, rig_path("link")), 0);
	assert_true(ipc_listen(rig_path("link"), SOCK_SEQPACKET, 0600, IPC_KEEP_GID, &err) < 0);
	memset(longer, 'a', sizeof(longer) - 1);
	longer[0] = '/';
	longer[sizeof(longer) - 1] = '\0';
	assert_true(ipc_listen(longer, SOCK_SEQPACKET, 0600, IPC_KEEP_GID, &err) < 0);
	assert_true(ipc_connect(longer, SOCK_SEQPACKET) < 0);
	assert_true(ipc_connect(rig_path("absent"), SOCK_SEQPACKET) == -ENOENT);
	assert_true(ipc_listen("", SOCK_SEQPACKET, 0600, IPC_KEEP_GID, NULL) < 0);
}

/* "replacing a socket that a dead process left there": a living one keeps its clients. */
static void test_listen_twice(void **state)
{
	_cleanup_close_ int first = -EBADF, second = -EBADF, client = -EBADF;
	const char *path = rig_path("twice");
	struct err err = {0};
	struct ucred cred;

	(void)state;
	first = ipc_listen(path, SOCK_SEQPACKET, 0600, IPC_KEEP_GID, &err);
	assert_true(first >= 0);
	second = ipc_listen(path, SOCK_SEQPACKET, 0600, IPC_KEEP_GID, &err);
	assert_int_equal(second, -EADDRINUSE);
	assert_true(err.text[0] != '\0');
	client = ipc_connect(path, SOCK_SEQPACKET);
	assert_true(client >= 0);
	/* What asked whether somebody lives there is one dead connection, the client the other. */
	for (int i = 0; i < 2; i++) {
		_cleanup_close_ int fd = ipc_accept(first, &cred);

		assert_true(fd >= 0);
	}
	assert_int_equal(ipc_accept(first, &cred), -EAGAIN);
}

static int teardown(void **state)
{
	(void)state;
	rig_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_row),       cmocka_unit_test(test_every_row_malformed),
		cmocka_unit_test(test_state_and_reuse), cmocka_unit_test(test_zero_length),
		cmocka_unit_test(test_fd_flood),        cmocka_unit_test(test_fd_exhaustion),
		cmocka_unit_test(test_truncation),      cmocka_unit_test(test_unknown_uid),
		cmocka_unit_test(test_too_many),        cmocka_unit_test(test_all_slots),
		cmocka_unit_test(test_watch_fails),     cmocka_unit_test(test_nobody_waits),
		cmocka_unit_test(test_not_reading),     cmocka_unit_test(test_events),
		cmocka_unit_test(test_events_unread),   cmocka_unit_test(test_deferred),
		cmocka_unit_test(test_tickets_outlive), cmocka_unit_test(test_failed_status),
		cmocka_unit_test(test_drop_in_handler), cmocka_unit_test(test_handler_mistakes),
		cmocka_unit_test(test_listen),          cmocka_unit_test(test_listen_twice),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}
