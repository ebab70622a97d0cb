/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pure parts of frp-supervisor: grammars, what is wanted, the rendered file, frpc's answers.
 * Trust: test.
 */
#include "frp-supervisor/answer.h"
#include "frp-supervisor/grammar.h"
#include "frp-supervisor/render.h"
#include "frp-supervisor/wanted.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
/* cmocka wants the two above first */
#include <cmocka.h>

static const struct wanted_policy policy = {
	.local_low = 10000,
	.local_high = 65535,
	.api_low = 15001,
	.api_high = 15300,
	.tcp_low = 10000,
	.tcp_high = 15000,
	.http_low = 15001,
	.http_high = 65535,
	.tls = PROTO_TLS_OFF,
};

static const struct render_admin admin = {7400, "0123456789abcdef0123456789abcdef"};

/* Grammars. */

static void test_grammars(void **state)
{
	static const char *const bad[] = {
		"",    "a b", "a\"b", "a'b",  "a\\b",        "a\nb",     "{{ .Envs.X }}",
		"a}b", "a`b", "a\tb", "\x7f", "caf\xc3\xa9", "\x1b[31m",
	};
	char longest[GRAMMAR_TOKEN_MAX + 2];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_false(grammar_token(bad[i]));
		assert_false(grammar_host(bad[i]));
		assert_false(grammar_domain(bad[i]));
		assert_false(grammar_path(bad[i]));
	}
	memset(longest, 'x', sizeof(longest));
	longest[GRAMMAR_TOKEN_MAX + 1] = '\0';
	assert_false(grammar_token(longest));
	longest[GRAMMAR_TOKEN_MAX] = '\0';
	assert_true(grammar_token(longest));
	assert_true(grammar_token("aZ09-._~+/=:@!#$%^&*,"));
	assert_true(grammar_host("frps.example.org") && grammar_host("192.0.2.1"));
	assert_true(grammar_host("2001:db8::1") && grammar_host("::1") && grammar_host("a"));
	assert_false(grammar_host("[::1]") || grammar_host("1:2") || grammar_host("a_b"));
	assert_false(grammar_host("-a") || grammar_host("a-") || grammar_host("a..b"));
	assert_false(grammar_host(".a") || grammar_host("a.") || grammar_host("::g"));
	assert_true(grammar_domain("tok_1") && grammar_domain("A.b-c.example"));
	assert_false(grammar_domain("a:1") || grammar_domain("a/b") || grammar_domain("-a.b"));
	assert_true(grammar_path("/etc/ssl/a_b+c@d.pem"));
	assert_false(grammar_path("etc") || grammar_path("/a b") || grammar_path("/a{"));
}

/* What is wanted. */

static struct frp_configure_req server(const char *domain)
{
	struct frp_configure_req req = {
		.port = 7000, .tls = PROTO_TLS_VERIFY, .naming = PROTO_NAMING_LABEL};

	(void)proto_name_set(req.agent, "agent");
	proto_text_set(req.server, sizeof(req.server), "frps.example.org");
	proto_text_set(req.domain, sizeof(req.domain), domain);
	return req;
}

static void configure(struct wanted *w)
{
	const struct frp_configure_req req = server("tok.example.org");

	assert_int_equal(wanted_configure(w, &policy, &req, "token"), 1);
}

static int set(struct wanted *w, const char *owner, struct proto_proxy a, struct proto_proxy b)
{
	struct frp_set_req req = {.proxies = {a, b}};

	(void)proto_name_set(req.owner, owner);
	return wanted_set(w, &policy, &req);
}

static const struct proto_proxy none, tcp = {20001, 10001, 22, PROTO_PROXY_TCP},
				      http = {20002, 20000, 80, PROTO_PROXY_HTTP},
				      api = {15001, 15001, 0, PROTO_PROXY_API};

static void test_server(void **state)
{
	struct wanted_policy strict = policy;
	struct frp_configure_req req = server("tok.example.org");
	struct wanted w = {0};

	(void)state;
	configure(&w);
	assert_int_equal(wanted_configure(&w, &policy, &req, "token"), 0);
	assert_int_equal(wanted_configure(&w, &policy, &req, "tokem"), 1);
	assert_int_equal(wanted_configure(&w, &policy, &req, ""), 1);
	strict.tls = PROTO_TLS_VERIFY;
	req.tls = PROTO_TLS_ENCRYPT;
	assert_int_equal(wanted_configure(&w, &strict, &req, ""), -EPERM);
	req = server("a b");
	assert_int_equal(wanted_configure(&w, &policy, &req, ""), -EINVAL);
	assert_string_equal(w.server.domain, "tok.example.org");
	wanted_clear(&w);
	assert_false(w.configured);
}

