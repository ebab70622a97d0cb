/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grammar of image references.
 * Trust: pure; reads text of strangers.
 */
#include "common/imageref.h"

#define LOWER  "abcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"
#define WORD   LOWER "ABCDEFGHIJKLMNOPQRSTUVWXYZ" DIGITS "_"

#define NAME_MAX_BYTES 255
#define TAG_MAX_BYTES  128
#define DIGEST_PREFIX  "sha256:"
#define DIGEST_HEX     64

static bool made_of(const char *text, size_t len, const char *chars)
{
	for (size_t i = 0; i < len; i++)
		if (text[i] == '\0' || !strchr(chars, text[i]))
			return false;
	return true;
}

static bool is_in(char c, const char *chars)
{
	return c != '\0' && strchr(chars, c);
}

/* The first component is a host when it cannot be a path: a dot, a port, or "localhost". */
static size_t host_length(const char *name, size_t len)
{
	const char *slash = memchr(name, '/', len);
	size_t n = slash ? (size_t)(slash - name) : 0;

	if (n == 0)
		return 0;
	if (memchr(name, '.', n) || memchr(name, ':', n))
		return n;
	return n == strlen("localhost") && memcmp(name, "localhost", n) == 0 ? n : 0;
}

static bool host_ok(const char *host, size_t len)
{
	const char *colon = memchr(host, ':', len);
	size_t n = colon ? (size_t)(colon - host) : len, port = len - n;

	if (n == 0 || !made_of(host, n, WORD ".-") || memchr(host, '_', n))
		return false;
	for (size_t i = 0; i < n; i++) /* no label is empty, or begins or ends with a dash */
		if ((host[i] == '.' || host[i] == '-') &&
		    (i == 0 || i + 1 == n || host[i - 1] == '.' || host[i + 1] == '.'))
			return false;
	return port == 0 || (port >= 2 && port <= 6 && made_of(colon + 1, port - 1, DIGITS));
}

/* Runs of letters and digits, joined by one of: . _ __ and any number of dashes. */
static bool component_ok(const char *text, size_t len)
{
	size_t i = 0;

	while (i < len) {
		size_t begin = i, joint;

		while (i < len && is_in(text[i], LOWER DIGITS))
			i++;
		if (i == begin)
			return false;
		if (i == len)
			return true;
		joint = i;
		while (i < len && is_in(text[i], "._-"))
			i++;
		if (!made_of(text + joint, i - joint, "-") && i - joint != 1 &&
		    !(i - joint == 2 && memcmp(text + joint, "__", 2) == 0))
			return false;
		if (i == joint)
			return false;
	}
	return false; /* empty, or it ends with a joint */
}

static bool path_ok(const char *path, size_t len)
{
	while (true) {
		const char *slash = memchr(path, '/', len);
		size_t n = slash ? (size_t)(slash - path) : len;

		if (!component_ok(path, n))
			return false;
		if (!slash)
			return true;
		path += n + 1;
		len -= n + 1;
	}
}

static bool tag_ok(const char *tag, size_t len)
{
	return len > 0 && len <= TAG_MAX_BYTES && is_in(tag[0], WORD) &&
	       made_of(tag, len, WORD ".-");
}

static bool digest_ok(const char *digest, size_t len)
{
	size_t prefix = strlen(DIGEST_PREFIX);

	return len == prefix + DIGEST_HEX && memcmp(digest, DIGEST_PREFIX, prefix) == 0 &&
	       made_of(digest + prefix, DIGEST_HEX, DIGITS "abcdef");
}

/* Cuts off what follows the name. */
static void split(const char *text, struct imageref *ref)
{
	size_t len = strlen(text);
	const char *at = strchr(text, '@'), *slash, *colon;

	*ref = (struct imageref){.name = text};
	if (at) {
		ref->digest = at + 1;
		ref->digest_len = len - (size_t)(ref->digest - text);
		len = (size_t)(at - text);
	}
	slash = memrchr(text, '/', len);
	colon = memchr(slash ? slash : text, ':', len - (size_t)(slash ? slash - text : 0));
	if (colon) {
		ref->tag = colon + 1;
		ref->tag_len = len - (size_t)(ref->tag - text);
		len = (size_t)(colon - text);
	}
	ref->name_len = len;
}

int imageref_parse(const char *text, struct imageref *ret_ref, struct err *reterr)
{
	struct imageref ref;
	size_t host;

	if (strlen(text) > IMAGEREF_MAX)
		return err_set(reterr, -EINVAL, "the image reference is too long");
	split(text, &ref);
	host = host_length(text, ref.name_len);
	if (ref.name_len == 0 || ref.name_len > NAME_MAX_BYTES)
		return err_set(reterr, -EINVAL, "the image's name is empty or longer than %d bytes",
			       NAME_MAX_BYTES);
	if (host > 0 && !host_ok(text, host))
		return err_set(reterr, -EINVAL, "the image's registry must be host or host:port");
	if (!path_ok(text + (host > 0 ? host + 1 : 0), ref.name_len - (host > 0 ? host + 1 : 0)))
		return err_set(reterr, -EINVAL,
			       "the image's name must be lowercase letters and digits, joined by "
			       "'.', '_' or '-', in parts between '/'");
	if (ref.tag && !tag_ok(ref.tag, ref.tag_len))
		return err_set(reterr, -EINVAL, "the image's tag is not a valid tag");
	if (ref.digest && !digest_ok(ref.digest, ref.digest_len))
		return err_set(reterr, -EINVAL,
			       "the image's digest must be sha256: and 64 hexadecimal digits");
	ref.host = host > 0 ? text : NULL;
	ref.host_len = host;
	*ret_ref = ref;
	return 0;
}
