/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frpc at work: having it read its configuration, asking for the state of its tunnels, reading its
 * log. It is asked shortly after each change and whenever it logs something, every 3 s while a
 * tunnel does not run (that is how often frpc looks at them itself), and once a minute otherwise.
 * Trust: runs in frp-supervisor; reads what frpc says, and in it what a server says.
 */
#include "common/fd.h"
#include "common/log.h"
#include "common/rpc.h"
#include "frp-supervisor/supervisor.h"

#include <fcntl.h>
#include <sys/inotify.h>

#define ANSWER_MS     5000
#define MISSES_MAX    3 /* then it hangs, and is ended */
#define POLL_FIRST_MS 20
#define POLL_SLOW_MS  3000
#define POLL_LAZY_MS  15000 /* for a tunnel that has not come up for a minute */
#define POLL_LAZY     30    /* questions until then */
#define POLL_REST_MS  60000
#define POLL_LOG_MS   100
#define LOG_KEEP      (256 * 1024) /* bytes of frpc's log before it is emptied */
#define LOG_READ      4096
#define LOG_LINES     10 /* that are passed on in LOG_WINDOW_MS */
#define LOG_WINDOW_MS 10000

static void ask_in(struct supervisor *s, uint32_t in_ms)
{
	const struct timeval tv = {
		.tv_sec = in_ms / 1000,
		.tv_usec = (suseconds_t)(in_ms % 1000) * 1000,
	};

	(void)event_add(s->watch.poll, &tv);
}

static bool all_running(const struct supervisor *s)
{
	size_t running;

	return wanted_count(&s->wanted, &running) == running;
}

static void ask_later(struct supervisor *s)
{
	unsigned int polls = s->watch.polls++;

	if (s->watch.reached && all_running(s))
		ask_in(s, POLL_REST_MS);
	else if (polls < 8)
		ask_in(s, MIN_OF((uint32_t)POLL_FIRST_MS << polls, POLL_SLOW_MS));
	else
		ask_in(s, polls < POLL_LAZY ? POLL_SLOW_MS : POLL_LAZY_MS);
}

static void ask_soon(struct supervisor *s)
{
	s->watch.polls = 0;
	ask_later(s);
}

/* It has not answered. A new process needs a moment; one that goes on so is of no use. */
static void missed(struct supervisor *s, int error)
{
	struct watch *w = &s->watch;

	if (error != -ECONNREFUSED || w->polls > 12)
		w->misses++;
	if (w->misses < MISSES_MAX) {
		ask_later(s);
		return;
	}
	log_event(LOG_ERR, "frpc does not answer", LOG_ERRNO(error));
	life_stop(s, "it did not answer on its admin port");
}

/* The state of the tunnels. */

static void take_entry(struct tunnel *tunnel, const struct answer_entry *entry)
{
	bool http = tunnel->proxy.kind != PROTO_PROXY_TCP;

	if (entry->local_port != tunnel->proxy.local || entry->http != http)
		tell_set(tunnel, PROTO_PROXY_REFUSED,
			 "frpc reports another target than it was given");
	else if (entry->phase == ANSWER_RUNNING)
		tell_set(tunnel, PROTO_PROXY_RUNNING, "");
	else if (entry->phase == ANSWER_WAITING)
		tell_set(tunnel, PROTO_PROXY_WAITING, "");
	else
		tell_set(tunnel,
			 answer_is_conflict(entry->error) ? PROTO_PROXY_CONFLICT
							  : PROTO_PROXY_REFUSED,
			 entry->error);
}

static const struct answer_entry *find_entry(const struct supervisor *s, const struct owner *owner,
					     const struct tunnel *tunnel,
					     const struct answer_entry *entries, size_t n)
{
	char name[96];

	wanted_name(&s->wanted, owner, tunnel, name, sizeof(name));
	for (size_t i = 0; i < n; i++)
		if (STR_EQ(entries[i].name, name))
			return &entries[i];
	return NULL;
}