static void test_owners(void **state)
{
	static struct wanted w;
	size_t running;

	(void)state;
	assert_int_equal(set(&w, "vm1", tcp, http), 1);
	w.owners[0].tunnels[1].state = PROTO_PROXY_RUNNING;
	assert_int_equal(set(&w, "vm1", tcp, http), 0);
	assert_int_equal(set(&w, "vm1", http, none), 1);
	assert_int_equal(w.owners[0].tunnels[0].state, PROTO_PROXY_RUNNING); /* carried over */
	assert_int_equal(wanted_count(&w, &running), 1);
	assert_int_equal(running, 1);
	assert_int_equal(set(&w, "vm2", http, none), -EEXIST);
	assert_int_equal(set(&w, "vm2", api, none), -EPERM);
	assert_int_equal(set(&w, "api", tcp, none), -EPERM);
	assert_int_equal(set(&w, "api", api, none), 1);
	/* A name made of the API's port is the API's. */
	assert_int_equal(
		set(&w, "vm2", (struct proto_proxy){20009, 15001, 80, PROTO_PROXY_HTTP}, none),
		-EEXIST);
	/* A port that listens and a name may have one number. */
	assert_int_equal(
		set(&w, "vm2", (struct proto_proxy){20009, 15000, 80, PROTO_PROXY_TCP}, none), 1);
	assert_int_equal(set(&w, "vm1", none, none), 1);
	assert_int_equal(wanted_remove(&w, "vm1"), 0);
	assert_int_equal(wanted_remove(&w, "vm2"), 1);
	assert_int_equal(w.n_owners, 1);
}

static void test_ports(void **state)
{
	static const struct proto_proxy bad[] = {
		{9999, 10001, 22, PROTO_PROXY_TCP},   {22, 10001, 22, PROTO_PROXY_TCP},
		{20001, 9999, 22, PROTO_PROXY_TCP},   {20001, 15001, 22, PROTO_PROXY_TCP},
		{20001, 15000, 80, PROTO_PROXY_HTTP}, {20001, 22, 80, PROTO_PROXY_HTTP},
		{20001, 20001, 80, PROTO_PROXY_API},
	};
	struct wanted w = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(set(&w, "vm1", bad[i], none), -EPERM);
	assert_int_equal(
		set(&w, "api", (struct proto_proxy){15301, 15301, 0, PROTO_PROXY_API}, none),
		-EPERM);
	assert_int_equal(w.n_owners, 0);
}

static void test_keep(void **state)
{
	char names[PROTO_MAX_VMS][PROTO_NAME_SIZE] = {"b"};
	static struct wanted w;
	char name[8] = "a";

	(void)state;
	for (unsigned int i = 0; i < PROTO_MAX_OWNERS - 1; i++) {
		struct proto_proxy p = {(uint16_t)(30000 + i), (uint16_t)(30000 + i), 80,
					PROTO_PROXY_HTTP};

		name[0] = (char)('a' + i);
		assert_int_equal(set(&w, name, p, none), 1);
	}
	assert_int_equal(set(&w, "api", api, none), 1);
	assert_int_equal(set(&w, "more", tcp, none), -ENOSPC);
	assert_int_equal(wanted_keep(&w, (const char(*)[PROTO_NAME_SIZE])names),
			 PROTO_MAX_OWNERS - 2);
	assert_int_equal(w.n_owners, 2);
	assert_string_equal(w.owners[0].name, "b");
	assert_string_equal(w.owners[1].name, "api");
}

