/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connecting, checking the host key and logging in, as a state machine on the event loop.
 * Trust: runs in vmmon; reads SSH of a guest, which its tenant owns.
 */
#include "vmmon/session.h"

#include "common/log.h"
#include "common/rpc.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <libssh/server.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define WINDOW_MS    500
#define PAUSE_MS     500
#define DEAF_PACKETS 16384 /* that may come while the other side takes nothing of ours */
#define PACKET_COST  512   /* bytes' worth of the work that an empty one makes */

enum phase {
	PHASE_TCP,
	PHASE_HANDSHAKE,
	PHASE_AUTH,
	PHASE_UP,
};

struct session {
	struct session_handler handler;
	enum phase phase;
	int fd;                                     /* ours for watching */
	int copy;                                   /* libssh's, which it closes, or forgets */
	struct event *readable, *writable, *resume; /* owned */
	ssh_session ssh;                            /* owned */
	ssh_key management_key;                     /* owned */
	char host_key[SESSION_LINE_SIZE];
	struct ssh_counter_struct packets, socket;
	uint64_t written, heard;     /* bytes out, and packets in when they last changed */
	uint64_t window_ms, charged; /* when the counting began, and what had come before */
	bool paused, failed;
};

/* What a step of the machine says. */
enum step {
	STEP_WAIT, /* for the socket */
	STEP_NEXT,
	STEP_FAILED,
};

static enum step check_tcp(struct session *s)
{
	int error = 0, copy;
	socklen_t len = sizeof(error);

	if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error != 0)
		return STEP_FAILED;
	copy = fcntl(s->fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		return STEP_FAILED;
	if (ssh_options_set(s->ssh, SSH_OPTIONS_FD, &copy) != SSH_OK) {
		(void)safe_close(copy);
		return STEP_FAILED;
	}
	s->copy = copy;
	return STEP_NEXT;
}

/* Compares the server's key with the pinned one, in the only place that decides about trust. */
static enum step check_host_key(struct session *s)
{
	ssh_key key = NULL;
	char *base64 = NULL;
	char line[SESSION_LINE_SIZE];
	bool same = false;

	if (ssh_get_server_publickey(s->ssh, &key) == SSH_OK &&
	    ssh_key_type(key) == SSH_KEYTYPE_ED25519 &&
	    ssh_pki_export_pubkey_base64(key, &base64) == SSH_OK) {
		int n = snprintf(line, sizeof(line), "ssh-ed25519 %s", base64);

		same = n > 0 && (size_t)n < sizeof(line) && STR_EQ(line, s->host_key);
	}
	ssh_string_free_char(base64);
	ssh_key_free(key);
	if (!same)
		log_event(LOG_WARNING, "a guest showed another host key than its own");
	return same ? STEP_NEXT : STEP_FAILED;
}

static enum step handshake(struct session *s)
{
	int r = ssh_connect(s->ssh);

	/* Once connected, libssh has it wait: for ever, if the other side reads nothing. */
	if (fcntl(s->fd, F_SETFL, O_NONBLOCK) < 0)
		return STEP_FAILED;
	switch (r) {
	case SSH_OK:
		return check_host_key(s);
	case SSH_AGAIN:
		return STEP_WAIT;
	default:
		return STEP_FAILED;
	}
}

static enum step authenticate(struct session *s)
{
	switch (ssh_userauth_publickey(s->ssh, NULL, s->management_key)) {
	case SSH_AUTH_SUCCESS:
		return STEP_NEXT;
	case SSH_AUTH_AGAIN:
		return STEP_WAIT;
	default:
		return STEP_FAILED;
	}
}

/* All that the other side has sent; a packet costs something even when it carries nothing. */
static uint64_t received(const struct session *s)
{
	return s->packets.in_bytes + PACKET_COST * s->packets.in_packets;
}

