/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The SSH session as a state machine on the event loop.
 * Trust: runs in vmmon; reads SSH of a guest, which its tenant owns.
 */
#include "vmmon/ssh.h"

#include "common/log.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define OUTPUT_MAX (16 * 1024) /* bytes that the command may print before it is given up */
#define LINE_SIZE  128

/*
 * All that is ever run in a guest. It reads a line with the number of bytes that follow, so that a
 * connection which breaks in the middle cannot install half a list, and the list.
 */
static const char install_command[] = "exec /bin/sh -c 'set -eu; umask 077; d=/etc/qudata; "
				      "mkdir -p $d; t=$d/.tenant_keys.$$; trap \"rm -f $t\" EXIT; "
				      "read -r n; cat >$t; test $(wc -c <$t) -eq $n; "
				      "mv -f $t $d/tenant_keys'";

enum phase {
	PHASE_TCP,
	PHASE_HANDSHAKE,
	PHASE_AUTH,
	PHASE_CHANNEL,
	PHASE_EXEC,
	PHASE_SEND,
	PHASE_RESULT,
	PHASE_DONE,
};

struct ssh_job {
	struct event_base *base;
	enum phase phase;
	int fd; /* ours for watching; libssh has a duplicate, which it closes when it likes */
	struct event *readable, *writable, *deadline; /* owned */
	ssh_session session;                          /* owned */
	ssh_channel channel;                          /* owned by the session */
	ssh_key management_key;                       /* owned */
	char host_key[LINE_SIZE];
	char *input; /* owned */
	size_t input_len, sent;
	size_t output;
	ssh_done_fn *fn;
	void *arg;
};

/* What a step of the machine says. */
enum step {
	STEP_WAIT, /* for the socket */
	STEP_NEXT,
	STEP_FAILED,
};

static enum step step_of(int rc)
{
	if (rc == SSH_OK)
		return STEP_NEXT;
	return rc == SSH_AGAIN ? STEP_WAIT : STEP_FAILED;
}

static enum step check_tcp(struct ssh_job *j)
{
	int error = 0, copy;
	socklen_t len = sizeof(error);

