/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentd's small parts: settings, secret, ports, URL table, orders, what clients see.
 * Trust: test.
 */
#include "agentd/auth.h"
#include "agentd/config.h"
#include "agentd/ports.h"
#include "agentd/route.h"
#include "agentd/view.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
/* cmocka wants the two above first */
#include <cmocka.h>

/* Settings. */

static int parse(const char *text, struct agentd_config *c, struct err *why)
{
	char copy[512];

	(void)snprintf(copy, sizeof(copy), "%s", text);
	return config_parse(copy, c, why);
}

static void test_config(void **state)
{
	struct agentd_config c;
	struct err why;

	(void)state;
	assert_int_equal(parse("", &c, &why), 0);
	assert_string_equal(c.data_dir, "/var/lib/qudata");
	assert_int_equal(c.default_cpus, 4);
	assert_int_equal(c.default_memory_mib, 8192);
	assert_int_equal(c.default_disk_mib, 500 * 1024);
	assert_int_equal(parse("control_plane = none\nport = 15009\ndefault_memory = 2G\n"
			       "on_exit = restart\non_host_reboot = restart\ndebug = yes\n",
			       &c, &why),
			 0);
	assert_int_equal(c.port, 15009);
	assert_int_equal(c.default_memory_mib, 2048);
	assert_int_equal(c.on_exit, ON_END_RESTART);
	assert_int_equal(c.on_host_reboot, ON_END_RESTART);
	assert_true(c.debug);
	assert_int_equal(parse("control_plane = https://x.example/v0\n", &c, &why), 0);
	assert_int_equal(parse("control_plane = gopher://x\n", &c, &why), -EINVAL);
	assert_non_null(strstr(why.text, "https://"));
	assert_int_equal(parse("port = 80\n", &c, &why), -EINVAL);
	assert_non_null(strstr(why.text, "port"));
	assert_int_equal(parse("nonsense = 1\n", &c, &why), -EINVAL);
	assert_non_null(strstr(why.text, "nonsense"));
}

static void test_environment(void **state)
{
	struct agentd_config c;
	struct err why;

	(void)state;
	config_defaults(&c);
	(void)setenv("QUDATA_DATA_DIR", "/srv/q", 1);
	(void)setenv("QUDATA_VM_CPUS", "2", 1);
	(void)setenv("QUDATA_VM_MEMORY", "3G", 1);
	(void)setenv("QUDATA_BASE_IMAGE", "other", 1);
	(void)setenv("QUDATA_AGENT_DEBUG", "1", 1);
	(void)setenv("QUDATA_API_KEY", "ak-x", 1);
	assert_int_equal(config_environment(&c, &why), 0);
	assert_int_equal(config_load_key(&c, &why), 0); /* of no use without a control plane */
	assert_string_equal(c.api_key, "");
	assert_string_equal(c.data_dir, "/srv/q");
	assert_int_equal(c.default_cpus, 2);
	assert_int_equal(c.default_memory_mib, 3072);
	assert_string_equal(c.base_image, "other");
	assert_true(c.debug);
	assert_null(getenv("QUDATA_API_KEY"));
	(void)setenv("QUDATA_AGENT_DEBUG", "false", 1);
	assert_int_equal(config_environment(&c, &why), 0);
	assert_false(c.debug);
	(void)setenv("QUDATA_VM_CPUS", "many", 1);
	assert_int_equal(config_environment(&c, &why), -EINVAL);
	assert_non_null(strstr(why.text, "QUDATA_VM_CPUS"));
	(void)unsetenv("QUDATA_VM_CPUS");
	(void)setenv("QUDATA_SERVICE_URL", "https://x.example", 1);
	assert_int_equal(config_environment(&c, &why), 0);
	assert_string_equal(c.control_plane, "https://x.example");
	(void)unsetenv("QUDATA_SERVICE_URL");
	assert_int_equal(config_load_key(&c, &why), -ENOENT);
	(void)setenv("QUDATA_API_KEY", "bk-0123456789", 1);
	assert_int_equal(config_load_key(&c, &why), -EINVAL);
	assert_null(strstr(why.text, "0123456789"));
	assert_null(getenv("QUDATA_API_KEY"));
	(void)setenv("QUDATA_API_KEY", "ak-0123456789", 1);
	assert_int_equal(config_load_key(&c, &why), 0);
	assert_string_equal(c.api_key, "ak-0123456789");
	assert_null(getenv("QUDATA_API_KEY"));
}

