/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of what reads and makes the bytes between vmmon and a container engine: HTTP, log
 * frames, answers, wishes, image references, commands.
 * Trust: a test; reads nothing from outside.
 */
#include "common/cmdline.h"
#include "common/imageref.h"
#include "vmmon/engine/answers.h"
#include "vmmon/engine/frames.h"
#include "vmmon/engine/http.h"
#include "vmmon/engine/wish.h"

#include <setjmp.h>
#include <stdarg.h>
/* cmocka wants the two above first */
#include <cmocka.h>

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* HTTP. */

struct sink {
	char body[4096];
	size_t len;
};

static int on_body(void *arg, const uint8_t *data, size_t len)
{
	struct sink *s = arg;

	assert_true(s->len + len < sizeof(s->body));
	memcpy(s->body + s->len, data, len);
	s->len += len;
	return 0;
}

/* Feeds @text in pieces of @step bytes, then the end. */
static int feed(const char *text, size_t step, struct http_response *h, struct sink *s)
{
	size_t len = strlen(text);
	int r = 0;

	memset(h, 0, sizeof(*h));
	memset(s, 0, sizeof(*s));
	for (size_t at = 0; at < len && r == 0; at += step)
		r = http_response_feed(h, (const uint8_t *)text + at, MIN_OF(step, len - at),
				       on_body, s);
	return r < 0 ? r : http_response_end(h);
}

static void test_http_whole(void **state)
{
	static const struct {
		const char *text, *body;
		unsigned int status;
	} cases[] = {
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", "OK", 200},
		{"HTTP/1.0 200 OK\r\n\r\nup to the end", "up to the end", 200},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: "
		 "chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n"
		 "0\r\nTrailer: x\r\n\r\n",
		 "abc0123456789", 200},
		{"HTTP/1.1 204 No Content\r\nApi-Version: 1.41\r\n\r\n", "", 204},
		{"HTTP/1.1 304 Not Modified\r\n\r\n", "", 304},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\ncontent-length:\t3 "
		 "\r\n\r\nno\n",
		 "no\n", 404},
		{"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", "", 500},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		for (size_t step = 1; step < 100; step += 7) {
			struct http_response h;
			struct sink s;

			assert_int_equal(feed(cases[i].text, step, &h, &s), 0);
			assert_int_equal(h.status, cases[i].status);
			assert_int_equal(s.len, strlen(cases[i].body));
			assert_memory_equal(s.body, cases[i].body, s.len);
		}
}

static void test_http_broken(void **state)
{
	static const struct {
		const char *text;
		int r;
	} cases[] = {
		{"", -EPIPE},
		{"HTTP/1.1 200 OK\r\n", -EPIPE},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", -EPIPE},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", -EPIPE},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", -EBADMSG},
		{"HTTP/2 200 OK\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 20 OK\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 2000 OK\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 700 OK\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 101 Switching\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 200 OK\nContent-Length: 0\n\n", -EBADMSG},
		{"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 200 OK\r\n folded\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", -EBADMSG},
		{"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		 -EBADMSG},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", -EBADMSG},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", -EBADMSG},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n123456789\r\n", -EBADMSG},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", -EBADMSG},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct http_response h;
		struct sink s;

		if (feed(cases[i].text, 3, &h, &s) != cases[i].r)
			fail_msg("case %zu", i);
	}
}

static void test_http_endless_header(void **state)
{
	static const char begin[] = "HTTP/1.1 200 OK\r\n", line[] = "A: bcdefgh\r\n";
	struct http_response h = {0};
	struct sink s = {0};
	int r = http_response_feed(&h, (const uint8_t *)begin, sizeof(begin) - 1, on_body, &s);

	(void)state;
	for (int i = 0; r == 0 && i < 10000; i++)
		r = http_response_feed(&h, (const uint8_t *)line, sizeof(line) - 1, on_body, &s);
	assert_int_equal(r, -EBADMSG);
	assert_true(h.header_bytes <= HTTP_HEADER_MAX + 1);
}

/* Frames. */

