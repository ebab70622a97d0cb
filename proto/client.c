/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only the asking side needs: answers and events, texts to send, words for people.
 * Trust: runs in agentd, vmmon and qudatactl; reads datagrams of the daemon that was asked.
 */
#include "proto/proto.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* No body has padding: what goes over the wire is all declared. */
#define U32(field, low, high) +sizeof(uint32_t)
#define U64(field, low, high) +sizeof(uint64_t)
#define NAME(field)           +PROTO_NAME_SIZE
#define TEXT(field, size)     +(size)
#define PORTS(field)          +sizeof(struct proto_port) * PROTO_MAX_PORTS
#define NAMES(field)          +PROTO_MAX_VMS *PROTO_NAME_SIZE
#define GPUS(field)           +sizeof(uint64_t) * PROTO_MAX_GPUS
#define PROXIES(field)        +sizeof(struct proto_proxy) * PROTO_MAX_PORTS
#define MSG(name, fields)     static_assert(sizeof(struct name) == 0 fields, "padding in " #name);
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
	int r = proto_split(buf, len, ret_header, ret_body);

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

const char *proto_gpu_reason_text(enum proto_gpu_reason reason)
{
	static const char *const texts[] = {
#define X(name_, word_, text_) [PROTO_GPU_##name_] = text_,
		PROTO_GPU_REASON_LIST(X)
#undef X
	};

	return (size_t)reason <= PROTO_GPU_REASON_MAX ? texts[reason] : "unknown";
}

const char *proto_status_text(enum proto_status status)
{
	static const char *const texts[] = {
#define X(name_, text_) [PROTO_##name_] = text_,
		PROTO_STATUS_LIST(X)
#undef X
	};

	return (size_t)status < PROTO_STATUS_COUNT ? texts[status] : "unknown status";
}

const char *proto_container_text(enum proto_container_state state)
{
	static const char *const texts[] = {
#define X(name_, text_) [PROTO_CONTAINER_##name_] = text_,
		PROTO_CONTAINER_LIST(X)
#undef X
	};

	return (size_t)state <= PROTO_CONTAINER_MAX ? texts[state] : "unknown";
}

const char *proto_login_name(enum proto_login place)
{
	static const char *const names[] = {
#define X(name_, word_) [PROTO_LOGIN_##name_] = word_,
		PROTO_LOGIN_LIST(X)
#undef X
	};

	return (size_t)place <= PROTO_LOGIN_MAX ? names[place] : "unknown";
}

const char *proto_tunnel_name(enum proto_tunnel_state state)
{
	static const char *const names[] = {
#define X(name_, word_, text_) [PROTO_TUNNEL_##name_] = word_,
		PROTO_TUNNEL_LIST(X)
#undef X
	};

	return (size_t)state <= PROTO_TUNNEL_MAX ? names[state] : "unknown";
}

const char *proto_proxy_name(enum proto_proxy_state state)
{
	static const char *const names[] = {
#define X(name_, word_, text_) [PROTO_PROXY_##name_] = word_,
		PROTO_PROXY_LIST(X)
#undef X
	};

	return (size_t)state <= PROTO_PROXY_STATE_MAX ? names[state] : "unknown";
}

const char *proto_tunnel_text(enum proto_tunnel_state state)
{
	static const char *const texts[] = {
#define X(name_, word_, text_) [PROTO_TUNNEL_##name_] = text_,
		PROTO_TUNNEL_LIST(X)
#undef X
	};

	return (size_t)state <= PROTO_TUNNEL_MAX ? texts[state] : "unknown";
}

const char *proto_proxy_text(enum proto_proxy_state state)
{
	static const char *const texts[] = {
#define X(name_, word_, text_) [PROTO_PROXY_##name_] = text_,
		PROTO_PROXY_LIST(X)
#undef X
	};

	return (size_t)state <= PROTO_PROXY_STATE_MAX ? texts[state] : "unknown";
}
