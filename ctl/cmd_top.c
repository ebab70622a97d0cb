/* SPDX-License-Identifier: Apache-2.0 */
/*
 * top: the figures of instances' guests, drawn again and again.
 *
 * Trust: runs as the operator; reads the agent's answers, in which a guest's figures may be any.
 */
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>

#include "ctl/chart.h"
#include "ctl/gpus.h"
#include "ctl/top.h"

#define REDRAW_MS       1000
#define ENTRIES_MAX     64
#define COLUMNS_DEFAULT 80

/* Alternate screen, no cursor, lines that are too long are cut; and back. */
#define SCREEN_BEGIN "\033[?1049h\033[?25l\033[?7l"
#define SCREEN_END   "\033[?7h\033[?25h\033[?1049l"

/* The terminal's settings before; used where a signal ends the program, too. */
static struct termios saved_termios;
static bool is_drawing, has_keys;

static void screen_end(void)
{
	if (!is_drawing)
		return;
	fputs(SCREEN_END, stdout);
	(void)fflush(stdout);
	if (has_keys)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_termios);
	is_drawing = has_keys = false;
}

static void screen_begin(void)
{
	struct termios keys;

	if (isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &saved_termios) == 0) {
		keys = saved_termios;
		keys.c_lflag &= (tcflag_t) ~(ICANON | ECHO);
		has_keys = tcsetattr(STDIN_FILENO, TCSADRAIN, &keys) == 0;
	}
	is_drawing = true;
	fputs(SCREEN_BEGIN, stdout);
	(void)fflush(stdout);
}

struct top {
	struct ctl *c;
	const char *id; /* NULL: all instances */
	struct top_style style;
	struct top_entry entries[ENTRIES_MAX];
	const json_t *host;                /* figures of the host's own GPUs, or NULL */
	json_t *held[2 * ENTRIES_MAX + 1]; /* owned: what the rest borrows from */
	size_t n, n_held;
};

static void forget(struct top *t)
{
	for (size_t i = 0; i < t->n_held; i++)
		json_decref(t->held[i]);
	t->n = t->n_held = 0;
	t->host = NULL;
}

static void top_done(struct top *t)
{
	screen_end();
	forget(t);
}

static const json_t *hold(struct top *t, json_t *json)
{
	t->held[t->n_held++] = json_incref(json);
	return json;
}

/* The figures of an instance, as many as are drawn. One that goes away meanwhile has none. */
static enum ctl_exit fetch_metrics(struct top *t, struct api *api, const char *id,
				   const json_t **ret_metrics)
{
	_cleanup_reply_ struct api_reply reply = {0};
	char path[128];
	enum ctl_exit r;

	snprintf(path, sizeof(path), "/v1/instances/%s/metrics?limit=%d%s", id,
		 t->c->json ? 1200
		 : t->id    ? 480
			    : 80,
		 is_drawing ? "&wait=no" : "");
	r = api_call(api, "GET", path, NULL, API_TIMEOUT_MS, &reply);
	*ret_metrics = NULL;
	if (r == CTL_OK)
		*ret_metrics = hold(t, reply.data);
	if (r == CTL_OK || r == CTL_NOT_FOUND)
		return CTL_OK;
	screen_end();
	return ctl_fail(t->c, r, "%s", reply.error);
}

static enum ctl_exit add_entry(struct top *t, struct api *api, json_t *json)
{
	struct top_entry *entry = &t->entries[t->n];

	if (t->n == ENTRIES_MAX || instance_read(json, &entry->inst) < 0)
		return CTL_OK;
	(void)hold(t, json);
	t->n++;
	return fetch_metrics(t, api, entry->inst.id, &entry->metrics);
}

/* An agent that has none, or nobody may ask for, is no reason not to draw the rest. */
static void fetch_host(struct top *t, struct api *api)
{
	_cleanup_reply_ struct api_reply reply = {0};
	const char *path = is_drawing ? "/v1/gpus/figures?wait=no" : "/v1/gpus/figures";

	if (api_call(api, "GET", path, NULL, API_TIMEOUT_MS, &reply) == CTL_OK &&
	    json_is_object(reply.data))
		t->host = hold(t, reply.data);
}

static enum ctl_exit fetch(struct top *t)
{
	_cleanup_reply_ struct api_reply reply = {0};
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(t->c, &r);
	char path[64] = "/v1/instances";
	json_t *json;
	size_t i;

	if (!api)
		return r;
	forget(t);
	if (t->id)
		snprintf(path, sizeof(path), "/v1/instances/%s", t->id);
	r = api_call(api, "GET", path, NULL, API_TIMEOUT_MS, &reply);
	if (r != CTL_OK) {
		screen_end();
		return ctl_fail(t->c, r, "%s", reply.error);
	}
	if (t->id)
		return add_entry(t, api, reply.data);
	fetch_host(t, api);
	json_array_foreach (json_object_get(reply.data, "instances"), i, json) {
		r = add_entry(t, api, json);
		if (r != CTL_OK)
			return r;
	}
	return CTL_OK;
}