static void frame(struct frames *f, uint8_t stream, const char *text, size_t len)
{
	const uint8_t head[8] = {stream,
				 0,
				 0,
				 0,
				 (uint8_t)(len >> 24),
				 (uint8_t)(len >> 16),
				 (uint8_t)(len >> 8),
				 (uint8_t)len};

	for (size_t i = 0; i < sizeof(head); i++)
		assert_int_equal(frames_feed(f, head + i, 1), 0);
	assert_int_equal(frames_feed(f, (const uint8_t *)text, len), 0);
}

static void test_frames(void **state)
{
	struct frames f = {.max = 64};
	const uint8_t bad[8] = {3}, worse[8] = {1, 1};
	size_t len;

	(void)state;
	assert_string_equal(frames_tail(&f, 10, &len), "");
	assert_int_equal(len, 0);
	frame(&f, 1, "one\n", 4);
	frame(&f, 2, "two\nthree", 9);
	frame(&f, 1, "", 0);
	assert_memory_equal(frames_tail(&f, 10, &len), "one\ntwo\nthree", 13);
	assert_int_equal(len, 13);
	assert_memory_equal(frames_tail(&f, 2, &len), "two\nthree", 9);
	assert_int_equal(len, 9);
	frame(&f, 1, "\n", 1);
	assert_memory_equal(frames_tail(&f, 1, &len), "three\n", 6);
	assert_int_equal(len, 6);
	for (int i = 0; i < 1000; i++)
		frame(&f, 1, "0123456\n", 8);
	assert_true(f.size <= 128 && f.used <= 128);
	(void)frames_tail(&f, 1000, &len);
	assert_int_equal(len, 64);
	assert_int_equal(frames_feed(&f, bad, 8), -EBADMSG);
	frames_done(&f);
	assert_int_equal(frames_feed(&f, worse, 8), -EBADMSG);
	frames_done(&f);
}

/* Answers. */

#define CONTAINER(state, labels)                                                                   \
	"{\"Id\":\"" HEX64 "\",\"State\":" state ",\"Config\":{\"Labels\":" labels "}}"

static void test_versions(void **state)
{
	static const struct {
		const char *body;
		int r;
		unsigned int version;
	} cases[] = {
		{"{\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\"}", 0, 1041},
		{"{\"ApiVersion\":\"1.52\",\"MinAPIVersion\":\"1.44\"}", 0, 1044},
		{"{\"ApiVersion\":\"1.41\"}", 0, 1041},
		{"{\"ApiVersion\":\"1.40\",\"MinAPIVersion\":\"1.12\"}", -EPROTONOSUPPORT, 0},
		{"{\"ApiVersion\":\"1.41;\"}", -EBADMSG, 0},
		{"{\"ApiVersion\":141}", -EBADMSG, 0},
		{"[]", -EBADMSG, 0},
		{"OK", -EBADMSG, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		unsigned int version = 0;

		assert_int_equal(answer_version(cases[i].body, strlen(cases[i].body), &version),
				 cases[i].r);
		assert_int_equal(version, cases[i].version);
	}
}

static void test_gpus(void **state)
{
	/* As engines with and without NVIDIA's container toolkit answer, abridged. */
	static const char with[] =
		"{\"ID\":\"x\",\"Runtimes\":{\"io.containerd.runc.v2\":{\"path\":"
		"\"runc\"},\"nvidia\":{\"path\":\"nvidia-container-runtime\","
		"\"runtimeArgs\":[]},\"runc\":{\"path\":\"runc\"}}}";
	static const char without[] = "{\"ID\":\"x\",\"Runtimes\":{\"runc\":{\"path\":\"runc\"}}}";
	static const char dirs[] =
		"{\"Runtimes\":{},\"CDISpecDirs\":[\"/etc/cdi\",\"/var/run/cdi\"]}";
	static const char off[] = "{\"Runtimes\":{},\"CDISpecDirs\":[]}";
	static const char device[] = "{\"Runtimes\":{},\"CDISpecDirs\":[\"/etc/"
				     "cdi\"],\"DiscoveredDevices\":[{\"Source\":"
				     "\"cdi\",\"ID\":\"a.com/"
				     "b=c\"},{\"Source\":\"cdi\",\"ID\":\"nvidia.com/gpu=all\"}]}";
	static const char other[] = "{\"Runtimes\":{},\"CDISpecDirs\":[\"/etc/"
				    "cdi\"],\"DiscoveredDevices\":[{\"Source\":"
				    "\"cdi\",\"ID\":\"a.com/gpu=0\"},7]}";
	static const struct {
		const char *info;
		enum answer_gpus gpus;
	} cases[] = {
		{with, ANSWER_GPUS_NVIDIA}, {without, ANSWER_GPUS_NONE}, {dirs, ANSWER_GPUS_CDI},
		{off, ANSWER_GPUS_NONE},    {device, ANSWER_GPUS_CDI},   {other, ANSWER_GPUS_NONE},
	};
	enum answer_gpus gpus;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(answer_gpus(cases[i].info, strlen(cases[i].info), &gpus), 0);
		assert_int_equal(gpus, cases[i].gpus);
	}
	assert_int_equal(answer_gpus("{}", 2, &gpus), -EBADMSG);
}

