/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives vmmon's engine client against an engine on this machine: prints each status, obeys lines.
 *   engine-try SOCKET WAIT_MS [SSH_PORT KEY_FILE HOST_KEY | INSTANCE ROOTFUL UNLIMITED RESERVE]
 * With the three, through the SSH server there as root, as vmmon reaches a guest; with the four,
 * for that instance on this host, where ROOTFUL and UNLIMITED, yes or no, say whether root's engine
 * and one that cannot limit containers will do, and RESERVE how many MiB have to be free.
 * Orders on standard input: "wish FILE", "keys FILE", "up", "down", "stop", "remove", "logs".
 * Prints JSON, one object a line.
 * Trust: a test.
 */
#include "vmmon/engine/engine.h"
#include "vmmon/engine/link_ssh.h"
#include "vmmon/engine/link_unix.h"

#include <fcntl.h>

#define STOP_GRACE_S 1

static struct engine *engine;
static const char *instance;
static struct event_base *base;

static void print(json_t *json)
{
	char *text = json_dumps(json, JSON_COMPACT);

	(void)printf("%s\n", text);
	(void)fflush(stdout);
	free(text);
	json_decref(json);
}

static void on_status(void *ctx, const struct engine_status *s)
{
	static const char *const words[] = {"none",   "waiting", "pulling", "starting", "running",
					    "exited", "failed",  "stopped", "gone"};
	static const char *const logins[] = {"none", "trying", "container", "vm"};

	(void)ctx;
	print(json_pack("{s:s, s:i, s:i, s:s, s:s, s:s, s:s, s:s}", "state", words[s->state],
			"percent", (int)s->percent, "exit_code", (int)s->exit_code, "id", s->id,
			"words", s->words, "login", logins[s->login.place], "host_key",
			s->login.host_key, "login_words", s->login.words));
}

static void on_keys(void *ctx)
{
	(void)ctx;
	print(json_pack("{s:b}", "keys", 1));
}

static void on_logs(void *arg, int r, const char *text, size_t len)
{
	(void)arg;
	print(json_pack("{s:i, s:s%}", "logs", r, "text", text ? text : "", len));
}

static void set_wish(const char *path)
{
	static char text[PROTO_WISH_MAX + 1];
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	struct err err = {0};
	struct wish wish;

	if (n >= 0 && wish_parse(text, (size_t)n, instance, &wish, &err) == 0)
		engine_set_wish(engine, &wish);
	else
		print(json_pack("{s:s}", "refused", err.text));
}

static void set_keys(const char *path)
{
	char text[16384];
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));

	if (n < 0 || engine_set_keys(engine, text, (size_t)n) < 0)
		print(json_pack("{s:s}", "refused", path));
	else if (!engine_keys_busy(engine))
		on_keys(NULL);
}

static void on_order(evutil_socket_t fd, short what, void *arg)
{
	char line[512];

	(void)fd;
	(void)what;
	(void)arg;
	if (!fgets(line, sizeof(line), stdin)) {
		(void)event_base_loopbreak(base);
		return;
	}
	line[strcspn(line, "\n")] = '\0';
	if (strncmp(line, "wish ", 5) == 0)
		set_wish(line + 5);
	else if (strncmp(line, "keys ", 5) == 0)
		set_keys(line + 5);
	else if (STR_EQ(line, "logs") && engine_logs(engine, 100, 65536, on_logs, NULL) < 0)
		on_logs(NULL, -1, NULL, 0);
	else if (STR_EQ(line, "stop"))
		engine_stop(engine, STOP_GRACE_S);
	else if (STR_EQ(line, "remove"))
		engine_remove(engine);
	else if (STR_EQ(line, "up") || STR_EQ(line, "down"))
		engine_set_up(engine, STR_EQ(line, "up"));
}

static int start_session(void *ctx, const struct session_handler *handler,
			 struct session **ret_session)
{
	char **words = ctx;
	struct session_target target = {
		.base = base,
		.port = (uint16_t)strtoul(words[0], NULL, 10),
		.user = "root",
		.host_key = words[2],
	};

	if (ssh_pki_import_privkey_file(words[1], NULL, NULL, NULL, &target.management_key) !=
	    SSH_OK)
		return -EINVAL;
	return session_start(&target, handler, ret_session);
}

int main(int argc, char *argv[])
{
	const struct link_ssh_config ssh = {
		.socket = argc == 6 ? argv[1] : NULL,
		.ctx = argv + 3,
		.start = start_session,
	};
	struct link_unix_config local = {.path = argv[1]};
	struct engine_config config = {
		.on_status = on_status, .on_keys = on_keys, .steady_ms = 2500};
	struct event *orders;

	if (argc != 3 && argc != 6 && argc != 7)
		return 2;
	instance = config.instance = argc == 7 ? argv[3] : NULL;
	config.socket = argv[1];
	local.rootful = argc != 7 || STR_EQ(argv[4], "yes");
	config.unlimited = argc == 7 && STR_EQ(argv[5], "yes");
	config.reserve_mib = argc == 7 ? (uint32_t)strtoul(argv[6], NULL, 10) : 0;
	base = local.base = config.base = event_base_new();
	config.link = argc == 6 ? link_ssh_new(&ssh) : link_unix_new(&local);
	config.wait_ms = (uint32_t)strtoul(argv[2], NULL, 10);
	engine = engine_new(&config);
	(void)setvbuf(stdin, NULL, _IONBF, 0);
	orders = event_new(base, STDIN_FILENO, EV_READ | EV_PERSIST, on_order, NULL);
	if (!engine || !orders || event_add(orders, NULL) < 0)
		return 1;
	(void)event_base_dispatch(base);
	engine_free(engine);
	if (argc == 6)
		link_ssh_free(config.link);
	else
		link_unix_free(config.link);
	event_free(orders);
	event_base_free(base);
	return 0;
}
