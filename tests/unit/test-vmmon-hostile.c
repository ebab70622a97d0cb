/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of vmmon's SSH session against servers that keep to the protocol and mean harm: one
 * asks on channels that are gone, one asks and does not read.
 * Trust: a test; reads nothing from outside.
 */
#include "common/fd.h"
#include "common/rpc.h"
#include "vmmon/engine/link_ssh.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <libssh/server.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

#define CHANNELS     3
#define QUESTIONS    20000 /* more than session.c bears without being heard (DEAF_PACKETS) */
#define HEARS_BYTES  16384 /* that the deaf one sends before it is: it has to log in */
#define MEMORY_KIB   65536 /* that all of it may cost, with what the sanitizers keep */
#define PATIENCE_MS  60000
#define SMALL_BUFFER 4096
#define SEND_BUFFER  65536 /* small enough to be full soon, and many times what one step answers */
#define FREED_BYTE   0xa5

/* What is freed does not keep its content: libssh, which has no sanitizer in it, reads it then. */
#ifdef __SANITIZE_ADDRESS__
const char *__asan_default_options(void);

const char *__asan_default_options(void)
{
	return "max_free_fill_size=4096:free_fill_byte=165";
}
#endif

static struct event_base *base;
static ssh_key server_key;
static char host_key[SESSION_LINE_SIZE];

/* ---- the guest's side, in processes of its own ---- */

/* Between the two sides there are words of one byte, for what has to come one after the other. */
static void say(int words, char word)
{
	if (write(words, &word, 1) != 1)
		_exit(1);
}

static char hear(int words)
{
	char word;

	if (read(words, &word, 1) != 1)
		_exit(1);
	return word;
}

/* The next one that the other side opens. Ends with the connection. */
static ssh_channel next_channel(ssh_session ssh)
{
	ssh_channel channel = NULL;

	while (!channel) {
		ssh_message m = ssh_message_get(ssh);

		if (!m)
			_exit(0);
		if (ssh_message_type(m) == SSH_REQUEST_AUTH) /* anybody may log in */
			(void)ssh_message_auth_reply_success(m, 0);
		else if (ssh_message_type(m) == SSH_REQUEST_CHANNEL_OPEN)
			channel = ssh_message_channel_request_open_reply_accept(m);
		else
			(void)ssh_message_reply_default(m);
		ssh_message_free(m);
	}
	return channel;
}

static int ask(ssh_session ssh, ssh_channel channel)
{
	int r;

	ssh_set_blocking(ssh, 0);
	r = ssh_channel_request_env(channel, "A", "b");
	ssh_set_blocking(ssh, 1);
	return r;
}

/*
 * Asks on each channel and closes it, at once: when the other side has closed it ('c'), or before.
 * Then tells whether the question was refused, as it has to be, and asks on: the channel is gone.
 */
static void ask_the_gone(ssh_session ssh, int words)
{
	ssh_channel channel, before = NULL;

	for (;; before = channel) {
		channel = next_channel(ssh);
		say(words, before && ask(ssh, before) != SSH_ERROR ? 'n' : 'y');
		if (before)
			(void)ask(ssh, before);
		if (hear(words) == 'c') {
			while (!ssh_channel_is_eof(channel) && ssh_is_connected(ssh))
				(void)ssh_channel_poll_timeout(channel, 100, 0);
			say(words, 'c');
			(void)hear(words);
		}
		(void)ask(ssh, channel);
		(void)ssh_channel_close(channel);
		if (ssh_blocking_flush(ssh, PATIENCE_MS) != SSH_OK)
			_exit(1);
		say(words, 's');
	}
}

/*
 * Asks for so many channels, and waits until the last of them is refused. For who is deaf ('d')
 * there are more: the count begins when the last byte of the other side has been taken.
 */
static void ask_and_ask(ssh_session ssh, int words)
{
	int n = hear(words) == 'd' ? 4 * QUESTIONS : QUESTIONS;
	ssh_channel last = NULL;

	(void)next_channel(ssh);
	ssh_set_blocking(ssh, 0);
	for (int i = 0; i < n && ssh_is_connected(ssh); i++) {
		last = ssh_channel_new(ssh);
		(void)ssh_channel_open_x11(last, "a", 1);
	}
	ssh_set_blocking(ssh, 1);
	(void)ssh_channel_open_x11(last, "a", 1);
	if (!ssh_is_connected(ssh))
		_exit(1);
	say(words, 's');
	(void)pause();
}

