/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table walk: what proto.h promises, asserted for every row of ops.def and every field of
 * msgs.def, as requests, replies and events.
 * Trust: runs in tests only.
 */
#include "tests/unit/msgtable.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct decoded {
	const struct proto_op *op;
	struct proto_header header;
	union proto_body body;
	uint8_t guard[PROTO_MSG_MAX]; /* must stay as decode() fills it */
};

static struct proto_conn server_conn(const struct row_info *row)
{
	return (struct proto_conn){.self = row->to, .peer = row->from, .state = row_state(row)};
}

/* The side that gets @row's reply, or the event itself. */
static struct proto_conn client_conn(const struct row_info *row)
{
	struct proto_conn conn = {.self = row->from, .peer = row->to, .state = PROTO_ST_READY};

	if (row->is_event) {
		conn.self = row->to;
		conn.peer = row->from;
	}
	return conn;
}

/* Decodes from an odd address, so that a sanitizer sees any careless cast. */
static int decode(struct proto_conn *conn, bool as_server, const uint8_t *msg, size_t len,
		  size_t n_fds, struct decoded *ret)
{
	_cleanup_free_ uint8_t *odd = malloc(len + 1);
	int r;

	assert_non_null(odd);
	memset(ret, 0xa5, sizeof(*ret));
	memcpy(odd + 1, msg, len);
	r = as_server ? proto_decode_request(conn, odd + 1, len, n_fds, &ret->op, &ret->header,
					     &ret->body)
		      : proto_decode_answer(conn, odd + 1, len, n_fds, &ret->op, &ret->header,
					    &ret->body);
	for (size_t i = 0; i < sizeof(ret->guard); i++)
		assert_int_equal(ret->guard[i], 0xa5);
	return r;
}

#define EXPECT(row, what, want, got)                                                               \
	do {                                                                                       \
		int got_ = (got);                                                                  \
		if (got_ != (want))                                                                \
			fail_msg("%s: %s: got %d, expected %d", (row)->name, what, got_,           \
				 (int)(want));                                                     \
	} while (0)

/* A message that must be refused with @want, and must leave the connection's record alone. */
static void refuse_request(const struct row_info *row, const struct proto_conn *conn,
			   const char *what, int want, const uint8_t *msg, size_t len, size_t n_fds)
{
	struct proto_conn c = *conn;
	struct decoded d;

	EXPECT(row, what, want, decode(&c, true, msg, len, n_fds, &d));
	assert_true(c.used == conn->used);
	assert_int_equal(c.state, conn->state);
}

static void refuse_answer(const struct row_info *row, const char *what, int want,
			  const uint8_t *msg, size_t len, size_t n_fds)
{
	struct proto_conn c = client_conn(row);
	struct decoded d;

	EXPECT(row, what, want, decode(&c, false, msg, len, n_fds, &d));
}

static void patch_header(uint8_t *msg, const struct proto_header *header)
{
	memcpy(msg, header, sizeof(*header));
}

static struct proto_header header_of(const uint8_t *msg)
{
	struct proto_header header;

	memcpy(&header, msg, sizeof(header));
	return header;
}

static void test_declarations(void **state)
{
	(void)state;
	assert_int_equal(proto_n_ops, row_n_infos);
	assert_int_equal(sizeof(struct proto_header), 16);
	for (size_t i = 0; i < msg_n_infos; i++)
		assert_int_equal(msg_field_offset(&msg_infos[i], msg_infos[i].n_fields),
				 msg_infos[i].size);
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		const struct proto_op *op = proto_find(row->number);

		assert_non_null(op);
		assert_string_equal(op->name, row->name);
		assert_string_equal(op->stem, row->stem);
		assert_true(op->effect && *op->effect);
		assert_int_equal(op->from, row->from);
		assert_int_equal(op->to, row->to);
		assert_int_equal(op->states, row->states);
		assert_int_equal(op->reuse, row->once ? PROTO_ONCE : PROTO_MANY);
		assert_int_equal(op->req_fds, row->req_fds);
		assert_int_equal(op->rep_fds, row->rep_fds);
		assert_int_equal(op->is_event, row->is_event);
		assert_int_equal(op->req_size, msg_of_row(row)->size);
		assert_true(row->req_fds <= PROTO_MAX_FDS && row->rep_fds <= PROTO_MAX_FDS);
		assert_true(row->from != row->to);
		assert_true(row->is_event == (row->states == 0));
	}
}

