/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test material expanded from ops.def and msgs.def.
 * Trust: runs in tests only.
 */
#include "tests/unit/msgtable.h"

#define U32(field, low, high) {#field, FIELD_U32, sizeof(uint32_t), low, high},
#define U64(field, low, high) {#field, FIELD_U64, sizeof(uint64_t), low, high},
#define NAME(field)           {#field, FIELD_NAME, PROTO_NAME_SIZE, 0, 0},
#define TEXT(field, size)     {#field, FIELD_TEXT, size, 0, 0},
#define PORTS(field)          {#field, FIELD_PORTS, PROTO_MAX_PORTS * sizeof(struct proto_port), 0, 0},
#define NAMES(field)          {#field, FIELD_NAMES, (size_t)PROTO_MAX_VMS * PROTO_NAME_SIZE, 0, 0},
#define GPUS(field)           {#field, FIELD_GPUS, PROTO_MAX_GPUS * sizeof(uint64_t), 0, 0},
#define PROXIES(field)        {#field, FIELD_PROXIES, PROTO_MAX_PORTS * sizeof(struct proto_proxy), 0, 0},
#define MSG(name, fields)     static const struct field_info fields_##name[] = {fields};
#include "proto/msgs.def"
#undef MSG
#define MSG(name, fields) {#name, sizeof(struct name), fields_##name, ARRAY_LEN(fields_##name)},
const struct msg_info msg_infos[] = {
#include "proto/msgs.def"
};
#undef MSG
#undef PROXIES
#undef GPUS
#undef NAMES
#undef PORTS
#undef TEXT
#undef NAME
#undef U64
#undef U32
const size_t msg_n_infos = ARRAY_LEN(msg_infos);

#define ST_NEW   PROTO_ST_NEW
#define ST_READY PROTO_ST_READY
#define ONCE     true
#define MANY     false
#define OP(name, number, from, to, stem, req_fds, rep_fds, states, reuse, effect)                  \
	{#name, #stem, number, PROTO_##from, PROTO_##to, states, reuse, req_fds, rep_fds, false},
#define EV(name, number, from, to, stem, meaning)                                                  \
	{#name, #stem, number, PROTO_##from, PROTO_##to, 0, false, 0, 0, true},
const struct row_info row_infos[] = {
#include "proto/ops.def"
};
#undef EV
#undef OP
#undef MANY
#undef ONCE
#undef ST_READY
#undef ST_NEW
const size_t row_n_infos = ARRAY_LEN(row_infos);

const struct msg_info *msg_find(const char *stem, const char *suffix)
{
	char name[128];

	(void)snprintf(name, sizeof(name), "%s_%s", stem, suffix);
	for (size_t i = 0; i < msg_n_infos; i++)
		if (STR_EQ(msg_infos[i].name, name))
			return &msg_infos[i];
	(void)fprintf(stderr, "no message %s\n", name);
	abort();
}

const struct msg_info *msg_of_row(const struct row_info *row)
{
	return msg_find(row->stem, row->is_event ? "ev" : "req");
}

size_t msg_field_offset(const struct msg_info *msg, size_t index)
{
	size_t offset = 0;

	for (size_t i = 0; i < index; i++)
		offset += msg->fields[i].size;
	return offset;
}

static void fill_ports(uint8_t *field)
{
	for (size_t i = 0; i < PROTO_MAX_PORTS; i++) {
		struct proto_port port = {(uint16_t)(UINT16_MAX - i), UINT16_MAX};

		memcpy(field + i * sizeof(port), &port, sizeof(port));
	}
}

static void fill_proxies(uint8_t *field)
{
	for (size_t i = 0; i < PROTO_MAX_PORTS; i++) {
		struct proto_proxy proxy = {(uint16_t)(UINT16_MAX - i), UINT16_MAX, UINT16_MAX,
					    PROTO_PROXY_KIND_MAX};

		memcpy(field + i * sizeof(proxy), &proxy, sizeof(proxy));
	}
}

/* The last @n of the possible addresses. */
static void fill_gpus(size_t n, uint8_t *field)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t address = PROTO_PCI_MAX + 1 - n + i;

		memcpy(field + i * sizeof(address), &address, sizeof(address));
	}
}

