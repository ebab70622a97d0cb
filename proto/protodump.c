/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints docs/PROTOCOL.md from the declarations themselves, so that it cannot disagree with the
 * code. Trust: runs at build time; reads nothing.
 */
#include "common/base.h"
#include "proto/proto.h"

static const char preamble[] =
	"# The protocol between the suite's processes\n"
	"\n"
	"This file is printed by `protodump` from `proto/ops.def` and `proto/msgs.def`; a test "
	"fails\n"
	"when it is stale. To change it, change those and run `ninja -C build protocol-doc`.\n"
	"\n"
	"## Rules\n"
	"\n"
	"* Transport: `SOCK_SEQPACKET` Unix sockets, one datagram is one message, at most 4096 "
	"bytes,\n"
	"  descriptors by `SCM_RIGHTS`. The peers are on one machine: numbers are in host byte "
	"order.\n"
	"* A message is a 16-byte header and one body of exactly its declared size:\n"
	"  `u32 operation, u16 kind (1 request, 2 reply, 3 event), u16 status, u32 request id, u32 "
	"body\n"
	"  bytes`.\n"
	"* The receiver takes the sender's identity from the kernel (`SO_PEERCRED`), never from a "
	"message,\n"
	"  and maps its uid to one role. An unknown uid is disconnected before a byte is read.\n"
	"* A request is refused, and its connection closed, when anything about it is not as "
	"declared here:\n"
	"  size, range, padding, sender, connection state, repetition, number of descriptors.\n"
	"* Every request is answered once, with its id. A status other than OK carries no body and "
	"no\n"
	"  descriptors. Only the statuses below cross a boundary: no errno, no path, no free "
	"text.\n"
	"* A peer that does not read its answers loses its connection; nobody waits for it.\n";

static const char *state_words(uint8_t states)
{
	if (states == PROTO_ST_NEW)
		return "before hello";
	if (states == PROTO_ST_READY)
		return "after hello";
	return "any";
}

static void print_statuses(void)
{
	(void)puts("\n## Statuses\n\n| number | name | meaning |\n|---|---|---|");
	for (unsigned int i = 0; i < PROTO_STATUS_COUNT; i++)
		(void)printf("| %u | %s | %s |\n", i, proto_status_name((enum proto_status)i),
			     proto_status_text((enum proto_status)i));
}

static void print_operations(void)
{
	(void)puts("\n## Operations\n\n"
		   "| number | operation | sender → handler | allowed | fds in/out | bytes in/out "
		   "| effect |\n"
		   "|---|---|---|---|---|---|---|");
	for (size_t i = 0; i < proto_n_ops; i++) {
		const struct proto_op *op = &proto_ops[i];

		if (op->is_event)
			continue;
		(void)printf("| 0x%04x | %s, `on_%s()` | %s → %s | %s%s | %u/%u | %zu/%zu | %s |\n",
			     op->number, op->name, op->stem,
			     proto_role_name((enum proto_role)op->from),
			     proto_role_name((enum proto_role)op->to), state_words(op->states),
			     op->reuse == PROTO_ONCE ? ", once" : "", op->req_fds, op->rep_fds,
			     op->req_size, op->rep_size, op->effect);
	}
}

static void print_events(void)
{
	(void)puts("\n## Events\n\n| number | event | from → to | bytes | meaning "
		   "|\n|---|---|---|---|---|");
	for (size_t i = 0; i < proto_n_ops; i++) {
		const struct proto_op *op = &proto_ops[i];

		if (op->is_event)
			(void)printf("| 0x%04x | %s | %s → %s | %zu | %s |\n", op->number, op->name,
				     proto_role_name((enum proto_role)op->from),
				     proto_role_name((enum proto_role)op->to), op->req_size,
				     op->effect);
	}
}

#define U32(field, low, high)                                                                      \
	(void)printf("| `" #field "` | u32, %llu to %llu |\n", (unsigned long long)(low),          \
		     (unsigned long long)(high));
#define U64(field, low, high)                                                                      \
	(void)printf("| `" #field "` | u64, %llu to %llu |\n", (unsigned long long)(low),          \
		     (unsigned long long)(high));
#define NAME(field)                                                                                \
	(void)puts("| `" #field                                                                    \
		   "` | name: 1 to 32 of `a-z 0-9 -`, not starting with `-`, 40 bytes |");
#define TEXT(field, size)                                                                          \
	(void)printf("| `" #field "` | printable ASCII, NUL-padded, %d bytes |\n", (int)(size));
#define PORTS(field)                                                                               \
	(void)printf("| `" #field                                                                  \
		     "` | up to %d pairs of u16 (host, guest), distinct host ports |\n",           \
		     PROTO_MAX_PORTS);
#define NAMES(field) (void)printf("| `" #field "` | up to %d names |\n", PROTO_MAX_VMS);
#define GPUS(field)                                                                                \
	(void)printf("| `" #field "` | 1 to %d PCI addresses, ascending |\n", PROTO_MAX_GPUS);
#define PROXIES(field)                                                                             \
	(void)printf("| `" #field                                                                  \
		     "` | up to %d of u16 (local, remote, guest, kind), distinct local ports |\n", \
		     PROTO_MAX_PORTS);
#define MSG(name, fields)                                                                          \
	(void)puts("\n### " #name "\n\n| field | kind |\n|---|---|");                              \
	fields

static void print_messages(void)
{
	(void)puts("\n## Messages\n\nFields named `reserved` are zero.");
#include "proto/msgs.def"
}

int main(void)
{
	(void)fputs(preamble, stdout);
	print_statuses();
	print_operations();
	print_events();
	print_messages();
	return ferror(stdout) ? 1 : 0;
}