static void test_containers(void **state)
{
	static const char running[] =
		CONTAINER("{\"Running\":true,\"Restarting\":false,\"ExitCode\":0,\"Error\":\"\"}",
			  "{\"qudata.wish\":\"abc\"}");
	static const char again[] = CONTAINER(
		"{\"Running\":true,\"Restarting\":true,\"ExitCode\":7,\"Error\":\"\"}", "null");
	static const char ended[] =
		CONTAINER("{\"Running\":false,\"ExitCode\":-1,\"Error\":\"bad\\u00e9\\n\"}", "{}");
	static const char counted[] = "{\"Id\":\"" HEX64 "\",\"State\":{\"Running\":true},"
				      "\"RestartCount\":12}";
	static const char absurd[] = "{\"Id\":\"" HEX64 "\",\"State\":{\"Running\":true},"
				     "\"RestartCount\":9000000000000}";
	static const char no_id[] = "{\"Id\":\"../../x\",\"State\":{\"Running\":true}}";
	static const char nul[] = "{\"message\":\"no\\u0000pe\"}";
	struct answer_container c;
	char id[ANSWER_ID_SIZE], text[ANSWER_TEXT_SIZE];

	(void)state;
	assert_int_equal(answer_container(running, sizeof(running) - 1, &c), 0);
	assert_true(c.running);
	assert_string_equal(c.id, HEX64);
	assert_string_equal(c.hash, "abc");
	assert_int_equal(answer_container(again, sizeof(again) - 1, &c), 0);
	assert_false(c.running);
	assert_true(c.restarting);
	assert_int_equal(c.exit_code, 7);
	assert_string_equal(c.hash, "");
	assert_int_equal(answer_container(ended, sizeof(ended) - 1, &c), 0);
	assert_false(c.running);
	assert_int_equal(c.exit_code, 255);
	assert_string_equal(c.error, "bad???");
	assert_int_equal(answer_container(counted, sizeof(counted) - 1, &c), 0);
	assert_int_equal(c.restarts, 12);
	assert_int_equal(answer_container(absurd, sizeof(absurd) - 1, &c), 0);
	assert_int_equal(c.restarts, INT32_MAX);
	assert_int_equal(answer_container(no_id, sizeof(no_id) - 1, &c), -EBADMSG);
	assert_int_equal(answer_created("{\"Id\":\"x\"}", 10, id), -EBADMSG);
	answer_message(nul, sizeof(nul) - 1, text);
	assert_string_equal(text, "no");
	answer_message("<html>", 6, text);
	assert_string_equal(text, "");
}

static void line(struct pull *p, const char *text)
{
	assert_int_equal(pull_line(p, text, strlen(text)), 0);
}