typedef void play_fn(ssh_session ssh, int words);

_noreturn_ static void serve(int fd, play_fn *play, int words)
{
	ssh_bind door = ssh_bind_new();
	ssh_session ssh = ssh_new();
	const int yes = 1;

	/* What is sent at once arrives at once. A socket that is no TCP's refuses, and needs not.
	 */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	/* Without the name, libssh does not ask it for channels to Unix sockets. */
	if (ssh_bind_options_set(door, SSH_BIND_OPTIONS_BANNER, "OpenSSH_9.2p1") != SSH_OK ||
	    ssh_bind_options_set(door, SSH_BIND_OPTIONS_IMPORT_KEY, server_key) != SSH_OK ||
	    ssh_bind_accept_fd(door, ssh, fd) != SSH_OK || ssh_handle_key_exchange(ssh) != SSH_OK)
		_exit(1);
	play(ssh, words);
	_exit(0);
}

/* Between the two, bytes; from vmmon's side (@outer) only until it has said enough itself. */
_noreturn_ static void relay(int inner, int outer)
{
	char buf[SMALL_BUFFER];
	size_t said = 0;

	for (;;) {
		struct pollfd fds[] = {
			{.fd = inner, .events = POLLIN},
			{.fd = said < HEARS_BYTES ? outer : -1, .events = POLLIN},
		};

		if (poll(fds, ARRAY_LEN(fds), -1) < 0)
			_exit(1);
		for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
			ssize_t n = fds[i].revents == 0 ? 0 : read(fds[i].fd, buf, sizeof(buf));

			if (fds[i].revents != 0 &&
			    (n <= 0 || fd_write_all(i == 0 ? outer : inner, buf, (size_t)n) < 0))
				_exit(0);
			said += i == 0 ? (size_t)n : 0;
		}
	}
}

/* ---- this side ---- */

static struct guest {
	pid_t server, relay; /* relay: 0 without one */
	uint16_t port;
	int words;               /* to the server */
	struct session *session; /* borrowed from the link */
} guest;

static int listen_tcp(bool deaf, uint16_t *ret_port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const int small = SMALL_BUFFER;
	socklen_t len = sizeof(sin);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	if (deaf) /* what it leaves unread soon fills this side's */
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
	*ret_port = ntohs(sin.sin_port);
	return fd;
}

