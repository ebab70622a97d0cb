/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of a watched guest: framing of QMP, a scripted QEMU for the corners, a real one for
 * the rest, console, readiness.
 * Trust: a test; reads nothing from outside.
 */
#include "common/ipc.h"
#include "common/rpc.h"
#include "vmmon/guest.h"
#include "vmmon/metrics/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#define PATIENCE_MS 60000 /* of a machine that does much else */

static char dir[] = "/tmp/test-vmmon-guest.XXXXXX";
static struct event_base *base;
static struct guest_env env;
static enum proto_guest_state seen[64];
static size_t n_seen;
static enum proto_status replied;
static int listeners[3];

enum { SOCK_QMP, SOCK_CONSOLE, SOCK_READY };

static void on_state(void *ctx, const struct guest *g)
{
	(void)ctx;
	assert_true(n_seen < ARRAY_LEN(seen));
	seen[n_seen++] = g->state;
}

static void on_reply(void *ctx, struct ticket *ticket, enum proto_status status, uint32_t n_keys)
{
	(void)ctx;
	(void)n_keys;
	ticket->serial = 0;
	replied = status;
}

/* Runs the loop, ten turns at least, until @done or for @ms; returns whether @done. */
static bool pump_until(uint32_t ms, bool (*done)(void *), void *arg)
{
	uint64_t end = rpc_now_ms() + ms;

	for (unsigned int turns = 0; !done || !done(arg); turns++) {
		if (turns >= 10 && rpc_now_ms() >= end)
			return false;
		(void)event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
		(void)usleep(200);
	}
	return true;
}

static bool in_state(void *arg)
{
	return n_seen > 0 && seen[n_seen - 1] == *(enum proto_guest_state *)arg;
}

static bool reaches(enum proto_guest_state state)
{
	return pump_until(PATIENCE_MS, in_state, &state);
}

static void listen_all(void)
{
	static const char *const names[] = {"qmp", "console", "ready"};
	char path[108];

	(void)mkdir("vm1", 0700);
	for (size_t i = 0; i < 3; i++) {
		assert_true(snprintf(path, sizeof(path), "%s/vm1/%s.sock", dir, names[i]) < 108);
		listeners[i] = ipc_listen(path, SOCK_STREAM, 0600, IPC_KEEP_GID, NULL);
		assert_true(listeners[i] >= 0);
	}
}

static int accept_one(int which)
{
	struct ucred cred;
	int fd = ipc_accept(listeners[which], &cred);

	assert_true(fd >= 0);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void hear(int fd, const char *words)
{
	char buf[512];
	ssize_t n = -1;

	for (int i = 0; i < PATIENCE_MS && n < 0; i++) {
		(void)pump_until(1, NULL, NULL);
		n = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);
	}
	assert_true(n > 0);
	buf[n] = '\0';
	assert_non_null(strstr(buf, words));
}

static struct guest *watch(uint64_t generation, uint16_t port)
{
	struct guest *g;

	n_seen = 0;
	assert_int_equal(guest_new(&env, "vm1", generation, port, &g), 0);
	return g;
}

static void negotiate(int qmp)
{
	say(qmp, "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\r\n");
	hear(qmp, "qmp_capabilities");
	say(qmp, "{\"return\":{},\"id\":1}\r\n");
	hear(qmp, "query-status");
	say(qmp, "{\"return\":{\"status\":\"running\",\"running\":true},\"id\":2}\r\n");
}

static int count_messages(void *arg, const struct qmp_message *msg)
{
	(void)msg;
	++*(int *)arg;
	return 0;
}

static int decode(const char *text, size_t len)
{
	struct qmp_decoder d = {0};
	int n = 0, r = qmp_decode(&d, text, len, count_messages, &n);

	qmp_decoder_done(&d);
	return r < 0 ? r : n;
}