static void take_entries(struct supervisor *s, const struct answer_entry *entries, size_t n)
{
	size_t found = 0;

	s->watch.connected = false;
	for (size_t i = 0; i < n; i++)
		s->watch.connected |= entries[i].phase != ANSWER_WAITING;
	for (size_t i = 0; i < s->wanted.n_owners; i++)
		for (size_t j = 0; j < s->wanted.owners[i].n; j++) {
			struct tunnel *tunnel = &s->wanted.owners[i].tunnels[j];
			const struct answer_entry *entry =
				find_entry(s, &s->wanted.owners[i], tunnel, entries, n);

			found += entry != NULL;
			if (entry)
				take_entry(tunnel, entry);
			else
				tell_set(tunnel,
					 s->watch.connected ? PROTO_PROXY_WAITING
							    : PROTO_PROXY_LOST,
					 "");
		}
	if (s->watch.connected)
		s->watch.trouble[0] = '\0';
	if (found < n && !s->watch.dirty)
		log_event(LOG_WARNING, "frpc reports tunnels that it was not given",
			  LOG_NUM("COUNT", n - found));
}

static void on_status(void *arg, const struct answer_http *answer, int error)
{
	static struct answer_entry entries[ANSWER_ENTRIES];
	struct supervisor *s = arg;
	ssize_t n = -EBADMSG;

	if (answer && answer->status == 200)
		n = answer_status(answer->body, answer->body_len, entries, ANSWER_ENTRIES);
	if (n < 0) {
		missed(s, answer ? (int)n : error);
		return;
	}
	s->watch.misses = 0;
	s->watch.reached = true;
	take_entries(s, entries, (size_t)n);
	tell(s);
	ask_later(s);
	watch_refresh(s);
}

static void on_poll(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *s = arg;
	int r;

	(void)fd;
	(void)what;
	if (s->frpc.phase != FRPC_UP)
		return;
	r = admin_get(&s->watch.request, s->service.base, &s->frpc.admin, "/api/status", ANSWER_MS,
		      on_status, s);
	if (r < 0 && r != -EBUSY) /* what is under way asks again when it ends */
		missed(s, r);
}

/* Changes. */

static void on_reload(void *arg, const struct answer_http *answer, int error)
{
	struct supervisor *s = arg;
	char text[SUPERVISOR_DETAIL_MAX];

	if (!answer) {
		s->watch.dirty = true;
		missed(s, error);
		return;
	}
	s->watch.misses = 0;
	if (answer->status != 200) {
		(void)snprintf(text, sizeof(text), "%.*s", (int)MIN_OF(answer->body_len, 100),
			       answer->body);
		log_event(LOG_ERR, "frpc refuses its configuration",
			  LOG_NUM("STATUS", answer->status), LOG_STR("TEXT", text));
		s->watch.dirty = true; /* tried again with the next question */
		ask_in(s, POLL_LAZY_MS);
		return;
	}
	ask_soon(s);
	watch_refresh(s);
}

void watch_refresh(struct supervisor *s)
{
	_cleanup_(cleanup_render) char *text = NULL;
	char digest[RENDER_DIGEST_SIZE];
	int r;

	if (!s->watch.dirty || s->frpc.phase != FRPC_UP || s->watch.request.fd >= 0)
		return;
	text = render_file(&s->wanted, &s->frpc.admin, s->config.ca_file);
	if (!text)
		return; /* out of memory: tried again after the next question */
	render_digest(text, digest);
	if (!STR_EQ(digest, s->frpc.digest)) {
		life_stop(s, ""); /* it reads that part at its start only */
		return;
	}
	r = files_replace(s->run_fd, SPAWN_CONFIG, text, strlen(text));
	if (r < 0) {
		log_event(LOG_ERR, "frpc's configuration cannot be written", LOG_ERRNO(r));
		return;
	}
	s->watch.dirty = false;
	(void)event_del(s->watch.poll);
	r = admin_get(&s->watch.request, s->service.base, &s->frpc.admin,
		      "/api/reload?strictConfig=true", ANSWER_MS, on_reload, s);
	if (r < 0) {
		s->watch.dirty = true;
		missed(s, r);
	}
}

/* frpc's log: what it says is passed on, and tells when something has happened. */