static void test_pulls(void **state)
{
	static struct pull p;
	char text[128];

	(void)state;
	line(&p, "{\"status\":\"Pulling from app/web\",\"id\":\"1\"}");
	line(&p, "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"aaaaaaaaaaaa\"}");
	assert_int_equal(p.percent, 0);
	line(&p, "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":50,\"total\":100},"
		 "\"id\":\"aaaaaaaaaaaa\"}");
	assert_int_equal(p.percent, 25);
	line(&p,
	     "{\"status\":\"Download complete\",\"progressDetail\":{},\"id\":\"aaaaaaaaaaaa\"}");
	assert_int_equal(p.percent, 50);
	line(&p, "{\"status\":\"Extracting\",\"progressDetail\":{\"current\":100,\"total\":100},"
		 "\"id\":\"aaaaaaaaaaaa\"}");
	assert_int_equal(p.percent, 100);
	line(&p,
	     "{\"status\":\"Downloading\",\"progressDetail\":{\"current\":-5,\"total\":1000000},"
	     "\"id\":\"bbbbbbbbbbbb\"}");
	assert_int_equal(p.percent, 100); /* it never falls */
	for (int i = 0; i < 1000; i++) {
		(void)snprintf(text, sizeof(text), "{\"status\":\"Waiting\",\"id\":\"%012x\"}", i);
		line(&p, text);
	}
	assert_int_equal(p.n, PULL_LAYERS_MAX);
	line(&p, "{\"errorDetail\":{\"message\":\"x\"},\"error\":\"unexpected EOF\"}");
	assert_string_equal(p.error, "unexpected EOF");
	assert_int_equal(pull_line(&p, "[1]", 3), -EBADMSG);
	assert_int_equal(pull_line(&p, "{", 1), -EBADMSG);
}

