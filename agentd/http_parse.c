/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strict reading of HTTP/1.x request heads and chunked bodies.
 * Trust: runs inside agentd; reads bytes of strangers (tenants, frp's proxy, local operators).
 */
#include "agentd/http_parse.h"

#include <strings.h>

enum {
	CH_TOKEN = 1 << 0,  /* RFC 9110 tchar */
	CH_TARGET = 1 << 1, /* RFC 3986 pchar without "%", and "/" "?" */
	CH_HOST = 1 << 2,   /* what a host name or an IPv4 address is made of */
	CH_HEX = 1 << 3,
	CH_ALNUM = CH_TOKEN | CH_TARGET | CH_HOST,
};

static const uint8_t char_class[256] = {
	['0' ... '9'] = CH_ALNUM | CH_HEX,
	['A' ... 'F'] = CH_ALNUM | CH_HEX,
	['G' ... 'Z'] = CH_ALNUM,
	['a' ... 'f'] = CH_ALNUM | CH_HEX,
	['g' ... 'z'] = CH_ALNUM,
	['-'] = CH_ALNUM,
	['.'] = CH_ALNUM,
	['_'] = CH_ALNUM,
	['~'] = CH_ALNUM,
	['!'] = CH_TOKEN | CH_TARGET,
	['$'] = CH_TOKEN | CH_TARGET,
	['&'] = CH_TOKEN | CH_TARGET,
	['\''] = CH_TOKEN | CH_TARGET,
	['*'] = CH_TOKEN | CH_TARGET,
	['+'] = CH_TOKEN | CH_TARGET,
	['#'] = CH_TOKEN,
	['%'] = CH_TOKEN,
	['^'] = CH_TOKEN,
	['`'] = CH_TOKEN,
	['|'] = CH_TOKEN,
	['('] = CH_TARGET,
	[')'] = CH_TARGET,
	[','] = CH_TARGET,
	[';'] = CH_TARGET,
	['='] = CH_TARGET,
	[':'] = CH_TARGET,
	['@'] = CH_TARGET,
	['/'] = CH_TARGET,
	['?'] = CH_TARGET,
};

static bool is_class(char c, uint8_t class)
{
	return (char_class[(uint8_t)c] & class) != 0;
}

static int fail(struct http_error *err, unsigned status, const char *reason)
{
	err->status = status;
	err->reason = reason;
	return -EBADMSG;
}

/* What one reading of a head works on; spans count from @buf. */
struct reader {
	const char *buf;
	struct http_head *head;
	struct http_error *err;
	struct http_span authority; /* of an absolute-form target, else empty */
	struct http_span host;
	bool has_host, has_length, has_coding, has_expect;
	bool says_close, says_keep_alive;
};

static struct http_span span_of(const struct reader *r, const char *begin, const char *end)
{
	return (struct http_span){(uint16_t)(begin - r->buf), (uint16_t)(end - begin)};
}

static bool equals_nocase(const char *p, size_t len, const char *word)
{
	return strlen(word) == len && strncasecmp(p, word, len) == 0;
}

/* Value of a hex digit, which the caller has made sure that @c is. */
static unsigned hex_value(char c)
{
	return c <= '9' ? (unsigned)(c - '0') : (unsigned)((c | 0x20) - 'a' + 10);
}

/*
 * Step one: where does the head end? Looks at every byte once, however slowly they arrive, and
 * settles everything about line ends and control bytes, so that the rest may rely on it.
 */
enum scan_state {
	SCAN_LINE,     /* within a line */
	SCAN_LINE_CR,  /* after its CR */
	SCAN_START,    /* at the start of a line */
	SCAN_START_CR, /* after the CR of an empty line */
};

/* Returns 0, 1 when the head is complete, or -EBADMSG. */
static int scan_control(struct http_scan *scan, char c, struct http_error *err)
{
	bool after_cr = scan->state == SCAN_LINE_CR || scan->state == SCAN_START_CR;

	if (c == '\r' && !after_cr) {
		if (scan->at == 0)
			return fail(err, 400, "empty line before the request");
		scan->state++; /* LINE -> LINE_CR, START -> START_CR */
		return 0;
	}
	if (c == '\n' && after_cr) {
		bool done = scan->state == SCAN_START_CR;

		scan->state = SCAN_START;
		scan->line_seen = true;
		return done;
	}
	if (c == '\n')
		return fail(err, 400, "line feed without carriage return");
	if (c == '\r')
		return fail(err, 400, "carriage return without line feed");
	return fail(err, 400, "control byte in the head");
}

/* Returns 0 when the head ends at scan->at. */
static int scan_head(const char *buf, size_t len, struct http_scan *scan, struct http_error *err)
{
	size_t limit = MIN_OF(len, (size_t)HTTP_HEAD_MAX);

	for (; scan->at < limit; scan->at++) {
		uint8_t c = (uint8_t)buf[scan->at];
		int r;

		if ((c >= 0x20 && c != 0x7f) || c == '\t') {
			if (scan->state == SCAN_LINE_CR || scan->state == SCAN_START_CR)
				return fail(err, 400, "carriage return without line feed");
			scan->state = SCAN_LINE;
			continue;
		}
		r = scan_control(scan, (char)c, err);
		if (r < 0)
			return r;
		if (r > 0) {
			scan->at++;
			return 0;
		}
	}
	if (len < HTTP_HEAD_MAX)
		return -EAGAIN;
	return scan->line_seen ? fail(err, 431, "request head too large")
			       : fail(err, 414, "request line too long");
}

/* Step two: the request line. */
static int parse_method(struct reader *r, const char *begin, const char *end)
{
	static const struct {
		const char *name;
		enum http_method method;
	} methods[] = {
		{"GET", HTTP_GET}, {"HEAD", HTTP_HEAD},     {"POST", HTTP_POST},
		{"PUT", HTTP_PUT}, {"DELETE", HTTP_DELETE}, {"OPTIONS", HTTP_OPTIONS},
	};
	size_t len = (size_t)(end - begin);

	for (size_t i = 0; i < ARRAY_LEN(methods); i++)
		if (strlen(methods[i].name) == len && memcmp(methods[i].name, begin, len) == 0) {
			r->head->method = methods[i].method;
			return 0;
		}
	for (const char *p = begin; p < end; p++)
		if (!is_class(*p, CH_TOKEN))
			return fail(r->err, 400, "invalid method");
	if (len == 0)
		return fail(r->err, 400, "invalid method");
	return fail(r->err, 501, "method not implemented");
}

static int parse_version(struct reader *r, const char *begin, const char *end)
{
	if (end - begin != 8 || memcmp(begin, "HTTP/", 5) != 0 || begin[6] != '.' ||
	    begin[5] < '0' || begin[5] > '9' || begin[7] < '0' || begin[7] > '9')
		return fail(r->err, 400, "invalid request line");
	if (begin[5] != '1' || begin[7] > '1')
		return fail(r->err, 505, "HTTP version not supported");
	r->head->minor = (uint8_t)(begin[7] - '0');
	return 0;
}

/*
 * Takes one character of a path or query off *@p; an escape counts as the character it stands for.
 * Returns it, or -1 where the URI grammar allows none.
 */
static int uri_char(const char **p, const char *end)
{
	const char *s = *p;

	if (*s != '%') {
		(*p)++;
		return is_class(*s, CH_TARGET) ? (uint8_t)*s : -1;
	}
	if (end - s < 3 || !is_class(s[1], CH_HEX) || !is_class(s[2], CH_HEX))
		return -1;
	*p += 3;
	return (int)(hex_value(s[1]) << 4 | hex_value(s[2]));
}

/* No segment may be empty (but the last), "." or "..", in whatever spelling. */
static bool segment_ok(size_t len, size_t dots, bool last)
{
	if (len == 0)
		return last;
	return !(len == dots && dots <= 2);
}

static int check_path(struct reader *r, const char *begin, const char *end)
{
	size_t len = 0, dots = 0;

	for (const char *p = begin + 1; p < end;) {
		const char *at = p;
		int c = uri_char(&p, end);

		if (c < 0)
			return fail(r->err, 400, "invalid character or escape in the path");
		if (*at == '/') {
			if (!segment_ok(len, dots, false))
				return fail(r->err, 400, "dot or empty segment in the path");
			len = dots = 0;
			continue;
		}
		if (c < 0x20 || c > 0x7e || c == '/' || c == '\\')
			return fail(r->err, 400, "escape not allowed in the path");
		len++;
		dots += c == '.';
	}
	if (!segment_ok(len, dots, true))
		return fail(r->err, 400, "dot or empty segment in the path");
	return 0;
}

static int check_query(struct reader *r, const char *begin, const char *end)
{
	for (const char *p = begin; p < end;)
		if (uri_char(&p, end) <= 0)
			return fail(r->err, 400, "invalid character or escape in the query");
	return 0;
}

/* Up to five digits, 0 to 65535; an empty port is in the grammar, but serves nobody. */
static bool port_ok(const char *begin, const char *end)
{
	unsigned port = 0;

	if (begin == end || end - begin > 5)
		return false;
	for (const char *p = begin; p < end; p++) {
		if (*p < '0' || *p > '9')
			return false;
		port = port * 10 + (unsigned)(*p - '0');
	}
	return port <= 65535;
}

/* host[:port], where host is a plain name, an IPv4 address or an IPv6 address in brackets. */
static bool authority_ok(const char *begin, const char *end)
{
	const char *p = begin;

	if (p < end && *p == '[') {
		for (p++; p < end && (is_class(*p, CH_HEX) || *p == ':' || *p == '.'); p++)
			;
		if (p == end || *p != ']' || p == begin + 1)
			return false;
		p++;
	} else {
		for (; p < end && is_class(*p, CH_HOST); p++)
			;
		if (p == begin)
			return false;
	}
	return p == end || (*p == ':' && port_ok(p + 1, end));
}

/* Takes "http://authority" off the front of an absolute-form target. */
static int parse_absolute(struct reader *r, const char **begin, const char *end)
{
	static const char scheme[] = "http://";
	const size_t scheme_len = sizeof(scheme) - 1;
	const char *auth, *path;

	if ((size_t)(end - *begin) < scheme_len || strncasecmp(*begin, scheme, scheme_len) != 0)
		return fail(r->err, 400, "invalid request target");
	auth = *begin + scheme_len;
	path = memchr(auth, '/', (size_t)(end - auth));
	if (!path || !authority_ok(auth, path))
		return fail(r->err, 400, "invalid request target");
	r->authority = span_of(r, auth, path);
	*begin = path;
	return 0;
}

static int parse_target(struct reader *r, const char *begin, const char *end)
{
	const char *query;
	int e;

	if (end - begin > HTTP_TARGET_MAX)
		return fail(r->err, 414, "request target too long");
	if (end - begin == 1 && *begin == '*') {
		r->head->path = span_of(r, begin, end);
		return r->head->method == HTTP_OPTIONS
			       ? 0
			       : fail(r->err, 400, "invalid request target");
	}
	if (begin == end || *begin != '/') {
		e = parse_absolute(r, &begin, end);
		if (e < 0)
			return e;
	}
	query = memchr(begin, '?', (size_t)(end - begin));
	r->head->path = span_of(r, begin, query ? query : end);
	e = check_path(r, begin, query ? query : end);
	if (e < 0 || !query)
		return e;
	r->head->query = span_of(r, query + 1, end);
	return check_query(r, query + 1, end);
}

static int parse_request_line(struct reader *r, const char *begin, const char *end)
{
	const char *sp1 = memchr(begin, ' ', (size_t)(end - begin));
	const char *sp2 = sp1 ? memchr(sp1 + 1, ' ', (size_t)(end - sp1 - 1)) : NULL;
	int e;

	if (!sp2)
		return fail(r->err, 400, "invalid request line");
	/* The version first: another one may have another idea of the rest. */
	e = parse_version(r, sp2 + 1, end);
	if (e < 0)
		return e;
	e = parse_method(r, begin, sp1);
	if (e < 0)
		return e;
	return parse_target(r, sp1 + 1, sp2);
}

/* Step three: the fields that decide about framing, and the host. */
static int on_host(struct reader *r, const char *begin, const char *end)
{
	if (r->has_host)
		return fail(r->err, 400, "more than one Host");
	if (!authority_ok(begin, end))
		return fail(r->err, 400, "invalid Host");
	r->has_host = true;
	r->host = span_of(r, begin, end);
	return 0;
}

static int on_content_length(struct reader *r, const char *begin, const char *end)
{
	uint64_t n = 0;

	if (r->has_length)
		return fail(r->err, 400, "more than one Content-Length");
	r->has_length = true;
	/* 18 digits cannot overflow, and are beyond any body. */
	if (begin == end || end - begin > 18 || (*begin == '0' && end - begin > 1))
		return fail(r->err, 400, "invalid Content-Length");
	for (const char *p = begin; p < end; p++) {
		if (*p < '0' || *p > '9')
			return fail(r->err, 400, "invalid Content-Length");
		n = n * 10 + (uint64_t)(*p - '0');
	}
	r->head->content_length = n;
	return 0;
}

/*
 * Takes the next element of a comma-separated list off *@p, without the blanks around it; at the
 * end
 * *@p is NULL. Elements may be empty, which is the caller's to judge.
 */
static void next_element(const char **p, const char *end, const char **ret_begin,
			 const char **ret_end)
{
	const char *comma = memchr(*p, ',', (size_t)(end - *p));
	const char *b = *p, *e = comma ? comma : end;

	while (b < e && (*b == ' ' || *b == '\t'))
		b++;
	while (e > b && (e[-1] == ' ' || e[-1] == '\t'))
		e--;
	*ret_begin = b;
	*ret_end = e;
	*p = comma ? comma + 1 : NULL;
}

static bool is_token(const char *begin, const char *end)
{
	for (const char *p = begin; p < end; p++)
		if (!is_class(*p, CH_TOKEN))
			return false;
	return begin < end;
}

static int on_transfer_encoding(struct reader *r, const char *begin, const char *end)
{
	const char *p = begin, *b, *e;
	unsigned others = 0;

	if (r->has_coding)
		return fail(r->err, 400, "more than one Transfer-Encoding");
	r->has_coding = true;
	while (p) {
		next_element(&p, end, &b, &e);
		if (!is_token(b, e) || r->head->chunked)
			return fail(r->err, 400, "invalid Transfer-Encoding");
		if (equals_nocase(b, (size_t)(e - b), "chunked"))
			r->head->chunked = true;
		else
			others++;
	}
	if (others > 0)
		return fail(r->err, 501, "transfer coding not implemented");
	return 0;
}

static int on_connection(struct reader *r, const char *begin, const char *end)
{
	const char *p = begin, *b, *e;

	while (p) {
		next_element(&p, end, &b, &e);
		if (b == e)
			continue;
		if (!is_token(b, e))
			return fail(r->err, 400, "invalid Connection");
		if (equals_nocase(b, (size_t)(e - b), "close"))
			r->says_close = true;
		else if (equals_nocase(b, (size_t)(e - b), "keep-alive"))
			r->says_keep_alive = true;
		else if (equals_nocase(b, (size_t)(e - b), "upgrade"))
			r->head->upgrade = true;
	}
	return 0;
}

static int on_expect(struct reader *r, const char *begin, const char *end)
{
	if (r->has_expect)
		return fail(r->err, 400, "more than one Expect");
	r->has_expect = true;
	if (!equals_nocase(begin, (size_t)(end - begin), "100-continue"))
		return fail(r->err, 417, "expectation not supported");
	r->head->expect_continue = true;
	return 0;
}

static const struct {
	const char *name;
	size_t len;
	int (*on_value)(struct reader *r, const char *begin, const char *end);
} known_fields[] = {
	{"host", 4, on_host},
	{"content-length", 14, on_content_length},
	{"transfer-encoding", 17, on_transfer_encoding},
	{"connection", 10, on_connection},
	{"expect", 6, on_expect},
};

static int parse_field(struct reader *r, const char *begin, const char *end)
{
	const char *colon = begin, *value, *value_end = end;
	struct http_field *f;

	if (*begin == ' ' || *begin == '\t')
		return fail(r->err, 400, "folded field");
	while (colon < end && is_class(*colon, CH_TOKEN))
		colon++;
	if (colon == begin || colon == end || *colon != ':')
		return fail(r->err, 400, "invalid field name");
	if (r->head->n_fields == HTTP_FIELDS_MAX)
		return fail(r->err, 431, "too many fields");
	value = colon + 1;
	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	while (value_end > value && (value_end[-1] == ' ' || value_end[-1] == '\t'))
		value_end--;
	f = &r->head->fields[r->head->n_fields++];
	f->name = span_of(r, begin, colon);
	f->value = span_of(r, value, value_end);
	for (size_t i = 0; i < ARRAY_LEN(known_fields); i++)
		if (known_fields[i].len == f->name.len &&
		    strncasecmp(begin, known_fields[i].name, f->name.len) == 0)
			return known_fields[i].on_value(r, value, value_end);
	return 0;
}

/* Step four: what only all fields together can tell. */
static int check_together(struct reader *r)
{
	struct http_head *h = r->head;

	if (r->has_coding && r->has_length)
		return fail(r->err, 400, "both Transfer-Encoding and Content-Length");
	if (r->has_coding && h->minor == 0)
		return fail(r->err, 400, "Transfer-Encoding in HTTP/1.0");
	if (!r->has_host && h->minor == 1)
		return fail(r->err, 400, "no Host");
	if (r->authority.len > 0 && r->has_host &&
	    (r->authority.len != r->host.len ||
	     strncasecmp(r->buf + r->authority.off, r->buf + r->host.off, r->host.len) != 0))
		return fail(r->err, 400, "Host differs from the request target");
	h->keep_alive = !r->says_close && (h->minor == 1 || r->says_keep_alive);
	h->expect_continue = h->expect_continue && h->minor == 1;
	return 0;
}

int http_parse_head(const char *buf, size_t len, struct http_scan *scan, struct http_head *ret,
		    struct http_error *reterr)
{
	struct reader r = {.buf = buf, .head = ret, .err = reterr};
	const char *line, *end;
	int e;

	e = scan_head(buf, len, scan, reterr);
	if (e < 0)
		return e;
	memset(ret, 0, offsetof(struct http_head, fields));
	ret->len = scan->at;

	/* From here on every CR is the end of a line, and an empty line is the end of the head. */
	end = memchr(buf, '\r', ret->len);
	e = parse_request_line(&r, buf, end);
	if (e < 0)
		return e;
	for (line = end + 2; *line != '\r'; line = end + 2) {
		end = memchr(line, '\r', ret->len - (size_t)(line - buf));
		e = parse_field(&r, line, end);
		if (e < 0)
			return e;
	}
	return check_together(&r);
}

void http_head_seal(struct http_head *head, char *buf)
{
	char *out = buf + head->path.off;
	const char *p = out, *end = out + head->path.len;

	/* Behind each span there is a delimiter that has served its purpose: room for the NUL. */
	if (head->query.off > 0)
		buf[head->query.off + head->query.len] = '\0';
	while (p < end)
		*out++ = (char)uri_char(&p, end);
	head->path.len = (uint16_t)(out - (buf + head->path.off));
	*out = '\0';
	for (size_t i = 0; i < head->n_fields; i++)
		buf[head->fields[i].value.off + head->fields[i].value.len] = '\0';
}

int http_head_field(const struct http_head *head, const char *buf, const char *name,
		    const char **ret_value)
{
	const struct http_field *found = NULL;
	size_t len = strlen(name);

	for (size_t i = 0; i < head->n_fields; i++) {
		const struct http_field *f = &head->fields[i];

		if (f->name.len != len || strncasecmp(buf + f->name.off, name, len) != 0)
			continue;
		if (found)
			return -ENOTUNIQ;
		found = f;
	}
	if (!found)
		return -ENOENT;
	*ret_value = buf + found->value.off;
	return 0;
}

bool http_field_valid(const char *name, const char *value)
{
	for (const char *p = value; *p; p++)
		if (((uint8_t)*p < 0x20 && *p != '\t') || *p == 0x7f)
			return false;
	return is_token(name, name + strlen(name));
}

/* One character of a query component, with the "+" of HTML forms. */
static int query_char(const char **p, const char *end)
{
	if (**p != '+')
		return uri_char(p, end);
	(*p)++;
	return ' ';
}

static bool query_name_is(const char *begin, const char *end, const char *name)
{
	const char *p = begin;

	for (; p < end && *name; name++)
		if (query_char(&p, end) != (uint8_t)*name)
			return false;
	return p == end && *name == '\0';
}

int http_query_find(const char *query, size_t query_len, const char *name, char *buf, size_t size)
{
	const char *end = query + query_len, *value = NULL, *value_end = NULL;
	size_t n = 0;

	for (const char *p = query; p < end;) {
		const char *amp = memchr(p, '&', (size_t)(end - p));
		const char *stop = amp ? amp : end;
		const char *eq = memchr(p, '=', (size_t)(stop - p));

		if (query_name_is(p, eq ? eq : stop, name)) {
			if (value)
				return -ENOTUNIQ;
			value = eq ? eq + 1 : stop;
			value_end = stop;
		}
		p = amp ? amp + 1 : end;
	}
	if (!value)
		return -ENOENT;
	while (value < value_end) {
		if (n + 1 >= size)
			return -ENOSPC;
		buf[n++] = (char)query_char(&value, value_end);
	}
	if (size == 0)
		return -ENOSPC;
	buf[n] = '\0';
	return (int)n;
}

enum chunk_state {
	CHUNK_SIZE,    /* at or within the size, in hex */
	CHUNK_EXT,     /* within extensions */
	CHUNK_SIZE_LF, /* after the CR of the size line */
	CHUNK_DATA,
	CHUNK_DATA_CR, /* the data is over: its CR LF follows */
	CHUNK_DATA_LF,
	CHUNK_LAST_CR, /* the size was 0: the empty line that ends the body follows */
	CHUNK_LAST_LF,
	CHUNK_DONE,
};

/* Returns 0 to go on, -EBADMSG on anything outside the grammar. */
static int chunk_size_char(struct http_chunked *c, char ch, struct http_error *err)
{
	if (is_class(ch, CH_HEX)) {
		/* Eight digits are 4 GiB: beyond any body, and far from an overflow. */
		if (c->digits == 8)
			return fail(err, 400, "chunk size too long");
		c->digits++;
		c->left = c->left << 4 | hex_value(ch);
		return 0;
	}
	if (c->digits == 0 || (ch != '\r' && ch != ';'))
		return fail(err, 400, "invalid chunk size");
	c->state = ch == ';' ? CHUNK_EXT : CHUNK_SIZE_LF;
	return 0;
}

static int chunk_ext_char(struct http_chunked *c, char ch, struct http_error *err)
{
	if (ch == '\r') {
		c->state = CHUNK_SIZE_LF;
		return 0;
	}
	if (ch != '\t' && (ch < 0x20 || ch > 0x7e))
		return fail(err, 400, "invalid chunk extension");
	if (++c->ext_len > HTTP_CHUNK_EXT_MAX)
		return fail(err, 400, "chunk extensions too long");
	return 0;
}

/* The CR and LF around the data, where only one byte is right and leads to one next state. */
static int chunk_delimiter(struct http_chunked *c, char ch, struct http_error *err)
{
	char expected = c->state == CHUNK_DATA_CR || c->state == CHUNK_LAST_CR ? '\r' : '\n';

	if (ch != expected)
		return fail(err, 400,
			    c->state == CHUNK_LAST_CR ? "trailer fields are not supported"
						      : "invalid end of chunk");
	switch (c->state) {
	case CHUNK_SIZE_LF:
		c->state = c->left > 0 ? CHUNK_DATA : CHUNK_LAST_CR;
		break;
	case CHUNK_DATA_LF:
		c->state = CHUNK_SIZE;
		c->digits = 0;
		break;
	default: /* DATA_CR, LAST_CR, LAST_LF: the LF, or the end */
		c->state++;
	}
	return 0;
}

static int chunk_char(struct http_chunked *c, char ch, struct http_error *err)
{
	if (c->state == CHUNK_SIZE)
		return chunk_size_char(c, ch, err);
	if (c->state == CHUNK_EXT)
		return chunk_ext_char(c, ch, err);
	return chunk_delimiter(c, ch, err);
}

int http_chunked_feed(struct http_chunked *c, char *buf, size_t len, size_t room, size_t *ret_used,
		      size_t *ret_out, struct http_error *reterr)
{
	size_t in = 0, out = 0;

	while (in < len && c->state != CHUNK_DONE) {
		size_t n;
		int r;

		if (c->state != CHUNK_DATA) {
			r = chunk_char(c, buf[in++], reterr);
			if (r < 0)
				return r;
			if (c->state == CHUNK_DATA && c->left > room - out)
				return fail(reterr, 413, "request body too large");
			continue;
		}
		n = MIN_OF(len - in, (size_t)c->left);
		memmove(buf + out, buf + in, n);
		in += n;
		out += n;
		c->left -= n;
		if (c->left == 0)
			c->state = CHUNK_DATA_CR;
	}
	*ret_used = in;
	*ret_out = out;
	return c->state == CHUNK_DONE ? 0 : -EAGAIN;
}
