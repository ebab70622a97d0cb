/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The asking side against a server that may be hostile: every callback exactly once, deadlines,
 * answers that nobody asked for, callbacks that call and close.
 * Trust: runs in tests only.
 */
#include "common/ipc.h"
#include "common/rpc.h"
#include "tests/unit/msgtable.h"
#include "tests/unit/rig.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* A client and the raw end of its connection. */
struct rig {
	struct rpc rpc;
	int listen_fd;
	int server; /* what a hostile server writes to */
	unsigned int events, closes;
	uint32_t event_op;
	size_t fds_before;
	bool close_in_event;
	bool call_in_close;
};

/* What one request's callback saw. */
struct seen {
	struct rig *rig;
	unsigned int times;
	enum proto_status status;
	bool has_body;
	size_t n_fds;
	union proto_body body;
	size_t body_size;
	bool close; /* the callback closes the connection */
	bool call;  /* the callback asks again, into @next */
	int call_result;
	struct seen *next;
	bool connect; /* the callback connects again */
	int connect_result;
	bool take_fd;
	int fd;
};

static const struct row_info *row_with(size_t req_fds, size_t rep_fds)
{
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];

		if (!row->is_event && !row->once && row->from == PROTO_AGENTD &&
		    row->to == PROTO_VMMON && row->req_fds == req_fds && row->rep_fds == rep_fds)
			return row;
	}
	abort();
}

static int call(struct rig *rig, const struct row_info *row, uint32_t timeout_ms,
		struct seen *seen);

static void on_reply(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct seen *seen = arg;

	seen->times++;
	seen->status = status;
	seen->has_body = rep != NULL;
	seen->n_fds = fds->n;
	if (rep)
		memcpy(&seen->body, rep, seen->body_size);
	if (seen->take_fd)
		seen->fd = fdlist_take(fds);
	if (seen->call)
		seen->call_result = call(seen->rig, row_with(0, 0), 60000, seen->next);
	if (seen->connect)
		seen->connect_result = rpc_connect(&seen->rig->rpc, rig_path("sock"));
	if (seen->close)
		rpc_close(&seen->rig->rpc);
}

static void on_event(void *ctx, uint32_t op_number, const void *body)
{
	struct rig *rig = ctx;

	assert_non_null(body);
	assert_int_equal(proto_find(op_number)->check_req(body), 0);
	rig->events++;
	rig->event_op = op_number;
	if (rig->close_in_event)
		rpc_close(&rig->rpc);
}

static void on_close(void *ctx)
{
	struct rig *rig = ctx;

	assert_true(rpc_fd(&rig->rpc) < 0);
	assert_true(rpc_next_deadline_ms(&rig->rpc) == UINT64_MAX);
	rig->closes++;
	if (rig->call_in_close)
		assert_int_equal(rpc_connect(&rig->rpc, rig_path("sock")), 0);
}

static void rig_accept(struct rig *rig)
{
	struct ucred cred;

	rig->server = ipc_accept(rig->listen_fd, &cred);
	assert_true(rig->server >= 0);
}

static void rig_open(struct rig *rig)
{
	const struct rpc_config config = {
		.self = PROTO_AGENTD,
		.peer = PROTO_VMMON,
		.ctx = rig,
		.on_event = on_event,
		.on_close = on_close,
	};

	memset(rig, 0, sizeof(*rig));
	(void)unlink(rig_path("sock"));
	rig->fds_before = rig_count_fds();
	rig->listen_fd = ipc_listen(rig_path("sock"), SOCK_SEQPACKET, 0600, IPC_KEEP_GID, NULL);
	assert_true(rig->listen_fd >= 0);
	rpc_init(&rig->rpc, &config);
	assert_true(rpc_fd(&rig->rpc) < 0);
	assert_int_equal(rpc_connect(&rig->rpc, rig_path("sock")), 0);
	assert_true(rpc_fd(&rig->rpc) >= 0);
	rig_accept(rig);
}

