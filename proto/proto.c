/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The strict decoder, made from ops.def and msgs.def.
 * Trust: runs in every daemon; reads datagrams of a peer that may be hostile.
 */
#include "proto/proto.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* No body has padding, and every one fits into a datagram. */
#define U32(field, low, high) +sizeof(uint32_t)
#define U64(field, low, high) +sizeof(uint64_t)
#define NAME(field)           +PROTO_NAME_SIZE
#define TEXT(field, size)     +(size)
#define PORTS(field)          +sizeof(struct proto_port) * PROTO_MAX_PORTS
#define NAMES(field)          +PROTO_MAX_VMS *PROTO_NAME_SIZE
#define MSG(name, fields)                                                                          \
	static_assert(sizeof(struct name) == 0 fields, "padding in " #name);                       \
	static_assert(sizeof(struct name) <= sizeof(union proto_body), #name " is too big");
#include "proto/msgs.def"
#undef MSG
#undef NAMES
#undef PORTS
#undef TEXT
#undef NAME
#undef U64
#undef U32

static_assert(sizeof(struct proto_header) == 16, "the header has no padding");

static bool number_ok(uint64_t value, uint64_t low, uint64_t high)
{
	return value >= low && value <= high;
}

static bool name_char_ok(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

static bool all_zero(const void *p, size_t len)
{
	const uint8_t *bytes = p;

	for (size_t i = 0; i < len; i++)
		if (bytes[i] != 0)
			return false;
	return true;
}

static bool name_ok(const char field[static PROTO_NAME_SIZE])
{
	size_t len = strnlen(field, PROTO_NAME_SIZE);

	if (len == 0 || len > PROTO_NAME_MAX || field[0] == '-')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!name_char_ok(field[i]))
			return false;
	return all_zero(field + len, PROTO_NAME_SIZE - len);
}

static bool text_ok(const char *field, size_t size)
{
	size_t len = strnlen(field, size);

	if (len == size)
		return false;
	for (size_t i = 0; i < len; i++)
		if (field[i] < 0x20 || field[i] > 0x7e)
			return false;
	return all_zero(field + len, size - len);
}

static bool ports_ok(const struct proto_port ports[static PROTO_MAX_PORTS])
{
	size_t n = proto_ports_count(ports);

	for (size_t i = 0; i < n; i++) {
		if (ports[i].guest == 0)
			return false;
		for (size_t j = 0; j < i; j++)
			if (ports[j].host == ports[i].host)
				return false;
	}
	return all_zero(ports + n, (PROTO_MAX_PORTS - n) * sizeof(ports[0]));
}

static bool names_ok(const char names[static PROTO_MAX_VMS][PROTO_NAME_SIZE])
{
	size_t n = 0;

	while (n < PROTO_MAX_VMS && names[n][0] != '\0')
		n++;
	for (size_t i = 0; i < n; i++)
		if (!name_ok(names[i]))
			return false;
	return all_zero(names[n < PROTO_MAX_VMS ? n : 0],
			n < PROTO_MAX_VMS ? (PROTO_MAX_VMS - n) * PROTO_NAME_SIZE : 0);
}

/* One check per message: check_<name>(). */
#define U32(field, low, high) &&number_ok(m->field, low, high)
#define U64(field, low, high) &&number_ok(m->field, low, high)
#define NAME(field)           &&name_ok(m->field)
#define TEXT(field, size)     &&text_ok(m->field, size)
#define PORTS(field)          &&ports_ok(m->field)
#define NAMES(field)          &&names_ok(m->field)
#define MSG(name, fields)                                                                          \
	static int check_##name(const void *body)                                                  \
	{                                                                                          \
		const struct name *m = body;                                                       \
                                                                                                   \
		return (true fields) ? 0 : -EBADMSG;                                               \
	}
#include "proto/msgs.def"
#undef MSG
#undef NAMES
#undef PORTS
#undef TEXT
#undef NAME
#undef U64
#undef U32

#define ST_NEW   PROTO_ST_NEW
#define ST_READY PROTO_ST_READY
const struct proto_op proto_ops[] = {
#define OP(name_, number_, from_, to_, stem_, req_fds_, rep_fds_, states_, reuse_, effect_)        \
	{                                                                                          \
		.number = (number_),                                                               \
		.name = #name_,                                                                    \
		.stem = #stem_,                                                                    \
		.effect = effect_,                                                                 \
		.from = PROTO_##from_,                                                             \
		.to = PROTO_##to_,                                                                 \
		.states = states_,                                                                 \
		.reuse = PROTO_##reuse_,                                                           \
		.req_fds = req_fds_,                                                               \
		.rep_fds = rep_fds_,                                                               \
		.req_size = sizeof(struct stem_##_req),                                            \
		.rep_size = sizeof(struct stem_##_rep),                                            \
		.check_req = check_##stem_##_req,                                                  \
		.check_rep = check_##stem_##_rep,                                                  \
	},
#define EV(name_, number_, from_, to_, stem_, effect_)                                             \
	{                                                                                          \
		.number = (number_),                                                               \
		.name = #name_,                                                                    \
		.stem = #stem_,                                                                    \
		.effect = effect_,                                                                 \
		.from = PROTO_##from_,                                                             \
		.to = PROTO_##to_,                                                                 \
		.is_event = true,                                                                  \
		.req_size = sizeof(struct stem_##_ev),                                             \
		.check_req = check_##stem_##_ev,                                                   \
	},
#include "proto/ops.def"
#undef EV
#undef OP
};
#undef ST_NEW
#undef ST_READY

const size_t proto_n_ops = sizeof(proto_ops) / sizeof(proto_ops[0]);
static_assert(sizeof(proto_ops) / sizeof(proto_ops[0]) <= 64, "proto_conn.used has a bit per row");

const struct proto_op *proto_find(uint32_t number)
{
	for (size_t i = 0; i < proto_n_ops; i++)
		if (proto_ops[i].number == number)
			return &proto_ops[i];
	return NULL;
}

/* Splits a datagram; the body's size is checked by the caller against its row. */
static int split(const void *buf, size_t len, struct proto_header *ret_header,
		 union proto_body *ret_body)
{
	if (len < sizeof(*ret_header) || len > PROTO_MSG_MAX)
		return -EBADMSG;
	memcpy(ret_header, buf, sizeof(*ret_header));
	if (ret_header->len != len - sizeof(*ret_header))
		return -EBADMSG;
	memset(ret_body, 0, sizeof(*ret_body));
	memcpy(ret_body, (const uint8_t *)buf + sizeof(*ret_header), ret_header->len);
	return 0;
}

int proto_decode_request(struct proto_conn *conn, const void *buf, size_t len, size_t n_fds,
			 const struct proto_op **ret_op, struct proto_header *ret_header,
			 union proto_body *ret_body)
{
	const struct proto_op *op;
	uint64_t bit;
	int r = split(buf, len, ret_header, ret_body);

	if (r < 0)
		return r;
	if (ret_header->kind != PROTO_REQUEST || ret_header->status != 0 ||
	    ret_header->request_id == 0)
		return -EBADMSG;
	op = proto_find(ret_header->op);
	if (!op || op->is_event || op->to != conn->self)
		return -EOPNOTSUPP;
	if (op->from != conn->peer || !(op->states & conn->state))
		return -EACCES;
	bit = UINT64_C(1) << (op - proto_ops);
	if (op->reuse == PROTO_ONCE && (conn->used & bit))
		return -EALREADY;
	if (ret_header->len != op->req_size || n_fds != op->req_fds)
		return -EBADMSG;
	r = op->check_req(ret_body);
	if (r < 0)
		return r;
	conn->used |= bit;
	*ret_op = op;
	return 0;
}

static int check_reply(const struct proto_op *op, const struct proto_header *h, size_t n_fds,
		       const union proto_body *body)
{
	if (h->kind != PROTO_REPLY || h->request_id == 0 || h->status >= PROTO_STATUS_COUNT)
		return -EBADMSG;
	if (h->status != PROTO_OK)
		return h->len == 0 && n_fds == 0 ? 0 : -EBADMSG;
	if (h->len != op->rep_size || n_fds != op->rep_fds)
		return -EBADMSG;
	return op->check_rep(body);
}

static int check_event(const struct proto_op *op, const struct proto_header *h, size_t n_fds,
		       const union proto_body *body)
{
	if (h->kind != PROTO_EVENT || h->request_id != 0 || h->status != 0)
		return -EBADMSG;
	if (h->len != op->req_size || n_fds != 0)
		return -EBADMSG;
	return op->check_req(body);
}

int proto_decode_answer(const struct proto_conn *conn, const void *buf, size_t len, size_t n_fds,
			const struct proto_op **ret_op, struct proto_header *ret_header,
			union proto_body *ret_body)
{
	const struct proto_op *op;
	int r = split(buf, len, ret_header, ret_body);

	if (r < 0)
		return r;
	op = proto_find(ret_header->op);
	if (!op)
		return -EOPNOTSUPP;
	if (op->is_event ? op->from != conn->peer || op->to != conn->self
			 : op->to != conn->peer || op->from != conn->self)
		return -EACCES;
	r = op->is_event ? check_event(op, ret_header, n_fds, ret_body)
			 : check_reply(op, ret_header, n_fds, ret_body);
	if (r < 0)
		return r;
	*ret_op = op;
	return 0;
}

bool proto_name_valid(const char *name)
{
	char field[PROTO_NAME_SIZE];

	return proto_name_set(field, name) == 0;
}

int proto_name_set(char field[static PROTO_NAME_SIZE], const char *name)
{
	char buf[PROTO_NAME_SIZE] = {0};
	size_t len = strnlen(name, PROTO_NAME_MAX + 1);

	if (len > PROTO_NAME_MAX)
		return -EINVAL;
	memcpy(buf, name, len);
	if (!name_ok(buf))
		return -EINVAL;
	memcpy(field, buf, sizeof(buf));
	return 0;
}

void proto_text_set(char *field, size_t size, const char *text)
{
	size_t len = strnlen(text, size - 1);

	memset(field, 0, size);
	for (size_t i = 0; i < len; i++)
		field[i] = (text[i] < 0x20 || text[i] > 0x7e) ? '?' : text[i];
}

size_t proto_ports_count(const struct proto_port ports[static PROTO_MAX_PORTS])
{
	size_t n = 0;

	while (n < PROTO_MAX_PORTS && ports[n].host != 0)
		n++;
	return n;
}

const char *proto_role_name(enum proto_role role)
{
	switch (role) {
	case PROTO_AGENTD:
		return "agentd";
	case PROTO_HELPER:
		return "vfio-helper";
	case PROTO_VMMON:
		return "vmmon";
	case PROTO_FRP:
		return "frp-supervisor";
	}
	return "unknown";
}

static const struct {
	const char *name;
	const char *text;
} status_words[] = {
#define X(name_, text_) [PROTO_##name_] = {#name_, text_},
	PROTO_STATUS_LIST(X)
#undef X
};

const char *proto_status_name(enum proto_status status)
{
	return (size_t)status < PROTO_STATUS_COUNT ? status_words[status].name : "UNKNOWN";
}

const char *proto_status_text(enum proto_status status)
{
	return (size_t)status < PROTO_STATUS_COUNT ? status_words[status].text : "unknown status";
}