static void fill_number(const struct field_info *f, uint64_t value, uint8_t *field)
{
	uint32_t narrow = (uint32_t)value;

	if (f->kind == FIELD_U32)
		memcpy(field, &narrow, sizeof(narrow));
	else
		memcpy(field, &value, sizeof(value));
}

static void fill_high(const struct field_info *f, uint8_t *field)
{
	switch (f->kind) {
	case FIELD_U32:
	case FIELD_U64:
		fill_number(f, f->high, field);
		break;
	case FIELD_NAME:
		memset(field, 'z', PROTO_NAME_MAX);
		break;
	case FIELD_TEXT:
		memset(field, '~', f->size - 1);
		break;
	case FIELD_PORTS:
		fill_ports(field);
		break;
	case FIELD_GPUS:
		fill_gpus(PROTO_MAX_GPUS, field);
		break;
	case FIELD_PROXIES:
		fill_proxies(field);
		break;
	case FIELD_NAMES:
		for (size_t i = 0; i < PROTO_MAX_VMS; i++) {
			memset(field + i * PROTO_NAME_SIZE, '9', PROTO_NAME_MAX);
			field[i * PROTO_NAME_SIZE] = (uint8_t)('a' + i);
		}
		break;
	}
}

void msg_fill(const struct msg_info *msg, bool high, void *body)
{
	memset(body, 0, msg->size);
	for (size_t i = 0; i < msg->n_fields; i++) {
		const struct field_info *f = &msg->fields[i];
		uint8_t *field = (uint8_t *)body + msg_field_offset(msg, i);

		if (high)
			fill_high(f, field);
		else if (f->kind == FIELD_U32 || f->kind == FIELD_U64)
			fill_number(f, f->low, field);
		else if (f->kind == FIELD_NAME)
			field[0] = '0';
		else if (f->kind == FIELD_GPUS)
			fill_number(&(struct field_info){.kind = FIELD_U64}, 1, field);
	}
}

static const char *spoil_number(const struct field_info *f, unsigned int way, uint8_t *field)
{
	uint64_t max = f->kind == FIELD_U32 ? UINT32_MAX : UINT64_MAX;

	switch (way) {
	case 0:
		if (f->low == 0)
			return "";
		fill_number(f, f->low - 1, field);
		return "one below the low bound";
	case 1:
		if (f->high == max)
			return "";
		fill_number(f, f->high + 1, field);
		return "one above the high bound";
	case 2:
		if (f->high == max)
			return "";
		fill_number(f, max, field);
		return "the type's largest value";
	case 3:
		if (f->high >= max / 2)
			return "";
		fill_number(f, max / 2 + 1, field);
		return "only the highest bit";
	default:
		return NULL;
	}
}