static void rig_end(struct rig *rig)
{
	rig->call_in_close = false;
	rpc_close(&rig->rpc);
	rig->server = safe_close(rig->server);
	rig->listen_fd = safe_close(rig->listen_fd);
	assert_int_equal(rig_count_fds(), rig->fds_before);
}

static int call(struct rig *rig, const struct row_info *row, uint32_t timeout_ms, struct seen *seen)
{
	int fd = row->req_fds > 0 ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -EBADF;
	union proto_body body;
	int r;

	msg_fill(msg_of_row(row), true, &body);
	seen->rig = rig;
	seen->fd = -EBADF;
	seen->body_size = msg_find(row->stem, "rep")->size;
	r = rpc_call(&rig->rpc, row->number, &body, fd, timeout_ms, on_reply, seen);
	if (fd >= 0)
		assert_int_equal(close(fd), 0); /* "it stays the caller's" */
	return r;
}

/* Reads one request at the server's end and returns its header. */
static struct proto_header take_request(struct rig *rig)
{
	uint8_t msg[PROTO_MSG_MAX];
	struct proto_header header = {0};

	assert_true(rig_recv(rig->server, msg, sizeof(msg), NULL) >= (ssize_t)sizeof(header));
	memcpy(&header, msg, sizeof(header));
	return header;
}

/* Sends @row's successful reply to @request_id, with @n_fds descriptors. */
static void send_reply(struct rig *rig, const struct row_info *row, uint32_t request_id,
		       size_t n_fds)
{
	int fds[2] = {open("/dev/null", O_RDONLY | O_CLOEXEC),
		      open("/dev/null", O_RDONLY | O_CLOEXEC)};
	uint8_t msg[PROTO_MSG_MAX];
	size_t len = msg_build_reply(row, true, msg);
	struct proto_header header;

	memcpy(&header, msg, sizeof(header));
	header.request_id = request_id;
	memcpy(msg, &header, sizeof(header));
	assert_int_equal(rig_send(rig->server, msg, len, fds, n_fds), 0);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

static void test_every_row(void **state)
{
	(void)state;
	for (size_t i = 0; i < row_n_infos; i++)
		for (int high = 0; high < 2; high++) {
			const struct row_info *row = &row_infos[i];
			uint8_t want[PROTO_MSG_MAX], got[PROTO_MSG_MAX];
			struct seen seen = {0};
			struct proto_header header;
			union proto_body rep;
			struct rig rig;
			size_t len, n_fds;

			if (row->is_event)
				continue;
			rig_open(&rig);
			rig.rpc.config.self = rig.rpc.conn.self = row->from;
			rig.rpc.config.peer = rig.rpc.conn.peer = row->to;
			assert_int_equal(call(&rig, row, 60000, &seen), 0);
			assert_int_equal(rig_recv(rig.server, got, sizeof(got), &n_fds),
					 sizeof(header) + msg_of_row(row)->size);
			assert_int_equal(n_fds, row->req_fds);
			memcpy(&header, got, sizeof(header));
			assert_int_equal(header.kind, PROTO_REQUEST);
			assert_int_equal(header.op, row->number);
			assert_int_equal(header.status, 0);
			assert_true(header.request_id != 0);
			len = msg_build(row, true, want);
			assert_memory_equal(got + sizeof(header), want + sizeof(header),
					    len - sizeof(header));
			send_reply(&rig, row, header.request_id, row->rep_fds);
			rpc_receive(&rig.rpc);
			assert_int_equal(seen.times, 1);
			assert_int_equal(seen.status, PROTO_OK);
			assert_int_equal(seen.n_fds, row->rep_fds);
			msg_fill(msg_find(row->stem, "rep"), true, &rep);
			assert_memory_equal(&seen.body, &rep, seen.body_size);
			/* The same answer again is nobody's. */
			send_reply(&rig, row, header.request_id, row->rep_fds);
			rpc_receive(&rig.rpc);
			assert_int_equal(seen.times, 1);
			rig_end(&rig);
			assert_int_equal(seen.times, 1);
			assert_int_equal(rig.closes, 1);
		}
}

static void test_own_mistakes(void **state)
{
	struct rig rig;
	struct seen seen = {0};

	(void)state;
	rig_open(&rig);
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		const struct msg_info *info = msg_of_row(row);
		int fd = row->req_fds > 0 ? rig.listen_fd : -EBADF;
		int other_fd = row->req_fds > 0 ? -EBADF : rig.listen_fd;
		union proto_body body;

		for (size_t f = 0; f < info->n_fields; f++)
			for (unsigned int way = 0;; way++) {
				const char *what;

				msg_fill(info, true, &body);
				what = msg_spoil(info, f, way, &body);
				if (!what)
					break;
				if (*what)
					assert_int_equal(rpc_call(&rig.rpc, row->number, &body, fd,
								  1, on_reply, &seen),
							 -EBADMSG);
			}
		msg_fill(info, true, &body);
		assert_int_equal(
			rpc_call(&rig.rpc, row->number, &body, other_fd, 1, on_reply, &seen),
			-EBADMSG);
		/* Rows of other pairs of processes, and events, cannot be asked here. */
		if (row->is_event || row->from != PROTO_AGENTD || row->to != PROTO_VMMON)
			assert_int_equal(
				rpc_call(&rig.rpc, row->number, &body, fd, 1, on_reply, &seen),
				-EBADMSG);
	}
	assert_int_equal(rpc_call(&rig.rpc, 0xdead, &seen, -1, 1, on_reply, &seen), -EBADMSG);
	assert_int_equal(seen.times, 0);
	assert_int_equal(rig_recv(rig.server, &seen, sizeof(seen), NULL), -EAGAIN);
	assert_true(rpc_next_deadline_ms(&rig.rpc) == UINT64_MAX);
	rig_end(&rig);
}

