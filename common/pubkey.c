/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks of public keys.
 * Trust: runs in agentd and vmmon; reads text of API clients.
 */
#include "common/pubkey.h"

#define BLOB_MAX     6144 /* bytes of a decoded key; RSA of 16384 bits needs 2100 */
#define RSA_BITS_MAX 16384
#define APP_MAX      255 /* bytes of a security key's application name */

enum shape {
	SHAPE_ED25519, /* string point */
	SHAPE_ECDSA,   /* string curve, string point */
	SHAPE_RSA,     /* mpint exponent, mpint modulus */
};

static const struct key_type {
	const char *name;
	enum shape shape;
	const char *curve;
	size_t point_len;
	bool has_application; /* a security key's, after the rest */
} key_types[] = {
	{"ssh-ed25519", SHAPE_ED25519, NULL, 32, false},
	{"ecdsa-sha2-nistp256", SHAPE_ECDSA, "nistp256", 65, false},
	{"ecdsa-sha2-nistp384", SHAPE_ECDSA, "nistp384", 97, false},
	{"ecdsa-sha2-nistp521", SHAPE_ECDSA, "nistp521", 133, false},
	{"ssh-rsa", SHAPE_RSA, NULL, 0, false},
	{"sk-ssh-ed25519@openssh.com", SHAPE_ED25519, NULL, 32, true},
	{"sk-ecdsa-sha2-nistp256@openssh.com", SHAPE_ECDSA, "nistp256", 65, true},
};

/* What is left to read of a decoded key. */
struct cursor {
	const uint8_t *p;
	size_t left;
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static bool equals(const void *p, size_t len, const char *text)
{
	return len == strlen(text) && memcmp(p, text, len) == 0;
}

static int base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+')
		return 62;
	return c == '/' ? 63 : -1;
}

/* Four characters, the last @pad of them '=', to 3 - @pad bytes; unused bits must be zero. */
static int decode_quad(const char *in, size_t pad, uint8_t *out)
{
	uint32_t bits = 0;

	for (size_t i = 0; i < 4; i++) {
		int v = i < 4 - pad ? base64_value(in[i]) : 0;

		if (v < 0)
			return -EINVAL;
		bits = bits << 6 | (uint32_t)v;
	}
	if (bits & ((UINT32_C(1) << 8 * pad) - 1))
		return -EINVAL;
	for (size_t i = 0; i < 3 - pad; i++)
		out[i] = (uint8_t)(bits >> (16 - 8 * i));
	return 0;
}

/* Strict decoding: padded, no blanks, one text for one value. */
static int decode(const char *in, size_t len, uint8_t out[static BLOB_MAX], size_t *ret_len)
{
	size_t pad, used = 0;

	if (len == 0 || len % 4 != 0 || len / 4 * 3 > BLOB_MAX)
		return -EINVAL;
	pad = in[len - 1] != '=' ? 0 : in[len - 2] != '=' ? 1 : 2;
	for (size_t i = 0; i < len; i += 4) {
		size_t here = i + 4 == len ? pad : 0;

		if (decode_quad(in + i, here, out + used) < 0)
			return -EINVAL;
		used += 3 - here;
	}
	*ret_len = used;
	return 0;
}

static int take_string(struct cursor *c, struct cursor *ret_string)
{
	size_t len;

	if (c->left < 4)
		return -EINVAL;
	len = (size_t)c->p[0] << 24 | (size_t)c->p[1] << 16 | (size_t)c->p[2] << 8 | c->p[3];
	if (len > c->left - 4)
		return -EINVAL;
	*ret_string = (struct cursor){c->p + 4, len};
	c->p += 4 + len;
	c->left -= 4 + len;
	return 0;
}

/* A positive number without needless leading zeros; its length in bits. */
static int take_mpint(struct cursor *c, struct cursor *ret_number, size_t *ret_bits)
{
	struct cursor n;
	size_t bits;

	if (take_string(c, &n) < 0 || n.left == 0 || (n.p[0] & 0x80))
		return -EINVAL;
	if (n.p[0] == 0) {
		if (n.left < 2 || !(n.p[1] & 0x80))
			return -EINVAL;
		n.p++;
		n.left--;
	}
	bits = n.left * 8;
	for (uint8_t top = n.p[0]; !(top & 0x80); top = (uint8_t)(top << 1))
		bits--;
	*ret_number = n;
	*ret_bits = bits;
	return 0;
}

static int check_rsa(struct cursor *c, struct err *reterr)
{
	struct cursor e, n;
	size_t e_bits, n_bits;

	if (take_mpint(c, &e, &e_bits) < 0 || take_mpint(c, &n, &n_bits) < 0)
		return err_set(reterr, -EINVAL, "the key's data is damaged");
	if (n_bits < PUBKEY_RSA_BITS || n_bits > RSA_BITS_MAX)
		return err_set(reterr, -EPERM, "an RSA key must have %d to %d bits, this has %zu",
			       PUBKEY_RSA_BITS, RSA_BITS_MAX, n_bits);
	if (e_bits < 2 || e_bits > 64 || !(e.p[e.left - 1] & 1) || !(n.p[n.left - 1] & 1))
		return err_set(reterr, -EINVAL, "the key's numbers make no RSA key");
	return 0;
}

