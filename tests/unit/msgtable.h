/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test material expanded from ops.def and msgs.def: every row, every message, every field, with
 * values at both bounds and a list of ways to break each kind of field. A row or a field that is
 * added there is tested without a change here.
 * Trust: runs in tests only.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"

enum field_kind {
	FIELD_U32,
	FIELD_U64,
	FIELD_NAME,
	FIELD_TEXT,
	FIELD_PORTS,
	FIELD_NAMES,
	FIELD_GPUS,
	FIELD_PROXIES,
};

struct field_info {
	const char *name;
	enum field_kind kind;
	size_t size;        /* bytes on the wire */
	uint64_t low, high; /* numbers only */
};

struct msg_info {
	const char *name; /* "vm_seed_req" */
	size_t size;
	const struct field_info *fields;
	size_t n_fields;
};

/* One row of ops.def as the file says, not as proto.c understood it. */
struct row_info {
	const char *name;
	const char *stem;
	uint32_t number;
	enum proto_role from, to;
	unsigned int states;
	bool once;
	size_t req_fds, rep_fds;
	bool is_event;
};

extern const struct msg_info msg_infos[];
extern const size_t msg_n_infos;
extern const struct row_info row_infos[];
extern const size_t row_n_infos;

/* The message <stem>_<suffix>; aborts when there is none. */
const struct msg_info *msg_find(const char *stem, const char *suffix);

/* What a row's first message is: <stem>_req, or <stem>_ev of an event. */
const struct msg_info *msg_of_row(const struct row_info *row);

/* Fills @body (msg->size bytes) with valid values, every field at its low or at its high bound. */
void msg_fill(const struct msg_info *msg, bool high, void *body);

/* The place of field @index in the body: fields lie in the order of their declaration, unpadded. */
size_t msg_field_offset(const struct msg_info *msg, size_t index);

/*
 * Breaks field @index of the valid @body in the way numbered @way. Returns what was done, for the
 * failure message; "" when this way does not apply to the field's bounds; NULL after the last way.
 */
const char *msg_spoil(const struct msg_info *msg, size_t index, unsigned int way, void *body);

/* Puts a whole datagram of @row's request or event together and returns its length. */
size_t msg_build(const struct row_info *row, bool high, uint8_t out[static PROTO_MSG_MAX]);

/* The same for a successful reply. */
size_t msg_build_reply(const struct row_info *row, bool high, uint8_t out[static PROTO_MSG_MAX]);

/* Any one of the connection states in which the row is allowed. */
enum proto_conn_state row_state(const struct row_info *row);