static void test_numbers_unique(void **state)
{
	(void)state;
	for (size_t i = 0; i < row_n_infos; i++)
		for (size_t j = 0; j < i; j++) {
			assert_true(row_infos[i].number != row_infos[j].number);
			/* One block of 256 belongs to one pair of roles. */
			if (row_infos[i].number >> 8 != row_infos[j].number >> 8)
				continue;
			assert_true(row_infos[i].from + row_infos[i].to ==
				    row_infos[j].from + row_infos[j].to);
		}
}

static void test_requests_valid(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];
	struct decoded d;

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];

		for (int high = 0; high < 2 && !row->is_event; high++) {
			struct proto_conn conn = server_conn(row);
			size_t len = msg_build(row, high, msg);

			EXPECT(row, high ? "high bounds" : "low bounds", 0,
			       decode(&conn, true, msg, len, row->req_fds, &d));
			assert_ptr_equal(d.op, proto_find(row->number));
			assert_memory_equal(&d.header, msg, sizeof(d.header));
			assert_memory_equal(d.body.bytes, msg + sizeof(d.header),
					    len - sizeof(d.header));
			assert_true(conn.used == UINT64_C(1) << (d.op - proto_ops));
		}
	}
}

static void test_answers_valid(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];
	struct decoded d;

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		struct proto_conn conn = client_conn(row);

		for (int high = 0; high < 2; high++) {
			size_t len = row->is_event ? msg_build(row, high, msg)
						   : msg_build_reply(row, high, msg);

			EXPECT(row, high ? "high bounds" : "low bounds", 0,
			       decode(&conn, false, msg, len, row->rep_fds, &d));
			assert_ptr_equal(d.op, proto_find(row->number));
			assert_memory_equal(&d.header, msg, sizeof(d.header));
			assert_memory_equal(d.body.bytes, msg + sizeof(d.header),
					    len - sizeof(d.header));
		}
	}
}

/* Each field of a message broken in each way, the rest of it valid. */
static void spoil_all(const struct row_info *row, const struct msg_info *info, bool as_request,
		      const uint8_t *valid, size_t len, size_t n_fds)
{
	const struct proto_conn conn = server_conn(row);
	uint8_t msg[PROTO_MSG_MAX];
	char what[160];

	for (size_t f = 0; f < info->n_fields; f++)
		for (unsigned int way = 0;; way++) {
			const char *done;

			memcpy(msg, valid, len);
			done = msg_spoil(info, f, way, msg + sizeof(struct proto_header));
			if (!done)
				break;
			if (*done == '\0')
				continue;
			(void)snprintf(what, sizeof(what), "%s.%s: %s", info->name,
				       info->fields[f].name, done);
			if (as_request)
				refuse_request(row, &conn, what, -EBADMSG, msg, len, n_fds);
			else
				refuse_answer(row, what, -EBADMSG, msg, len, n_fds);
		}
}

static void test_fields_spoiled(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];

		for (int high = 0; high < 2; high++) {
			size_t len = msg_build(row, high, msg);

			spoil_all(row, msg_of_row(row), !row->is_event, msg, len, row->req_fds);
			if (row->is_event)
				continue;
			len = msg_build_reply(row, high, msg);
			spoil_all(row, msg_find(row->stem, "rep"), false, msg, len, row->rep_fds);
		}
	}
}