static void test_not_connected(void **state)
{
	struct seen seen = {0};
	struct rig rig;

	(void)state;
	rig_open(&rig);
	assert_int_equal(rpc_connect(&rig.rpc, rig_path("sock")), -EISCONN);
	rpc_close(&rig.rpc);
	rpc_close(&rig.rpc);
	assert_int_equal(rig.closes, 1);
	assert_int_equal(call(&rig, row_with(0, 0), 10, &seen), -ENOTCONN);
	rpc_receive(&rig.rpc);
	rpc_expire(&rig.rpc);
	assert_true(rpc_connect(&rig.rpc, rig_path("nobody")) < 0);
	assert_true(rpc_fd(&rig.rpc) < 0);
	assert_int_equal(seen.times, 0);
	rig_end(&rig);
	assert_int_equal(rig.closes, 1);
}

static void test_failed_status(void **state)
{
	const struct row_info *row = row_with(0, 1);
	struct rig rig;

	(void)state;
	rig_open(&rig);
	for (int status = PROTO_OK + 1; status < PROTO_STATUS_COUNT; status++) {
		struct seen seen = {0};
		struct proto_header header;

		assert_int_equal(call(&rig, row, 60000, &seen), 0);
		header = take_request(&rig);
		header.kind = PROTO_REPLY;
		header.status = (uint16_t)status;
		header.len = 0;
		assert_int_equal(rig_send(rig.server, &header, sizeof(header), NULL, 0), 0);
		rpc_receive(&rig.rpc);
		assert_int_equal(seen.times, 1);
		assert_int_equal(seen.status, status);
		assert_false(seen.has_body);
		assert_int_equal(seen.n_fds, 0);
	}
	rig_end(&rig);
}