/* Ways to write a NAME field that must not be taken. */
static const struct {
	const char *what;
	size_t len;
	const char *bytes;
} bad_names[] = {
	{"empty name", 0, ""},
	{"33 characters", 33, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
	{"39 characters", 39, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
	{"no NUL in the field", 40, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
	{"leading dash", 2, "-a"},
	{"only a dash", 1, "-"},
	{"bytes after the NUL", 4, "a\0bc"},
	{"NUL first, then a name", 3, "\0ab"},
	{"last byte of the padding set", 40,
	 "a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
	 "\0\0\0\0\0\0\0\0x"},
	{"upper case first", 2, "Ab"},
	{"upper case later", 3, "abC"},
	{"underscore", 3, "a_b"},
	{"dot", 3, "a.b"},
	{"dot dot", 2, ".."},
	{"slash", 3, "a/b"},
	{"comma", 3, "a,b"},
	{"space", 3, "a b"},
	{"newline last", 3, "ab\n"},
	{"control character", 3,
	 "a\x01"
	 "b"},
	{"DEL", 3,
	 "a\x7f"
	 "b"},
	{"high bit", 3,
	 "a\x80"
	 "b"},
	{"0xff", 3,
	 "a\xff"
	 "b"},
	{"just below '0'", 3, "a/0"},
	{"just above '9'", 3, "a:0"},
	{"just below 'a'", 3, "a`0"},
	{"just above 'z'", 3, "a{0"},
};

static const char *spoil_name(unsigned int way, uint8_t *field)
{
	if (way >= ARRAY_LEN(bad_names))
		return NULL;
	memset(field, 0, PROTO_NAME_SIZE);
	memcpy(field, bad_names[way].bytes, bad_names[way].len);
	return bad_names[way].what;
}

static const char *spoil_text(const struct field_info *f, unsigned int way, uint8_t *field)
{
	static const uint8_t bad[] = {0x01, '\t', '\n', '\r', 0x1b, 0x1f, 0x7f, 0x80, 0x9b, 0xff};

	memset(field, 0, f->size);
	if (way < ARRAY_LEN(bad)) {
		field[0] = 'a';
		field[1] = bad[way];
		return "unprintable byte";
	}
	switch (way - ARRAY_LEN(bad)) {
	case 0:
		memset(field, 'a', f->size);
		return "no NUL in the field";
	case 1:
		field[1] = 'a';
		return "text after an empty text";
	case 2:
		field[0] = 'a';
		field[f->size - 1] = 'a';
		return "last byte of the padding set";
	case 3:
		memset(field, 'a', f->size - 1);
		field[f->size - 2] = '\n';
		return "newline as the last character";
	default:
		return NULL;
	}
}

static const char *spoil_ports(unsigned int way, uint8_t *field)
{
	struct proto_port ports[PROTO_MAX_PORTS] = {{10, 1}, {11, 2}};
	const char *what;

	switch (way) {
	case 0:
		ports[1].host = 10;
		what = "a host port twice";
		break;
	case 1:
		ports[0] = (struct proto_port){0};
		what = "a gap at the start";
		break;
	case 2:
		ports[3] = (struct proto_port){13, 3};
		what = "a gap in the middle";
		break;
	case 3:
		ports[PROTO_MAX_PORTS - 1] = (struct proto_port){13, 3};
		what = "the last entry used, the ones before not";
		break;
	case 4:
		ports[1].guest = 0;
		what = "guest port 0";
		break;
	case 5:
		ports[1].host = 0;
		what = "host port 0";
		break;
	case 6:
		fill_ports((uint8_t *)ports);
		ports[PROTO_MAX_PORTS - 1].host = ports[0].host;
		what = "the last of a full list repeats the first";
		break;
	default:
		return NULL;
	}
	memcpy(field, ports, sizeof(ports));
	return what;
}

static const char *spoil_proxies(unsigned int way, uint8_t *field)
{
	struct proto_proxy proxies[PROTO_MAX_PORTS] = {{10, 1, 1, PROTO_PROXY_TCP},
						       {11, 2, 0, PROTO_PROXY_API}};
	const char *what;

	switch (way) {
	case 0:
		proxies[1].local = 10;
		what = "a local port twice";
		break;
	case 1:
		proxies[0] = (struct proto_proxy){0};
		what = "a gap at the start";
		break;
	case 2:
		proxies[PROTO_MAX_PORTS - 1] = proxies[0];
		what = "the last entry used, the ones before not";
		break;
	case 3:
		proxies[1].remote = 0;
		what = "remote port 0";
		break;
	case 4:
		proxies[1].kind = 0;
		what = "kind 0";
		break;
	case 5:
		proxies[0].kind = PROTO_PROXY_KIND_MAX + 1;
		what = "an unknown kind";
		break;
	case 6:
		fill_proxies((uint8_t *)proxies);
		proxies[PROTO_MAX_PORTS - 1].local = proxies[0].local;
		what = "the last of a full list repeats the first";
		break;
	default:
		return NULL;
	}
	memcpy(field, proxies, sizeof(proxies));
	return what;
}

static const char *spoil_gpus(unsigned int way, uint8_t *field)
{
	uint64_t gpus[PROTO_MAX_GPUS] = {0x100, 0x200};
	const char *what;

	switch (way) {
	case 0:
		gpus[1] = 0x100;
		what = "an address twice";
		break;
	case 1:
		gpus[1] = 0xff;
		what = "descending";
		break;
	case 2:
		gpus[0] = 0;
		what = "a gap at the start";
		break;
	case 3:
		gpus[PROTO_MAX_GPUS - 1] = 0x300;
		what = "the last entry used, the ones before not";
		break;
	case 4:
		gpus[1] = PROTO_PCI_MAX + 1;
		what = "an address of more than 48 bits";
		break;
	case 5:
		gpus[0] = gpus[1] = 0;
		what = "none at all";
		break;
	default:
		return NULL;
	}
	memcpy(field, gpus, sizeof(gpus));
	return what;
}

static const char *spoil_names(unsigned int way, uint8_t *field)
{
	const size_t last = (size_t)(PROTO_MAX_VMS - 1) * PROTO_NAME_SIZE;
	const char *what;

	memset(field, 0, (size_t)PROTO_MAX_VMS * PROTO_NAME_SIZE);
	if (way >= 3) {
		field[0] = 'a';
		what = spoil_name(way - 3, field + PROTO_NAME_SIZE);
		/* An empty second name is a valid end of the list. */
		return what && way - 3 == 0 ? "" : what;
	}
	switch (way) {
	case 0:
		field[PROTO_NAME_SIZE] = 'a';
		return "a gap at the start";
	case 1:
		field[0] = 'a';
		field[last] = 'b';
		return "the last entry used, the ones before not";
	default:
		fill_high(&(struct field_info){.kind = FIELD_NAMES}, field);
		field[last + PROTO_NAME_SIZE - 1] = 'x';
		return "a byte behind the last of a full list";
	}
}

const char *msg_spoil(const struct msg_info *msg, size_t index, unsigned int way, void *body)
{
	const struct field_info *f = &msg->fields[index];
	uint8_t *field = (uint8_t *)body + msg_field_offset(msg, index);

	switch (f->kind) {
	case FIELD_U32:
	case FIELD_U64:
		return spoil_number(f, way, field);
	case FIELD_NAME:
		return spoil_name(way, field);
	case FIELD_TEXT:
		return spoil_text(f, way, field);
	case FIELD_PORTS:
		return spoil_ports(way, field);
	case FIELD_NAMES:
		return spoil_names(way, field);
	case FIELD_GPUS:
		return spoil_gpus(way, field);
	case FIELD_PROXIES:
		return spoil_proxies(way, field);
	}
	return NULL;
}

static size_t build(const struct row_info *row, enum proto_kind kind, const struct msg_info *msg,
		    bool high, uint8_t out[static PROTO_MSG_MAX])
{
	struct proto_header header = {
		.op = row->number,
		.kind = (uint16_t)kind,
		.request_id = kind == PROTO_EVENT ? 0
			      : high              ? UINT32_MAX
						  : 1,
		.len = (uint32_t)msg->size,
	};

	memcpy(out, &header, sizeof(header));
	msg_fill(msg, high, out + sizeof(header));
	return sizeof(header) + msg->size;
}

size_t msg_build(const struct row_info *row, bool high, uint8_t out[static PROTO_MSG_MAX])
{
	return build(row, row->is_event ? PROTO_EVENT : PROTO_REQUEST, msg_of_row(row), high, out);
}

size_t msg_build_reply(const struct row_info *row, bool high, uint8_t out[static PROTO_MSG_MAX])
{
	return build(row, PROTO_REPLY, msg_find(row->stem, "rep"), high, out);
}

enum proto_conn_state row_state(const struct row_info *row)
{
	return (enum proto_conn_state)(row->states & -row->states);
}