/* Reads no more for a while when the other side has sent enough: other guests wait, too. */
static void pause_if_flooded(struct session *s)
{
	const struct timeval pause = {.tv_usec = PAUSE_MS * 1000};
	uint64_t now_ms = rpc_now_ms();

	if (now_ms - s->window_ms >= WINDOW_MS) {
		s->window_ms = now_ms;
		s->charged = received(s);
		return;
	}
	if (received(s) - s->charged < SESSION_BYTES_PER_S * WINDOW_MS / MSEC_PER_SEC)
		return;
	s->paused = true;
	(void)event_del(s->readable);
	(void)event_del(s->writable); /* a step for writing reads, too */
	(void)event_add(s->resume, &pause);
}

/*
 * Whichever channel is read, libssh takes in packets of all: those that were seen to before have
 * their bytes now, and no socket will tell. So there is another step until nothing more has come.
 * It takes in what has come first: without a channel nobody else would, and the socket would be
 * readable for ever.
 */
static enum step step_up(struct session *s)
{
	uint64_t before = s->packets.in_packets;

	(void)ssh_execute_message_callbacks(s->ssh);
	s->handler.on_step(s->handler.arg);
	if (s->failed || !ssh_is_connected(s->ssh))
		return STEP_FAILED;
	pause_if_flooded(s);
	if (s->packets.in_packets != before)
		session_kick(s);
	return STEP_WAIT;
}

static enum step take_step(struct session *s)
{
	switch (s->phase) {
	case PHASE_TCP:
		return check_tcp(s);
	case PHASE_HANDSHAKE:
		return handshake(s);
	case PHASE_AUTH:
		return authenticate(s);
	case PHASE_UP:
		return step_up(s);
	}
	return STEP_FAILED;
}

/* Ends the watching, so that nothing calls in again, and reports. @s may be gone afterwards. */
static void end(struct session *s)
{
	(void)event_del(s->readable);
	(void)event_del(s->writable);
	(void)event_del(s->resume);
	s->handler.on_end(s->handler.arg);
}

static bool is_writing(const struct session *s)
{
	return s->phase > PHASE_TCP && (ssh_get_poll_flags(s->ssh) & SSH_WRITE_PENDING);
}

/* libssh keeps its answers, without a limit, until the other side takes them. */
static bool is_deaf(struct session *s)
{
	if (s->socket.out_bytes != s->written || !is_writing(s)) {
		s->written = s->socket.out_bytes;
		s->heard = s->packets.in_packets;
	}
	return s->packets.in_packets - s->heard > DEAF_PACKETS;
}

static void run(struct session *s)
{
	enum step step = STEP_NEXT;

	while (step == STEP_NEXT) {
		step = take_step(s);
		if (step == STEP_NEXT)
			s->phase++;
	}
	if (step == STEP_WAIT && is_deaf(s)) {
		log_event(LOG_WARNING, "a guest asks and does not read what it is told");
		step = STEP_FAILED;
	}
	if (step == STEP_FAILED) {
		end(s);
		return;
	}
	if (is_writing(s) && !s->paused)
		(void)event_add(s->writable, NULL);
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	run(arg);
}

/* Connected, or failed to: only then is there something to read. */
static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	struct session *s = arg;

	(void)fd;
	(void)what;
	if (s->phase == PHASE_TCP)
		(void)event_add(s->readable, NULL);
	run(s);
}

static void on_resume(evutil_socket_t fd, short what, void *arg)
{
	struct session *s = arg;

	(void)fd;
	(void)what;
	s->paused = false;
	(void)event_add(s->readable, NULL);
	run(s);
}

/*
 * Has libssh refuse what the other side asks, and forget it, as it comes: what it keeps to be asked
 * for later may name a channel that is gone by then.
 */
static int refuse(ssh_session ssh, ssh_message message, void *arg)
{
	(void)ssh;
	(void)message;
	(void)arg;
	return 1;
}

