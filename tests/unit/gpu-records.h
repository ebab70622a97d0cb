/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of GPUs for tests: records written one behind the other, as vfio-helper does.
 * Trust: test.
 */
#pragma once

#include "proto/proto.h"

#include <assert.h>
#include <string.h>

struct gpu_records {
	uint8_t bytes[64 * 1024];
	size_t len;
	uint32_t n; /* GPUs */
};

static inline void records_add(struct gpu_records *r, uint32_t op, const void *body, size_t size)
{
	const struct proto_header header = {.op = op, .kind = PROTO_EVENT, .len = (uint32_t)size};

	assert(r->len + sizeof(header) + size <= sizeof(r->bytes));
	memcpy(r->bytes + r->len, &header, sizeof(header));
	memcpy(r->bytes + r->len + sizeof(header), body, size);
	r->len += sizeof(header) + size;
}

/* A GPU with nothing but itself in its group; NULL @vm: nobody has it. */
static inline void records_card(struct gpu_records *r, uint64_t gpu, uint32_t group, uint32_t node,
				enum proto_gpu_reason verdict, const char *vm)
{
	struct gpu_card_ev card = {
		.gpu = gpu,
		.bar1 = UINT64_C(1) << 38,
		.vendor = 0x10de,
		.device = 0x2204,
		.class_code = 0x030000,
		.group = group,
		.node = node,
		.verdict = verdict,
		.resets = 1u << PROTO_RESET_FLR | 1u << PROTO_RESET_BUS,
	};

	proto_text_set(card.driver, sizeof(card.driver), "nvidia");
	proto_text_set(card.vm, sizeof(card.vm), vm ? vm : "");
	records_add(r, OP_GPU_CARD, &card, sizeof(card));
	r->n++;
}

static inline void records_part(struct gpu_records *r, uint64_t gpu, uint64_t address,
				enum proto_gpu_role role, const char *what)
{
	struct gpu_part_ev part = {.gpu = gpu, .address = address, .group = 1, .role = role};

	proto_text_set(part.what, sizeof(part.what), what);
	records_add(r, OP_GPU_PART, &part, sizeof(part));
}

static inline void records_reason(struct gpu_records *r, uint64_t gpu, uint64_t address,
				  enum proto_gpu_reason reason, const char *what)
{
	struct gpu_reason_ev ev = {.gpu = gpu, .address = address, .reason = reason};

	proto_text_set(ev.what, sizeof(ev.what), what);
	records_add(r, OP_GPU_REASON, &ev, sizeof(ev));
}

static inline void records_holder(struct gpu_records *r, uint64_t gpu, uint32_t pid,
				  const char *program, const char *node, const char *service)
{
	struct gpu_holder_ev ev = {.gpu = gpu, .pid = pid};

	proto_text_set(ev.program, sizeof(ev.program), program);
	proto_text_set(ev.node, sizeof(ev.node), node);
	proto_text_set(ev.service, sizeof(ev.service), service);
	records_add(r, OP_GPU_HOLDER, &ev, sizeof(ev));
}
