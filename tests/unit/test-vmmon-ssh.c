/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of vmmon's SSH session against a real sshd, run as the user who runs the test, and
 * against servers that only pretend.
 * Trust: a test; reads nothing from outside.
 */
#include "common/fd.h"
#include "common/rpc.h"
#include "vmmon/engine/link_ssh.h"
#include "vmmon/guest_keys.h"
#include "vmmon/keys.h"
#include "vmmon/metrics/metrics.h"
#include "vmmon/ssh.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFAeqTFU9ZduXwJbJH+jkGTwrfvbb9DB6MHw/Wfx/KPH me\n"

#define PATIENCE_MS 60000 /* of a machine that does much else */

static char dir[] = "/tmp/test-vmmon-ssh.XXXXXX";
static struct event_base *base;
static struct keys keys = KEYS_INIT, strangers = KEYS_INIT;
static char host_key[KEYS_LINE_SIZE], other_key[KEYS_LINE_SIZE];
static const char *user;
static pid_t sshd;
static uint16_t sshd_port;

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

static void write_file(const char *name, mode_t mode, const char *format, ...) _printf_(3, 4);

static void write_file(const char *name, mode_t mode, const char *format, ...)
{
	char text[2048];
	_cleanup_close_ int dirfd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	assert_true(n >= 0 && n < (int)sizeof(text));
	assert_int_equal(fd_replace_file(dirfd, name, text, (size_t)n, mode), 0);
	assert_int_equal(chmod(name, mode), 0);
}

/* The fixed command runs as it is, but for the directory. */
static void write_command(const char *body)
{
	write_file("command", 0755,
		   "#!/bin/sh\n%s\nexec sh -c \"$(printf %%s \"$SSH_ORIGINAL_COMMAND\" | sed "
		   "s,/etc/qudata,%s/etc,g)\"\n",
		   body, dir);
}

static void start_sshd(void)
{
	char config[128];
	int probe = listen_tcp(&sshd_port);

	(void)close(probe);
	write_file("sshd_config", 0600,
		   "Port %u\nListenAddress 127.0.0.1\nHostKey %s/host_key\nAuthorizedKeysFile "
		   "%s/authorized\nStrictModes no\nPidFile none\nUsePAM no\n"
		   "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
		   "PermitRootLogin yes\nForceCommand %s/command\nLogLevel ERROR\n",
		   sshd_port, dir, dir, dir);
	(void)snprintf(config, sizeof(config), "%s/sshd_config", dir);
	if (getuid() == 0)
		(void)mkdir("/run/sshd", 0755);
	sshd = fork();
	assert_true(sshd >= 0);
	if (sshd == 0) {
		(void)execl("/usr/sbin/sshd", "/usr/sbin/sshd", "-D", "-e", "-f", config, NULL);
		_exit(127);
	}
}