/* The secret. */

static void write_secret(int dir, const char *text, mode_t mode)
{
	int fd = openat(dir, AUTH_FILE, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
	(void)close(fd);
}

static void test_auth(void **state)
{
	static const char *const bad[] = {"", "\n", "sk-short\n", "xx-0123456789012345678901\n",
					  "sk-0123456789 0123456789\n"};
	char path[] = "/tmp/test-agentd-auth-XXXXXX", almost[AUTH_SECRET_LEN + 8];
	struct auth first, again;
	struct stat st;
	struct err why;
	int dir;

	(void)state;
	assert_non_null(mkdtemp(path));
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(auth_load(dir, &first, &why), 0);
	assert_int_equal(fstatat(dir, AUTH_FILE, &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(strlen(first.secret), AUTH_SECRET_LEN);
	assert_int_equal(strncmp(first.secret, "sk-", 3), 0);
	assert_int_equal(auth_load(dir, &again, &why), 0);
	assert_string_equal(first.secret, again.secret);

	assert_true(auth_matches(&first, again.secret));
	assert_false(auth_matches(&first, ""));
	assert_false(auth_matches(&first, "sk-"));
	(void)snprintf(almost, sizeof(almost), "%sx", first.secret);
	assert_false(auth_matches(&first, almost));
	almost[AUTH_SECRET_LEN - 1] = '\0';
	assert_false(auth_matches(&first, almost));
	(void)snprintf(almost, sizeof(almost), "%s", first.secret);
	almost[AUTH_SECRET_LEN - 1] ^= 1;
	assert_false(auth_matches(&first, almost));

	write_secret(dir, "sk-01234567890123456789\n", 0600);
	assert_int_equal(auth_load(dir, &again, &why), 0);
	assert_true(auth_matches(&again, "sk-01234567890123456789"));
	write_secret(dir, "sk-01234567890123456789\n", 0640);
	assert_int_equal(auth_load(dir, &again, &why), -EPERM);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		write_secret(dir, bad[i], 0600);
		assert_int_equal(auth_load(dir, &again, &why), -EINVAL);
	}
	assert_int_equal(unlinkat(dir, AUTH_FILE, 0), 0);
	(void)close(dir);
	assert_int_equal(rmdir(path), 0);
}

/* Ports. */

static bool some_taken(void *ctx, uint16_t port)
{
	const uint16_t *taken = ctx;

	for (; *taken; taken++)
		if (*taken == port)
			return true;
	return false;
}

static void test_ports(void **state)
{
	uint16_t taken[] = {10001, 20000, 20002, 0};
	struct ports_host host = {10000, 65535, some_taken, taken};
	const struct port_request wanted[] = {{8080, 0, PORT_HTTP},
					      {22, 0, PORT_TCP},
					      {80, 20001, PORT_HTTP},
					      {81, 0, PORT_HTTP}};
	const struct port_request wish_taken = {80, 20002, PORT_HTTP};
	const struct port_request wish_outside = {80, 3000, PORT_HTTP};
	struct proto_port ports[PROTO_MAX_PORTS];
	struct err why;

	(void)state;
	assert_int_equal(ports_allocate(wanted, 4, &host, ports, &why), 0);
	assert_int_equal(ports[0].host, 20003); /* not 20001, which the third one wants */
	assert_int_equal(ports[1].host, 10002);
	assert_int_equal(ports[2].host, 20001);
	assert_int_equal(ports[3].host, 20004);
	assert_int_equal(ports[3].guest, 81);
	assert_int_equal(proto_ports_count(ports), 4);
	assert_int_equal(ports_allocate(&wish_taken, 1, &host, ports, &why), -EADDRINUSE);
	assert_non_null(strstr(why.text, "20002"));
	assert_int_equal(ports_allocate(&wish_outside, 1, &host, ports, &why), -ERANGE);
	assert_non_null(strstr(why.text, "3000"));
	host.low = 0; /* not known yet: the helper will say */
	assert_int_equal(ports_allocate(&wish_outside, 1, &host, ports, &why), 0);
	host.low = host.high = 10001;
	assert_int_equal(ports_allocate(wanted + 1, 1, &host, ports, &why), -ENOSPC);
}

static void test_ports_at_the_server(void **state)
{
	uint16_t taken[] = {10005, 20000, 20002, 0};
	struct ports_remote remote = {
		.proto = PORT_HTTP, .first = 20000, .taken = some_taken, .ctx = taken};
	const struct port_tunnel mine[] = {{.remote = 20001}, {.remote = 10006, .tcp = true}};
	uint16_t port = 0;
	struct err why;

	(void)state;
	assert_int_equal(ports_choose_remote(&remote, mine, 2, &port, &why), 0);
	assert_int_equal(port, 20003); /* two are taken, one is ours */
	remote.first = 10006;          /* below the range: anywhere in it */
	assert_int_equal(ports_choose_remote(&remote, mine, 2, &port, &why), 0);
	assert_true(port > 15000);
	remote.proto = PORT_TCP;
	remote.first = 10005;
	assert_int_equal(ports_choose_remote(&remote, mine, 2, &port, &why), 0);
	assert_int_equal(port, 10007);
	remote.first = 0;
	for (int i = 0; i < 200; i++) {
		assert_int_equal(ports_choose_remote(&remote, mine, 2, &port, &why), 0);
		assert_true(ports_is_tcp(port) && port != 10005 && port != 10006);
	}
	remote.wish = 20001; /* a number of the other protocol's range */
	assert_int_equal(ports_choose_remote(&remote, mine, 2, &port, &why), -ERANGE);
	assert_non_null(strstr(why.text, "10000 to 15000"));
	remote.wish = 10006;
	assert_int_equal(ports_choose_remote(&remote, mine, 2, &port, &why), -EADDRINUSE);
	remote.proto = PORT_HTTP;
	remote.wish = 15000;
	assert_int_equal(ports_choose_remote(&remote, mine, 2, &port, &why), -ERANGE);
	remote.wish = 20000;
	assert_int_equal(ports_choose_remote(&remote, mine, 2, &port, &why), -EADDRINUSE);
	remote.wish = 15001;
	assert_int_equal(ports_choose_remote(&remote, mine, 2, &port, &why), 0);
	assert_int_equal(port, 15001);
}

static void test_port_in_use(void **state)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	assert_true(ports_in_use(ntohs(sin.sin_port)));
	(void)close(fd);
	assert_false(ports_in_use(ntohs(sin.sin_port)));
}

/* The URL table. */

static void test_routes(void **state)
{
	static const struct {
		enum http_method method;
		const char *path;
		int r;
		const char *id, *allow;
	} cases[] = {
		{HTTP_GET, "/ping", 0, "", ""},
		{HTTP_HEAD, "/ping", 0, "", ""},
		{HTTP_POST, "/ping", -EOPNOTSUPP, "", "GET"},
		{HTTP_DELETE, "/instances", 0, "", ""},
		{HTTP_DELETE, "/v1/instances", -EOPNOTSUPP, "", "GET, POST"},
		{HTTP_OPTIONS, "/ssh", -EOPNOTSUPP, "", "GET, POST, DELETE"},
		{HTTP_OPTIONS, "*", -ENOENT, "", ""},
		{HTTP_GET, "/", -ENOENT, "", ""},
		{HTTP_GET, "/ping/", -ENOENT, "", ""},
		{HTTP_GET, "/v1/instances/0123456789abcdef", 0, "0123456789abcdef", ""},
		{HTTP_GET, "/v1/instances/0123456789abcdef/wait", 0, "0123456789abcdef", ""},
		{HTTP_GET, "/v1/instances/0123456789abcdef/console/log", 0, "0123456789abcdef", ""},
		{HTTP_POST, "/v1/instances/0123456789abcdef", -EOPNOTSUPP, NULL,
		 "GET, PUT, DELETE"},
		{HTTP_GET, "/v1/instances/0123456789abcdeF", -ENOENT, NULL, ""},
		{HTTP_GET, "/v1/instances/0123456789abcde", -ENOENT, NULL, ""},
		{HTTP_GET, "/v1/instances/0123456789abcdef0", -ENOENT, NULL, ""},
		{HTTP_GET, "/v1/instances/0123456789abcdef/nothing", -ENOENT, NULL, ""},
		{HTTP_GET, "/v1/instances/", -ENOENT, NULL, ""},
		{HTTP_GET, "/v1/gpus", 0, "", ""},
		{HTTP_POST, "/v1/gpus", -EOPNOTSUPP, NULL, "GET"},
		{HTTP_POST, "/v1/gpus/recover", 0, "", ""},
		{HTTP_GET, "/v1/gpus/recover", -EOPNOTSUPP, NULL, "POST"},
		{HTTP_POST, "/v1/gpus/0000:01:00.0/recover", 0, "", ""},
		{HTTP_POST, "/v1/gpus/10000:3B:1f.7/recover", 0, "", ""},
		{HTTP_POST, "/v1/gpus/0000:01:20.0/recover", -ENOENT, NULL, ""},
		{HTTP_POST, "/v1/gpus/0000:01:00.0x/recover", -ENOENT, NULL, ""},
		{HTTP_POST, "/v1/gpus/0000:01:00.0/recover/", -ENOENT, NULL, ""},
		{HTTP_POST, "/v1/gpus//recover", -ENOENT, NULL, ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct route *route = NULL;
		char id[INSTANCE_ID_LEN + 1] = "", allow[ROUTE_ALLOW_MAX];

		assert_int_equal(route_find(cases[i].method, cases[i].path, &route, id, allow),
				 cases[i].r);
		assert_string_equal(allow, cases[i].allow);
		if (cases[i].r == 0) {
			assert_non_null(route);
			assert_string_equal(route->target == ROUTE_ID ? id : "", cases[i].id);
		}
	}
}

/* Whatever changes something is logged; whatever only looks is not. */
static void test_route_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < n_routes; i++) {
		assert_non_null(routes[i].answer);
		if (routes[i].method != HTTP_GET)
			assert_true(routes[i].changes);
		assert_true((routes[i].target == ROUTE_ID) ==
			    (strstr(routes[i].path, "{id}") != NULL));
		/* What is in the host is shown to nobody but its operators. */
		assert_true(routes[i].operator==(
			strncmp(routes[i].path, "/v1/gpus", strlen("/v1/gpus")) == 0 ||
			STR_EQ(routes[i].path, "/v1/engine") ||
			STR_EQ(routes[i].path, "/v1/tunnels")));
	}
	assert_int_equal(route_address("/v1/gpus/0000:01:00.0/recover"), 0x100);
	assert_int_equal(route_address("/v1/gpus/10000:ff:1f.7/recover"), 0x10000ffff);
	assert_int_equal(route_address("/v1/gpus/recover"), 0);
	assert_int_equal(route_address("/v1/host"), 0);
}

