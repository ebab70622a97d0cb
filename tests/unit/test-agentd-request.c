/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Request bodies: every dialect's good form, and for every field the bad ones.
 * Trust: test.
 */
#include "agentd/request.h"

#include <setjmp.h>
#include <stdarg.h>
/* cmocka wants the two above first */
#include <cmocka.h>

static int parse(const char *body, struct create_request *ret, struct err *why)
{
	memset(ret, 0, sizeof(*ret));
	memset(why, 0, sizeof(*why));
	return request_parse_create(body, strlen(body), ret, why);
}

static const char *tenant(const struct create_request *req, const char *key)
{
	return json_string_value(json_object_get(req->tenant, key));
}

static const struct port_request *port(const struct create_request *req, uint16_t guest)
{
	for (size_t i = 0; i < req->n_ports; i++)
		if (req->ports[i].guest == guest)
			return &req->ports[i];
	fail_msg("port %u is not there", guest);
	return NULL;
}

static void test_union_of_dialects(void **state)
{
	static const char body[] =
		"{\"image\": \"pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime\", "
		"\"image_tag\": \"latest\", \"registry\": \"registry.example.org\", "
		"\"login\": \"u\", \"password\": \"p\", \"storage_gb\": 50, "
		"\"disk_size_gb\": 50, \"cpus\": \"4\", \"memory\": \"8G\", "
		"\"env_variables\": {\"JUPYTER_TOKEN\": \"secret\", "
		"\"QUDATA_CPU_CORES\": \"2\", \"QUDATA_MEMORY_GB\": \"3\", "
		"\"QUDATA_GPU_COUNT\": \"1\"}, "
		"\"command\": \"jupyter lab --ip=0.0.0.0 --allow-root\", "
		"\"ssh_enabled\": true, \"gpu_addr\": \"0000:01:00.0\", "
		"\"tunnel_token\": \"t\", \"secret_domain\": \"d\", "
		"\"ports\": {\"8080\": \"auto\", \"3000\": \"3000\"}, \"not_known\": [1]}";
	struct create_request req;
	struct err why;

	(void)state;
	assert_int_equal(parse(body, &req, &why), 0);
	assert_string_equal(tenant(&req, "image"),
			    "registry.example.org/pytorch/pytorch:2.1.0-cuda12.1-cudnn8-runtime");
	assert_string_equal(tenant(&req, "login"), "u");
	assert_string_equal(tenant(&req, "password"), "p");
	assert_string_equal(tenant(&req, "command"), "jupyter lab --ip=0.0.0.0 --allow-root");
	assert_string_equal(tenant(&req, "tunnel_token"), "t");
	assert_string_equal(tenant(&req, "secret_domain"), "d");
	assert_int_equal(json_object_size(json_object_get(req.tenant, "env")), 1);
	assert_true(req.has_image);
	assert_int_equal(req.cpus, 4);
	assert_int_equal(req.memory_mib, 8192);
	assert_int_equal(req.disk_mib, 50 * 1024);
	assert_int_equal(req.gpus, 1);
	assert_string_equal(req.gpu_field, "gpu_addr");
	assert_int_equal(req.n_ports, 4);
	assert_int_equal(port(&req, 8080)->host, 0);
	assert_int_equal(port(&req, 3000)->host, 3000);
	assert_int_equal(port(&req, 22)->proto, PORT_TCP);
	assert_int_equal(req.container_ssh, 2222);
	assert_int_equal(port(&req, 2222)->proto, PORT_TCP);
	create_request_done(&req);
}

/* The port that is asked for is the container's; the VM's own is any other. */
static void test_ssh_of_the_container(void **state)
{
	struct create_request req;
	struct err why;

	(void)state;
	assert_int_equal(parse("{\"image\":\"a\",\"ssh_enabled\":true,\"ports\":{\"2223\":\"auto\","
			       "\"22\":\"10022\",\"2222\":\"auto\"}}",
			       &req, &why),
			 0);
	assert_int_equal(req.container_ssh, 2224);
	assert_int_equal(port(&req, 2224)->host, 10022);
	assert_int_equal(port(&req, 22)->host, 0);
	assert_int_equal(req.n_ports, 4);
	create_request_done(&req);
	assert_int_equal(parse("{\"image\":\"a\",\"ssh_enabled\":false}", &req, &why), 0);
	assert_int_equal(req.container_ssh, 0);
	assert_int_equal(req.n_ports, 1);
	create_request_done(&req);
	assert_int_equal(parse("{\"ssh_enabled\":true}", &req, &why), 0);
	assert_int_equal(req.container_ssh, 0);
	assert_int_equal(req.n_ports, 1);
	create_request_done(&req);
}