static void test_troubles(void **state)
{
	static const struct {
		const char *text;
		enum trouble_kind kind;
	} cases[] = {
		{"manifest for 127.0.0.1:5/a:1 not found: manifest unknown: manifest unknown",
		 TROUBLE_UNKNOWN_IMAGE},
		{"pull access denied for a, repository does not exist or may require 'docker "
		 "login': denied",
		 TROUBLE_DENIED},
		{"Head \"http://x/v2/\": no basic auth credentials", TROUBLE_DENIED},
		{"unauthorized: authentication required", TROUBLE_DENIED},
		{"write /var/lib/docker/tmp/x: no space left on device", TROUBLE_SPACE},
		{"no matching manifest for linux/amd64 in the manifest list entries",
		 TROUBLE_PLATFORM},
		{"Get \"http://x/v2/\": dial tcp 127.0.0.1:5: connect: connection refused",
		 TROUBLE_NETWORK},
		{"Get \"https://x/v2/\": dial tcp: lookup x: no such host", TROUBLE_NETWORK},
		{"unexpected EOF", TROUBLE_NETWORK},
		{"listen tcp4 0.0.0.0:80: bind: address already in use", TROUBLE_PORT},
		{"Get \"https://x/v2/\": x509: certificate signed by unknown authority",
		 TROUBLE_CERT},
		{"Get \"https://x/v2/\": tls: failed to verify certificate: x509: certificate has "
		 "expired",
		 TROUBLE_CERT},
		{"Get \"https://x/v2/\": http: server gave HTTP response to HTTPS client",
		 TROUBLE_NO_TLS},
		{"could not select device driver \"nvidia\" with capabilities: [[gpu]]",
		 TROUBLE_GPU},
		{"error gathering device information: CDI device injection failed: unresolvable "
		 "CDI devices nvidia.com/gpu=all",
		 TROUBLE_GPU},
		{"nvidia-container-cli: initialization error: nvml error: driver not loaded",
		 TROUBLE_GPU},
		{"something else", TROUBLE_OTHER},
		{"", TROUBLE_OTHER},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_int_equal(trouble_of(cases[i].text), cases[i].kind);
}

/* Deep nesting would make the parser recurse. */
static void test_nesting(void **state)
{
	char text[4096];
	enum answer_gpus gpus;

	(void)state;
	memset(text, '[', sizeof(text));
	memcpy(text, "{\"Runtimes\":", 12);
	assert_int_equal(answer_gpus(text, sizeof(text), &gpus), -EBADMSG);
}

/* Image references. */

static void test_references(void **state)
{
	static const char *const good[] = {
		"ubuntu",
		"ubuntu:22.04",
		"a/b",
		"a/b/c:1",
		"host:5000/a:v1",
		"localhost/a",
		"r.example.org/a/b-c_d.e:T_1.x-y",
		"a__b",
		"a---b/c",
		"repo@sha256:" HEX64,
		"r.example:5000/repo:tag@sha256:" HEX64,
		"127.0.0.1:5000/x",
		"XY.example/x",
	};
	static const char *const bad[] = {
		"",
		":",
		"a:",
		"A",
		"a/B",
		"-a",
		"a-",
		"a//b",
		"/a",
		"a/",
		"a b",
		"a..b",
		"a___b",
		"a:b:c",
		"a@sha256:12",
		"a@md5:" HEX64,
		"a@sha256:" HEX64 "0",
		"../a",
		"a/../b",
		"host:/a",
		"host:123456/a",
		"host:x/a",
		".x/a",
		"x-.example/a",
		"a:-1",
		"a?b",
		"a%2fb",
		"a:t/b",
		"a\nb",
		"a@",
		"h.x/",
		"\xc3\xa9",
	};
	struct imageref ref;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		if (imageref_parse(good[i], &ref, NULL) < 0)
			fail_msg("refused: %s", good[i]);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (imageref_parse(bad[i], &ref, NULL) == 0)
			fail_msg("taken: %s", bad[i]);
	assert_int_equal(imageref_parse("h.x:5/a/b:t@sha256:" HEX64, &ref, NULL), 0);
	assert_int_equal(ref.host_len, 5);
	assert_int_equal(ref.name_len, 9);
	assert_memory_equal(ref.tag, "t@", 2);
	assert_int_equal(ref.tag_len, 1);
	assert_int_equal(ref.digest_len, 71);
	assert_int_equal(imageref_parse("a/b", &ref, NULL), 0);
	assert_null(ref.host);
	assert_null(ref.tag);
}

/* Commands: what is split must be what a real shell makes of it. */

static void expect_words(const char *command, const char *const words[])
{
	_cleanup_free_ char **got = NULL;
	int n = cmdline_split(command, &got);

	if (n < 0)
		fail_msg("not split: %s", command);
	for (int i = 0; i < n; i++) {
		if (!words[i])
			fail_msg("too many words: %s", command);
		assert_string_equal(got[i], words[i]);
	}
	assert_null(words[n]);
	assert_null(got ? got[n] : NULL);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_commands(void **state)
{
	static const char *const shells[] = {
		"a|b",  "a && b", "a;b",   "a >x",   "a <x",    "(a)",  "echo $HOME", "a `b`",
		"a *",  "a ?",    "a [x]", "a &",    "~/x",     "a ~",  "# no",       "A=b c",
		"if x", "! a",    "{ a",   "\"$x\"", "\"`x`\"", "a\nb", "while true", "a $((1))",
	};
	static const char *const unclosed[] = {"'a", "\"a", "a 'b", "a \"b\\\"", "a\\", "it's"};
	_cleanup_free_ char **none = NULL;

	(void)state;
	expect_words("jupyter lab --ip=0.0.0.0 --allow-root",
		     WORDS("jupyter", "lab", "--ip=0.0.0.0", "--allow-root"));
	expect_words("  a\t b  \n", WORDS("a", "b"));
	expect_words("a 'b c' \"d e\" f\\ g", WORDS("a", "b c", "d e", "f g"));
	expect_words("a '' \"\" x''y", WORDS("a", "", "", "xy"));
	expect_words("a '$x|&;<>`' \"a|b;c\"", WORDS("a", "$x|&;<>`", "a|b;c"));
	expect_words("a \"\\$x \\\" \\\\ \\n\"", WORDS("a", "$x \" \\ \\n"));
	expect_words("a b#c x~y A=b", WORDS("a", "b#c", "x~y", "A=b"));
	expect_words("a \\\nb", WORDS("a", "b"));
	expect_words("'if' x", WORDS("if", "x"));
	expect_words("a \\* \\$b '\n'", WORDS("a", "*", "$b", "\n"));
	expect_words("\xc3\xa4 \xf0\x9f\x98\x80", WORDS("\xc3\xa4", "\xf0\x9f\x98\x80"));
	assert_int_equal(cmdline_split(" \n ", &none), 0);
	for (size_t i = 0; i < ARRAY_LEN(shells); i++) {
		_cleanup_free_ char **words = NULL;

		if (cmdline_split(shells[i], &words) != -ENOTSUP)
			fail_msg("needs a shell: %s", shells[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(unclosed); i++) {
		_cleanup_free_ char **words = NULL;

		if (cmdline_split(unclosed[i], &words) != -EINVAL)
			fail_msg("not closed: %s", unclosed[i]);
	}
}

/* Random commands: whenever they are split, sh prints the same words. */
static void test_commands_against_sh(void **state)
{
	static const char chars[] = "ab c'\"\\ $#~=x\n{}*";
	unsigned int seed = 1;
	int compared = 0;

	(void)state;
	for (int i = 0; i < 20000 && compared < 300; i++) {
		_cleanup_free_ char **words = NULL;
		char command[16] = "", script[128], got[256], want[256] = "";
		size_t len = 1 + (size_t)(rand_r(&seed) % 12), n;
		FILE *f;
		int count;

		for (size_t j = 0; j < len; j++)
			command[j] = chars[(size_t)rand_r(&seed) % (sizeof(chars) - 1)];
		count = cmdline_split(command, &words);
		if (count <= 0 || !strpbrk(command, "'\"\\"))
			continue;
		for (int j = 0; j < count; j++)
			(void)snprintf(want + strlen(want), sizeof(want) - strlen(want), "<%s>",
				       words[j]);
		(void)snprintf(script, sizeof(script), "printf '<%%s>' %s", command);
		(void)setenv("SCRIPT", script, 1);
		f = popen("sh -c \"$SCRIPT\"", "r");
		assert_non_null(f);
		n = fread(got, 1, sizeof(got) - 1, f);
		got[n] = '\0';
		(void)pclose(f);
		if (!STR_EQ(got, want))
			fail_msg("%s: sh says %s, we say %s", command, got, want);
		compared++;
	}
	assert_true(compared > 100);
}

/* Wishes. */

static int parse(const char *text, struct wish *wish)
{
	return wish_parse(text, strlen(text), NULL, wish, NULL);
}

static void test_wish(void **state)
{
	struct wish wish, other;

	(void)state;
	assert_int_equal(parse("{\"image\":\"h.x:5/a:1\",\"login\":\"u\",\"password\":\"p\\\"w\","
			       "\"command\":\"a 'b c'\",\"env\":{\"A\":\"$(x)\\n\\u00e4\"},"
			       "\"ports\":[80,8080],\"gpus\":2}",
			       &wish),
			 0);
	assert_string_equal(wish.pull, "/images/create?fromImage=h.x%3A5%2Fa&tag=1");
	/* {"username":"u","password":"p\"w","serveraddress":"h.x:5"} */
	assert_string_equal(wish.auth, "eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InBcInciLCJzZXJ2ZXJhZGR"
				       "yZXNzIjoiaC54OjUifQ==");
	assert_string_equal(wish.create + strlen(wish.create) - strlen("\"}}"), "\"}}");
	assert_non_null(strstr(wish.create, "\"Cmd\":[\"a\",\"b c\"]"));
	assert_non_null(strstr(wish.create, "\"Env\":[\"A=$(x)\\n\xc3\xa4\",\"NVIDIA_VISIBLE_"
					    "DEVICES=all\",\"NVIDIA_DRIVER_CAPABILITIES=all\"]"));
	assert_non_null(strstr(wish.create, "\"DeviceRequests\":[{\"Capabilities\":[[\"gpu\"]],"
					    "\"Count\":-1,\"Driver\":\"nvidia\"}]"));
	assert_non_null(strstr(wish.create_cdi, "\"DeviceRequests\":[{\"DeviceIDs\":[\"nvidia.com/"
						"gpu=all\"],\"Driver\":\"cdi\"}]"));
	assert_non_null(strstr(wish.create_cdi, wish.hash));
	assert_non_null(strstr(wish.create, "\"80/tcp\":[{\"HostIp\":\"0.0.0.0\",\"HostPort\":"
					    "\"80\"}]"));
	assert_non_null(strstr(wish.create, wish.hash));
	assert_null(strstr(wish.create, "p\\\"w"));
	/* Another password is the same container; another environment is not. */
	assert_int_equal(parse("{\"image\":\"a\"}", &other), 0);
	assert_string_not_equal(wish.hash, other.hash);
	assert_null(other.auth);
	assert_string_equal(other.pull, "/images/create?fromImage=a&tag=latest");
	assert_non_null(strstr(other.create, "\"Entrypoint\":[\"tail\",\"-f\",\"/dev/null\"]"));
	assert_null(strstr(other.create, "DeviceRequests"));
	assert_null(strstr(other.create, "NVIDIA"));
	assert_null(other.create_cdi);
	assert_false(other.ssh);
	wish_done(&wish);
	assert_int_equal(parse("{\"image\":\"a\",\"password\":\"x\"}", &wish), 0);
	assert_string_equal(wish.hash, other.hash);
	wish_done(&wish);
	wish_done(&other);
	assert_int_equal(parse("{\"image\":\"a\",\"command\":\"a && b\"}", &wish), 0);
	assert_non_null(strstr(wish.create, "\"Cmd\":[\"sh\",\"-c\",\"a && b\"]"));
	wish_done(&wish);
	assert_int_equal(parse("{\"image\":\"a\",\"ports\":[80],\"ssh\":2222}", &wish), 0);
	assert_true(wish.ssh);
	assert_non_null(strstr(wish.create, "\"22/tcp\":[{\"HostIp\":\"0.0.0.0\",\"HostPort\":"
					    "\"2222\"}]"));
	assert_non_null(strstr(wish.create, "\"80/tcp\":"));
	wish_done(&wish);
	assert_int_equal(
		parse("{\"image\":\"a\",\"gpus\":1,\"env\":{\"NVIDIA_DRIVER_CAPABILITIES\":"
		      "\"compute\"}}",
		      &wish),
		0);
	assert_non_null(strstr(wish.create, "\"NVIDIA_DRIVER_CAPABILITIES=compute\""));
	assert_null(strstr(wish.create, "NVIDIA_DRIVER_CAPABILITIES=all"));
	assert_non_null(strstr(wish.create, "\"NVIDIA_VISIBLE_DEVICES=all\""));
	wish_done(&wish);
}

static void test_bad_wishes(void **state)
{
	static const char *const bad[] = {
		"",
		"[]",
		"{}",
		"{\"image\":1}",
		"{\"image\":\"A\"}",
		"{\"image\":\"a\",\"more\":1}",
		"{\"image\":\"a\",\"image\":\"b\"}",
		"{\"image\":\"a\",\"env\":[]}",
		"{\"image\":\"a\",\"env\":{\"A=b\":\"\"}}",
		"{\"image\":\"a\",\"env\":{\"\":\"\"}}",
		"{\"image\":\"a\",\"env\":{\"A\":1}}",
		"{\"image\":\"a\",\"ports\":{}}",
		"{\"image\":\"a\",\"ports\":[0]}",
		"{\"image\":\"a\",\"ports\":[65536]}",
		"{\"image\":\"a\",\"ports\":[\"80\"]}",
		"{\"image\":\"a\",\"gpus\":-1}",
		"{\"image\":\"a\",\"gpus\":17}",
		"{\"image\":\"a\",\"ssh\":-1}",
		"{\"image\":\"a\",\"ssh\":65536}",
		"{\"image\":\"a\",\"ssh\":\"22\"}",
		"{\"image\":\"a\",\"command\":\"'\"}",
		"{\"image\":\"a\",\"login\":\"a\\u0000b\"}",
	};
	struct wish wish;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (parse(bad[i], &wish) == 0)
			fail_msg("taken: %s", bad[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_http_whole),
		cmocka_unit_test(test_http_broken),
		cmocka_unit_test(test_http_endless_header),
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_versions),
		cmocka_unit_test(test_gpus),
		cmocka_unit_test(test_containers),
		cmocka_unit_test(test_pulls),
		cmocka_unit_test(test_troubles),
		cmocka_unit_test(test_nesting),
		cmocka_unit_test(test_references),
		cmocka_unit_test(test_commands),
		cmocka_unit_test(test_commands_against_sh),
		cmocka_unit_test(test_wish),
		cmocka_unit_test(test_bad_wishes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