/* Orders. */

static void test_orders(void **state)
{
	struct run run = {.goal = GOAL_RUN};
	struct err why;

	(void)state;
	assert_int_equal(instance_order(&run, ACTION_START, true, &why), 0);
	assert_int_equal(run.goal, GOAL_RUN);
	assert_int_equal(run.restart, RESTART_NONE);
	assert_int_equal(instance_order(&run, ACTION_RESTART, true, &why), 0);
	assert_int_equal(run.restart, RESTART_STOPPING);
	assert_int_equal(instance_order(&run, ACTION_STOP, true, &why), 0);
	assert_int_equal(run.goal, GOAL_STOP);
	assert_int_equal(run.restart, RESTART_NONE);
	assert_int_equal(instance_order(&run, ACTION_STOP, true, &why), 0);
	assert_int_equal(instance_order(&run, ACTION_RESTART, false, &why), -EPERM);
	assert_non_null(strstr(why.text, "stopped"));
	/* A start during a stop: the stop is finished, then it starts. */
	assert_int_equal(instance_order(&run, ACTION_START, true, &why), 0);
	assert_int_equal(run.goal, GOAL_RUN);
	assert_int_equal(run.restart, RESTART_STOPPING);

	run = (struct run){.goal = GOAL_RUN, .fault = FAULT_FINAL, .error = "x"};
	assert_int_equal(instance_order(&run, ACTION_RESTART, false, &why), 0);
	assert_int_equal(run.fault, FAULT_NONE);
	assert_string_equal(run.error, "");
	run = (struct run){.goal = GOAL_RUN, .fault = FAULT_FINAL, .error = "x"};
	assert_int_equal(instance_order(&run, ACTION_STOP, false, &why), 0);
	assert_int_equal(run.goal, GOAL_STOP);
	assert_int_equal(run.fault, FAULT_NONE);

	run = (struct run){.goal = GOAL_DELETE};
	for (int action = ACTION_START; action <= ACTION_RESTART; action++)
		assert_int_equal(instance_order(&run, (enum request_action)action, true, &why),
				 -EPERM);
	assert_int_equal(run.goal, GOAL_DELETE);
}