static void take_line(struct supervisor *s, char *line)
{
	static const char mark[] = "connect to server error: ";
	struct watch *w = &s->watch;
	const char *why = strstr(line, mark);
	uint64_t now_ms = rpc_now_ms();

	/* This is all that frpc says when a certificate does not please it. */
	if (why && s->wanted.server.tls != PROTO_TLS_OFF && strstr(why, "session shutdown"))
		proto_text_set(w->trouble, sizeof(w->trouble),
			       "closed while greeting: a wrong certificate, or no TLS there");
	else if (why)
		proto_text_set(w->trouble, sizeof(w->trouble), why + strlen(mark));
	if (now_ms - w->logged_ms > LOG_WINDOW_MS) {
		w->logged_ms = now_ms;
		w->logged = 0;
	}
	if (w->logged++ < LOG_LINES)
		log_event(LOG_INFO, "frpc says", LOG_STR("LINE", line));
}

static void read_log(struct supervisor *s)
{
	struct watch *w = &s->watch;
	char buf[LOG_READ + 1];
	ssize_t n;

	while ((n = pread(w->log_fd, buf, LOG_READ, w->log_at)) > 0) {
		char *last = memrchr(buf, '\n', (size_t)n), *p = buf;

		if (!last && n < LOG_READ)
			break; /* the rest of the line is still to come */
		if (!last)
			last = buf + n; /* longer than any line of sense: cut */
		*last = '\0';
		w->log_at += MIN_OF(last - buf + 1, n);
		for (char *line = strsep(&p, "\n"); line; line = strsep(&p, "\n"))
			take_line(s, line);
	}
	if (w->log_at > LOG_KEEP && ftruncate(w->log_fd, 0) == 0)
		w->log_at = 0;
}

static void on_log(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *s = arg;
	char buf[4096] __attribute__((aligned(8)));

	(void)what;
	while (read(fd, buf, sizeof(buf)) > 0)
		;
	read_log(s);
	if (s->frpc.phase == FRPC_UP && s->watch.reached && s->watch.request.fd < 0)
		ask_in(s, POLL_LOG_MS);
}

static void on_telling(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	tell(arg);
}

/* Set-up. */

static int open_log(struct supervisor *s, struct err *reterr)
{
	struct watch *w = &s->watch;
	char path[512];

	w->log_fd = openat(s->run_fd, SPAWN_LOG, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (w->log_fd < 0)
		return err_errno(reterr, -errno, "cannot make %s/" SPAWN_LOG, s->config.run_dir);
	w->log_at = lseek(w->log_fd, 0, SEEK_END);
	(void)snprintf(path, sizeof(path), "%s/" SPAWN_LOG, s->config.run_dir);
	w->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (w->inotify_fd < 0 || inotify_add_watch(w->inotify_fd, path, IN_MODIFY) < 0)
		return err_errno(reterr, -errno, "cannot watch %s", path);
	return 0;
}

int watch_open(struct supervisor *s, struct err *reterr)
{
	struct watch *w = &s->watch;
	int r = open_log(s, reterr);

	if (r < 0)
		return r;
	w->log_changed = event_new(s->service.base, w->inotify_fd, EV_READ | EV_PERSIST, on_log, s);
	w->poll = evtimer_new(s->service.base, on_poll, s);
	w->telling = evtimer_new(s->service.base, on_telling, s);
	if (!w->log_changed || !w->poll || !w->telling || event_add(w->log_changed, NULL) < 0)
		return err_set(reterr, -ENOMEM, "out of memory");
	return 0;
}

void watch_done(struct supervisor *s)
{
	struct watch *w = &s->watch;
	struct event *events[] = {w->log_changed, w->poll, w->telling};

	admin_cancel(&w->request);
	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		if (events[i])
			event_free(events[i]);
	(void)safe_close(w->log_fd);
	(void)safe_close(w->inotify_fd);
}

void watch_begin(struct supervisor *s)
{
	s->watch.misses = 0;
	s->watch.reached = false;
	s->watch.connected = false;
	ask_soon(s);
	watch_refresh(s);
}

void watch_end(struct supervisor *s)
{
	admin_cancel(&s->watch.request);
	(void)event_del(s->watch.poll);
	s->watch.reached = false;
	s->watch.connected = false;
	for (size_t i = 0; i < s->wanted.n_owners; i++)
		for (size_t j = 0; j < s->wanted.owners[i].n; j++)
			tell_set(&s->wanted.owners[i].tunnels[j], PROTO_PROXY_LOST, "");
}