static void framing(void **state)
{
	static const char *const bad[] = {"\n",       "x\n",
					  "[]\n",     "{\"a\":1,\"a\":2}\n",
					  "{}{}\n",   "{\"event\":\"\\ud800\"}\n",
					  "\"QMP\"\n"};
	static char big[QMP_LINE_MAX + 2];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(decode(bad[i], strlen(bad[i])), -EBADMSG);
	assert_int_equal(decode("{}\n{\"event\":\"RESET\"}\r\n{", 24), 2);
	assert_int_equal(decode("{\"event\":7}\n{\"id\":\"x\",\"return\":{}}\n", 36), 2);
	memset(big, ' ', sizeof(big));
	assert_int_equal(decode(big, QMP_LINE_MAX), 0);
	assert_int_equal(decode(big, QMP_LINE_MAX + 1), -EMSGSIZE);
	memset(big, '[', sizeof(big)); /* deep, not long: the parser's own limit */
	big[QMP_LINE_MAX - 1] = '\n';
	assert_int_equal(decode(big, QMP_LINE_MAX), -EBADMSG);
}

static void life_of_a_guest(void **state)
{
	struct guest *g;
	struct ticket ticket = {.serial = 1};
	int qmp, ready, console;

	(void)state;
	listen_all();
	g = watch(7, 0);
	qmp = accept_one(SOCK_QMP);
	console = accept_one(SOCK_CONSOLE);
	ready = accept_one(SOCK_READY);
	assert_int_equal(g->state, PROTO_GUEST_CONNECTING);
	assert_int_equal(guest_powerdown(g, &ticket), PROTO_UNREACHABLE);
	negotiate(qmp);
	assert_true(reaches(PROTO_GUEST_BOOTING));
	say(ready, "not ready\nreadyreadyreadyreadyready\n\nrea");
	(void)pump_until(20, NULL, NULL);
	assert_int_equal(n_seen, 1);
	say(ready, "dy\r\n");
	/* By the line, and no timer: a few turns, between which no time has to pass. */
	for (int i = 0; i < 4; i++)
		(void)event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	assert_int_equal(seen[n_seen - 1], PROTO_GUEST_READY);
	assert_int_equal(g->ring->ready, 1);

	say(qmp, "{\"event\":\"RESET\",\"data\":{\"guest\":true}}\r\n");
	assert_true(reaches(PROTO_GUEST_RESETTING));
	assert_int_equal(g->ring->ready, 0);
	say(ready, "ready\n");
	assert_true(reaches(PROTO_GUEST_READY));

	assert_int_equal(guest_powerdown(g, &ticket), PROTO_DEFERRED);
	assert_int_equal(guest_powerdown(g, &ticket), PROTO_BUSY);
	hear(qmp, "system_powerdown");
	replied = PROTO_FAILED;
	say(qmp, "{\"event\":\"POWERDOWN\"}\n{\"return\":{},\"id\":3}\n");
	assert_true(reaches(PROTO_GUEST_STOPPING));
	assert_int_equal(replied, PROTO_OK);
	say(ready, "ready\n"); /* too late to mean anything */
	(void)pump_until(20, NULL, NULL);
	assert_int_equal(g->state, PROTO_GUEST_STOPPING);
	(void)safe_close(qmp);
	assert_true(reaches(PROTO_GUEST_GONE));
	assert_int_equal(guest_set_keys(g, strdup("\n"), 1, 0, &ticket), PROTO_UNREACHABLE);
	guest_free(g);
	(void)safe_close(console);
	(void)safe_close(ready);
}