static void test_empty_object_is_a_bare_vm(void **state)
{
	struct create_request req;
	struct err why;

	(void)state;
	assert_int_equal(parse("{}", &req, &why), 0);
	assert_false(req.has_image);
	assert_null(req.gpu_field);
	assert_int_equal(req.cpus + req.memory_mib + req.disk_mib, 0);
	assert_int_equal(req.n_ports, 1);
	assert_int_equal(req.ports[0].guest, 22);
	create_request_done(&req);
	/* What clients send for "nothing". */
	assert_int_equal(parse("{\"image\":\"\",\"cpus\":null,\"memory\":\"\",\"ports\":null,"
			       "\"env_variables\":null,\"gpu_addr\":\"\",\"ssh_enabled\":false}",
			       &req, &why),
			 0);
	assert_int_equal(req.n_ports, 1);
	create_request_done(&req);
}

static void test_sizing_variables(void **state)
{
	struct create_request req;
	struct err why;

	(void)state;
	assert_int_equal(parse("{\"env_variables\":{\"QUDATA_CPU_CORES\":\"6\","
			       "\"QUDATA_MEMORY_GB\":\"1.5\",\"QUDATA_GPU_COUNT\":0}}",
			       &req, &why),
			 0);
	assert_int_equal(req.cpus, 6);
	assert_int_equal(req.memory_mib, 1536);
	assert_null(req.gpu_field);
	assert_null(json_object_get(req.tenant, "env"));
	create_request_done(&req);
	assert_int_equal(parse("{\"env_variables\":{\"QUDATA_GPU_COUNT\":\"2\"}}", &req, &why), 0);
	assert_string_equal(req.gpu_field, "env_variables.QUDATA_GPU_COUNT");
	create_request_done(&req);
}

static void test_env_values(void **state)
{
	struct create_request req;
	const json_t *env;
	struct err why;

	(void)state;
	assert_int_equal(parse("{\"env_variables\":{\"A\":1,\"B\":true,\"C\":\"x\\ny\",\"D\":1.5}}",
			       &req, &why),
			 0);
	env = json_object_get(req.tenant, "env");
	assert_string_equal(json_string_value(json_object_get(env, "A")), "1");
	assert_string_equal(json_string_value(json_object_get(env, "B")), "true");
	assert_string_equal(json_string_value(json_object_get(env, "C")), "x\ny");
	assert_string_equal(json_string_value(json_object_get(env, "D")), "1.5");
	create_request_done(&req);
}

