/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the protocol's decoder from both sides. The first four bytes of an input say who receives,
 * from whom, in which state and with how many descriptors; the rest is the datagram.
 * Trust: a test; reads what the fuzzer invents.
 */
#include "common/base.h"
#include "proto/proto.h"

/* An assertion that no build option removes. */
#define INVARIANT(condition)                                                                       \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			(void)fprintf(stderr, "broken: %s, line %d\n", #condition, __LINE__);      \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

struct setting {
	struct proto_conn conn;
	size_t n_fds;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool refusal_known(int r)
{
	return r == -EBADMSG || r == -EOPNOTSUPP || r == -EACCES || r == -EALREADY;
}

static void check_row(const struct proto_op *op)
{
	INVARIANT(op >= proto_ops && op < proto_ops + proto_n_ops);
}

static void decode_request(const struct setting *s, const uint8_t *msg, size_t len)
{
	struct proto_conn conn = s->conn;
	struct proto_header header;
	const struct proto_op *op;
	union proto_body body;
	int r = proto_decode_request(&conn, msg, len, s->n_fds, &op, &header, &body);

	INVARIANT(conn.self == s->conn.self && conn.peer == s->conn.peer);
	INVARIANT(conn.state == s->conn.state);
	if (r != 0) {
		INVARIANT(refusal_known(r) && conn.used == s->conn.used);
		return;
	}
	check_row(op);
	INVARIANT(!op->is_event && op->to == conn.self && op->from == conn.peer);
	INVARIANT((op->states & conn.state) != 0);
	INVARIANT(op->req_fds == s->n_fds);
	INVARIANT(len == sizeof(header) + op->req_size && header.len == op->req_size);
	INVARIANT(header.op == op->number && header.kind == PROTO_REQUEST);
	INVARIANT(header.status == 0 && header.request_id != 0);
	INVARIANT(memcmp(body.bytes, msg + sizeof(header), op->req_size) == 0);
	INVARIANT(op->check_req(&body) == 0);
	INVARIANT(conn.used == (s->conn.used | UINT64_C(1) << (op - proto_ops)));
	r = proto_decode_request(&conn, msg, len, s->n_fds, &op, &header, &body);
	INVARIANT(r == (op->reuse == PROTO_ONCE ? -EALREADY : 0));
}

static void check_reply(const struct proto_op *op, const struct setting *s,
			const struct proto_header *header, const union proto_body *body)
{
	static const union proto_body zero;

	INVARIANT(op->to == s->conn.peer && op->from == s->conn.self);
	INVARIANT(header->kind == PROTO_REPLY && header->request_id != 0);
	INVARIANT(header->status < PROTO_STATUS_COUNT);
	if (header->status != PROTO_OK) {
		INVARIANT(header->len == 0 && s->n_fds == 0);
		INVARIANT(memcmp(body, &zero, sizeof(zero)) == 0);
		return;
	}
	INVARIANT(header->len == op->rep_size && s->n_fds == op->rep_fds);
	INVARIANT(op->check_rep(body) == 0);
}

static void decode_answer(const struct setting *s, const uint8_t *msg, size_t len)
{
	struct proto_header header;
	const struct proto_op *op;
	union proto_body body;
	int r = proto_decode_answer(&s->conn, msg, len, s->n_fds, &op, &header, &body);

	if (r != 0) {
		INVARIANT(refusal_known(r));
		return;
	}
	check_row(op);
	INVARIANT(header.op == op->number && len == sizeof(header) + header.len);
	if (!op->is_event) {
		check_reply(op, s, &header, &body);
		return;
	}
	INVARIANT(op->from == s->conn.peer && op->to == s->conn.self);
	INVARIANT(header.kind == PROTO_EVENT && header.request_id == 0 && header.status == 0);
	INVARIANT(s->n_fds == 0 && header.len == op->req_size && op->check_req(&body) == 0);
}

/* Once more with a length that is true: a mutation seldom keeps it, and nothing else is reached. */
static void decode_repaired(const struct setting *s, const uint8_t *msg, size_t len)
{
	_cleanup_free_ uint8_t *copy = malloc(len + 1);
	struct proto_header header;

	if (!copy)
		abort();
	if (len < sizeof(header))
		return;
	memcpy(copy, msg, len);
	memcpy(&header, msg, sizeof(header));
	header.len = (uint32_t)(len - sizeof(header));
	memcpy(copy, &header, sizeof(header));
	decode_request(s, copy, len);
	decode_answer(s, copy, len);
}

/* Names and texts from any bytes: a valid name survives, a text is always printable. */
static void make_fields(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = malloc(size + 1);
	char name[PROTO_NAME_SIZE], field[48];

	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	memset(name, '?', sizeof(name));
	if (proto_name_set(name, text) == 0)
		INVARIANT(proto_name_valid(text) && STR_EQ(name, text) && strlen(name) <= 32);
	else
		INVARIANT(!proto_name_valid(text) && name[0] == '?');
	proto_text_set(field, sizeof(field), text);
	INVARIANT(strlen(field) == MIN_OF(strlen(text), sizeof(field) - 1));
	for (const char *p = field; *p; p++)
		INVARIANT(*p >= 0x20 && *p <= 0x7e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct setting s;

	if (size < 4)
		return 0;
	s = (struct setting){
		.conn = {.self = (enum proto_role)(data[0] % 6),
			 .peer = (enum proto_role)(data[1] % 6),
			 .state = (enum proto_conn_state)(data[2] & 3),
			 .used = data[2] & 0x80 ? ~UINT64_C(0) : 0},
		.n_fds = data[3] % 4,
	};
	decode_request(&s, data + 4, size - 4);
	decode_answer(&s, data + 4, size - 4);
	decode_repaired(&s, data + 4, size - 4);
	make_fields(data + 4, size - 4);
	return 0;
}