static void test_answers_out_of_order(void **state)
{
	const struct row_info *row = row_with(0, 0);
	struct seen seen[RPC_MAX_PENDING] = {{0}};
	uint32_t ids[RPC_MAX_PENDING];
	struct rig rig;

	(void)state;
	rig_open(&rig);
	for (size_t i = 0; i < RPC_MAX_PENDING; i++) {
		assert_int_equal(call(&rig, row, 60000, &seen[i]), 0);
		ids[i] = take_request(&rig).request_id;
		for (size_t k = 0; k < i; k++)
			assert_true(ids[i] != ids[k]);
	}
	for (size_t i = 0; i < RPC_MAX_PENDING; i++) {
		size_t k = (i * 37 + 11) % RPC_MAX_PENDING;

		send_reply(&rig, row, ids[k], 0);
		rpc_receive(&rig.rpc);
		assert_int_equal(seen[k].times, 1);
	}
	for (size_t i = 0; i < RPC_MAX_PENDING; i++)
		assert_int_equal(seen[i].times, 1);
	rig_end(&rig);
}

static void test_too_many_pending(void **state)
{
	const struct row_info *row = row_with(0, 0);
	struct seen seen[RPC_MAX_PENDING + 1] = {{0}};
	struct rig rig;
	uint32_t id;

	(void)state;
	rig_open(&rig);
	for (size_t i = 0; i < RPC_MAX_PENDING; i++)
		assert_int_equal(call(&rig, row, 60000, &seen[i]), 0);
	id = take_request(&rig).request_id;
	assert_int_equal(call(&rig, row, 60000, &seen[RPC_MAX_PENDING]), -EBUSY);
	send_reply(&rig, row, id, 0);
	rpc_receive(&rig.rpc);
	assert_int_equal(seen[0].times, 1);
	assert_int_equal(call(&rig, row, 60000, &seen[RPC_MAX_PENDING]), 0);
	rig_end(&rig);
	for (size_t i = 0; i <= RPC_MAX_PENDING; i++) {
		assert_int_equal(seen[i].times, 1);
		assert_int_equal(seen[i].status, i == 0 ? PROTO_OK : PROTO_UNREACHABLE);
		assert_true(seen[i].has_body == (i == 0));
	}
}

static void test_deadlines(void **state)
{
	const struct row_info *row = row_with(0, 1);
	struct seen soon = {0}, later = {0}, now = {0};
	uint32_t soon_id;
	struct rig rig;
	uint64_t next, before;

	(void)state;
	rig_open(&rig);
	assert_true(rpc_next_deadline_ms(&rig.rpc) == UINT64_MAX);
	assert_int_equal(call(&rig, row, UINT32_MAX, &later), 0);
	(void)take_request(&rig);
	assert_true(rpc_next_deadline_ms(&rig.rpc) > rpc_now_ms() + UINT32_MAX - 60000);
	before = rpc_now_ms();
	assert_int_equal(call(&rig, row, 30, &soon), 0);
	next = rpc_next_deadline_ms(&rig.rpc);
	assert_in_range(next, before + 30, rpc_now_ms() + 30);
	soon_id = take_request(&rig).request_id;
	rpc_expire(&rig.rpc);
	if (rpc_now_ms() < next)
		assert_int_equal(soon.times, 0);
	while (rpc_now_ms() < next)
		(void)usleep(1000);
	rpc_expire(&rig.rpc);
	rpc_expire(&rig.rpc);
	assert_int_equal(soon.times, 1);
	assert_int_equal(soon.status, PROTO_TIMEOUT);
	assert_false(soon.has_body);
	assert_int_equal(later.times, 0);
	/* The late answer, descriptor and all, is dropped and the connection lives. */
	send_reply(&rig, row, soon_id, 1);
	rpc_receive(&rig.rpc);
	assert_int_equal(soon.times, 1);
	assert_true(rpc_fd(&rig.rpc) >= 0);
	assert_int_equal(call(&rig, row, 0, &now), 0);
	rpc_expire(&rig.rpc);
	assert_int_equal(now.times, 1);
	assert_int_equal(now.status, PROTO_TIMEOUT);
	rig_end(&rig);
	assert_int_equal(later.times, 1);
	assert_int_equal(later.status, PROTO_UNREACHABLE);
	assert_int_equal(soon.times, 1);
}