/* Every length but the right one, with a header that tells the truth and one that lies. */
static void wrong_sizes(const struct row_info *row, bool as_request, const uint8_t *valid,
			size_t len, size_t n_fds)
{
	const struct proto_conn conn = server_conn(row);
	uint8_t msg[2 * PROTO_MSG_MAX] = {0};

	memcpy(msg, valid, len);
	for (size_t cut = 0; cut <= sizeof(msg); cut++) {
		struct proto_header header = header_of(valid);

		if (cut == len || (cut > len + 64 && cut < PROTO_MSG_MAX - 2) ||
		    (cut > PROTO_MSG_MAX + 64 && cut < sizeof(msg)))
			continue;
		patch_header(msg, &header);
		if (as_request)
			refuse_request(row, &conn, "lying length", -EBADMSG, msg, cut, n_fds);
		else
			refuse_answer(row, "lying length", -EBADMSG, msg, cut, n_fds);
		if (cut < sizeof(header))
			continue;
		header.len = (uint32_t)(cut - sizeof(header));
		patch_header(msg, &header);
		if (as_request)
			refuse_request(row, &conn, "wrong size", -EBADMSG, msg, cut, n_fds);
		else
			refuse_answer(row, "wrong size", -EBADMSG, msg, cut, n_fds);
	}
}

static void test_sizes(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		size_t len = msg_build(row, false, msg);

		wrong_sizes(row, !row->is_event, msg, len, row->req_fds);
		if (row->is_event)
			continue;
		len = msg_build_reply(row, false, msg);
		wrong_sizes(row, false, msg, len, row->rep_fds);
	}
}

static void test_header_len_lies(void **state)
{
	static const uint32_t lies[] = {1, 16, UINT32_MAX, UINT32_MAX - 15, 1u << 31};
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++)
		for (size_t k = 0; k < ARRAY_LEN(lies); k++) {
			const struct row_info *row = &row_infos[i];
			const struct proto_conn conn = server_conn(row);
			size_t len = msg_build(row, false, msg);
			struct proto_header header = header_of(msg);

			header.len += lies[k];
			patch_header(msg, &header);
			if (row->is_event)
				refuse_answer(row, "len lies", -EBADMSG, msg, len, 0);
			else
				refuse_request(row, &conn, "len lies", -EBADMSG, msg, len,
					       row->req_fds);
		}
}

static void test_descriptor_counts(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		const struct proto_conn conn = server_conn(row);

		for (size_t n = 0; n < 10; n++) {
			size_t len = msg_build(row, false, msg);

			if (n != row->req_fds && !row->is_event)
				refuse_request(row, &conn, "descriptors", -EBADMSG, msg, len, n);
			if (n > 0 && row->is_event)
				refuse_answer(row, "descriptors", -EBADMSG, msg, len, n);
			if (row->is_event || n == row->rep_fds)
				continue;
			len = msg_build_reply(row, false, msg);
			refuse_answer(row, "descriptors", -EBADMSG, msg, len, n);
		}
	}
}

static void test_wrong_peer_as_server(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++)
		for (int role = 0; role <= PROTO_FRP + 1; role++) {
			const struct row_info *row = &row_infos[i];
			struct proto_conn conn = server_conn(row);
			size_t len = msg_build(row, false, msg);

			if (row->is_event)
				continue;
			conn.peer = (enum proto_role)role;
			if (role != (int)row->from)
				refuse_request(row, &conn, "wrong peer", -EACCES, msg, len,
					       row->req_fds);
			conn = server_conn(row);
			conn.self = (enum proto_role)role;
			if (role != (int)row->to)
				refuse_request(row, &conn, "not served here", -EOPNOTSUPP, msg, len,
					       row->req_fds);
		}
}

static void test_wrong_peer_as_client(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];
	struct decoded d;

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++)
		for (int self = 0; self <= PROTO_FRP + 1; self++)
			for (int peer = 0; peer <= PROTO_FRP + 1; peer++) {
				const struct row_info *row = &row_infos[i];
				struct proto_conn conn = client_conn(row);
				bool right = self == (int)conn.self && peer == (int)conn.peer;
				size_t len = row->is_event ? msg_build(row, false, msg)
							   : msg_build_reply(row, false, msg);

				conn.self = (enum proto_role)self;
				conn.peer = (enum proto_role)peer;
				EXPECT(row, "roles", right ? 0 : -EACCES,
				       decode(&conn, false, msg, len, row->rep_fds, &d));
			}
}

