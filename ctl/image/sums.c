/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checksums: lists of them, and counting them.
 *
 * Trust: pure; reads lists that a stranger may have written.
 */
#include <ctype.h>

#include "ctl/image/image.h"

static bool take_hex(const char *s, size_t n, struct sum *ret_sum)
{
	if (n != SHA256_HEX && n != SHA512_HEX)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!isxdigit((unsigned char)s[i]))
			return false;
		ret_sum->hex[i] = (char)tolower((unsigned char)s[i]);
	}
	ret_sum->hex[n] = '\0';
	ret_sum->n_hex = n;
	return true;
}

int sum_parse(const char *text, struct sum *ret_sum)
{
	struct sum sum;

	if (!take_hex(text, strlen(text), &sum))
		return -EINVAL;
	*ret_sum = sum;
	return 0;
}

static bool is_named(const char *s, size_t len, const char *name)
{
	return len == strlen(name) && memcmp(s, name, len) == 0;
}

/* "HEX  name" or "HEX *name", as sha256sum writes. */
static bool gnu_line(const char *line, size_t len, const char *name, struct sum *ret_sum)
{
	size_t n = 0;

	while (n < len && line[n] != ' ')
		n++;
	if (n + 2 >= len || (line[n + 1] != ' ' && line[n + 1] != '*'))
		return false;
	return is_named(line + n + 2, len - n - 2, name) && take_hex(line, n, ret_sum);
}

/* "SHA256 (name) = HEX", as BSD's tools write. */
static bool bsd_line(const char *line, size_t len, const char *name, struct sum *ret_sum)
{
	static const char middle[] = ") = ";
	const char *open = memchr(line, '(', len), *hex;
	size_t after;

	if (!open || len < 8 ||
	    (memcmp(line, "SHA256 (", 8) != 0 && memcmp(line, "SHA512 (", 8) != 0))
		return false;
	after = strlen(name) + sizeof(middle) - 1;
	if ((size_t)(line + len - open - 1) < after || memcmp(open + 1, name, strlen(name)) != 0 ||
	    memcmp(open + 1 + strlen(name), middle, sizeof(middle) - 1) != 0)
		return false;
	hex = open + 1 + after;
	return take_hex(hex, (size_t)(line + len - hex), ret_sum);
}

int sums_find(const char *text, const char *name, struct sum *ret_sum)
{
	struct sum found = {0};

	for (const char *line = text; *line;) {
		size_t len = strcspn(line, "\n"), used = len;
		struct sum sum;

		if (used > 0 && line[used - 1] == '\r')
			used--;
		if (gnu_line(line, used, name, &sum) || bsd_line(line, used, name, &sum)) {
			if (found.n_hex == sum.n_hex && !STR_EQ(found.hex, sum.hex))
				return -EBADMSG;
			/* The longer one, where a list has both. */
			if (sum.n_hex > found.n_hex)
				found = sum;
		}
		line += len + (line[len] == '\n');
	}
	if (found.n_hex == 0)
		return -ENOENT;
	*ret_sum = found;
	return 0;
}

const char *const record_files[SUMS_FILES_MAX] = {IMAGE_DISK, IMAGE_CONF, "kernel", "initrd"};

static int sums_line(const char *line, size_t len, struct sums *s)
{
	for (size_t i = 0; i < SUMS_FILES_MAX; i++) {
		struct sum sum;

		if (!gnu_line(line, len, record_files[i], &sum))
			continue;
		for (size_t j = 0; j < s->n; j++)
			if (STR_EQ(s->name[j], record_files[i]))
				return -EBADMSG;
		if (sum.n_hex != SHA256_HEX)
			return -EBADMSG;
		(void)snprintf(s->name[s->n], sizeof(s->name[0]), "%s", record_files[i]);
		s->sum[s->n++] = sum;
		return 0;
	}
	return -EBADMSG;
}

int sums_parse(const char *text, struct sums *ret_sums)
{
	struct sums s = {0};

	for (const char *line = text; *line;) {
		size_t len = strcspn(line, "\n");

		if (line[len] != '\n')
			return -EBADMSG; /* a cut file */
		if (len > 0 && line[0] != '#' && sums_line(line, len, &s) < 0)
			return -EBADMSG;
		line += len + 1;
	}
	if (s.n == 0)
		return -EBADMSG;
	*ret_sums = s;
	return 0;
}

static int begin(EVP_MD_CTX **ret_ctx, const EVP_MD *kind)
{
	*ret_ctx = EVP_MD_CTX_new();
	return *ret_ctx && EVP_DigestInit_ex(*ret_ctx, kind, NULL) == 1 ? 0 : -ENOMEM;
}

int digest_init(struct digest *d, bool with_sha512)
{
	*d = (struct digest){0};
	if (begin(&d->sha256, EVP_sha256()) < 0 ||
	    (with_sha512 && begin(&d->sha512, EVP_sha512()) < 0)) {
		digest_done(d);
		return -ENOMEM;
	}
	return 0;
}

int digest_add(struct digest *d, const void *data, size_t len)
{
	if ((d->sha256 && EVP_DigestUpdate(d->sha256, data, len) != 1) ||
	    (d->sha512 && EVP_DigestUpdate(d->sha512, data, len) != 1))
		return -ENOMEM;
	return 0;
}

int digest_end(struct digest *d, const struct sum *like, struct sum *ret_sum)
{
	uint8_t bytes[EVP_MAX_MD_SIZE];
	unsigned int n = 0;
	EVP_MD_CTX *ctx = like && like->n_hex == SHA512_HEX ? d->sha512 : d->sha256;

	if (!ctx || EVP_DigestFinal_ex(ctx, bytes, &n) != 1)
		return -ENOMEM;
	ret_sum->n_hex = 2 * (size_t)n;
	for (size_t i = 0; i < n; i++)
		(void)snprintf(ret_sum->hex + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

void digest_done(struct digest *d)
{
	EVP_MD_CTX_free(d->sha256);
	EVP_MD_CTX_free(d->sha512);
	*d = (struct digest){0};
}
