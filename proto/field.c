/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names and texts in fixed fields.
 * Trust: runs in every program; reads fields of a peer that may be hostile.
 */
#include "proto/proto.h"

#include <errno.h>
#include <string.h>

static bool name_char_ok(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

bool proto_all_zero(const void *p, size_t len)
{
	const uint8_t *bytes = p;

	for (size_t i = 0; i < len; i++)
		if (bytes[i] != 0)
			return false;
	return true;
}

bool proto_name_ok(const char field[static PROTO_NAME_SIZE])
{
	size_t len = strnlen(field, PROTO_NAME_SIZE);

	if (len == 0 || len > PROTO_NAME_MAX || field[0] == '-')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!name_char_ok(field[i]))
			return false;
	return proto_all_zero(field + len, PROTO_NAME_SIZE - len);
}

bool proto_text_ok(const char *field, size_t size)
{
	size_t len = strnlen(field, size);

	if (len == size)
		return false;
	for (size_t i = 0; i < len; i++)
		if (field[i] < 0x20 || field[i] > 0x7e)
			return false;
	return proto_all_zero(field + len, size - len);
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
	if (!proto_name_ok(buf))
		return -EINVAL;
	memcpy(field, buf, sizeof(buf));
	return 0;
}

size_t proto_gpus_count(const uint64_t gpus[static PROTO_MAX_GPUS])
{
	size_t n = 0;

	while (n < PROTO_MAX_GPUS && gpus[n] != 0)
		n++;
	return n;
}

const char *proto_gpu_reason_name(enum proto_gpu_reason reason)
{
	static const char *const names[] = {
#define X(name_, word_, text_) [PROTO_GPU_##name_] = word_,
		PROTO_GPU_REASON_LIST(X)
#undef X
	};

	return (size_t)reason <= PROTO_GPU_REASON_MAX ? names[reason] : "unknown";
}

size_t proto_ports_count(const struct proto_port ports[static PROTO_MAX_PORTS])
{
	size_t n = 0;

	while (n < PROTO_MAX_PORTS && ports[n].host != 0)
		n++;
	return n;
}

size_t proto_proxies_count(const struct proto_proxy proxies[static PROTO_MAX_PORTS])
{
	size_t n = 0;

	while (n < PROTO_MAX_PORTS && proxies[n].local != 0)
		n++;
	return n;
}

void proto_text_set(char *field, size_t size, const char *text)
{
	size_t len = strnlen(text, size - 1);

	memset(field, 0, size);
	for (size_t i = 0; i < len; i++)
		field[i] = (text[i] < 0x20 || text[i] > 0x7e) ? '?' : text[i];
}