static void test_wrong_state(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++)
		for (unsigned int bit = 0; bit < 8; bit++) {
			const struct row_info *row = &row_infos[i];
			struct proto_conn conn = server_conn(row);
			size_t len = msg_build(row, false, msg);

			if (row->is_event || (row->states & 1u << bit))
				continue;
			conn.state = (enum proto_conn_state)(1u << bit);
			refuse_request(row, &conn, "wrong state", -EACCES, msg, len, row->req_fds);
			conn.state = (enum proto_conn_state)0;
			refuse_request(row, &conn, "no state", -EACCES, msg, len, row->req_fds);
		}
}

static void test_reuse(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];
	struct decoded d;

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		struct proto_conn conn = server_conn(row);
		size_t len = msg_build(row, false, msg);

		if (row->is_event)
			continue;
		/* A refused message does not use the row up. */
		EXPECT(row, "refused", -EBADMSG,
		       decode(&conn, true, msg, len, row->req_fds + 1, &d));
		EXPECT(row, "first", 0, decode(&conn, true, msg, len, row->req_fds, &d));
		EXPECT(row, "again", row->once ? -EALREADY : 0,
		       decode(&conn, true, msg, len, row->req_fds, &d));
		/* Every other row having been used does not matter. */
		conn.used = ~(UINT64_C(1) << (proto_find(row->number) - proto_ops));
		EXPECT(row, "others used", 0, decode(&conn, true, msg, len, row->req_fds, &d));
	}
}

static void test_request_header(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		const struct proto_conn conn = server_conn(row);
		size_t len = msg_build(row, false, msg);
		struct proto_header header;

		if (row->is_event)
			continue;
		for (uint32_t kind = 0; kind <= UINT16_MAX; kind += kind > 8 ? 1021 : 1) {
			header = header_of(msg);
			header.kind = (uint16_t)kind;
			patch_header(msg, &header);
			if (kind != PROTO_REQUEST)
				refuse_request(row, &conn, "wrong kind", -EBADMSG, msg, len,
					       row->req_fds);
		}
		for (uint32_t status = 1; status <= UINT16_MAX; status = status * 2 + 1) {
			(void)msg_build(row, false, msg);
			header = header_of(msg);
			header.status = (uint16_t)status;
			patch_header(msg, &header);
			refuse_request(row, &conn, "status set", -EBADMSG, msg, len, row->req_fds);
		}
		(void)msg_build(row, false, msg);
		header = header_of(msg);
		header.request_id = 0;
		patch_header(msg, &header);
		refuse_request(row, &conn, "request_id 0", -EBADMSG, msg, len, row->req_fds);
	}
}

static void test_answer_header(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		size_t len = row->is_event ? msg_build(row, false, msg)
					   : msg_build_reply(row, false, msg);
		const struct proto_header valid = header_of(msg);
		struct proto_header header;

		for (uint32_t kind = 0; kind <= UINT16_MAX; kind += kind > 8 ? 1021 : 1) {
			header = valid;
			header.kind = (uint16_t)kind;
			patch_header(msg, &header);
			if (kind != valid.kind)
				refuse_answer(row, "wrong kind", -EBADMSG, msg, len, row->rep_fds);
		}
		header = valid;
		header.request_id = row->is_event ? 1 : 0;
		patch_header(msg, &header);
		refuse_answer(row, "request_id", -EBADMSG, msg, len, row->rep_fds);
		for (uint32_t status = 1; status <= UINT16_MAX; status += status < 32 ? 1 : 997) {
			header = valid;
			header.status = (uint16_t)status;
			patch_header(msg, &header);
			/* A failure never carries a body; nor does an event carry a status. */
			refuse_answer(row, "status with a body", -EBADMSG, msg, len, row->rep_fds);
		}
	}
}

static void test_failed_replies(void **state)
{
	static const union proto_body zero;
	uint8_t msg[PROTO_MSG_MAX];
	struct decoded d;

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++)
		for (uint32_t status = 0; status <= UINT16_MAX; status += status < 32 ? 1 : 997) {
			const struct row_info *row = &row_infos[i];
			struct proto_conn conn = client_conn(row);
			struct proto_header header = {.op = row->number,
						      .kind = PROTO_REPLY,
						      .status = (uint16_t)status,
						      .request_id = 7};
			bool known = status > PROTO_OK && status < PROTO_STATUS_COUNT;

			if (row->is_event)
				continue;
			patch_header(msg, &header);
			EXPECT(row, "no body", known ? 0 : -EBADMSG,
			       decode(&conn, false, msg, sizeof(header), 0, &d));
			if (known)
				assert_memory_equal(&d.body, &zero, sizeof(zero));
			refuse_answer(row, "failed with a descriptor", -EBADMSG, msg,
				      sizeof(header), 1);
		}
}