/* Not when somebody else was faster to take the port: then it ends. */
static bool sshd_listens(void)
{
	struct sockaddr_in sin = {.sin_family = AF_INET,
				  .sin_port = htons(sshd_port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	for (int i = 0; i < 2400; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		int r = connect(fd, (struct sockaddr *)&sin, sizeof(sin));

		(void)close(fd);
		if (waitpid(sshd, NULL, WNOHANG) == sshd) {
			sshd = 0;
			return false;
		}
		if (r == 0)
			return true;
		(void)usleep(25000);
	}
	return false;
}

struct outcome {
	bool done;
	enum proto_status status;
};

static void on_done(void *arg, enum proto_status status)
{
	*(struct outcome *)arg = (struct outcome){true, status};
}

static void pump(const bool *done, uint32_t ms)
{
	for (uint64_t end = rpc_now_ms() + ms; !*done && rpc_now_ms() < end;) {
		(void)event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
		(void)usleep(500);
	}
}

static struct ssh_job *start(const struct keys *who, uint16_t port, const char *pin,
			     const char *list, uint32_t timeout_ms, struct outcome *outcome)
{
	struct session_target target = {.base = base, .port = port, .user = user, .host_key = pin};
	struct ssh_job *job;

	*outcome = (struct outcome){0};
	assert_int_equal(keys_management(who, &target.management_key), 0);
	assert_int_equal(
		ssh_job_start(&target, list, strlen(list), timeout_ms, on_done, outcome, &job), 0);
	return job;
}

static enum proto_status install(const struct keys *who, uint16_t port, const char *pin,
				 const char *list, uint32_t timeout_ms)
{
	struct outcome outcome;
	struct ssh_job *job = start(who, port, pin, list, timeout_ms, &outcome);

	pump(&outcome.done, timeout_ms + PATIENCE_MS);
	ssh_job_free(job);
	assert_true(outcome.done);
	return outcome.status;
}

static void assert_installed(const char *list)
{
	static char text[70000];
	struct stat st;

	assert_true(fd_read_file(AT_FDCWD, "etc/tenant_keys", text, sizeof(text)) >= 0);
	assert_string_equal(text, list);
	assert_int_equal(stat("etc/tenant_keys", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
}

static void installs(void **state)
{
	static char many[60001];

	(void)state;
	write_command("");
	assert_int_equal(install(&keys, sshd_port, host_key, KEY, PATIENCE_MS), PROTO_OK);
	assert_installed(KEY);
	assert_int_equal(install(&keys, sshd_port, host_key, "\n", PATIENCE_MS), PROTO_OK);
	assert_installed("\n");
	memset(many, 'k', sizeof(many) - 1);
	assert_int_equal(install(&keys, sshd_port, host_key, many, PATIENCE_MS), PROTO_OK);
	assert_installed(many);
	assert_int_equal(install(&keys, sshd_port, host_key, KEY, PATIENCE_MS), PROTO_OK);
}

static void refuses_the_wrong(void **state)
{
	(void)state;
	write_command("");
	assert_int_equal(install(&keys, sshd_port, other_key, "\n", PATIENCE_MS),
			 PROTO_UNREACHABLE);
	assert_int_equal(install(&strangers, sshd_port, host_key, "\n", PATIENCE_MS),
			 PROTO_UNREACHABLE);
	assert_installed(KEY);
}

static void reports_failure(void **state)
{
	(void)state;
	write_command("exit 3");
	assert_int_equal(install(&keys, sshd_port, host_key, "\n", PATIENCE_MS), PROTO_FAILED);
	write_command("kill -9 $$"); /* a status or none: that depends on the user's shell */
	assert_int_not_equal(install(&keys, sshd_port, host_key, "\n", PATIENCE_MS), PROTO_OK);
	write_command("exec yes");
	assert_int_equal(install(&keys, sshd_port, host_key, "\n", PATIENCE_MS), PROTO_UNREACHABLE);
	write_command("exec sleep 5");
	assert_int_equal(install(&keys, sshd_port, host_key, "\n", 1500), PROTO_TIMEOUT);
	/* The list is cut on its way: what was there stays. */
	write_command("cd \"$(dirname \"$0\")\"; head -c 100 >cut; exec <cut");
	assert_int_equal(install(&keys, sshd_port, host_key, KEY KEY, PATIENCE_MS), PROTO_FAILED);
	assert_installed(KEY);
}

static void survives_pretenders(void **state)
{
	static const char *const banners[] = {
		"", "HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-1.5-old\r\n",
		"SSH-2.0-x\r\n\xff\xff\xff\xff\xff", "SSH-2.0-x\r\n\0\0\0\0\0\0\0\0"};
	static char noise[65536];

	(void)state;
	memset(noise, 'n', sizeof(noise));
	for (size_t i = 0; i <= ARRAY_LEN(banners); i++) {
		struct outcome outcome;
		uint16_t port;
		int tcp = listen_tcp(&port), fd;
		struct ssh_job *job = start(&keys, port, host_key, "\n", 1000, &outcome);

		fd = accept(tcp, NULL, NULL);
		assert_true(fd >= 0);
		if (i < ARRAY_LEN(banners))
			(void)send(fd, banners[i], strlen(banners[i]), MSG_NOSIGNAL);
		else
			(void)send(fd, noise, sizeof(noise), MSG_NOSIGNAL | MSG_DONTWAIT);
		pump(&outcome.done, PATIENCE_MS);
		assert_true(outcome.done);
		assert_int_not_equal(outcome.status, PROTO_OK);
		ssh_job_free(job);
		(void)close(fd);
		(void)close(tcp);
		/* And the port is free now: nobody answers at all. */
		assert_int_equal(install(&keys, port, host_key, "\n", PATIENCE_MS),
				 PROTO_UNREACHABLE);
	}
}

static unsigned int open_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Wherever a connection ends, no descriptor of it is left: a guest makes as many as it likes. */
static void leaves_no_descriptor(void **state)
{
	static const char *const banners[] = {"", "SSH-2.0-x\r\n", "nonsense\r\n"};
	unsigned int before = open_fds();

	(void)state;
	for (size_t i = 0; i < 3 * ARRAY_LEN(banners); i++) {
		const struct linger reset = {.l_onoff = i % 3 == 1};
		const char *banner = banners[i / 3];
		struct outcome outcome;
		uint16_t port;
		int tcp = listen_tcp(&port), fd;
		struct ssh_job *job = start(&keys, port, host_key, "\n", 1000, &outcome);

		fd = accept(tcp, NULL, NULL);
		assert_true(fd >= 0);
		(void)send(fd, banner, strlen(banner), MSG_NOSIGNAL);
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
		if (i % 3 == 2) { /* given up in the middle of it */
			pump(&outcome.done, 50);
			ssh_job_free(job);
		}
		(void)close(fd);
		if (i % 3 != 2) {
			pump(&outcome.done, PATIENCE_MS);
			assert_true(outcome.done);
			ssh_job_free(job);
		}
		(void)close(tcp);
		if (open_fds() != before)
			fail_msg("%zu: %u descriptors, %u before", i, open_fds(), before);
	}
}

static void can_be_given_up(void **state)
{
	struct outcome outcome;
	const bool never = false;

	(void)state;
	write_command("");
	for (uint32_t ms = 0; ms < 60; ms += 6) {
		struct ssh_job *job = start(&keys, sshd_port, host_key, KEY, PATIENCE_MS, &outcome);

		pump(&never, ms);
		ssh_job_free(job);
	}
	pump(&never, 50);
	assert_int_equal(install(&keys, sshd_port, host_key, KEY, PATIENCE_MS), PROTO_OK);
}

/* ---- the queue in front of it ---- */
static struct {
	ssh_done_fn *fn;
	void *arg;
	int started;
	char text[16];
	uint32_t answered[16];
	enum proto_status status[16];
	size_t n_answered;
} queue;

static int queue_start(void *ctx, const struct keys_list *list, ssh_done_fn *fn, void *arg,
		       struct ssh_job **ret_job)
{
	(void)ctx;
	queue.fn = fn;
	queue.arg = arg;
	queue.started++;
	memset(queue.text, 0, sizeof(queue.text));
	memcpy(queue.text, list->text, list->len);
	*ret_job = start(&keys, sshd_port, host_key, KEY, PATIENCE_MS, &(struct outcome){0});
	return 0;
}

static void queue_reply(void *ctx, struct ticket *ticket, enum proto_status status, uint32_t n_keys)
{
	(void)ctx;
	(void)n_keys;
	queue.status[queue.n_answered] = status;
	queue.answered[queue.n_answered++] = ticket->request_id;
}

static int ask(struct guest_keys *k, uint32_t id, const char *text)
{
	return guest_keys_set(k, strdup(text), strlen(text), 1,
			      &(const struct ticket){.serial = 1, .request_id = id});
}

static void coalesces(void **state)
{
	struct guest_keys k = {.start = queue_start, .reply = queue_reply};

	(void)state;
	assert_int_equal(ask(&k, 1, "one"), PROTO_DEFERRED);
	for (uint32_t id = 2; id < 2 + GUEST_KEYS_WAITERS; id++)
		assert_int_equal(ask(&k, id, id == 5 ? "five" : "other"), PROTO_DEFERRED);
	assert_int_equal(ask(&k, 9, "nine"), PROTO_BUSY);
	assert_int_equal(queue.started, 1);
	queue.fn(queue.arg, PROTO_OK);
	assert_int_equal(queue.n_answered, 1);
	assert_int_equal(queue.answered[0], 1);
	assert_int_equal(queue.started, 2);
	assert_string_equal(queue.text, "five");
	assert_int_equal(ask(&k, 10, "ten"), PROTO_DEFERRED);
	guest_keys_cancel(&k, PROTO_UNREACHABLE);
	assert_int_equal(queue.n_answered, 2 + GUEST_KEYS_WAITERS);
	assert_int_equal(queue.status[1], PROTO_UNREACHABLE);
	assert_null(k.job);
}

/* Channels to a Unix socket of the guest. */

static int link_start(void *ctx, const struct session_handler *handler,
		      struct session **ret_session)
{
	struct session_target target = {
		.base = base, .port = sshd_port, .user = user, .host_key = ctx};

	assert_int_equal(keys_management(&keys, &target.management_key), 0);
	return session_start(&target, handler, ret_session);
}

struct talk {
	struct engine_link *link;
	struct link_conn *conn;
	size_t to_send, got;
	bool wrong, done;
	int r;
};

static void talk_writable(void *arg)
{
	static const char data[10000];
	struct talk *t = arg;

	while (t->to_send > 0) {
		ssize_t n = t->link->send(t->conn, data, MIN_OF(t->to_send, sizeof(data)));

		if (n <= 0)
			return;
		t->to_send -= (size_t)n;
	}
}

static int talk_data(void *arg, const uint8_t *data, size_t len)
{
	struct talk *t = arg;

	for (size_t i = 0; i < len; i++)
		t->wrong |= data[i] != 0;
	t->got += len;
	return 0;
}

static void talk_end(void *arg, int r)
{
	struct talk *t = arg;

	assert_false(t->done);
	t->done = true;
	t->r = r;
}

static void talk_begin(struct talk *t, struct engine_link *link, size_t to_send)
{
	const struct link_handler handler = {t, talk_writable, talk_data, talk_end};

	*t = (struct talk){.link = link, .to_send = to_send};
	assert_int_equal(link->open(link, &handler, &t->conn), 0);
}

/* A server that sends back @n bytes to each connection, then closes it. */
static pid_t echo_server(const char *path, size_t n)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	pid_t pid;

	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "%.100s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(fd, 8), 0);
	pid = fork();
	assert_true(pid >= 0);
	while (pid == 0) {
		int conn = accept(fd, NULL, NULL);

		if (fork() != 0) {
			(void)close(conn);
			continue;
		}
		for (size_t left = n; left > 0;) {
			char buf[4096];
			ssize_t m = read(conn, buf, MIN_OF(left, sizeof(buf)));

			if (m <= 0 || write(conn, buf, (size_t)m) != m)
				_exit(1);
			left -= (size_t)m;
		}
		_exit(0);
	}
	(void)close(fd);
	return pid;
}

/* How often the loop turns in half a second in which nothing is wanted. */
static unsigned int turns_at_rest(void)
{
	uint64_t until_ms = rpc_now_ms() + 500;
	const struct timeval nap = {.tv_usec = 50000};
	unsigned int n = 0;

	for (; rpc_now_ms() < until_ms; n++) {
		(void)event_base_loopexit(base, &nap);
		(void)event_base_loop(base, EVLOOP_ONCE);
	}
	return n;
}

/* A session that nobody uses takes in what still comes, instead of being woken by it for ever. */
static void rests_between_connections(void **state)
{
	char path[128];
	struct link_ssh_config config = {.socket = path, .ctx = host_key, .start = link_start};
	struct engine_link *link = link_ssh_new(&config);
	struct talk talk;
	pid_t server;

	(void)state;
	(void)snprintf(path, sizeof(path), "%s/rest.sock", dir);
	server = echo_server(path, 300000);
	talk_begin(&talk, link, 300000);
	for (int i = 0; i < PATIENCE_MS / 10 && talk.got == 0; i++)
		pump(&talk.done, 10);
	assert_true(talk.got > 0);
	link->close(talk.conn);
	/* What was on its way comes first. */
	for (unsigned int i = 0; i < 60 && turns_at_rest() > 100; i++)
		;
	assert_in_range(turns_at_rest(), 1, 100);
	link_ssh_free(link);
	(void)kill(server, SIGTERM);
	(void)waitpid(server, NULL, 0);
}

static void links(void **state)
{
	char path[128], none[128], small[128];
	struct link_ssh_config config = {.socket = path, .ctx = host_key, .start = link_start};
	struct engine_link *link = link_ssh_new(&config), *other;
	struct talk talks[5];
	pid_t server, small_server;
	uint64_t begun_ms;

	(void)state;
	(void)snprintf(small, sizeof(small), "%s/small.sock", dir);
	small_server = echo_server(small, 10);
	(void)snprintf(path, sizeof(path), "%s/echo.sock", dir);
	(void)snprintf(none, sizeof(none), "%s/none.sock", dir);
	server = echo_server(path, 3000000);
	begun_ms = rpc_now_ms();
	for (size_t i = 0; i < ARRAY_LEN(talks); i++)
		talk_begin(&talks[i], link, 3000000);
	/* One is left in the middle; the others are whole, beyond the budget of a second. */
	for (int i = 0; i < PATIENCE_MS / 10 && talks[0].got == 0; i++)
		pump(&talks[0].done, 10);
	link->close(talks[0].conn);
	for (size_t i = 1; i < ARRAY_LEN(talks); i++) {
		pump(&talks[i].done, PATIENCE_MS);
		assert_true(talks[i].done);
		assert_int_equal(talks[i].r, 0);
		assert_int_equal(talks[i].got, 3000000);
		assert_false(talks[i].wrong);
		link->close(talks[i].conn);
	}
	/* 12 MB, and not more than 2 MiB in half a second, then a pause as long. */
	assert_true(rpc_now_ms() - begun_ms >= 2000);
	/* The session is used again, and made again after it was ended. */
	for (int i = 0; i < 2; i++) {
		talk_begin(&talks[0], link, 3000000);
		pump(&talks[0].done, PATIENCE_MS);
		assert_int_equal(talks[0].got, 3000000);
		link->close(talks[0].conn);
		link_ssh_disconnect(link);
	}
	link_ssh_free(link);
	/* One that is idle does not keep another's bytes back. */
	config.socket = small;
	other = link_ssh_new(&config);
	for (int i = 0; i < 60; i++) {
		talk_begin(&talks[0], other, 5);
		talk_begin(&talks[1], other, 10);
		pump(&talks[1].done, PATIENCE_MS);
		assert_true(talks[1].done);
		assert_int_equal(talks[1].got, 10);
		assert_false(talks[0].done);
		other->close(talks[1].conn);
		other->close(talks[0].conn);
	}
	link_ssh_free(other);
	(void)kill(small_server, SIGTERM);
	(void)waitpid(small_server, NULL, 0);
	/* Nobody listens there. */
	config.socket = none;
	other = link_ssh_new(&config);
	talk_begin(&talks[0], other, 10);
	pump(&talks[0].done, PATIENCE_MS);
	assert_int_equal(talks[0].r, -ECONNREFUSED);
	other->close(talks[0].conn);
	link_ssh_free(other);
	/* Another host key than the pinned one. */
	config.ctx = other_key;
	other = link_ssh_new(&config);
	talk_begin(&talks[0], other, 10);
	pump(&talks[0].done, PATIENCE_MS);
	assert_int_equal(talks[0].r, -ECONNREFUSED);
	other->close(talks[0].conn);
	link_ssh_free(other);
	(void)kill(server, SIGTERM);
	(void)waitpid(server, NULL, 0);
}

/* Figures: the command of a guest, or what stands in for it. */

struct beat {
	enum proto_health health;
	unsigned int changes, started;
	char words[METRICS_WORDS_SIZE];
};

static struct beat beat;

static void on_health(void *ctx, enum proto_health health, const char *words)
{
	(void)ctx;
	beat.health = health;
	beat.changes++;
	(void)snprintf(beat.words, sizeof(beat.words), "%s", words);
}

static int metrics_start(void *ctx, const struct session_handler *handler,
			 struct session **ret_session)
{
	beat.started++;
	return link_start(ctx, handler, ret_session);
}

static struct metrics *metrics_begin(uint32_t silent_ms, uint32_t stall_ms)
{
	const struct metrics_config config = {
		.base = base,
		.pace = {.interval_ms = 100,
			 .silent_ms = silent_ms,
			 .begin_ms = 1,
			 .login_ms = PATIENCE_MS,
			 .stall_ms = stall_ms,
			 .retry_ms = 50,
			 .retry_max_ms = 200},
		.vm = "vm1",
		.ctx = host_key,
		.start = metrics_start,
		.on_health = on_health,
	};
	struct metrics *m = metrics_new(&config);

	beat = (struct beat){0};
	assert_non_null(m);
	metrics_set_up(m, true);
	return m;
}

static uint64_t count_looks(const struct metrics *m)
{
	return metrics_series(m)->n;
}

static void await_looks(const struct metrics *m, uint64_t n)
{
	const bool never = false;

	for (int i = 0; i < PATIENCE_MS / 10 && count_looks(m) < n; i++)
		pump(&never, 10);
	assert_true(count_looks(m) >= n);
}

static void await_health(enum proto_health health)
{
	const bool never = false;

	for (int i = 0; i < PATIENCE_MS / 10 && beat.health != health; i++)
		pump(&never, 10);
	assert_int_equal(beat.health, health);
}

static void await_starts(unsigned int n)
{
	const bool never = false;

	for (int i = 0; i < PATIENCE_MS / 10 && beat.started < n; i++)
		pump(&never, 10);
	assert_true(beat.started >= n);
}

static void streams_figures(void **state)
{
	struct metrics *m;
	uint64_t n;

	(void)state;
	/* As a login shell that greets would have it. */
	write_command(
		"cd \"$(dirname \"$0\")\"; echo $$ >pid; echo Welcome; echo >&2 have a nice day");
	m = metrics_begin(PATIENCE_MS, PATIENCE_MS);
	assert_int_equal(metrics_health(m), PROTO_HEALTH_UNKNOWN);
	await_looks(m, 5);
	assert_int_equal(beat.health, PROTO_HEALTH_GOOD);
	assert_int_equal(beat.changes, 1);
	assert_int_equal(beat.started, 1);
	assert_true(metrics_series(m)->points[1].memory_kib > 0);
	assert_true(metrics_series(m)->points[1].cpu_permille <= 1000);
	/* It is killed in the guest, and comes back. */
	assert_int_equal(system("kill -9 $(cat pid)"), 0);
	await_starts(2);
	n = count_looks(m);
	await_looks(m, n + 3);
	assert_int_equal(beat.changes, 1);
	metrics_set_up(m, false);
	assert_int_equal(beat.health, PROTO_HEALTH_UNKNOWN);
	n = count_looks(m);
	metrics_set_up(m, true);
	await_looks(m, n + 2);
	metrics_free(m);
}

/* What a guest sends instead of figures costs it the stream, and nobody anything else. */
static void survives_bad_figures(void **state)
{
	static const char *const bad[] = {
		"exec yes",                                             /* flood, without a head */
		"echo qudata-metrics 1; exec yes gpu 0, 1, 1, 1, 1, 1", /* flood of what is allowed
									 */
		"exec yes >&2",
		"echo qudata-metrics 1; exec cat /dev/urandom",
		"echo qudata-metrics 1; echo cpu 1 2 3; exec sleep 10",
		"echo qudata-metrics 1; echo end; exec sleep 10",
		"echo qudata-metrics 1; exec sleep 10 >/dev/null",
		"exec 2>&1; exec sh -c 'printf %s \"$0\" x; exec sleep 10'",
		"exit 0",
		"kill -9 $$",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		const bool slow = strstr(bad[i], "sleep");
		struct metrics *m;

		write_command(bad[i]);
		m = metrics_begin(300, 1000);
		if (slow) { /* the wait for the head is the longest; do not wait for it here */
			await_health(PROTO_HEALTH_BAD);
			assert_true(strlen(beat.words) > 0);
		} else {
			await_starts(3);
			await_health(PROTO_HEALTH_BAD);
		}
		assert_int_equal(count_looks(m), 0);
		/* The guest comes to its senses. */
		write_command("");
		if (!slow) {
			await_health(PROTO_HEALTH_GOOD);
			assert_string_equal(beat.words, "");
		}
		metrics_free(m);
	}
}

/* It has sent figures, and then none any more. */
static void notices_stalls(void **state)
{
	struct metrics *m;

	(void)state;
	write_command("echo qudata-metrics 1; for i in 1 2 3; do printf "
		      "'cpu 1 1 1 1 1 1 1 1\nmem 9 8\nend\n'; sleep 0.2; done; exec sleep 10");
	m = metrics_begin(1500, 1000);
	await_health(PROTO_HEALTH_GOOD);
	await_starts(2);
	assert_int_equal(metrics_series(m)->points[0].cpu_permille, UINT16_MAX);
	metrics_free(m);
	/* Faster than it was asked to be: counted at its pace, not at the guest's. */
	write_command("echo qudata-metrics 1; for i in 1 2 3 4 5 6 7 8 9; do printf "
		      "'cpu 1 1 1 1 1 1 1 1\nmem 9 8\nend\n'; done; exec sleep 10");
	m = metrics_begin(500, PATIENCE_MS);
	await_health(PROTO_HEALTH_GOOD);
	await_health(PROTO_HEALTH_BAD);
	assert_in_range(count_looks(m), 1, 8);
	metrics_free(m);
}

static int setup(void **state)
{
	char path[128], line[KEYS_LINE_SIZE];
	ssh_key host;

	(void)state;
	user = getpwuid(getuid())->pw_name;
	if (!mkdtemp(dir) || chmod(dir, 0755) < 0 || chdir(dir) < 0)
		return -1;
	(void)signal(SIGPIPE, SIG_IGN);
	base = event_base_new();
	(void)mkdir("state", 0700);
	(void)mkdir("strangers", 0700);
	(void)snprintf(path, sizeof(path), "%s/state", dir);
	if (keys_open(&keys, path, NULL) < 0 || keys_enrol(&keys, "vm2", other_key) < 0)
		return -1;
	(void)snprintf(path, sizeof(path), "%s/strangers", dir);
	if (keys_open(&strangers, path, NULL) < 0)
		return -1;
	memcpy(line, keys.management_public, sizeof(line));
	if (ssh_pki_generate(SSH_KEYTYPE_ED25519, 0, &host) != SSH_OK ||
	    ssh_pki_export_privkey_file(host, NULL, NULL, NULL, "host_key") != SSH_OK ||
	    chmod("host_key", 0600) < 0)
		return -1;
	char *base64 = NULL;
	(void)ssh_pki_export_pubkey_base64(host, &base64);
	(void)snprintf(host_key, sizeof(host_key), "ssh-ed25519 %.100s", base64);
	ssh_string_free_char(base64);
	ssh_key_free(host);
	write_file("authorized", 0644, "%s\n", line);
	write_command("");
	for (int i = 0; i < 5; i++) {
		start_sshd();
		if (sshd_listens())
			return 0;
	}
	fail_msg("sshd does not listen (is openssh-server installed?)");
	return -1;
}

static int teardown(void **state)
{
	char command[64];

	(void)state;
	if (sshd > 0) {
		(void)kill(sshd, SIGTERM);
		(void)waitpid(sshd, NULL, 0);
	}
	keys_done(&keys);
	keys_done(&strangers);
	event_base_free(base);
	(void)snprintf(command, sizeof(command), "rm -rf %s", dir);
	return chdir("/") == 0 ? system(command) : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(installs),
		cmocka_unit_test(refuses_the_wrong),
		cmocka_unit_test(reports_failure),
		cmocka_unit_test(survives_pretenders),
		cmocka_unit_test(leaves_no_descriptor),
		cmocka_unit_test(can_be_given_up),
		cmocka_unit_test(coalesces),
		cmocka_unit_test(links),
		cmocka_unit_test(rests_between_connections),
		cmocka_unit_test(streams_figures),
		cmocka_unit_test(survives_bad_figures),
		cmocka_unit_test(notices_stalls),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