static void test_fd_taken(void **state)
{
	const struct row_info *row = row_with(0, 1);
	struct seen seen = {.take_fd = true};
	struct rig rig;

	(void)state;
	rig_open(&rig);
	assert_int_equal(call(&rig, row, 60000, &seen), 0);
	send_reply(&rig, row, take_request(&rig).request_id, 1);
	rpc_receive(&rig.rpc);
	assert_int_equal(seen.times, 1);
	assert_true(fcntl(seen.fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(close(seen.fd), 0);
	rig_end(&rig);
}

/* One hostile datagram on a connection with a request pending: disconnect, callback once. */
static void hostile(const char *what, const struct row_info *asked, const uint8_t *msg, size_t len,
		    size_t n_fds)
{
	struct seen seen = {0};
	struct rig rig;
	int fds[9];

	rig_open(&rig);
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = rig.listen_fd;
	assert_int_equal(call(&rig, asked, 60000, &seen), 0);
	assert_int_equal(rig_send(rig.server, msg, len, fds, n_fds), 0);
	rpc_receive(&rig.rpc);
	if (rpc_fd(&rig.rpc) >= 0 || rig.closes != 1 || rig.events != 0 || seen.times != 1 ||
	    seen.status != PROTO_UNREACHABLE || seen.has_body)
		fail_msg("%s after %s: not disconnected", what, asked->name);
	rig_end(&rig);
	assert_int_equal(seen.times, 1);
	assert_int_equal(rig.closes, 1);
}

static void test_hostile_fields(void **state)
{
	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		const struct msg_info *info;
		uint8_t msg[PROTO_MSG_MAX];

		if (row->is_event ? row->from != PROTO_VMMON
				  : row->from != PROTO_AGENTD || row->to != PROTO_VMMON)
			continue;
		info = msg_find(row->stem, row->is_event ? "ev" : "rep");
		for (size_t f = 0; f < info->n_fields; f++)
			for (unsigned int way = 0;; way++) {
				size_t len = row->is_event ? msg_build(row, true, msg)
							   : msg_build_reply(row, true, msg);
				const char *what =
					msg_spoil(info, f, way, msg + sizeof(struct proto_header));

				if (!what)
					break;
				if (*what)
					hostile(what,
						row->is_event || row->req_fds > 0 ? row_with(0, 0)
										  : row,
						msg, len, row->rep_fds);
			}
	}
}

static void test_hostile_frames(void **state)
{
	const struct row_info *plain = row_with(0, 0), *with_fd = row_with(0, 1);
	uint8_t msg[PROTO_MSG_MAX + 8] = {0};
	size_t len;

	(void)state;
	/* The id is the first that rpc.c gives: 1, as in msg_build_reply()'s low form. */
	len = msg_build_reply(plain, false, msg);
	hostile("a descriptor where none belongs", plain, msg, len, 1);
	hostile("nine descriptors", plain, msg, len, 9);
	hostile("one byte short", plain, msg, len - 1, 0);
	hostile("one byte long", plain, msg, len + 1, 0);
	hostile("oversized", plain, msg, sizeof(msg), 0);
	hostile("zero length", plain, msg, 0, 0);
	hostile("zero length with a descriptor", plain, msg, 0, 1);
	hostile("the answer to another operation", with_fd, msg, len, 0);
	len = msg_build_reply(with_fd, false, msg);
	hostile("no descriptor where one belongs", with_fd, msg, len, 0);
	hostile("two descriptors", with_fd, msg, len, 2);
	len = msg_build(plain, false, msg);
	hostile("a request", plain, msg, len, 0);
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];

		if (row->from == PROTO_VMMON && row->to == PROTO_AGENTD)
			continue;
		if (row->from == PROTO_AGENTD && row->to == PROTO_VMMON)
			continue;
		len = row->is_event ? msg_build(row, false, msg) : msg_build_reply(row, false, msg);
		hostile("a message of another pair of processes", plain, msg, len, row->rep_fds);
	}
}