/* A reply that arrives at the server, a request that arrives at the client, an event as a request.
 */
static void test_wrong_direction(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		const struct proto_conn conn = server_conn(row);
		size_t len = msg_build(row, false, msg);
		struct proto_header header = header_of(msg);
		struct decoded d;

		if (!row->is_event) {
			refuse_answer(row, "request to a client", -EBADMSG, msg, len, row->req_fds);
			len = msg_build_reply(row, false, msg);
			refuse_request(row, &conn, "reply to a server", -EBADMSG, msg, len,
				       row->rep_fds);
			continue;
		}
		header.kind = PROTO_REQUEST;
		header.request_id = 1;
		patch_header(msg, &header);
		for (unsigned int st = 0; st < 4; st++)
			for (int self = PROTO_AGENTD; self <= PROTO_FRP; self++) {
				struct proto_conn any = {.self = (enum proto_role)self,
							 .peer = row->from,
							 .state = (enum proto_conn_state)st};

				EXPECT(row, "event as a request", -EOPNOTSUPP,
				       decode(&any, true, msg, len, 0, &d));
			}
	}
}

static void test_unknown_operations(void **state)
{
	static const uint32_t far[] = {0x10101, 0x01010000, 0x80000101, UINT32_MAX, UINT32_MAX - 1};
	uint8_t msg[PROTO_MSG_MAX];
	size_t len = msg_build(&row_infos[0], false, msg);
	struct proto_header header = header_of(msg);
	struct decoded d;

	(void)state;
	for (uint32_t i = 0; i < 0x800 + ARRAY_LEN(far); i++) {
		struct proto_conn conn = server_conn(&row_infos[0]);

		header.op = i < 0x800 ? i : far[i - 0x800];
		if (proto_find(header.op))
			continue;
		header.kind = PROTO_REQUEST;
		patch_header(msg, &header);
		assert_int_equal(decode(&conn, true, msg, len, 0, &d), -EOPNOTSUPP);
		header.kind = PROTO_REPLY;
		patch_header(msg, &header);
		assert_int_equal(decode(&conn, false, msg, len, 0, &d), -EOPNOTSUPP);
	}
	assert_null(proto_find(0));
	for (size_t i = 0; i < proto_n_ops; i++)
		assert_ptr_equal(proto_find(proto_ops[i].number), &proto_ops[i]);
}

