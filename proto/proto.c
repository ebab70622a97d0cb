/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The strict decoder, made from ops.def and msgs.def.
 * Trust: runs in every daemon; reads datagrams of a peer that may be hostile.
 */
#include "proto/proto.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static_assert(sizeof(struct proto_header) == 16, "the header has no padding");

static bool number_ok(uint64_t value, uint64_t low, uint64_t high)
{
	return value >= low && value <= high;
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
	return proto_all_zero(ports + n, (PROTO_MAX_PORTS - n) * sizeof(ports[0]));
}

static bool names_ok(const char names[static PROTO_MAX_VMS][PROTO_NAME_SIZE])
{
	size_t n = 0;

	while (n < PROTO_MAX_VMS && names[n][0] != '\0')
		n++;
	for (size_t i = 0; i < n; i++)
		if (!proto_name_ok(names[i]))
			return false;
	return proto_all_zero(names[n < PROTO_MAX_VMS ? n : 0],
			      n < PROTO_MAX_VMS ? (PROTO_MAX_VMS - n) * PROTO_NAME_SIZE : 0);
}

/* Ascending, so that no address is there twice. */
static bool gpus_ok(const uint64_t gpus[static PROTO_MAX_GPUS])
{
	size_t n = proto_gpus_count(gpus);

	for (size_t i = 0; i < n; i++)
		if (gpus[i] > PROTO_PCI_MAX || (i > 0 && gpus[i] <= gpus[i - 1]))
			return false;
	return n > 0 && proto_all_zero(gpus + n, (PROTO_MAX_GPUS - n) * sizeof(gpus[0]));
}

static bool proxies_ok(const struct proto_proxy proxies[static PROTO_MAX_PORTS])
{
	size_t n = proto_proxies_count(proxies);

	for (size_t i = 0; i < n; i++) {
		if (proxies[i].remote == 0 || proxies[i].kind == 0 ||
		    proxies[i].kind > PROTO_PROXY_KIND_MAX)
			return false;
		for (size_t j = 0; j < i; j++)
			if (proxies[j].local == proxies[i].local)
				return false;
	}
	return proto_all_zero(proxies + n, (PROTO_MAX_PORTS - n) * sizeof(proxies[0]));
}

/* One check per message: check_<name>(). */
#define U32(field, low, high) &&number_ok(m->field, low, high)
#define U64(field, low, high) &&number_ok(m->field, low, high)
#define NAME(field)           &&proto_name_ok(m->field)
#define TEXT(field, size)     &&proto_text_ok(m->field, size)
#define PORTS(field)          &&ports_ok(m->field)
#define NAMES(field)          &&names_ok(m->field)
#define GPUS(field)           &&gpus_ok(m->field)
#define PROXIES(field)        &&proxies_ok(m->field)
#define MSG(name, fields)                                                                          \
	static_assert(sizeof(struct name) <= sizeof(union proto_body), #name " is too big");       \
	static int check_##name(const void *body)                                                  \
	{                                                                                          \
		const struct name *m = body;                                                       \
                                                                                                   \
		return (true fields) ? 0 : -EBADMSG;                                               \
	}
#include "proto/msgs.def"
#undef MSG
#undef PROXIES
#undef GPUS
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

int proto_split(const void *buf, size_t len, struct proto_header *ret_header,
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
	int r = proto_split(buf, len, ret_header, ret_body);

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

const char *proto_status_name(enum proto_status status)
{
	static const char *const names[] = {
#define X(name_, text_) [PROTO_##name_] = #name_,
		PROTO_STATUS_LIST(X)
#undef X
	};

	return (size_t)status < PROTO_STATUS_COUNT ? names[status] : "UNKNOWN";
}