/* It does not outlive a test that fails. */
static pid_t fork_child(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static void guest_begin(play_fn *play, bool deaf)
{
	const struct timeval patience = {.tv_sec = PATIENCE_MS / MSEC_PER_SEC};
	int listener, words[2], pair[2];

	guest = (struct guest){0};
	listener = listen_tcp(deaf, &guest.port);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, words), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	guest.server = fork_child();
	if (guest.server == 0)
		serve(deaf ? pair[0] : accept(listener, NULL, NULL), play, words[0]);
	(void)close(words[0]);
	(void)close(pair[0]);
	if (deaf) {
		guest.relay = fork_child();
		if (guest.relay == 0)
			relay(pair[1], accept(listener, NULL, NULL));
	}
	(void)close(pair[1]);
	(void)close(listener);
	guest.words = words[1];
	assert_int_equal(
		setsockopt(guest.words, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
}

static void guest_end(void)
{
	(void)close(guest.words);
	for (int i = 0; i < 2; i++) {
		pid_t pid = i == 0 ? guest.server : guest.relay;

		if (pid > 0) {
			(void)kill(pid, SIGKILL);
			(void)waitpid(pid, NULL, 0);
		}
	}
}

static int start(void *ctx, const struct session_handler *handler, struct session **ret_session)
{
	struct session_target target = {
		.base = base, .port = guest.port, .user = "root", .host_key = host_key};
	int r;

	(void)ctx;
	assert_int_equal(ssh_pki_generate(SSH_KEYTYPE_ED25519, 0, &target.management_key), 0);
	r = session_start(&target, handler, ret_session);
	guest.session = *ret_session;
	return r;
}

static void await_word(char word)
{
	char heard = 0;

	assert_int_equal(read(guest.words, &heard, 1), 1);
	assert_int_equal(heard, word);
}

static void tell(char word)
{
	assert_int_equal(write(guest.words, &word, 1), 1);
}

struct talk {
	struct link_conn *conn;
	bool is_open, has_ended;
	int r;
};

static void on_writable(void *arg)
{
	((struct talk *)arg)->is_open = true;
}

static int on_data(void *arg, const uint8_t *data, size_t len)
{
	(void)arg;
	(void)data;
	(void)len;
	return 0;
}

static void on_end(void *arg, int r)
{
	struct talk *t = arg;

	t->has_ended = true;
	t->r = r;
}

static void talk_begin(struct talk *t, struct engine_link *link)
{
	const struct link_handler handler = {t, on_writable, on_data, on_end};

	*t = (struct talk){0};
	assert_int_equal(link->open(link, &handler, &t->conn), 0);
}

static bool has_word(void)
{
	struct pollfd fd = {.fd = guest.words, .events = POLLIN};

	return poll(&fd, 1, 0) > 0;
}

/* Until *@done; until there is a word. */
static void pump(const bool *done, bool until_word)
{
	uint64_t end_ms = rpc_now_ms() + PATIENCE_MS;

	while (!*done && !(until_word && has_word())) {
		assert_true(rpc_now_ms() < end_ms);
		(void)event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
		(void)usleep(500);
	}
}

/*
 * What is asked on a channel is refused while that channel is there. Otherwise libssh keeps it,
 * with the channel's address, and refuses it later: from memory that is somebody else's by then.
 */
static void refuses_as_it_comes(void **state)
{
	const struct link_ssh_config config = {.socket = "/x", .start = start};
	struct engine_link *link = link_ssh_new(&config);
	const bool never = false;
	struct talk talk;

	(void)state;
	guest_begin(ask_the_gone, /* deaf= */ false);
	for (int i = 0; i < 2 * CHANNELS; i++) {
		bool close_first = i % 2 == 1;

		talk_begin(&talk, link);
		pump(&talk.is_open, false);
		await_word('y');
		if (close_first) {
			tell('c');
			link->close(talk.conn);
			pump(&never, true);
			await_word('c');
		}
		tell('a');
		await_word('s');
		if (!close_first)
			link->close(talk.conn);
	}
	talk_begin(&talk, link);
	pump(&talk.is_open, false);
	await_word('y');
	link->close(talk.conn);
	link_ssh_free(link);
	guest_end();
}

static long memory_kib(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/self/statm", "re");
	long size, resident;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%ld %ld", &size, &resident), 2);
	return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

/* Who asks and does not read what it is told is not answered for ever; who reads is. */
static void leaves_the_deaf(void **state)
{
	const struct link_ssh_config config = {.socket = "/x", .start = start};
	const int size = SEND_BUFFER;

	(void)state;
	for (int deaf = 0; deaf < 2; deaf++) {
		struct engine_link *link = link_ssh_new(&config);
		long before_kib = memory_kib();
		struct talk talk;
		int fd;

		guest_begin(ask_and_ask, deaf);
		tell(deaf ? 'd' : 'h');
		talk_begin(&talk, link);
		pump(&talk.is_open, false);
		fd = ssh_get_fd(session_ssh(guest.session));
		assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK); /* or a send may be for ever */
		if (deaf)
			assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)),
					 0);
		pump(&talk.has_ended, true);
		assert_int_equal(talk.has_ended, deaf);
		assert_int_equal(talk.r, deaf ? -EPIPE : 0);
		assert_true(memory_kib() - before_kib < MEMORY_KIB);
		if (!deaf)
			await_word('s');
		link->close(talk.conn);
		link_ssh_free(link);
		guest_end();
	}
}

static int setup(void **state)
{
	char *base64 = NULL;

	(void)state;
	(void)signal(SIGPIPE, SIG_IGN);
	(void)mallopt(M_PERTURB, FREED_BYTE);
	base = event_base_new();
	if (!base || ssh_pki_generate(SSH_KEYTYPE_ED25519, 0, &server_key) != SSH_OK ||
	    ssh_pki_export_pubkey_base64(server_key, &base64) != SSH_OK)
		return -1;
	(void)snprintf(host_key, sizeof(host_key), "ssh-ed25519 %.100s", base64);
	ssh_string_free_char(base64);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ssh_key_free(server_key);
	event_base_free(base);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_as_it_comes),
		cmocka_unit_test(leaves_the_deaf),

	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