/* One bit of a valid message flipped: whatever is still taken obeys the table. */
static void test_bit_flips(void **state)
{
	uint8_t msg[PROTO_MSG_MAX];

	(void)state;
	for (size_t i = 0; i < row_n_infos; i++) {
		const struct row_info *row = &row_infos[i];
		size_t len = msg_build(row, true, msg);

		for (size_t bit = 0; bit < len * 8 && !row->is_event; bit++) {
			struct proto_conn conn = server_conn(row);
			struct decoded d;

			msg[bit / 8] ^= (uint8_t)(1u << bit % 8);
			if (decode(&conn, true, msg, len, row->req_fds, &d) == 0) {
				assert_int_equal(d.op->from, conn.peer);
				assert_int_equal(d.op->to, conn.self);
				assert_int_equal(d.op->req_size + sizeof(d.header), len);
				assert_int_equal(d.op->check_req(&d.body), 0);
				/* Kind, status and length of a request allow no other value. */
				assert_true(bit < 32 || bit >= 64);
				assert_true(bit < 96 || bit >= 128);
			}
			msg[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
}

static void test_names(void **state)
{
	char field[PROTO_NAME_SIZE + 1], before[PROTO_NAME_SIZE + 1];
	const char *const good[] = {"a",
				    "0",
				    "9z",
				    "a-",
				    "a--b",
				    "0123456789abcdef",
				    "abcdefghijklmnopqrstuvwxyz012345"};
	const char *const bad[] = {
		"",    "-",    "-a",          "A",
		"aB",  "a_b",  ".",           "..",
		"a/b", "a b",  "a\n",         "a:b",
		"a\t", "\xff", "caf\xc3\xa9", "abcdefghijklmnopqrstuvwxyz0123456"};
	_cleanup_free_ char *huge = malloc(1 << 20);

	(void)state;
	memset(field, 'x', sizeof(field));
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_true(proto_name_valid(good[i]));
		assert_int_equal(proto_name_set(field, good[i]), 0);
		assert_string_equal(field, good[i]);
		for (size_t k = strlen(good[i]); k < PROTO_NAME_SIZE; k++)
			assert_int_equal(field[k], 0);
		assert_int_equal(field[PROTO_NAME_SIZE], 'x');
	}
	memcpy(before, field, sizeof(field));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_false(proto_name_valid(bad[i]));
		assert_int_equal(proto_name_set(field, bad[i]), -EINVAL);
		assert_memory_equal(field, before, sizeof(field));
	}
	assert_non_null(huge);
	memset(huge, 'a', 1 << 20);
	huge[(1 << 20) - 1] = '\0';
	assert_false(proto_name_valid(huge));
}

static void test_texts(void **state)
{
	char field[9];

	(void)state;
	memset(field, 'x', sizeof(field));
	proto_text_set(field, 8, "ab");
	assert_memory_equal(field, "ab\0\0\0\0\0\0x", 9);
	proto_text_set(field, 8, "1234567");
	assert_memory_equal(field, "1234567\0x", 9);
	proto_text_set(field, 8, "123456789");
	assert_memory_equal(field, "1234567\0x", 9);
	proto_text_set(field, 8, "\n\x1b[\x7f\x80\xff~");
	assert_memory_equal(field, "??[???~\0x", 9);
	proto_text_set(field, 8, "");
	assert_memory_equal(field, "\0\0\0\0\0\0\0\0x", 9);
	proto_text_set(field, 1, "a");
	assert_int_equal(field[0], 0);
}

static void test_ports_count(void **state)
{
	struct proto_port ports[PROTO_MAX_PORTS] = {{0}};

	(void)state;
	for (size_t n = 0; n < PROTO_MAX_PORTS; n++) {
		assert_int_equal(proto_ports_count(ports), n);
		ports[n] = (struct proto_port){(uint16_t)(n + 1), 1};
	}
	assert_int_equal(proto_ports_count(ports), PROTO_MAX_PORTS);
}

static void test_words(void **state)
{
	(void)state;
	for (int i = -2; i < 300; i++) {
		assert_non_null(proto_status_name((enum proto_status)i));
		assert_non_null(proto_status_text((enum proto_status)i));
		assert_non_null(proto_role_name((enum proto_role)i));
	}
	assert_string_equal(proto_status_name(PROTO_OK), "OK");
	assert_string_equal(proto_status_name(PROTO_NO_SPACE), "NO_SPACE");
	assert_string_equal(proto_role_name(PROTO_AGENTD), "agentd");
	for (int i = 0; i < PROTO_STATUS_COUNT; i++)
		for (int j = 0; j < i; j++)
			assert_string_not_equal(proto_status_name((enum proto_status)i),
						proto_status_name((enum proto_status)j));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_declarations),
		cmocka_unit_test(test_numbers_unique),
		cmocka_unit_test(test_requests_valid),
		cmocka_unit_test(test_answers_valid),
		cmocka_unit_test(test_fields_spoiled),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_header_len_lies),
		cmocka_unit_test(test_descriptor_counts),
		cmocka_unit_test(test_wrong_peer_as_server),
		cmocka_unit_test(test_wrong_peer_as_client),
		cmocka_unit_test(test_wrong_state),
		cmocka_unit_test(test_reuse),
		cmocka_unit_test(test_request_header),
		cmocka_unit_test(test_answer_header),
		cmocka_unit_test(test_failed_replies),
		cmocka_unit_test(test_wrong_direction),
		cmocka_unit_test(test_unknown_operations),
		cmocka_unit_test(test_bit_flips),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_texts),
		cmocka_unit_test(test_ports_count),
		cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