/* Each line, sent in the place of an answer, ends the connection and nothing else. */
static void hostile_qemu(void **state)
{
	static const char *const lines[] = {"rubbish\n", "{\"return\":{},\"id\":1}\n",
					    "{\"QMP\":{}}\n{\"QMP\":{}}\n",
					    "{\"QMP\":{}}\n{\"return\":{},\"id\":3}\n",
					    "{\"QMP\":{}}\n{\"error\":{},\"id\":1}\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		struct guest *g = watch(8 + i, 0);
		int fds[3] = {accept_one(0), accept_one(1), accept_one(2)};

		say(fds[SOCK_QMP], lines[i]);
		assert_true(reaches(PROTO_GUEST_GONE));
		guest_reconnect(g);
		assert_int_equal(g->state, PROTO_GUEST_CONNECTING);
		guest_free(g);
		for (size_t j = 0; j < 3; j++) {
			(void)safe_close(accept_one((int)j)); /* of the reconnect */
			(void)safe_close(fds[j]);
		}
	}
}

/* A guest that resets in a loop: agentd hears of it a few times in a second, no more. */
static void flood_of_resets(void **state)
{
	struct guest *g = watch(20, 0);
	int fds[3] = {accept_one(0), accept_one(1), accept_one(2)};
	uint64_t begun_ms = rpc_now_ms();

	(void)state;
	negotiate(fds[SOCK_QMP]);
	assert_true(reaches(PROTO_GUEST_BOOTING));
	for (int i = 0; i < 50; i++) {
		say(fds[SOCK_QMP], "{\"event\":\"RESET\"}\n");
		(void)pump_until(2, NULL, NULL);
		say(fds[SOCK_READY], "ready\n");
		(void)pump_until(2, NULL, NULL);
	}
	assert_true(n_seen <= 16 + 8 * (rpc_now_ms() - begun_ms) / 1000);
	assert_true(reaches(PROTO_GUEST_READY)); /* the last one is never lost */
	guest_free(g);
	for (size_t i = 0; i < 3; i++)
		(void)safe_close(fds[i]);
}

static void console_relays(void **state)
{
	struct guest *g = watch(30, 0);
	int fds[3] = {accept_one(0), accept_one(1), accept_one(2)};
	int clients[CONSOLE_MAX_CLIENTS];
	static char chunk[4096], tail[16];
	size_t sent = 0;

	(void)state;
	say(fds[SOCK_CONSOLE], "login: ");
	(void)pump_until(20, NULL, NULL);
	for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++) {
		clients[i] = console_attach(g->console);
		assert_true(clients[i] >= 0);
		hear(clients[i], "login: ");
	}
	assert_int_equal(console_attach(g->console), -EUSERS);
	say(clients[0], "root\n");
	hear(fds[SOCK_CONSOLE], "root\n");
	say(fds[SOCK_CONSOLE], "# ");
	hear(clients[1], "# ");
	/* Nobody reads any more: the ring gets everything all the same. */
	memset(chunk, 'z', sizeof(chunk));
	for (uint64_t end = rpc_now_ms() + PATIENCE_MS; sent < 640 * 1024 && rpc_now_ms() < end;) {
		ssize_t n = send(fds[SOCK_CONSOLE], chunk, sizeof(chunk), MSG_DONTWAIT);

		sent += n > 0 ? (size_t)n : 0;
		(void)event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	}
	assert_true(sent >= 640 * 1024);
	say(fds[SOCK_CONSOLE], "the end");
	(void)pump_until(100, NULL, NULL);
	assert_int_equal(ring_tail(g->ring, tail, 7), 7);
	assert_memory_equal(tail, "the end", 7);
	guest_free(g);
	for (size_t i = 0; i < 3; i++)
		(void)safe_close(fds[i]);
	for (size_t i = 0; i < CONSOLE_MAX_CLIENTS; i++)
		(void)safe_close(clients[i]);
}

static int listen_tcp(uint16_t *ret_port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	*ret_port = ntohs(sin.sin_port);
	return fd;
}

static bool is_asked(void *arg)
{
	struct pollfd fd = {.fd = *(int *)arg, .events = POLLIN};

	return poll(&fd, 1, 0) == 1;
}

static int accept_pumping(int listener)
{
	int fd;

	assert_true(pump_until(PATIENCE_MS, is_asked, &listener));
	fd = accept(listener, NULL, NULL);
	assert_true(fd >= 0);
	return fd;
}