/* A well-formed answer that nobody asked for, descriptor and all, has no effect whatever. */
static void test_unsolicited(void **state)
{
	static const uint32_t ids[] = {2, 3, 1000, 1u << 31, UINT32_MAX};
	const struct row_info *row = row_with(0, 1);
	struct seen seen = {0};
	struct rig rig;
	size_t n_fds;

	(void)state;
	rig_open(&rig);
	assert_int_equal(call(&rig, row, 60000, &seen), 0);
	n_fds = rig_count_fds();
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		send_reply(&rig, row, ids[i], 1);
		rpc_receive(&rig.rpc);
		assert_int_equal(seen.times, 0);
		assert_int_equal(rig_count_fds(), n_fds);
	}
	send_reply(&rig, row, take_request(&rig).request_id, 1);
	rpc_receive(&rig.rpc);
	assert_int_equal(seen.times, 1);
	rig_end(&rig);
}

static void test_end_of_file(void **state)
{
	struct seen seen[3] = {{0}};
	struct rig rig;

	(void)state;
	rig_open(&rig);
	for (size_t i = 0; i < ARRAY_LEN(seen); i++)
		assert_int_equal(call(&rig, row_with(0, 0), 60000, &seen[i]), 0);
	rpc_receive(&rig.rpc); /* nothing there yet */
	assert_true(rpc_fd(&rig.rpc) >= 0);
	rig.server = safe_close(rig.server);
	rpc_receive(&rig.rpc);
	assert_true(rpc_fd(&rig.rpc) < 0);
	assert_int_equal(rig.closes, 1);
	for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
		assert_int_equal(seen[i].times, 1);
		assert_int_equal(seen[i].status, PROTO_UNREACHABLE);
	}
	rig_end(&rig);
}

/* Writing to a peer that is gone, or that does not read, is an error and no callback. */
static void test_call_fails(void **state)
{
	struct seen seen = {0};
	struct rig rig;
	union proto_body body;
	int r = 0, n = 0;

	(void)state;
	rig_open(&rig);
	rig.server = safe_close(rig.server);
	assert_true(call(&rig, row_with(0, 0), 60000, &seen) < 0);
	assert_int_equal(seen.times, 0);
	rig_end(&rig);
	assert_int_equal(seen.times, 0);

	rig_open(&rig);
	msg_fill(msg_of_row(row_with(0, 0)), true, &body);
	while (r == 0 && n++ < 100000) {
		r = rpc_call(&rig.rpc, row_with(0, 0)->number, &body, -1, 0, on_reply, &seen);
		rpc_expire(&rig.rpc);
	}
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(seen.times, n - 1);
	rig_end(&rig);
	assert_int_equal(seen.times, n - 1);
}

static void test_events(void **state)
{
	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		uint8_t msg[PROTO_MSG_MAX];
		struct rig rig;

		if (!row->is_event)
			continue;
		rig_open(&rig);
		rig.rpc.config.self = rig.rpc.conn.self = row->to;
		rig.rpc.config.peer = rig.rpc.conn.peer = row->from;
		for (unsigned int high = 0; high < 2; high++) {
			size_t len = msg_build(row, high, msg);

			assert_int_equal(rig_send(rig.server, msg, len, NULL, 0), 0);
			rpc_receive(&rig.rpc);
			assert_int_equal(rig.events, high + 1);
			assert_int_equal(rig.event_op, row->number);
		}
		rig.close_in_event = true;
		assert_int_equal(rig_send(rig.server, msg, msg_build(row, true, msg), NULL, 0), 0);
		rpc_receive(&rig.rpc);
		assert_int_equal(rig.closes, 1);
		/* Without a callback an event is nothing. */
		assert_int_equal(rpc_connect(&rig.rpc, rig_path("sock")), 0);
		(void)close(rig.server);
		rig_accept(&rig);
		rig.rpc.config.on_event = NULL;
		assert_int_equal(rig_send(rig.server, msg, msg_build(row, true, msg), NULL, 0), 0);
		rpc_receive(&rig.rpc);
		assert_true(rpc_fd(&rig.rpc) >= 0);
		rig_end(&rig);
	}
}