static int open_dir(char path[static 32])
{
	(void)snprintf(path, 32, "/tmp/test-frp-XXXXXX");
	assert_non_null(mkdtemp(path));
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void test_saved(void **state)
{
	static struct wanted w, back;
	char path[32], raw[8192];
	int dir = open_dir(path);
	struct stat st;
	ssize_t len;

	(void)state;
	assert_int_equal(wanted_load(&back, &policy, dir), -ENOENT);
	configure(&w);
	assert_int_equal(set(&w, "vm1", tcp, http), 1);
	assert_int_equal(set(&w, "api", api, none), 1);
	assert_int_equal(wanted_save(&w, dir), 0);
	assert_int_equal(fstatat(dir, "wanted", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(wanted_load(&back, &policy, dir), 0);
	assert_memory_equal(&w, &back, sizeof(w));
	/* Whatever is wrong with the file: nothing of it is taken that was not checked. */
	len = readlinkat(dir, "wanted", raw, 1);
	assert_int_equal(len, -1);
	{
		_cleanup_close_ int fd = openat(dir, "wanted", O_RDONLY | O_CLOEXEC);

		len = read(fd, raw, sizeof(raw));
	}
	for (ssize_t cut = 0; cut < len; cut++) {
		_cleanup_close_ int fd = openat(dir, "wanted", O_WRONLY | O_TRUNC | O_CLOEXEC);

		assert_int_equal(write(fd, raw, (size_t)cut), cut);
		memset(&back, 0, sizeof(back));
		(void)wanted_load(&back, &policy, dir);
		assert_true(back.configured || back.n_owners == 0);
	}
	(void)unlinkat(dir, "wanted", 0);
	(void)close(dir);
	(void)rmdir(path);
}

/* The file. */

static void test_rendered(void **state)
{
	static const char expected[] =
		"# Written by frp-supervisor(8), and again at every change.\n"
		"serverAddr = \"frps.example.org\"\n"
		"serverPort = 7000\n"
		"loginFailExit = false\n"
		"log.to = \"console\"\n"
		"log.level = \"warn\"\n"
		"log.disablePrintColor = true\n"
		"transport.protocol = \"tcp\"\n"
		"transport.tcpMuxKeepaliveInterval = 10\n"
		"auth.method = \"token\"\n"
		"auth.token = \"token\"\n"
		"transport.tls.enable = true\n"
		"transport.tls.trustedCaFile = \"/ca.pem\"\n"
		"webServer.addr = \"127.0.0.1\"\n"
		"webServer.user = \"supervisor\"\n"
		"webServer.port = 7400\n"
		"webServer.password = \"0123456789abcdef0123456789abcdef\"\n"
		"\n[[proxies]]\n"
		"name = \"agent-vm1-20001\"\n"
		"type = \"tcp\"\n"
		"localIP = \"127.0.0.1\"\n"
		"localPort = 20001\n"
		"remotePort = 10001\n"
		"\n[[proxies]]\n"
		"name = \"agent-vm1-20002\"\n"
		"type = \"http\"\n"
		"localIP = \"127.0.0.1\"\n"
		"localPort = 20002\n"
		"customDomains = [\"tok-20000.example.org\"]\n";
	static struct wanted w;
	char *text, digest[RENDER_DIGEST_SIZE], other[RENDER_DIGEST_SIZE];

	(void)state;
	configure(&w);
	assert_int_equal(set(&w, "vm1", tcp, http), 1);
	text = render_file(&w, &admin, "/ca.pem");
	assert_string_equal(text, expected);
	render_digest(text, digest);
	render_free(text);
	/* The digest is of the common part only. */
	assert_int_equal(set(&w, "api", api, none), 1);
	text = render_file(&w, &admin, "/ca.pem");
	assert_int_equal(strncmp(text, expected, strlen(expected)), 0);
	assert_non_null(strstr(text, "customDomains = [\"tok-15001.example.org\"]"));
	render_digest(text, other);
	assert_string_equal(digest, other);
	render_free(text);
	(void)snprintf(w.token, sizeof(w.token), "else");
	text = render_file(&w, &admin, "/ca.pem");
	render_digest(text, other);
	assert_string_not_equal(digest, other);
	render_free(text);
	render_free(NULL);
}

static const char *domain_of(const char *text, size_t nth)
{
	static char line[160];
	const char *p = text;

	for (size_t i = 0; i <= nth; i++)
		p = strstr(p + 1, "customDomains = ");
	(void)snprintf(line, sizeof(line), "%.*s", (int)strcspn(p, "\n"), p);
	return line + strlen("customDomains = ");
}

static void test_names(void **state)
{
	static struct wanted w;
	char *text;

	(void)state;
	configure(&w);
	assert_int_equal(set(&w, "api", api, none), 1);
	assert_int_equal(set(&w, "vm1", http, none), 1);
	w.server.naming = PROTO_NAMING_COLON;
	text = render_file(&w, &admin, "/ca.pem");
	assert_string_equal(domain_of(text, 0), "[\"tok.example.org\"]");
	assert_string_equal(domain_of(text, 1), "[\"tok.example.org:20000\"]");
	render_free(text);
	w.server.naming = PROTO_NAMING_LABEL;
	proto_text_set(w.server.domain, sizeof(w.server.domain), "only");
	text = render_file(&w, &admin, "/ca.pem");
	assert_string_equal(domain_of(text, 0), "[\"only-15001\"]");
	assert_string_equal(domain_of(text, 1), "[\"only-20000\"]");
	render_free(text);
}

/* What slipped past every check before is not rendered. */
static void test_last_line(void **state)
{
	static const char *const bad[] = {"a\"b", "a\\b", "{{a", "a}", "a\nb", "a'b", "\x80"};
	static struct wanted w;

	(void)state;
	configure(&w);
	assert_int_equal(set(&w, "vm1", http, none), 1);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct wanted copy = w;

		(void)snprintf(copy.token, sizeof(copy.token), "%s", bad[i]);
		assert_null(render_file(&copy, &admin, "/ca.pem"));
		copy = w;
		(void)snprintf(copy.server.server, sizeof(copy.server.server), "%s", bad[i]);
		assert_null(render_file(&copy, &admin, "/ca.pem"));
		copy = w;
		(void)snprintf(copy.server.server_name, sizeof(copy.server.server_name), "%s",
			       bad[i]);
		assert_null(render_file(&copy, &admin, "/ca.pem"));
		copy = w;
		(void)snprintf(copy.server.domain, sizeof(copy.server.domain), "%s", bad[i]);
		assert_null(render_file(&copy, &admin, "/ca.pem"));
		assert_null(render_file(&w, &admin, bad[i]));
	}
}

/* Answers. */

static void test_http(void **state)
{
	static const struct {
		const char *text;
		bool eof;
		int result;
		unsigned int status;
		const char *body;
	} cases[] = {
		{"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", false, 1, 200, "{}"},
		{"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}more", false, 1, 200, "{}"},
		{"HTTP/1.1 401 Unauthorized\r\ncontent-length:0\r\n\r\n", false, 1, 401, ""},
		{"HTTP/1.0 200 OK\r\nX: y\r\n\r\nall", true, 1, 200, "all"},
		{"HTTP/1.0 200 OK\r\nX: y\r\n\r\nall", false, 0, 0, NULL},
		{"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}", false, 0, 0, NULL},
		{"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n{}", true, -EBADMSG, 0, NULL},
		{"HTTP/1.0 200 OK\r\nContent-Length: 99999999\r\n\r\n", false, -EBADMSG, 0, NULL},
		{"HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n", false, -EBADMSG, 0, NULL},
		{"HTTP/1.0 200 OK\r\nContent-Length: 1x\r\n\r\nx", false, -EBADMSG, 0, NULL},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, -EBADMSG,
		 0, NULL},
		{"HTTP/2.0 200 OK\r\n\r\n", true, -EBADMSG, 0, NULL},
		{"HTTP/1.0 999 OK\r\n\r\n", true, -EBADMSG, 0, NULL},
		{"HTTP/1.0 20\r\n\r\n", true, -EBADMSG, 0, NULL},
		{"garbage", false, 0, 0, NULL},
		{"garbage", true, -EBADMSG, 0, NULL},
		{"", true, -EBADMSG, 0, NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct answer_http a = {0};
		int r = answer_http(cases[i].text, strlen(cases[i].text), cases[i].eof, &a);

		assert_int_equal(r, cases[i].result);
		if (r != 1)
			continue;
		assert_int_equal(a.status, cases[i].status);
		assert_int_equal(a.body_len, strlen(cases[i].body));
		assert_memory_equal(a.body, cases[i].body, a.body_len);
	}
}

#define ENTRY(name, type, status, err, local, plugin)                                              \
	"{\"name\":\"" name "\",\"type\":\"" type "\",\"status\":\"" status "\",\"err\":\"" err    \
	"\",\"local_addr\":\"" local "\",\"plugin\":\"" plugin "\",\"remote_addr\":\"\"}"

static void test_status(void **state)
{
	static const char text[] =
		"{\"tcp\":[" ENTRY("a", "tcp", "running", "", "127.0.0.1:20001", "") "," ENTRY(
			"b", "tcp", "start error", "port already used", "127.0.0.1:20002",
			"") "],\"http\":[" ENTRY("c", "http", "wait start", "", "127.0.0.1:20003",
						 "") "," ENTRY("d", "http", "running", "",
							       "127.0.0.1:20004",
							       "unix_domain_socket") "],"
										     "\"udp\":"
										     "[" ENTRY(
											     "e",
											     "udp",
											     "runni"
											     "ng",
											     "",
											     "127."
											     "0.0."
											     "1:"
											     "2000"
											     "5",
											     "") "]"
												 "}";
	struct answer_entry e[8];

	(void)state;
	assert_int_equal(answer_status(text, strlen(text), e, 8), 5);
	assert_int_equal(answer_status(text, strlen(text), e, 4), -E2BIG);
	assert_int_equal(answer_status(text, strlen(text), e, 8), 5);
	for (size_t i = 0; i < 5; i++) {
		if (e[i].name[0] == 'a')
			assert_true(e[i].phase == ANSWER_RUNNING && !e[i].http &&
				    e[i].local_port == 20001);
		else if (e[i].name[0] == 'b')
			assert_true(e[i].phase == ANSWER_ERROR && answer_is_conflict(e[i].error));
		else if (e[i].name[0] == 'c')
			assert_true(e[i].phase == ANSWER_WAITING && e[i].http);
		else
			assert_int_equal(e[i].local_port, 0); /* a plugin; no kind of ours */
	}
	assert_int_equal(answer_status("{}", 2, e, 8), 0);
	assert_int_equal(answer_status("{\"tcp\":null}", 12, e, 8), 0);
}

static void test_bad_status(void **state)
{
	static const char *const bad[] = {
		"",
		"[]",
		"3",
		"{\"tcp\":3}",
		"{\"tcp\":{}}",
		"{\"tcp\":[3]}",
		"{\"tcp\":[{}]}",
		"{\"tcp\":[{\"name\":3}]}",
		"{\"tcp\":[],\"tcp\":[]}",
		"{\"tcp\":[" ENTRY("a", "tcp", "running", "", "127.0.0.1:1", "") "}",
	};
	static const char *const elsewhere[] = {"10.0.0.1:22",
						"127.0.0.1:99999",
						"127.0.0.1:1x",
						"127.0.0.1",
						"[::1]:22",
						"localhost:22",
						""};
	struct answer_entry e[8];
	char text[512];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(answer_status(bad[i], strlen(bad[i]), e, 8), -EBADMSG);
	for (size_t i = 0; i < ARRAY_LEN(elsewhere); i++) {
		(void)snprintf(text, sizeof(text),
			       "{\"tcp\":[" ENTRY("a", "tcp", "running", "", "%s", "") "]}",
			       elsewhere[i]);
		assert_int_equal(answer_status(text, strlen(text), e, 8), 1);
		assert_int_equal(e[0].local_port, 0);
	}
}

static void test_versions(void **state)
{
	(void)state;
	assert_int_equal(answer_version("0.52.0\n"), 0x003400);
	assert_int_equal(answer_version("0.61.2"), 0x003d02);
	assert_int_equal(answer_version("1.2.3-rc1\n"), 0x010203);
	assert_true(answer_version("0.51.3") < 0x003400);
	assert_int_equal(answer_version(""), -EINVAL);
	assert_int_equal(answer_version("0.61"), -EINVAL);
	assert_int_equal(answer_version("-1.2.3"), -EINVAL);
	assert_int_equal(answer_version("0.61.2;x"), -EINVAL);
	assert_int_equal(answer_version("0.999.2"), -EINVAL);
	assert_int_equal(answer_version("frpc 0.61.2"), -EINVAL);
	assert_true(answer_is_conflict("proxy [x] already exists"));
	assert_false(answer_is_conflict("port not allowed"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grammars),  cmocka_unit_test(test_server),
		cmocka_unit_test(test_owners),    cmocka_unit_test(test_ports),
		cmocka_unit_test(test_keep),      cmocka_unit_test(test_saved),
		cmocka_unit_test(test_rendered),  cmocka_unit_test(test_names),
		cmocka_unit_test(test_last_line), cmocka_unit_test(test_http),
		cmocka_unit_test(test_status),    cmocka_unit_test(test_bad_status),
		cmocka_unit_test(test_versions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