static void test_port_dialects(void **state)
{
	struct create_request req;
	struct err why;

	(void)state;
	assert_int_equal(parse("{\"ports\":[\"22\",\"8080\",9090,\"53/tcp\"]}", &req, &why), 0);
	assert_int_equal(req.n_ports, 4);
	assert_int_equal(port(&req, 9090)->proto, PORT_HTTP);
	assert_int_equal(port(&req, 53)->proto, PORT_TCP);
	create_request_done(&req);

	assert_int_equal(parse("{\"ports\":[{\"container_port\":8080,\"remote_port\":20001,"
			       "\"proto\":\"http\"},{\"guest_port\":\"5432\",\"proto\":\"tcp\"},"
			       "{\"container_port\":22,\"remote_port\":\"auto\"},"
			       "{\"container_port\":7,\"guest_port\":7,\"remote_port\":0}]}",
			       &req, &why),
			 0);
	assert_int_equal(req.n_ports, 4);
	assert_int_equal(port(&req, 8080)->host, 20001);
	assert_int_equal(port(&req, 5432)->proto, PORT_TCP);
	assert_int_equal(port(&req, 5432)->host, 0);
	assert_int_equal(port(&req, 22)->proto, PORT_TCP);
	create_request_done(&req);

	assert_int_equal(
		parse("{\"ports\":{\"80\":null,\"81\":\"\",\"82\":0,\"83\":20083}}", &req, &why),
		0);
	assert_int_equal(port(&req, 82)->host, 0);
	assert_int_equal(port(&req, 83)->host, 20083);
	create_request_done(&req);
}

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_image_rules(void **state)
{
	static const struct {
		const char *body, *image;
	} cases[] = {
		{"{\"image\":\"ubuntu\"}", "ubuntu:latest"},
		{"{\"image\":\"ubuntu\",\"image_tag\":\"22.04\"}", "ubuntu:22.04"},
		{"{\"image\":\"ubuntu:20.04\",\"image_tag\":\"22.04\"}", "ubuntu:20.04"},
		{"{\"image\":\"host:5000/repo\",\"image_tag\":\"v1\"}", "host:5000/repo:v1"},
		{"{\"image\":\"host:5000/repo:v0\",\"image_tag\":\"v1\"}", "host:5000/repo:v0"},
		{"{\"image\":\"repo@sha256:" HEX64 "\",\"image_tag\":\"v1\"}",
		 "repo@sha256:" HEX64},
		{"{\"image\":\"repo\",\"registry\":\"r.example:5000\"}",
		 "r.example:5000/repo:latest"},
		{"{\"image\":\"r.example/repo:1\",\"registry\":\"r.example\"}", "r.example/repo:1"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct create_request req;
		struct err why;

		assert_int_equal(parse(cases[i].body, &req, &why), 0);
		assert_string_equal(tenant(&req, "image"), cases[i].image);
		create_request_done(&req);
	}
}

static void test_bad_requests_name_the_field(void **state)
{
	static const struct {
		const char *body, *field;
	} cases[] = {
		{"", "body"},
		{"{", "JSON"},
		{"[]", "object"},
		{"null", "JSON"},
		{"{\"cpus\":1,\"cpus\":2}", "JSON"},
		{"{\"a\":\"\xff\"}", "JSON"},
		{"{\"cpus\":\"0\"}", "cpus"},
		{"{\"cpus\":\"many\"}", "cpus"},
		{"{\"cpus\":-1}", "cpus"},
		{"{\"cpus\":1.5}", "cpus"},
		{"{\"cpus\":513}", "cpus"},
		{"{\"cpus\":1e300}", "cpus"},
		{"{\"cpus\":true}", "cpus"},
		{"{\"cpus\":\"4 \"}", "cpus"},
		{"{\"memory\":\"8X\"}", "memory"},
		{"{\"memory\":\"8G,foo=bar\"}", "memory"},
		{"{\"memory\":{}}", "memory"},
		{"{\"memory\":-5}", "memory"},
		{"{\"memory\":\"1M\"}", "memory"},
		{"{\"memory\":\"99999999999999999999G\"}", "memory"},
		{"{\"memory\":\"9T\"}", "memory"},
		{"{\"storage_gb\":\"x\"}", "storage_gb"},
		{"{\"storage_gb\":-3}", "storage_gb"},
		{"{\"storage_gb\":0}", "storage_gb"},
		{"{\"disk_size_gb\":[]}", "disk_size_gb"},
		{"{\"storage_gb\":1,\"disk_size_gb\":2}", "disk_size_gb"},
		{"{\"ports\":{\"70000\":\"auto\"}}", "ports.70000"},
		{"{\"ports\":{\"0\":\"auto\"}}", "ports.0"},
		{"{\"ports\":{\"22\":\"x,romfile=/etc/shadow\"}}", "ports.22"},
		{"{\"ports\":{\"22\":-1}}", "ports.22"},
		{"{\"ports\":{\"22\":{}}}", "ports.22"},
		{"{\"ports\":{\"80\":\"80\"}}", "ports.80"},
		{"{\"ports\":{\"80\":\"20000\",\"81\":\"20000\"}}", "ports"},
		{"{\"ports\":{\"80\":\"auto\",\"80/tcp\":\"auto\"}}", "ports"},
		{"{\"ports\":{\"80/udp\":\"auto\"}}", "ports.80/udp"},
		{"{\"ports\":\"22\"}", "ports"},
		{"{\"ports\":[\"abc\"]}", "ports[0]"},
		{"{\"ports\":[\"22\",\"22\"]}", "ports[1]"},
		{"{\"ports\":[[22]]}", "ports[0]"},
		{"{\"ports\":[{\"remote_port\":20000}]}", "ports[0]"},
		{"{\"ports\":[{\"container_port\":80,\"proto\":\"sctp\"}]}", "ports[0].proto"},
		{"{\"ports\":[{\"container_port\":80,\"proto\":7}]}", "ports[0].proto"},
		{"{\"ports\":[{\"container_port\":80,\"guest_port\":81}]}", "ports[0]"},
		{"{\"ports\":[{\"guest_port\":80,\"remote_port\":\"70000\"}]}",
		 "ports[0].remote_port"},
		{"{\"ports\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", "ports"},
		{"{\"ssh_enabled\":\"maybe\"}", "ssh_enabled"},
		{"{\"env_variables\":\"x\"}", "env_variables"},
		{"{\"env_variables\":{\"A=B\":\"c\"}}", "env_variables"},
		{"{\"env_variables\":{\"\":\"c\"}}", "env_variables"},
		{"{\"env_variables\":{\"1A\":\"c\"}}", "env_variables"},
		{"{\"env_variables\":{\"A\":{}}}", "env_variables.A"},
		{"{\"env_variables\":{\"QUDATA_CPU_CORES\":\"x\"}}",
		 "env_variables.QUDATA_CPU_CORES"},
		{"{\"env_variables\":{\"QUDATA_MEMORY_GB\":\"0\"}}",
		 "env_variables.QUDATA_MEMORY_GB"},
		{"{\"env_variables\":{\"QUDATA_GPU_COUNT\":17}}", "env_variables.QUDATA_GPU_COUNT"},
		{"{\"image\":7}", "image"},
		{"{\"image\":\"../../etc\"}", "image"},
		{"{\"image\":\"a b\"}", "image"},
		{"{\"image\":\"a//b\"}", "image"},
		{"{\"image\":\"-a\"}", "image"},
		{"{\"image\":\"a\",\"image_tag\":\"x/y\"}", "image_tag"},
		{"{\"image\":\"a\",\"image_tag\":\"-x\"}", "image_tag"},
		{"{\"registry\":\"http://x\"}", "registry"},
		{"{\"command\":[\"x\"]}", "command"},
		{"{\"command\":\"a\\u0001b\"}", "command"},
		{"{\"login\":7}", "login"},
		{"{\"password\":\"a\\nb\"}", "password"},
		{"{\"gpu_addr\":\"01:00.0;rm\"}", "gpu_addr"},
		{"{\"gpu_addr\":\"01:00.0\"}", "gpu_addr"},
		{"{\"gpu_addr\":1}", "gpu_addr"},
		{"{\"gpu_addr\":{}}", "gpu_addr"},
		{"{\"gpu_addr\":[1]}", "gpu_addr"},
		{"{\"gpu_addr\":\"0000:01:00.0,\"}", "gpu_addr"},
		{"{\"gpu_addr\":\"0000:01:00.0, 0000:02:00.0\"}", "gpu_addr"},
		{"{\"gpu_addr\":\"0000:00:00.0\"}", "gpu_addr"},
		{"{\"gpu_addr\":\"0000:01:20.0\"}", "gpu_addr"},
		{"{\"gpu_addr\":\"0000:01:00.8\"}", "gpu_addr"},
		{"{\"gpu_addr\":\"00000000000000000:01:00.0\"}", "gpu_addr"},
		{"{\"gpu_addr\":\"123456789:01:00.0\"}", "gpu_addr"},
		{"{\"gpu_addr\":[\"0000:01:00.0\",\"00000000:01:00.0\"]}", "twice"},
		{"{\"gpu_addr\":\"0000:01:00.0\",\"gpus\":\"0000:02:00.0\"}", "gpus"},
		{"{\"gpu_addr\":\"0000:01:00.0\",\"gpu_count\":2}", "gpu_count"},
		{"{\"gpu_addr\":\"0000:01:00.0\",\"gpu_count\":0}", "gpu_count"},
		{"{\"gpus\":1,\"gpu_count\":2}", "gpu_count"},
		{"{\"gpus\":17}", "gpus"},
		{"{\"gpus\":-1}", "gpus"},
		{"{\"gpus\":1.5}", "gpus"},
		{"{\"gpus\":true}", "gpus"},
		{"{\"gpus\":\"all\"}", "gpus"},
		{"{\"gpu_count\":\"one\"}", "gpu_count"},
		{"{\"gpu_count\":[]}", "gpu_count"},
		{"{\"name\":\"a b\"}", "name"},
		{"{\"name\":\"-a\"}", "name"},
		{"{\"tunnel_token\":[]}", "tunnel_token"},
		{"{\"secret_domain\":1}", "secret_domain"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct create_request req;
		struct err why;

		if (parse(cases[i].body, &req, &why) != -EINVAL)
			fail_msg("accepted: %s", cases[i].body);
		if (!strstr(why.text, cases[i].field))
			fail_msg("%s does not name %s: %s", cases[i].body, cases[i].field,
				 why.text);
		assert_null(req.tenant);
	}
}

/* A number, or which ones, in every form that a client may use. */
static void test_gpus(void **state)
{
	static const struct {
		const char *body;
		uint32_t n;
		uint64_t first, second;
		const char *field;
	} cases[] = {
		{"{\"gpu_count\":2}", 2, 0, 0, "gpu_count"},
		{"{\"gpu_count\":\"2\"}", 2, 0, 0, "gpu_count"},
		{"{\"gpus\":16}", 16, 0, 0, "gpus"},
		{"{\"gpus\":\"3\",\"gpu_count\":3}", 3, 0, 0, "gpu_count"},
		{"{\"gpus\":0}", 0, 0, 0, NULL},
		{"{\"gpus\":[]}", 0, 0, 0, NULL},
		{"{\"gpus\":null,\"gpu_addr\":\"\"}", 0, 0, 0, NULL},
		{"{\"gpus\":0,\"env_variables\":{\"QUDATA_GPU_COUNT\":2}}", 0, 0, 0, NULL},
		{"{\"gpus\":1,\"env_variables\":{\"QUDATA_GPU_COUNT\":2}}", 1, 0, 0, "gpus"},
		{"{\"env_variables\":{\"QUDATA_GPU_COUNT\":\"2\"}}", 2, 0, 0,
		 "env_variables.QUDATA_GPU_COUNT"},
		{"{\"gpu_addr\":\"0000:01:00.0\"}", 1, 0x100, 0, "gpu_addr"},
		{"{\"gpu_addr\":\"0000:81:00.0,0000:01:00.0\"}", 2, 0x100, 0x8100, "gpu_addr"},
		{"{\"gpu_addr\":[\"0000:01:00.0\"],\"gpu_count\":1}", 1, 0x100, 0, "gpu_addr"},
		{"{\"gpus\":[\"00000000:3B:00.0\",\"10000:01:00.1\"]}", 2, 0x3b00, 0x100000101,
		 "gpus"},
		{"{\"gpus\":\"0000:01:00.0\",\"gpu_addr\":[\"0000:01:00.0\"]}", 1, 0x100, 0,
		 "gpus"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct create_request req;
		struct err why;

		if (parse(cases[i].body, &req, &why) != 0)
			fail_msg("%s: %s", cases[i].body, why.text);
		assert_int_equal(req.gpus, cases[i].n);
		assert_true(req.gpu_addresses[0] == cases[i].first);
		assert_true(req.gpu_addresses[1] == cases[i].second);
		if (cases[i].field)
			assert_string_equal(req.gpu_field, cases[i].field);
		else
			assert_null(req.gpu_field);
		create_request_done(&req);
	}
}

static void test_long_texts(void **state)
{
	static char body[REQUEST_LONG_MAX + 100];
	struct create_request req;
	struct err why;

	(void)state;
	for (size_t over = 0; over < 2; over++) {
		int n = snprintf(body, sizeof(body), "{\"command\":\"");

		memset(body + n, 'x', REQUEST_LONG_MAX + over);
		(void)strcpy(body + n + REQUEST_LONG_MAX + over, "\"}");
		assert_int_equal(parse(body, &req, &why), over ? -EINVAL : 0);
		if (!over)
			create_request_done(&req);
	}
	assert_non_null(strstr(why.text, "command"));
}

static void test_sizes(void **state)
{
	static const struct {
		const char *text;
		int r;
		uint32_t mib;
	} cases[] = {
		{"8G", 0, 8192},       {"8g", 0, 8192},      {"8GiB", 0, 8192},
		{"8GB", 0, 8192},      {"512m", 0, 512},     {"512", 0, 512},
		{"1.5G", 0, 1536},     {"1T", 0, 1048576},   {"1024k", 0, 1},
		{"1k", 0, 1},          {"", -EINVAL, 0},     {"G", -EINVAL, 0},
		{"8X", -EINVAL, 0},    {"-8G", -EINVAL, 0},  {"8 G", -EINVAL, 0},
		{"1.G", -EINVAL, 0},   {"0", -ERANGE, 0},    {"65T", -ERANGE, 0},
		{"0x10G", -EINVAL, 0}, {"8Gi,", -EINVAL, 0}, {"1e3", -EINVAL, 0},
		{"nan", -EINVAL, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		uint32_t mib = 0;

		assert_int_equal(request_parse_size(cases[i].text, &mib), cases[i].r);
		assert_int_equal(mib, cases[i].mib);
	}
}

static void test_actions(void **state)
{
	static const struct {
		const char *body;
		int r;
		enum request_action action;
	} cases[] = {
		{"{\"action\":\"start\"}", 0, ACTION_START},
		{"{\"command\":\"stop\"}", 0, ACTION_STOP},
		{"{\"action\":\"restart\",\"command\":\"restart\"}", 0, ACTION_RESTART},
		{"{\"action\":\"stop\",\"command\":\"start\"}", -EINVAL, 0},
		{"{\"action\":\"pause\"}", -EINVAL, 0},
		{"{\"action\":1}", -EINVAL, 0},
		{"{}", -EINVAL, 0},
		{"", -EINVAL, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		enum request_action action = 0;
		struct err why = {0};

		assert_int_equal(
			request_parse_action(cases[i].body, strlen(cases[i].body), &action, &why),
			cases[i].r);
		assert_int_equal(action, cases[i].action);
		assert_true(cases[i].r == 0 || why.text[0] != '\0');
	}
}

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICW+hJCWuo50RrP/NlSoUiybmtUhiglewSC8ZFcgLNtR"

static void test_keys(void **state)
{
	static const struct {
		const char *body;
		int r;
		const char *line;
	} cases[] = {
		{"{\"ssh_pubkey\":\"" KEY " me@x\"}", 0, KEY " me@x"},
		{"{\"ssh_pubkey\":\"" KEY "\\n\"}", 0, KEY},
		{"{\"ssh_pubkey\":\"  " KEY "   me@x \"}", 0, KEY " me@x"},
		{"{\"ssh_pubkey\":\"" KEY "\\n" KEY "\"}", -EINVAL, NULL},
		{"{\"ssh_pubkey\":\"command=\\\"x\\\" " KEY "\"}", -EINVAL, NULL},
		{"{\"ssh_pubkey\":\"ssh-ed25519 AAAA\"}", -EINVAL, NULL},
		{"{\"ssh_pubkey\":\"\"}", -EINVAL, NULL},
		{"{\"ssh_pubkey\":7}", -EINVAL, NULL},
		{"{}", -EINVAL, NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char line[PUBKEY_LINE_MAX] = "";
		struct err why = {0};

		assert_int_equal(
			request_parse_key(cases[i].body, strlen(cases[i].body), line, &why),
			cases[i].r);
		if (cases[i].r == 0)
			assert_string_equal(line, cases[i].line);
		else
			assert_non_null(strstr(why.text, "ssh_pubkey"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_union_of_dialects),
		cmocka_unit_test(test_ssh_of_the_container),
		cmocka_unit_test(test_empty_object_is_a_bare_vm),
		cmocka_unit_test(test_sizing_variables),
		cmocka_unit_test(test_env_values),
		cmocka_unit_test(test_port_dialects),
		cmocka_unit_test(test_image_rules),
		cmocka_unit_test(test_bad_requests_name_the_field),
		cmocka_unit_test(test_gpus),
		cmocka_unit_test(test_long_texts),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_actions),
		cmocka_unit_test(test_keys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