/* What clients see. */

static void test_status_words(void **state)
{
	struct instance *inst = instance_new(NULL);
	struct run *run = &inst->run;
	struct seen *seen = &inst->seen;

	(void)state;
	run->goal = GOAL_RUN;
	assert_string_equal(view_status(inst), "pending");
	run->started_generation = 2;
	seen->described = true;
	seen->vm = PROTO_VM_RUNNING;
	seen->generation = 2;
	assert_string_equal(view_status(inst), "pending");
	run->ready_generation = 2;
	assert_string_equal(view_status(inst), "running");
	seen->described = false; /* the helper is away: the last known stands */
	assert_string_equal(view_status(inst), "running");
	seen->described = true;
	seen->resetting = true;
	assert_string_equal(view_status(inst), "rebooting");
	seen->resetting = false;
	run->restart = RESTART_STOPPING;
	assert_string_equal(view_status(inst), "rebooting");
	run->restart = RESTART_NONE;
	run->goal = GOAL_STOP;
	assert_string_equal(view_status(inst), "pending");
	seen->vm = PROTO_VM_SEEDED;
	assert_string_equal(view_status(inst), "paused");
	run->goal = GOAL_RUN;
	run->fault = FAULT_FINAL;
	assert_string_equal(view_status(inst), "error");
	run->goal = GOAL_DELETE;
	assert_string_equal(view_status(inst), "pending");
	instance_free(inst);
}