	if (getsockopt(j->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || error != 0)
		return STEP_FAILED;
	copy = fcntl(j->fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		return STEP_FAILED;
	if (ssh_options_set(j->session, SSH_OPTIONS_FD, &copy) != SSH_OK) {
		(void)safe_close(copy);
		return STEP_FAILED;
	}
	return STEP_NEXT;
}

/* Compares the server's key with the pinned one, in the only place that decides about trust. */
static enum step check_host_key(struct ssh_job *j)
{
	ssh_key key = NULL;
	char *base64 = NULL;
	char line[LINE_SIZE];
	bool same = false;

	if (ssh_get_server_publickey(j->session, &key) == SSH_OK &&
	    ssh_key_type(key) == SSH_KEYTYPE_ED25519 &&
	    ssh_pki_export_pubkey_base64(key, &base64) == SSH_OK) {
		int n = snprintf(line, sizeof(line), "ssh-ed25519 %s", base64);

		same = n > 0 && (size_t)n < sizeof(line) && STR_EQ(line, j->host_key);
	}
	ssh_string_free_char(base64);
	ssh_key_free(key);
	if (!same)
		log_event(LOG_WARNING, "a guest showed another host key than its own");
	return same ? STEP_NEXT : STEP_FAILED;
}

static enum step handshake(struct ssh_job *j)
{
	enum step s = step_of(ssh_connect(j->session));

	return s == STEP_NEXT ? check_host_key(j) : s;
}

static enum step authenticate(struct ssh_job *j)
{
	switch (ssh_userauth_publickey(j->session, NULL, j->management_key)) {
	case SSH_AUTH_SUCCESS:
		return STEP_NEXT;
	case SSH_AUTH_AGAIN:
		return STEP_WAIT;
	default:
		return STEP_FAILED;
	}
}

static enum step open_channel(struct ssh_job *j)
{
	if (!j->channel)
		j->channel = ssh_channel_new(j->session);
	return j->channel ? step_of(ssh_channel_open_session(j->channel)) : STEP_FAILED;
}

static enum step send_input(struct ssh_job *j)
{
	while (j->sent < j->input_len) {
		int n = ssh_channel_write(j->channel, j->input + j->sent,
					  (uint32_t)(j->input_len - j->sent));

		if (n == SSH_ERROR)
			return STEP_FAILED;
		if (n <= 0)
			return STEP_WAIT;
		j->sent += (size_t)n;
	}
	/* SSH_AGAIN: the message is in libssh's buffer and goes out with the next step. */
	return ssh_channel_send_eof(j->channel) == SSH_ERROR ? STEP_FAILED : STEP_NEXT;
}

/* Throws away what the command prints, but not without end. */
static bool drain(struct ssh_job *j, int is_stderr)
{
	char waste[512];
	int n;

	do {
		n = ssh_channel_read_nonblocking(j->channel, waste, sizeof(waste), is_stderr);
		if (n > 0)
			j->output += (size_t)n;
	} while (n > 0 && j->output <= OUTPUT_MAX);
	return n != SSH_ERROR && j->output <= OUTPUT_MAX;
}

static enum step await_result(struct ssh_job *j)
{
	if (!drain(j, 0) || !drain(j, 1))
		return STEP_FAILED;
	if (ssh_channel_get_exit_status(j->channel) >= 0)
		return STEP_NEXT;
	if (ssh_channel_is_closed(j->channel) || !ssh_is_connected(j->session))
		return STEP_FAILED;
	return STEP_WAIT;
}

static enum step take_step(struct ssh_job *j)
{
	switch (j->phase) {
	case PHASE_TCP:
		return check_tcp(j);
	case PHASE_HANDSHAKE:
		return handshake(j);
	case PHASE_AUTH:
		return authenticate(j);
	case PHASE_CHANNEL:
		return open_channel(j);
	case PHASE_EXEC:
		return step_of(ssh_channel_request_exec(j->channel, install_command));
	case PHASE_SEND:
		return send_input(j);
	case PHASE_RESULT:
		return await_result(j);
	case PHASE_DONE:
		return STEP_WAIT;
	}
	return STEP_FAILED;
}

/* Ends the watching, so that nothing calls in again, and reports. @j may be gone afterwards. */
static void finish(struct ssh_job *j, enum proto_status status)
{
	(void)event_del(j->readable);
	(void)event_del(j->writable);
	(void)event_del(j->deadline);
	if (status != PROTO_OK)
		log_event(LOG_NOTICE, "keys not installed", LOG_NUM("PHASE", j->phase),
			  LOG_STR("WHY", j->session ? ssh_get_error(j->session) : ""));
	j->fn(j->arg, status);
}

static void run(struct ssh_job *j)
{
	enum step s = STEP_NEXT;

	while (s == STEP_NEXT && j->phase != PHASE_DONE) {
		s = take_step(j);
		if (s == STEP_NEXT)
			j->phase++;
	}
	if (s == STEP_FAILED) {
		finish(j, PROTO_UNREACHABLE);
		return;
	}
	if (j->phase == PHASE_DONE) {
		finish(j, ssh_channel_get_exit_status(j->channel) == 0 ? PROTO_OK : PROTO_FAILED);
		return;
	}
	if (j->phase > PHASE_TCP && (ssh_get_poll_flags(j->session) & SSH_WRITE_PENDING))
		(void)event_add(j->writable, NULL);
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	run(arg);
}

/* Connected, or failed to: only then is there something to read. */
static void on_connected(evutil_socket_t fd, short what, void *arg)
{
	struct ssh_job *j = arg;

	(void)fd;
	(void)what;
	if (j->phase == PHASE_TCP)
		(void)event_add(j->readable, NULL);
	run(j);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	finish(arg, PROTO_TIMEOUT);
}

/* No configuration file, no known_hosts, no agent, few algorithms. */
static int set_options(ssh_session session, const char *user)
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
		if (ssh_options_set(session, table[i].option, table[i].value) != SSH_OK)
			return -EINVAL;
	ssh_set_blocking(session, 0);
	return 0;
}

static int begin_tcp(struct ssh_job *j, uint16_t port)
{
	const struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	j->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (j->fd < 0)
		return -errno;
	if (connect(j->fd, (const struct sockaddr *)&sin, sizeof(sin)) < 0 && errno != EINPROGRESS)
		return -errno;
	return 0;
}

static int watch(struct ssh_job *j, uint32_t timeout_ms)
{
	const struct timeval tv = {.tv_sec = timeout_ms / 1000,
				   .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};

	j->readable = event_new(j->base, j->fd, EV_READ | EV_PERSIST, on_socket, j);
	j->writable = event_new(j->base, j->fd, EV_WRITE, on_connected, j);
	j->deadline = event_new(j->base, -1, 0, on_deadline, j);
	if (!j->readable || !j->writable || !j->deadline || event_add(j->deadline, &tv) < 0 ||
	    event_add(j->writable, NULL) < 0)
		return -ENOMEM;
	return 0;
}

static int fill(struct ssh_job *j, const struct ssh_target *target, const char *keys, size_t len)
{
	char head[32];
	int n = snprintf(head, sizeof(head), "%zu\n", len);

	if (strlen(target->host_key) >= sizeof(j->host_key))
		return -EINVAL;
	memcpy(j->host_key, target->host_key, strlen(target->host_key));
	j->input_len = (size_t)n + len;
	j->input = malloc(j->input_len);
	j->session = ssh_new();
	if (!j->input || !j->session)
		return -ENOMEM;
	memcpy(j->input, head, (size_t)n);
	memcpy(j->input + n, keys, len);
	return set_options(j->session, target->user);
}

int ssh_job_start(const struct ssh_target *target, const char *keys, size_t len,
		  uint32_t timeout_ms, ssh_done_fn *fn, void *arg, struct ssh_job **ret_job)
{
	struct ssh_job *j = calloc(1, sizeof(*j));
	int r;

	if (!j) {
		ssh_key_free(target->management_key);
		return -ENOMEM;
	}
	j->base = target->base;
	j->fd = -EBADF;
	j->management_key = target->management_key;
	j->fn = fn;
	j->arg = arg;
	r = fill(j, target, keys, len);
	if (r == 0)
		r = begin_tcp(j, target->port);
	if (r == 0)
		r = watch(j, timeout_ms);
	if (r < 0) {
		ssh_job_free(j);
		return r;
	}
	*ret_job = j;
	return 0;
}

void ssh_job_free(struct ssh_job *j)
{
	if (!j)
		return;
	if (j->readable)
		event_free(j->readable);
	if (j->writable)
		event_free(j->writable);
	if (j->deadline)
		event_free(j->deadline);
	if (j->session) {
		ssh_disconnect(j->session); /* says goodbye if it can, and never waits */
		ssh_free(j->session);
	}
	ssh_key_free(j->management_key);
	(void)safe_close(j->fd);
	free(j->input);
	free(j);
}