static void test_close_in_callback(void **state)
{
	const struct row_info *row = row_with(0, 1);
	struct seen seen[RPC_MAX_PENDING] = {{0}};
	struct rig rig;
	uint32_t id;

	(void)state;
	rig_open(&rig);
	for (size_t i = 0; i < RPC_MAX_PENDING; i++) {
		seen[i].close = i % 3 == 0;
		assert_int_equal(call(&rig, row, 60000, &seen[i]), 0);
	}
	id = take_request(&rig).request_id;
	send_reply(&rig, row, id, 1);
	rpc_receive(&rig.rpc);
	assert_int_equal(rig.closes, 1);
	for (size_t i = 0; i < RPC_MAX_PENDING; i++) {
		assert_int_equal(seen[i].times, 1);
		assert_int_equal(seen[i].status, i == 0 ? PROTO_OK : PROTO_UNREACHABLE);
	}
	rig_end(&rig);
}

static void test_close_in_expiry(void **state)
{
	struct seen seen[8] = {{0}};
	struct rig rig;

	(void)state;
	rig_open(&rig);
	for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
		seen[i].close = i == 2;
		assert_int_equal(call(&rig, row_with(0, 0), 0, &seen[i]), 0);
	}
	rpc_expire(&rig.rpc);
	assert_int_equal(rig.closes, 1);
	for (size_t i = 0; i < ARRAY_LEN(seen); i++)
		assert_int_equal(seen[i].times, 1);
	rig_end(&rig);
}

static void test_call_in_callback(void **state)
{
	const struct row_info *row = row_with(0, 0);
	struct seen last = {0}, second = {0}, first = {.call = true, .next = &second};
	struct rig rig;

	(void)state;
	rig_open(&rig);
	assert_int_equal(call(&rig, row, 60000, &first), 0);
	send_reply(&rig, row, take_request(&rig).request_id, 0);
	rpc_receive(&rig.rpc);
	assert_int_equal(first.times, 1);
	assert_int_equal(first.call_result, 0);
	assert_int_equal(second.times, 0);
	/* The second asks again when the connection ends: that must be refused, not lost. */
	second.call = true;
	second.next = &last;
	rig.server = safe_close(rig.server);
	rpc_receive(&rig.rpc);
	assert_int_equal(second.times, 1);
	assert_int_equal(second.status, PROTO_UNREACHABLE);
	assert_int_equal(second.call_result, -ENOTCONN);
	assert_int_equal(last.times, 0);
	rig_end(&rig);
	assert_int_equal(first.times + second.times, 2);
}

/* With all places taken, a callback still finds the one that its own answer made free. */
static void test_call_in_callback_when_full(void **state)
{
	const struct row_info *row = row_with(0, 0);
	struct seen seen[RPC_MAX_PENDING] = {{0}}, next = {0};
	struct rig rig;

	(void)state;
	rig_open(&rig);
	seen[0].call = true;
	seen[0].next = &next;
	for (size_t i = 0; i < RPC_MAX_PENDING; i++)
		assert_int_equal(call(&rig, row, 60000, &seen[i]), 0);
	send_reply(&rig, row, take_request(&rig).request_id, 0);
	rpc_receive(&rig.rpc);
	assert_int_equal(seen[0].times, 1);
	assert_int_equal(seen[0].call_result, 0);
	assert_int_equal(next.times, 0);
	rig_end(&rig);
	assert_int_equal(next.times, 1);
	for (size_t i = 0; i < RPC_MAX_PENDING; i++)
		assert_int_equal(seen[i].times, 1);
}

