/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what frp-supervisor reads of frpc, and what it writes for it. The first byte chooses:
 * an HTTP answer with the status in it, or the strings of a server, which must come out as a file
 * of the form that frpc may see, or not at all.
 * Trust: a test; reads what the fuzzer invents.
 */
#include "frp-supervisor/answer.h"
#include "frp-supervisor/render.h"

#define INVARIANT(condition)                                                                       \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			(void)fprintf(stderr, "broken: %s, line %d\n", #condition, __LINE__);      \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool printable(const char *text)
{
	for (; *text; text++)
		if (*text < 0x20 || *text > 0x7e)
			return false;
	return true;
}

static void read_answer(const char *data, size_t size)
{
	static struct answer_entry entries[16];
	struct answer_http a;
	ssize_t n;

	/* A byte more never makes a whole answer of a broken one, or less of a whole one. */
	if (answer_http(data, size, /* eof= */ false, &a) == 1) {
		INVARIANT(a.body >= data && a.body + a.body_len <= data + size);
		INVARIANT(a.status >= 100 && a.status <= 599);
		data = a.body;
		size = a.body_len;
	}
	n = answer_status(data, size, entries, ARRAY_LEN(entries));
	INVARIANT(n <= (ssize_t)ARRAY_LEN(entries) && (n >= 0 || n == -EBADMSG || n == -E2BIG));
	for (ssize_t i = 0; i < n; i++)
		INVARIANT(printable(entries[i].error) && strlen(entries[i].name) < 96);
}

/* The next string of the input, up to a NUL, of at most @size - 1 bytes. */
static void take(const uint8_t **data, size_t *left, char *out, size_t size)
{
	size_t len = strnlen((const char *)*data, *left), n = MIN_OF(len, size - 1);

	memset(out, 0, size);
	memcpy(out, *data, n);
	*data += MIN_OF(len + 1, *left);
	*left -= MIN_OF(len + 1, *left);
}

/* Every line is `key = value` with a number, a word, one plain string, or a list of one. */
static void check_file(const char *text)
{
	size_t quotes = 0;

	INVARIANT(!strchr(text, '{') && !strchr(text, '}') && !strchr(text, '\\'));
	for (const char *p = text; *p; p++) {
		quotes += *p == '"';
		if (*p != '\n')
			continue;
		INVARIANT(quotes == 0 || quotes == 2);
		quotes = 0;
		INVARIANT(p[1] == '\0' || p[1] == '\n' ||
			  strncmp(p + 1, "[[proxies]]\n", 12) == 0 || (p[1] >= 'a' && p[1] <= 'z'));
	}
	INVARIANT(quotes == 0);
}

static void write_file(const uint8_t *data, size_t size)
{
	static const struct wanted_policy policy = {10000, 65535, 15001, 15300, 10000,
						    15000, 15001, 65535, 0};
	static struct wanted w;
	const struct render_admin admin = {7400, "00112233445566778899aabbccddeeff"};
	struct frp_configure_req req = {.port = 7000, .tls = PROTO_TLS_VERIFY};
	const struct frp_set_req set = {.owner = "vm",
					.proxies = {{20001, 20001, 80, PROTO_PROXY_HTTP}}};
	char token[300], *text;

	wanted_clear(&w);
	(void)proto_name_set(req.agent, "agent");
	req.naming = size > 0 ? data[0] & 1 : 0;
	take(&data, &size, req.server, sizeof(req.server));
	take(&data, &size, req.server_name, sizeof(req.server_name));
	take(&data, &size, req.domain, sizeof(req.domain));
	take(&data, &size, token, sizeof(token));
	if (wanted_configure(&w, &policy, &req, token) < 0)
		return;
	INVARIANT(wanted_set(&w, &policy, &set) == 1);
	text = render_file(&w, &admin, "/ca.pem");
	INVARIANT(text); /* what passed the grammars can be written */
	check_file(text);
	render_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *copy = NULL;

	if (size == 0)
		return 0;
	copy = malloc(size); /* exactly as long, so that a sanitizer sees one byte too far */
	if (!copy)
		return 0;
	memcpy(copy, data + 1, size - 1);
	if (data[0] & 1)
		write_file((const uint8_t *)copy, size - 1);
	else
		read_answer(copy, size - 1);
	return 0;
}
