/* SPDX-License-Identifier: Apache-2.0 */
/*
 * console and logs: the instance's serial console, both ways or read only.
 *
 * Trust: runs as the operator; relays a guest's bytes, which on an interactive console reach the
 * terminal as they are and elsewhere are filtered.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <termios.h>

#include "ctl/escape.h"
#include "ctl/instance.h"
#include "ctl/text.h"

#define CHUNK 4096
#define QUEUE (4 * CHUNK)

/* The terminal's settings before raw mode; used by the exit handler too. */
static struct termios saved_termios;
static bool is_raw;

static void terminal_restore(void)
{
	if (is_raw)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_termios);
	is_raw = false;
}

static int terminal_raw(void)
{
	struct termios raw;

	if (tcgetattr(STDIN_FILENO, &saved_termios) < 0)
		return -errno;
	raw = saved_termios;
	cfmakeraw(&raw);
	if (tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) < 0)
		return -errno;
	is_raw = true;
	return 0;
}

struct session {
	struct ctl *c;
	struct api_stream *stream; /* owned */
	int signal_fd;             /* owned */
	bool follow;               /* read only: nothing is sent */
	bool interactive;          /* a terminal in raw mode: escapes are looked for */
	bool filter_output;
	bool stdin_open;
	struct escape escape;
	struct text_filter filter;
	char queue[QUEUE]; /* typed, not yet sent */
	size_t n_queue;
};

enum session_step { SESSION_GO_ON, SESSION_LEFT, SESSION_CLOSED, SESSION_BROKEN };

static void session_done(struct session *s)
{
	terminal_restore();
	s->stream = api_stream_free(s->stream);
	s->signal_fd = safe_close(s->signal_fd);
}

/* Restores the terminal, then lets the signal have its usual effect, so that the parent sees it. */
static void on_signal(struct session *s)
{
	struct signalfd_siginfo info;
	sigset_t set;
	int sig;

	if (read(s->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	sig = (int)info.ssi_signo;
	terminal_restore();
	(void)fflush(stdout);
	sigemptyset(&set);
	sigaddset(&set, sig);
	(void)raise(sig);
	(void)sigprocmask(SIG_UNBLOCK, &set, NULL); /* ends here, but for SIGTSTP */
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	if (s->interactive)
		(void)terminal_raw();
}

static enum session_step on_output(struct session *s)
{
	char buf[CHUNK];
	ssize_t n;

	while ((n = api_stream_read(s->stream, buf, sizeof(buf))) > 0) {
		if (s->filter_output)
			text_filter_feed(&s->filter, buf, (size_t)n, stdout);
		else
			(void)fwrite(buf, 1, (size_t)n, stdout);
		if (fflush(stdout) != 0)
			return SESSION_LEFT;
	}
	if (n == -EAGAIN)
		return SESSION_GO_ON;
	return n == 0 ? SESSION_CLOSED : SESSION_BROKEN;
}

static void show_escapes(void)
{
	fputs("\r\nEscapes, at the beginning of a line:\r\n"
	      "  ~.  leave the console\r\n  ~?  this list\r\n  ~~  a tilde\r\n",
	      stderr);
}

static enum session_step on_typed(struct session *s)
{
	char buf[CHUNK];
	const char *p = buf;
	ssize_t got = read(STDIN_FILENO, buf, MIN_OF(sizeof(buf), (QUEUE - s->n_queue) / 2));
	size_t len;

	if (got < 0)
		return errno == EINTR || errno == EAGAIN ? SESSION_GO_ON : SESSION_LEFT;
	if (got == 0) {
		s->stdin_open = false;
		return s->interactive ? SESSION_LEFT : SESSION_GO_ON;
	}
	len = (size_t)got;
	if (!s->interactive) {
		memcpy(s->queue + s->n_queue, buf, len);
		s->n_queue += len;
		return SESSION_GO_ON;
	}
	while (len > 0) {
		size_t used, n;
		enum escape_action action =
			escape_feed(&s->escape, p, len, s->queue + s->n_queue, &used, &n);

		s->n_queue += n;
		p += used;
		len -= used;
		if (action == ESCAPE_LEAVE)
			return SESSION_LEFT;
		if (action == ESCAPE_HELP)
			show_escapes();
	}
	return SESSION_GO_ON;
}

static enum session_step send_queue(struct session *s)
{
	while (s->n_queue > 0) {
		ssize_t n = api_stream_write(s->stream, s->queue, s->n_queue);

		if (n == -EAGAIN)
			return SESSION_GO_ON;
		if (n <= 0)
			return SESSION_BROKEN;
		s->n_queue -= (size_t)n;
		memmove(s->queue, s->queue + n, s->n_queue);
	}
	return SESSION_GO_ON;
}

static enum session_step session_step(struct session *s)
{
	bool room = s->stdin_open && !s->follow && s->n_queue < QUEUE / 2;
	struct pollfd p[] = {
		{.fd = api_stream_fd(s->stream),
		 .events = (short)(POLLIN | (s->n_queue > 0 ? POLLOUT : 0))},
		{.fd = room ? STDIN_FILENO : -1, .events = POLLIN},
		{.fd = s->signal_fd, .events = POLLIN},
	};
	enum session_step step = SESSION_GO_ON;

	if (poll(p, ARRAY_LEN(p), -1) < 0)
		return errno == EINTR ? SESSION_GO_ON : SESSION_BROKEN;
	if (p[2].revents)
		on_signal(s);
	if (p[0].revents & (POLLIN | POLLHUP | POLLERR))
		step = on_output(s);
	if (step == SESSION_GO_ON && p[1].revents)
		step = on_typed(s);
	/* What was typed before "~." still goes out if it can go at once. */
	if (step == SESSION_GO_ON || step == SESSION_LEFT) {
		enum session_step sent = send_queue(s);

		step = step == SESSION_LEFT ? step : sent;
	}
	return step;
}

static int watch_signals(struct session *s)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGTSTP);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->signal_fd < 0 ? -errno : 0;
}