static int check_point(const struct key_type *type, struct cursor *c)
{
	struct cursor part;

	if (type->shape == SHAPE_ECDSA &&
	    (take_string(c, &part) < 0 || !equals(part.p, part.left, type->curve)))
		return -EINVAL;
	if (take_string(c, &part) < 0 || part.left != type->point_len)
		return -EINVAL;
	/* 4: the point is given by both coordinates, the only form that SSH uses */
	return type->shape == SHAPE_ECDSA && part.p[0] != 4 ? -EINVAL : 0;
}

static int check_application(struct cursor *c)
{
	struct cursor name;

	if (take_string(c, &name) < 0 || name.left == 0 || name.left > APP_MAX)
		return -EINVAL;
	for (size_t i = 0; i < name.left; i++)
		if (name.p[i] < 0x21 || name.p[i] > 0x7e)
			return -EINVAL;
	return 0;
}

static int check_blob(const struct key_type *type, struct cursor c, struct err *reterr)
{
	struct cursor name;
	int r;

	if (take_string(&c, &name) < 0 || !equals(name.p, name.left, type->name))
		return err_set(reterr, -EINVAL, "the key's data is not of the type %s", type->name);
	r = type->shape == SHAPE_RSA ? check_rsa(&c, reterr) : check_point(type, &c);
	if (r == 0 && type->has_application)
		r = check_application(&c);
	if (r == -EPERM)
		return r;
	if (r < 0 || c.left != 0)
		return err_set(reterr, -EINVAL, "the key's data is damaged");
	return 0;
}

/* Cuts the next word off [*p, end). */
static size_t take_word(const char **p, const char *end, const char **ret_word)
{
	while (*p < end && is_blank(**p))
		(*p)++;
	*ret_word = *p;
	while (*p < end && !is_blank(**p))
		(*p)++;
	return (size_t)(*p - *ret_word);
}

static int take_comment(const char *p, const char *end, struct pubkey *key, struct err *reterr)
{
	while (p < end && is_blank(*p))
		p++;
	while (end > p && is_blank(end[-1]))
		end--;
	key->comment = p < end ? p : NULL;
	key->comment_len = (size_t)(end - p);
	if (key->comment_len > PUBKEY_COMMENT_MAX)
		return err_set(reterr, -E2BIG, "the key's comment is longer than %d bytes",
			       PUBKEY_COMMENT_MAX);
	for (; p < end; p++)
		if (*p < 0x20 || *p > 0x7e)
			return err_set(reterr, -EINVAL,
				       "the key's comment must be printable ASCII");
	return 0;
}

static const struct key_type *find_type(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(key_types); i++)
		if (equals(name, len, key_types[i].name))
			return &key_types[i];
	return NULL;
}

int pubkey_parse(const char *line, size_t len, struct pubkey *ret_key, struct err *reterr)
{
	const char *p = line, *end = line + len;
	uint8_t blob[BLOB_MAX];
	const struct key_type *type;
	struct pubkey key;
	size_t blob_len;
	int r;

	if (len > PUBKEY_LINE_MAX)
		return err_set(reterr, -E2BIG, "the key is longer than %d bytes", PUBKEY_LINE_MAX);
	key.type_len = take_word(&p, end, &key.type);
	type = find_type(key.type, key.type_len);
	if (!type)
		return err_set(
			reterr, -EPERM,
			"a key begins with one of the types ssh-ed25519, ecdsa-sha2-nistp256, "
			"-nistp384, -nistp521, ssh-rsa, sk-ssh-ed25519@openssh.com, "
			"sk-ecdsa-sha2-nistp256@openssh.com");
	key.base64_len = take_word(&p, end, &key.base64);
	if (decode(key.base64, key.base64_len, blob, &blob_len) < 0)
		return err_set(reterr, -EINVAL, "the key's data is no base64");
	r = check_blob(type, (struct cursor){blob, blob_len}, reterr);
	if (r < 0)
		return r;
	r = take_comment(p, end, &key, reterr);
	if (r < 0)
		return r;
	*ret_key = key;
	return 0;
}

bool pubkey_same(const struct pubkey *a, const struct pubkey *b)
{
	return a->base64_len == b->base64_len && memcmp(a->base64, b->base64, a->base64_len) == 0;
}

int pubkey_check_list(const char *text, size_t len, size_t *ret_keys, struct err *reterr)
{
	const char *p = text, *end = text + len;
	size_t keys = 0;

	for (unsigned int number = 1; p < end; number++) {
		const char *newline = memchr(p, '\n', (size_t)(end - p));
		size_t line_len = (size_t)((newline ? newline : end) - p);
		struct pubkey key;
		struct err why = {0};
		int r = line_len > 0 ? pubkey_parse(p, line_len, &key, &why) : 0;

		if (r < 0)
			return err_set(reterr, r, "line %u: %s", number, why.text);
		keys += line_len > 0 ? 1 : 0;
		p += line_len + (newline ? 1 : 0);
	}
	*ret_keys = keys;
	return 0;
}
