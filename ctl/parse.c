/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict parsers for what an operator types: sizes, times, ports, environment, keys, names.
 *
 * Trust: pure; reads argv and files that the operator names.
 */
#include "ctl/parse.h"

#include <ctype.h>

#include "common/pubkey.h"

#define REF_MAX      63
#define SECONDS_MAX  86400
#define SIZE_MIB_MAX (64u * 1024 * 1024)

/* Reads digits at @s up to @high; @ret_end is the first character after them. */
static int parse_digits(const char *s, uint32_t high, const char **ret_end, uint32_t *ret_value)
{
	uint64_t value = 0;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	for (; isdigit((unsigned char)*s); s++) {
		value = value * 10 + (uint64_t)(*s - '0');
		if (value > high)
			return -ERANGE;
	}
	*ret_end = s;
	*ret_value = (uint32_t)value;
	return 0;
}

int parse_u32(const char *s, uint32_t low, uint32_t high, uint32_t *ret_value)
{
	const char *end;
	uint32_t value;
	int r = parse_digits(s, high, &end, &value);

	if (r < 0)
		return r;
	if (*end)
		return -EINVAL;
	if (value < low)
		return -ERANGE;
	*ret_value = value;
	return 0;
}

int parse_size_mib(const char *s, uint32_t *ret_mib)
{
	static const struct {
		const char *unit;
		uint32_t mib;
	} units[] = {
		{"", 1},       {"M", 1},           {"MiB", 1},           {"G", 1024},
		{"GiB", 1024}, {"T", 1024 * 1024}, {"TiB", 1024 * 1024},
	};
	const char *end;
	uint32_t value;
	int r = parse_digits(s, SIZE_MIB_MAX, &end, &value);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (!STR_EQ(end, units[i].unit))
			continue;
		if (value == 0 || value > SIZE_MIB_MAX / units[i].mib)
			return -ERANGE;
		*ret_mib = value * units[i].mib;
		return 0;
	}
	return -EINVAL;
}

int parse_seconds(const char *s, uint32_t *ret_seconds)
{
	const char *end;
	uint32_t value, factor = 1;
	int r = parse_digits(s, SECONDS_MAX, &end, &value);

	if (r < 0)
		return r;
	if (STR_EQ(end, "m"))
		factor = 60;
	else if (STR_EQ(end, "h"))
		factor = 3600;
	else if (*end && !STR_EQ(end, "s"))
		return -EINVAL;
	if (value > SECONDS_MAX / factor)
		return -ERANGE;
	*ret_seconds = value * factor;
	return 0;
}

bool parse_is_name(const char *s)
{
	size_t len = strlen(s);

	return len >= 1 && len <= PARSE_NAME_MAX &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

bool parse_is_ref(const char *s)
{
	size_t len = strlen(s);

	if (len < 1 || len > REF_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)s[i]) && !strchr("._-", s[i]))
			return false;
	return true;
}

bool parse_is_full_id(const char *s)
{
	return strlen(s) == 16 && strspn(s, "0123456789abcdef") == 16;
}

int parse_port(const char *s, struct parse_port *ret_port)
{
	struct parse_port port = {0};
	const char *end;
	uint32_t value;
	int r = parse_digits(s, PARSE_PORT_MAX, &end, &value);

	if (r < 0)
		return r;
	if (value == 0)
		return -ERANGE;
	port.container_port = (uint16_t)value;
	if (strncmp(end, ":auto", 5) == 0) {
		end += 5;
	} else if (*end == ':') {
		r = parse_digits(end + 1, PARSE_PORT_MAX, &end, &value);
		if (r < 0)
			return r;
		if (value == 0)
			return -ERANGE;
		port.remote_port = (uint16_t)value;
	}
	if (STR_EQ(end, "/tcp"))
		port.proto = "tcp";
	else if (STR_EQ(end, "/http"))
		port.proto = "http";
	else if (*end)
		return -EINVAL;
	*ret_port = port;
	return 0;
}

int parse_env(const char *s, json_t *env)
{
	_cleanup_free_ char *key = NULL;
	const char *equals = strchr(s, '=');
	const char *value;
	size_t len = equals ? (size_t)(equals - s) : strlen(s);

	if (len == 0 || isdigit((unsigned char)s[0]))
		return -EINVAL;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)s[i]) && s[i] != '_')
			return -EINVAL;
	key = strndup(s, len);
	if (!key)
		return -ENOMEM;
	value = equals ? equals + 1 : getenv(key);
	if (!value)
		return -ENOENT;
	/* jansson refuses what is not UTF-8. */
	return json_object_set_new(env, key, json_string(value)) == 0 ? 0 : -EINVAL;
}

int parse_public_key(const char *text, char **ret_line)
{
	struct err err = {0};
	struct pubkey key;
	size_t len;
	int r;

	if (strstr(text, "PRIVATE KEY-----"))
		return -EPERM;
	text += strspn(text, " \t\r\n");
	len = strlen(text);
	while (len > 0 && strchr(" \t\r\n", text[len - 1]))
		len--;
	r = pubkey_parse(text, len, &key, &err);
	if (r < 0)
		return r == -E2BIG ? -ERANGE : -EINVAL;
	if (asprintf(ret_line, "%.*s %.*s%s%.*s", (int)key.type_len, key.type, (int)key.base64_len,
		     key.base64, key.comment ? " " : "", key.comment ? (int)key.comment_len : 0,
		     key.comment ? key.comment : "") < 0)
		return -ENOMEM;
	return 0;
}

/* Length of "type base64" in @line, and where the comment begins. */
static size_t key_span(const char *line)
{
	size_t n = strcspn(line, " ");

	n += strspn(line + n, " ");
	return n + strcspn(line + n, " ");
}

const char *parse_key_comment(const char *line)
{
	const char *comment = line + key_span(line);

	return comment + strspn(comment, " ");
}

bool parse_same_key(const char *a, const char *b)
{
	size_t n = key_span(a);

	return n == key_span(b) && strncmp(a, b, n) == 0;
}

static size_t hex_digits(const char *s)
{
	return strspn(s, "0123456789abcdefABCDEF");
}

bool parse_is_gpu(const char *s)
{
	size_t domain = hex_digits(s);

	if (domain < 4 || domain > 8 || s[domain] != ':')
		return false;
	s += domain + 1;
	if (hex_digits(s) != 2 || s[2] != ':')
		return false;
	s += 3;
	return hex_digits(s) == 2 && (s[0] == '0' || s[0] == '1') && s[2] == '.' && s[3] >= '0' &&
	       s[3] <= '7' && s[4] == 0;
}

json_t *parse_gpus(const char *s)
{
	json_t *list = json_array();

	for (;;) {
		size_t len = strcspn(s, ",");
		char one[24] = "";

		if (len < sizeof(one))
			snprintf(one, sizeof(one), "%.*s", (int)len, s);
		if (!parse_is_gpu(one)) {
			json_decref(list);
			return NULL;
		}
		json_array_append_new(list, json_string(one));
		if (!s[len])
			return list;
		s += len + 1;
	}
}