static void put_picture(FILE *f, const struct top *t)
{
	if (t->n == 1)
		top_put_one(f, &t->entries[0], &t->style);
	else if (t->n == 0)
		fputs("There is no instance.\n", f);
	else
		top_put_list(f, t->entries, t->n, &t->style);
	if (t->host)
		gpu_figures_put(f, t->host, t->style.color);
}

static void measure(struct top *t)
{
	struct gpu_tree_style terminal = gpu_tree_style(t->c);
	struct winsize size;

	t->style = (struct top_style){
		.utf8 = terminal.utf8,
		.color = terminal.color,
		.columns = terminal.width ? terminal.width : COLUMNS_DEFAULT,
	};
	if (is_drawing && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
		t->style.rows = size.ws_row;
}

/* Line by line over what is there, so that nothing flickers; no more lines than there are. */
static void draw(const struct top *t)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0, rows = t->style.rows ? t->style.rows : SIZE_MAX;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return;
	put_picture(f, t);
	if (fclose(f) != 0 || !text)
		return;
	fputs("\033[H", stdout);
	for (char *line = text; *line && rows > 0; rows--) {
		size_t len = strcspn(line, "\n");

		(void)fwrite(line, 1, len, stdout);
		fputs(rows > 1 ? "\033[K\r\n" : "\033[K", stdout);
		line += len + (line[len] == '\n');
	}
	fputs("\033[J", stdout);
	(void)fflush(stdout);
}

/* Restores the terminal, then lets the signal have its usual effect, so that the parent sees it. */
static void on_signal(int signal_fd)
{
	struct signalfd_siginfo info;
	sigset_t set;
	int sig;

	if (read(signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	sig = (int)info.ssi_signo;
	if (sig == SIGWINCH)
		return;
	screen_end();
	sigemptyset(&set);
	sigaddset(&set, sig);
	(void)raise(sig);
	(void)sigprocmask(SIG_UNBLOCK, &set, NULL); /* ends here, but for SIGTSTP */
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	screen_begin();
}

/* Waits until it is to be drawn again; false when the operator has seen enough. */
static bool await(int signal_fd)
{
	struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN},
			       {.fd = has_keys ? STDIN_FILENO : -1, .events = POLLIN}};
	char key;

	if (poll(fds, ARRAY_LEN(fds), REDRAW_MS) <= 0)
		return true;
	if (fds[0].revents)
		on_signal(signal_fd);
	if (!fds[1].revents)
		return true;
	return read(STDIN_FILENO, &key, 1) == 1 && key != 'q' && key != 'Q';
}

static int catch_signals(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		sigaddset(&set, signals[i]);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static enum ctl_exit run_on_terminal(struct top *t)
{
	_cleanup_close_ int signal_fd = catch_signals();
	enum ctl_exit r;

	if (signal_fd < 0)
		return ctl_fail(t->c, CTL_FAILED, "cannot watch for signals");
	screen_begin();
	do {
		measure(t);
		r = fetch(t);
		if (r == CTL_OK)
			draw(t);
	} while (r == CTL_OK && await(signal_fd));
	screen_end();
	return r;
}

/* One picture, or the agent's answers as they are. */
static enum ctl_exit run_once(struct top *t)
{
	json_t *list;
	enum ctl_exit r;

	measure(t);
	r = fetch(t);
	if (r != CTL_OK)
		return r;
	if (!t->c->json) {
		put_picture(stdout, t);
		return CTL_OK;
	}
	if (t->id) {
		ctl_print_json(t->n > 0 && t->entries[0].metrics ? t->entries[0].metrics
								 : json_null());
		return CTL_OK;
	}
	list = json_array();
	for (size_t i = 0; i < t->n; i++)
		if (t->entries[i].metrics)
			(void)json_array_append(list, (json_t *)t->entries[i].metrics);
	list = json_pack("{s:o}", "instances", list);
	if (t->host)
		(void)json_object_set(list, "host_gpus", (json_t *)t->host);
	ctl_print_json(list);
	json_decref(list);
	return CTL_OK;
}

enum ctl_exit cmd_top(struct ctl *c)
{
	_cleanup_(top_done) struct top t = {.c = c};
	char id[PARSE_NAME_MAX + 1];
	enum ctl_exit r;

	if (ctl_arg(c, 0)) {
		r = instance_pick(c, ctl_arg(c, 0), id);
		if (r != CTL_OK)
			return r;
		t.id = id;
	}
	if (c->json || ctl_has(c, OPT_ONCE) || !isatty(STDOUT_FILENO))
		return run_once(&t);
	return run_on_terminal(&t);
}
