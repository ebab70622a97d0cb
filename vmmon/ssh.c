/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The installing of keys as a state machine on an SSH session.
 * Trust: runs in vmmon; reads SSH of a guest, which its tenant owns.
 */
#include "vmmon/ssh.h"

#include "common/log.h"

#define OUTPUT_MAX (16 * 1024) /* bytes that the command may print before it is given up */

/*
 * All that is ever run in a guest. It reads a line with the number of bytes that follow, so that a
 * connection which breaks in the middle cannot install half a list, and the list.
 */
static const char install_command[] = "exec /bin/sh -c 'set -eu; umask 077; d=/etc/qudata; "
				      "mkdir -p $d; t=$d/.tenant_keys.$$; trap \"rm -f $t\" EXIT; "
				      "read -r n; cat >$t; test $(wc -c <$t) -eq $n; "
				      "mv -f $t $d/tenant_keys'";

enum phase {
	PHASE_CHANNEL,
	PHASE_EXEC,
	PHASE_SEND,
	PHASE_RESULT,
	PHASE_DONE,
};

struct ssh_job {
	enum phase phase;
	struct session *session; /* owned */
	struct event *deadline;  /* owned; of the phase */
	uint32_t patience_ms;
	ssh_channel channel; /* owned by the session */
	char *input;         /* owned */
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

static enum step open_channel(struct ssh_job *j)
{
	if (!j->channel)
		j->channel = ssh_channel_new(session_ssh(j->session));
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
	if (ssh_channel_is_closed(j->channel) || !ssh_is_connected(session_ssh(j->session)))
		return STEP_FAILED;
	return STEP_WAIT;
}

static enum step take_step(struct ssh_job *j)
{
	switch (j->phase) {
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

/* Reports; @j may be gone afterwards. */
static void finish(struct ssh_job *j, enum proto_status status)
{
	(void)event_del(j->deadline);
	if (status != PROTO_OK)
		log_event(LOG_NOTICE, "keys not installed",
			  LOG_NUM("PHASE", session_phase(j->session) + j->phase),
			  LOG_STR("WHY", ssh_get_error(session_ssh(j->session))));
	session_free(TAKE_PTR(j->session)); /* nothing calls in again */
	j->fn(j->arg, status);
}

static int arm(struct ssh_job *j)
{
	const struct timeval tv = {.tv_sec = j->patience_ms / 1000,
				   .tv_usec = (suseconds_t)(j->patience_ms % 1000) * 1000};

	return event_add(j->deadline, &tv);
}

static void on_step(void *arg)
{
	struct ssh_job *j = arg;
	enum step s = STEP_NEXT;

	while (s == STEP_NEXT && j->phase != PHASE_DONE) {
		s = take_step(j);
		if (s != STEP_NEXT)
			break;
		j->phase++;
		(void)arm(j);
	}
	if (s == STEP_FAILED || j->phase == PHASE_DONE)
		session_fail(j->session); /* its end is the job's */
}

static void on_end(void *arg)
{
	struct ssh_job *j = arg;

	if (j->phase != PHASE_DONE)
		finish(j, PROTO_UNREACHABLE);
	else
		finish(j, ssh_channel_get_exit_status(j->channel) == 0 ? PROTO_OK : PROTO_FAILED);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	finish(arg, PROTO_TIMEOUT);
}

static int fill(struct ssh_job *j, const struct session_target *target, const char *keys,
		size_t len, uint32_t patience_ms)
{
	char head[32];
	int n = snprintf(head, sizeof(head), "%zu\n", len);

	j->input_len = (size_t)n + len;
	j->input = malloc(j->input_len);
	j->deadline = event_new(target->base, -1, 0, on_deadline, j);
	j->patience_ms = patience_ms;
	if (!j->input || !j->deadline || arm(j) < 0)
		return -ENOMEM;
	memcpy(j->input, head, (size_t)n);
	memcpy(j->input + n, keys, len);
	return 0;
}

int ssh_job_start(const struct session_target *target, const char *keys, size_t len,
		  uint32_t patience_ms, ssh_done_fn *fn, void *arg, struct ssh_job **ret_job)
{
	struct ssh_job *j = calloc(1, sizeof(*j));
	const struct session_handler handler = {j, on_step, on_end};
	int r = j ? fill(j, target, keys, len, patience_ms) : -ENOMEM;

	if (r < 0) {
		ssh_key_free(target->management_key);
		ssh_job_free(j);
		return r;
	}
	j->fn = fn;
	j->arg = arg;
	r = session_start(target, &handler, &j->session);
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
	if (j->deadline)
		event_free(j->deadline);
	session_free(j->session);
	free(j->input);
	free(j);
}