/* Images that never notify: asked by connecting; a forwarder that hangs up means "not yet". */
static void probe_finds_banner(void **state)
{
	struct guest *g;
	uint16_t port;
	int tcp = listen_tcp(&port), fd, fds[3];

	(void)state;
	g = watch(40, port);
	g->ring->ready = 1; /* as after a restart of this process: asked at once */
	g->ring->generation = 40;
	for (int i = 0; i < 3; i++)
		fds[i] = accept_one(i);
	negotiate(fds[SOCK_QMP]);
	assert_true(reaches(PROTO_GUEST_BOOTING));
	fd = accept_pumping(tcp);
	(void)close(fd);
	(void)pump_until(50, NULL, NULL);
	assert_int_equal(g->state, PROTO_GUEST_BOOTING);
	fd = accept_pumping(tcp);
	say(fd, "SSH-2.0-test\r\n");
	assert_true(reaches(PROTO_GUEST_READY));
	guest_free(g);
	(void)close(fd);
	(void)close(tcp);
	for (int i = 0; i < 3; i++) {
		(void)safe_close(fds[i]);
		listeners[i] = safe_close(listeners[i]);
	}
}

static pid_t start_qemu(void)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	(void)execlp("qemu-system-x86_64", "qemu-system-x86_64", "-M", "none", "-nodefaults",
		     "-display", "none", "-chardev",
		     "socket,id=q,path=vm1/qmp.sock,server=on,wait=off", "-mon",
		     "chardev=q,mode=control", "-chardev",
		     "socket,id=c,path=vm1/console.sock,server=on,wait=off", "-chardev",
		     "socket,id=r,path=vm1/ready.sock,server=on,wait=off", NULL);
	_exit(127);
}

static void real_qemu(void **state)
{
	struct guest *g;
	uint64_t cpu_ms, rss_kib;
	pid_t pid;
	int status, stat_fd = -EBADF;

	(void)state;
	assert_int_equal(unlink("vm1/qmp.sock"), 0);
	g = watch(50, 0); /* before QEMU is there: it waits for the socket */
	pid = start_qemu();
	assert_true(pid > 0);
	assert_true(reaches(PROTO_GUEST_BOOTING));
	/* It listens itself, whoever made the socket, and is followed while it lives. */
	assert_int_equal(process_find("vm1/qmp.sock", &stat_fd), 0);
	assert_int_equal(process_read(stat_fd, &cpu_ms, &rss_kib), 0);
	assert_true(rss_kib > 1024);
	guest_free(g);
	g = watch(50, 0); /* as after a restart: QEMU takes the next client */
	assert_true(reaches(PROTO_GUEST_BOOTING));
	assert_int_equal(kill(pid, SIGTERM), 0);
	assert_true(reaches(PROTO_GUEST_GONE));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(process_read(stat_fd, &cpu_ms, &rss_kib), -ESRCH);
	assert_true(process_find("vm1/qmp.sock", &stat_fd) < 0);
	(void)close(stat_fd);
	guest_free(g);
}

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir) || chdir(dir) < 0)
		return -1;
	(void)signal(SIGPIPE, SIG_IGN);
	base = event_base_new();
	env = (struct guest_env){
		.base = base,
		.vm_run_dir = dir,
		.guest_user = "root",
		.run_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
		.on_state = on_state,
		.reply = on_reply,
	};
	return 0;
}

static int teardown(void **state)
{
	char command[64];

	(void)state;
	event_base_free(base);
	(void)safe_close(env.run_fd);
	(void)snprintf(command, sizeof(command), "rm -rf %s", dir);
	return chdir("/") == 0 ? system(command) : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(framing),        cmocka_unit_test(life_of_a_guest),
		cmocka_unit_test(hostile_qemu),   cmocka_unit_test(flood_of_resets),
		cmocka_unit_test(console_relays), cmocka_unit_test(probe_finds_banner),
		cmocka_unit_test(real_qemu),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