/* on_close is where a daemon connects again: an answer to the old connection's id is not ours. */
static void test_reconnect(void **state)
{
	const struct row_info *row = row_with(0, 0);
	struct seen old = {0}, fresh = {0};
	struct rig rig;
	uint32_t old_id;

	(void)state;
	rig_open(&rig);
	assert_int_equal(call(&rig, row, 60000, &old), 0);
	old_id = take_request(&rig).request_id;
	rig.call_in_close = true;
	rpc_close(&rig.rpc);
	assert_true(rpc_fd(&rig.rpc) >= 0);
	assert_int_equal(rig.closes, 1);
	(void)close(rig.server);
	rig_accept(&rig);
	assert_int_equal(call(&rig, row, 60000, &fresh), 0);
	assert_true(take_request(&rig).request_id != old_id);
	send_reply(&rig, row, old_id, 0);
	rpc_receive(&rig.rpc);
	assert_int_equal(old.times, 1);
	assert_int_equal(fresh.times, 0);
	rig_end(&rig);
	assert_int_equal(fresh.times, 1);
}

/* A callback that connects again at once must not mix the old connection's end with the new one. */
static void test_connect_in_callback(void **state)
{
	const struct row_info *row = row_with(0, 0);
	struct seen seen[4] = {{0}};
	struct rig rig;

	(void)state;
	rig_open(&rig);
	for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
		seen[i].connect = true;
		assert_int_equal(call(&rig, row, 60000, &seen[i]), 0);
	}
	rpc_close(&rig.rpc);
	assert_int_equal(rig.closes, 1);
	for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
		assert_int_equal(seen[i].times, 1);
		assert_int_equal(seen[i].status, PROTO_UNREACHABLE);
		assert_int_equal(seen[i].connect_result, -EBUSY);
	}
	assert_int_equal(rpc_connect(&rig.rpc, rig_path("sock")), 0);
	rig_end(&rig);
}

static void test_request_id_wraps(void **state)
{
	const struct row_info *row = row_with(0, 0);
	struct seen seen[3] = {{0}};
	struct rig rig;

	(void)state;
	rig_open(&rig);
	rig.rpc.next_id = UINT32_MAX;
	for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
		uint32_t id;

		assert_int_equal(call(&rig, row, 60000, &seen[i]), 0);
		id = take_request(&rig).request_id;
		assert_int_equal(id, i == 0 ? UINT32_MAX : i);
		send_reply(&rig, row, id, 0);
		rpc_receive(&rig.rpc);
		assert_int_equal(seen[i].times, 1);
	}
	rig_end(&rig);
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
		cmocka_unit_test(test_every_row),
		cmocka_unit_test(test_own_mistakes),
		cmocka_unit_test(test_not_connected),
		cmocka_unit_test(test_failed_status),
		cmocka_unit_test(test_answers_out_of_order),
		cmocka_unit_test(test_too_many_pending),
		cmocka_unit_test(test_deadlines),
		cmocka_unit_test(test_fd_taken),
		cmocka_unit_test(test_hostile_fields),
		cmocka_unit_test(test_hostile_frames),
		cmocka_unit_test(test_unsolicited),
		cmocka_unit_test(test_end_of_file),
		cmocka_unit_test(test_call_fails),
		cmocka_unit_test(test_events),
		cmocka_unit_test(test_close_in_callback),
		cmocka_unit_test(test_close_in_expiry),
		cmocka_unit_test(test_call_in_callback),
		cmocka_unit_test(test_call_in_callback_when_full),
		cmocka_unit_test(test_reconnect),
		cmocka_unit_test(test_connect_in_callback),
		cmocka_unit_test(test_request_id_wraps),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}