static void test_nothing_secret_is_shown(void **state)
{
	struct instance *inst = instance_new(NULL);
	const char *text;

	(void)state;
	inst->run.goal = GOAL_RUN;
	inst->ports[0] = (struct proto_port){.host = 10001, .guest = 22};
	inst->tenant = json_pack("{s:s, s:s, s:{s:s}}", "password", "hunter2", "tunnel_token",
				 "hunter3", "env", "A", "hunter4");
	text = view_instance(inst);
	assert_non_null(text);
	assert_null(strstr(text, "hunter"));
	assert_non_null(strstr(text, "\"ports\":{\"22\":\"10001\"}"));
	assert_ptr_equal(view_instance(inst), text); /* cached */
	instance_free(inst);
}

/* A client that asks for SSH gets the container's port 22, also where no VM is between. */
static void test_ssh_of_a_container_on_the_host(void **state)
{
	struct instance inst = {
		.on_host = true,
		.cpus = 1,
		.memory_mib = 128,
		.disk_mib = 64,
		.container_ssh = 2222,
		.ports = {{.host = 10001, .guest = 2222}, {10002, 22}, {20000, 80}},
	};
	_cleanup_free_ char *text = NULL, *after = NULL;

	(void)state;
	inst.tenant = json_pack("{s:s}", "image", "a:b");
	text = instance_container_wish(&inst);
	assert_non_null(strstr(text, "\"publish\":[[80,20000]]"));
	assert_non_null(strstr(text, "\"ssh\":10001"));
	/* Where a login ends is no part of what the container is made of. */
	inst.seen.container.login = PROTO_LOGIN_VM;
	after = instance_container_wish(&inst);
	assert_string_equal(after, text);
	json_decref(inst.tenant);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_environment),
		cmocka_unit_test(test_auth),
		cmocka_unit_test(test_ports),
		cmocka_unit_test(test_ports_at_the_server),
		cmocka_unit_test(test_port_in_use),
		cmocka_unit_test(test_routes),
		cmocka_unit_test(test_route_table),
		cmocka_unit_test(test_orders),
		cmocka_unit_test(test_status_words),
		cmocka_unit_test(test_nothing_secret_is_shown),
		cmocka_unit_test(test_ssh_of_a_container_on_the_host),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