/* No configuration file, no known_hosts, no agent, few algorithms. */
static int set_options(ssh_session ssh, const char *user)
{
	static const int no = 0;
	const struct {
		enum ssh_options_e option;
		const void *value;
	} table[] = {
		{SSH_OPTIONS_PROCESS_CONFIG, &no},
		{SSH_OPTIONS_SSH_DIR, "/nonexistent"},
		{SSH_OPTIONS_KNOWNHOSTS, "/dev/null"},
		{SSH_OPTIONS_GLOBAL_KNOWNHOSTS, "/dev/null"},
		{SSH_OPTIONS_HOST, "127.0.0.1"},
		{SSH_OPTIONS_USER, user},
		{SSH_OPTIONS_KEY_EXCHANGE, "curve25519-sha256,curve25519-sha256@libssh.org"},
		{SSH_OPTIONS_HOSTKEYS, "ssh-ed25519"},
		{SSH_OPTIONS_PUBLICKEY_ACCEPTED_TYPES, "ssh-ed25519"},
		{SSH_OPTIONS_CIPHERS_C_S, "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com"},
		{SSH_OPTIONS_CIPHERS_S_C, "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com"},
		{SSH_OPTIONS_COMPRESSION, "no"},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (ssh_options_set(ssh, table[i].option, table[i].value) != SSH_OK)
			return -EINVAL;
	ssh_set_blocking(ssh, 0);
	ssh_set_message_callback(ssh, refuse, NULL);
	return 0;
}

static int begin_tcp(struct session *s, uint16_t port)
{
	const struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return -errno;
	if (connect(s->fd, (const struct sockaddr *)&sin, sizeof(sin)) < 0 && errno != EINPROGRESS)
		return -errno;
	return 0;
}

static int watch(struct session *s, struct event_base *base)
{
	s->readable = event_new(base, s->fd, EV_READ | EV_PERSIST, on_socket, s);
	s->writable = event_new(base, s->fd, EV_WRITE, on_writable, s);
	s->resume = event_new(base, -1, 0, on_resume, s);
	if (!s->readable || !s->writable || !s->resume || event_add(s->writable, NULL) < 0)
		return -ENOMEM;
	return 0;
}

int session_start(const struct session_target *target, const struct session_handler *handler,
		  struct session **ret_session)
{
	struct session *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s) {
		ssh_key_free(target->management_key);
		return -ENOMEM;
	}
	s->handler = *handler;
	s->fd = s->copy = -EBADF;
	s->management_key = target->management_key;
	s->ssh = ssh_new();
	if (strlen(target->host_key) >= sizeof(s->host_key))
		r = -EINVAL;
	else
		memcpy(s->host_key, target->host_key, strlen(target->host_key));
	if (r == 0)
		r = s->ssh ? set_options(s->ssh, target->user) : -ENOMEM;
	if (r == 0)
		ssh_set_counters(s->ssh, &s->socket, &s->packets);
	if (r == 0)
		r = begin_tcp(s, target->port);
	if (r == 0)
		r = watch(s, target->base);
	if (r < 0) {
		session_free(s);
		return r;
	}
	*ret_session = s;
	return 0;
}

/*
 * libssh leaves its descriptor open when it is freed before the other side has said anything. Ours
 * is the same socket, which tells whether the number still means it.
 */
static void close_copy(struct session *s)
{
	struct stat ours, copy;

	if (s->copy >= 0 && fstat(s->fd, &ours) == 0 && fstat(s->copy, &copy) == 0 &&
	    ours.st_dev == copy.st_dev && ours.st_ino == copy.st_ino)
		s->copy = safe_close(s->copy);
}

void session_free(struct session *s)
{
	if (!s)
		return;
	if (s->readable)
		event_free(s->readable);
	if (s->writable)
		event_free(s->writable);
	if (s->resume)
		event_free(s->resume);
	if (s->ssh) {
		ssh_disconnect(s->ssh); /* says goodbye if it can, and never waits */
		ssh_free(s->ssh);
	}
	close_copy(s);
	ssh_key_free(s->management_key);
	(void)safe_close(s->fd);
	free(s);
}

bool session_is_up(const struct session *s)
{
	return s->phase == PHASE_UP;
}

ssh_session session_ssh(const struct session *s)
{
	return s->ssh;
}

void session_kick(struct session *s)
{
	if (s->phase == PHASE_UP && !s->paused)
		event_active(s->readable, EV_READ, 0);
}

void session_fail(struct session *s)
{
	s->failed = true;
}

unsigned int session_phase(const struct session *s)
{
	return s->phase;
}