static enum ctl_exit session_run(struct session *s, const char *id)
{
	enum session_step step;
	int r = watch_signals(s);

	if (r == 0 && s->interactive) {
		(void)atexit(terminal_restore);
		r = terminal_raw();
	}
	if (r < 0)
		return ctl_fail(s->c, CTL_FAILED, "cannot set up the terminal: %s", strerror(-r));
	/* What came along with the answer's head has not woken any poll. */
	step = on_output(s);
	while (step == SESSION_GO_ON)
		step = session_step(s);
	if (s->filter_output)
		text_filter_flush(&s->filter, stdout);
	terminal_restore();
	if (s->interactive)
		fputc('\n', stderr);
	if (step == SESSION_BROKEN)
		return ctl_fail(s->c, CTL_FAILED, "%s: the connection to the console broke", id);
	ctl_note(s->c, "%s: %s", id,
		 step == SESSION_LEFT ? "left the console" : "the console was closed");
	return CTL_OK;
}

static enum ctl_exit attach(struct ctl *c, const char *id, bool follow, bool filter_output)
{
	_cleanup_(session_done) struct session s = {
		.c = c,
		.signal_fd = -EBADF,
		.follow = follow,
		.interactive = !follow && isatty(STDIN_FILENO),
		.filter_output = filter_output,
		.stdin_open = true,
	};
	_cleanup_free_ char *error = NULL;
	char path[96];
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(c, &r);

	if (!api)
		return r;
	snprintf(path, sizeof(path), "/v1/instances/%s/console%s", id,
		 follow ? "?read_only=true" : "");
	r = api_upgrade(api, path, "qudata-console", &s.stream, &error);
	if (r != CTL_OK)
		return ctl_fail(c, r, "%s: %s", id, error);
	if (s.interactive)
		ctl_note(c, "Connected to %s. Leave with ~. at the beginning of a line.", id);
	return session_run(&s, id);
}

enum ctl_exit cmd_console(struct ctl *c)
{
	char id[PARSE_NAME_MAX + 1];
	enum ctl_exit r;

	if (c->json)
		return ctl_fail(c, CTL_USAGE, "a console has no JSON form");
	r = instance_pick(c, ctl_arg(c, 0), id);
	if (r != CTL_OK)
		return r;
	/* Whoever types into a console needs its escape sequences; a mere reader does not. */
	return attach(c, id, /* follow= */ false,
		      /* filter_output= */ isatty(STDOUT_FILENO) && !isatty(STDIN_FILENO));
}

/* JSON strings are UTF-8, a console's bytes may be anything: escaped text is always valid. */
static void print_log_json(const char *id, const struct api_reply *reply)
{
	struct text_filter filter = {0};
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	json_t *json;

	if (!f)
		return;
	text_filter_feed(&filter, reply->text, reply->n_text, f);
	text_filter_flush(&filter, f);
	if (fclose(f) == 0) {
		json = json_pack("{s:s, s:s}", "instance_id", id, "log", text);
		ctl_print_json(json);
		json_decref(json);
	}
	free(text);
}

enum ctl_exit cmd_logs(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	bool follow = ctl_has(c, OPT_FOLLOW);
	bool filtered = isatty(STDOUT_FILENO) && !ctl_has(c, OPT_RAW);
	struct text_filter filter = {0};
	char id[PARSE_NAME_MAX + 1], path[96];
	enum ctl_exit r;
	struct api *api;

	if (c->json && follow)
		return ctl_fail(c, CTL_USAGE, "--follow has no JSON form");
	r = instance_pick(c, ctl_arg(c, 0), id);
	api = r == CTL_OK ? ctl_api(c, &r) : NULL;
	if (!api)
		return r;
	snprintf(path, sizeof(path), "/v1/instances/%s/console/log", id);
	r = api_get_text(api, path, API_TIMEOUT_MS, &reply);
	if (r != CTL_OK)
		return ctl_fail(c, r, "%s: %s", id, reply.error);
	if (c->json) {
		print_log_json(id, &reply);
		return CTL_OK;
	}
	if (filtered) {
		text_filter_feed(&filter, reply.text, reply.n_text, stdout);
		text_filter_flush(&filter, stdout);
	} else {
		(void)fwrite(reply.text ? reply.text : "", 1, reply.n_text, stdout);
	}
	(void)fflush(stdout);
	return follow ? attach(c, id, /* follow= */ true, filtered) : CTL_OK;
}
