/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict parsers for what an operator types: sizes, times, ports, environment, keys, names.
 *
 * Trust: pure; reads argv and files that the operator names.
 */
#include "ctl/parse.h"

#include <ctype.h>

#define SECONDS_MAX    86400
#define SIZE_MIB_MAX   (64u * 1024 * 1024)
#define KEY_LINE_MAX   16384
#define KEY_BASE64_MIN 32

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

static bool is_key_type(const char *s, size_t len)
{
	static const char *const types[] = {
		"ssh-ed25519",
		"ssh-rsa",
		"ecdsa-sha2-nistp256",
		"ecdsa-sha2-nistp384",
		"ecdsa-sha2-nistp521",
		"sk-ssh-ed25519@openssh.com",
		"sk-ecdsa-sha2-nistp256@openssh.com",
	};

	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		if (strlen(types[i]) == len && memcmp(types[i], s, len) == 0)
			return true;
	return false;
}

static size_t base64_span(const char *s)
{
	size_t n = 0;

	while (isalnum((unsigned char)s[n]) || s[n] == '+' || s[n] == '/')
		n++;
	while (s[n] == '=')
		n++;
	return n;
}

int parse_public_key(const char *text, char **ret_line)
{
	const char *blob;
	size_t len, blob_len;

	text += strspn(text, " \t\r\n");
	if (strstr(text, "PRIVATE KEY-----"))
		return -EPERM;
	len = strlen(text);
	while (len > 0 && isspace((unsigned char)text[len - 1]))
		len--;
	if (len > KEY_LINE_MAX)
		return -ERANGE;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			return -EINVAL;
	blob = memchr(text, ' ', len);
	if (!blob || !is_key_type(text, (size_t)(blob - text)))
		return -EINVAL;
	blob++;
	blob_len = base64_span(blob);
	if (blob_len < KEY_BASE64_MIN || (blob + blob_len < text + len && blob[blob_len] != ' '))
		return -EINVAL;
	*ret_line = strndup(text, len);
	return *ret_line ? 0 : -ENOMEM;
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
