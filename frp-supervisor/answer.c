/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading what frpc answers.
 * Trust: runs in frp-supervisor; reads bytes of frpc, which reads a server's.
 */
#include "frp-supervisor/answer.h"

#include "proto/proto.h"

#include <jansson.h>
#include <strings.h>

#define HEAD_MAX (16 * 1024)

/* HTTP. */

/* The value of @name in the head's lines, or NULL; ends at "\r". */
static const char *find_field(const char *head, const char *end, const char *name)
{
	size_t len = strlen(name);

	for (const char *p = head; p < end;) {
		const char *line = p, *eol = memmem(p, (size_t)(end - p), "\r\n", 2);

		p = eol ? eol + 2 : end;
		if ((size_t)(p - line) > len + 1 && line[len] == ':' &&
		    strncasecmp(line, name, len) == 0)
			return line + len + 1;
	}
	return NULL;
}

static int read_length(const char *value, size_t *ret_len)
{
	size_t len = 0, digits = 0;

	while (*value == ' ')
		value++;
	for (; *value >= '0' && *value <= '9'; value++) {
		len = len * 10 + (size_t)(*value - '0');
		if (++digits > 7)
			return -EBADMSG;
	}
	if (digits == 0 || *value != '\r' || len > ANSWER_MAX)
		return -EBADMSG;
	*ret_len = len;
	return 0;
}

static int read_status_line(const char *buf, size_t len, unsigned int *ret_status)
{
	const char *code = buf + 9;

	if (len < 13 || memcmp(buf, "HTTP/1.", 7) != 0 || (buf[7] != '0' && buf[7] != '1') ||
	    buf[8] != ' ' || code[0] < '1' || code[0] > '5' || code[1] < '0' || code[1] > '9' ||
	    code[2] < '0' || code[2] > '9' || (code[3] != ' ' && code[3] != '\r'))
		return -EBADMSG;
	*ret_status = (unsigned int)(100 * (code[0] - '0') + 10 * (code[1] - '0') + code[2] - '0');
	return 0;
}

int answer_http(const char *buf, size_t len, bool eof, struct answer_http *ret_answer)
{
	struct answer_http a = {0};
	const char *end = memmem(buf, MIN_OF(len, HEAD_MAX), "\r\n\r\n", 4), *value;
	size_t want;

	if (!end)
		return eof || len >= HEAD_MAX ? -EBADMSG : 0;
	if (memchr(buf, '\0', (size_t)(end - buf)) || read_status_line(buf, len, &a.status) < 0)
		return -EBADMSG;
	end += 2; /* the last field's line end belongs to the head */
	a.body = end + 2;
	a.body_len = (size_t)(buf + len - a.body);
	if (find_field(buf, end, "Transfer-Encoding"))
		return -EBADMSG;
	value = find_field(buf, end, "Content-Length");
	if (value && read_length(value, &want) < 0)
		return -EBADMSG;
	if (!value && !eof)
		return a.body_len > ANSWER_MAX ? -EBADMSG : 0;
	if (value && a.body_len < want)
		return eof ? -EBADMSG : 0;
	if (value)
		a.body_len = want;
	*ret_answer = a;
	return 1;
}

/* The proxies. */

static enum answer_phase phase_of(const char *word)
{
	if (STR_EQ(word, "running"))
		return ANSWER_RUNNING;
	if (STR_EQ(word, "new") || STR_EQ(word, "wait start"))
		return ANSWER_WAITING;
	return ANSWER_ERROR;
}

static uint16_t local_port(const char *address)
{
	static const char prefix[] = "127.0.0.1:";
	unsigned long port = 0;

	if (strncmp(address, prefix, strlen(prefix)) != 0)
		return 0;
	address += strlen(prefix);
	for (; *address >= '0' && *address <= '9' && port <= UINT16_MAX; address++)
		port = port * 10 + (unsigned long)(*address - '0');
	return *address == '\0' && port <= UINT16_MAX ? (uint16_t)port : 0;
}

static int read_entry(const char *type, const json_t *json, struct answer_entry *entry)
{
	const char *name = json_string_value(json_object_get(json, "name"));
	const char *status = json_string_value(json_object_get(json, "status"));
	const char *error = json_string_value(json_object_get(json, "err"));
	const char *local = json_string_value(json_object_get(json, "local_addr"));
	const char *plugin = json_string_value(json_object_get(json, "plugin"));

	if (!name || !status || !error || !local || !plugin || strlen(name) >= sizeof(entry->name))
		return -EBADMSG;
	memset(entry, 0, sizeof(*entry));
	(void)snprintf(entry->name, sizeof(entry->name), "%s", name);
	entry->http = STR_EQ(type, "http");
	entry->phase = phase_of(status);
	proto_text_set(entry->error, sizeof(entry->error), error[0] ? error : status);
	if ((entry->http || STR_EQ(type, "tcp")) && plugin[0] == '\0')
		entry->local_port = local_port(local);
	return 0;
}

static ssize_t read_types(json_t *json, struct answer_entry *entries, size_t max)
{
	const char *type;
	json_t *list, *item;
	size_t n = 0, i;

	if (!json_is_object(json))
		return -EBADMSG;
	json_object_foreach (json, type, list) {
		if (!json_is_array(list) && !json_is_null(list))
			return -EBADMSG;
		json_array_foreach (list, i, item) {
			if (n == max)
				return -E2BIG;
			if (read_entry(type, item, &entries[n++]) < 0)
				return -EBADMSG;
		}
	}
	return (ssize_t)n;
}

ssize_t answer_status(const char *body, size_t len, struct answer_entry *entries, size_t max)
{
	json_t *json = json_loadb(body, len, JSON_REJECT_DUPLICATES, NULL);
	ssize_t n = json ? read_types(json, entries, max) : -EBADMSG;

	json_decref(json);
	return n;
}

bool answer_is_conflict(const char *error)
{
	static const char *const texts[] = {
		"port already used", "port unavailable", "router config conflict",
		"already exists",    "already in use",
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (strstr(error, texts[i]))
			return true;
	return false;
}

int answer_version(const char *text)
{
	unsigned int major, minor, patch;
	int used = 0;

	if (strnlen(text, 24) == 24 || text[0] < '0' || text[0] > '9' ||
	    sscanf(text, "%3u.%3u.%3u%n", &major, &minor, &patch, &used) != 3 || major > 99 ||
	    minor > 255 || patch > 255)
		return -EINVAL;
	/* "0.62.0-rc1" counts as what it leads to; anything else behind it is no version. */
	if (text[used] != '\0' && text[used] != '\n' && text[used] != '-')
		return -EINVAL;
	return (int)(major << 16 | minor << 8 | patch);
}
