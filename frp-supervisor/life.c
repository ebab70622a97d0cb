/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frpc's beginning and end: version, start, adoption, crash and backing off, stop.
 * Trust: runs in frp-supervisor; reads frp-spawn's answers and its own files.
 */
#include "common/fd.h"
#include "common/ipc.h"
#include "common/log.h"
#include "common/rpc.h"
#include "frp-supervisor/supervisor.h"

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define BACKOFF_FIRST_MS 500
#define BACKOFF_MAX_MS   60000
#define STEADY_MS        60000 /* whoever ran that long may crash once more */
#define STOP_MS          3000  /* frpc closes its tunnels in half a second */

static void arm(struct supervisor *s, uint64_t in_ms)
{
	const struct timeval tv = {
		.tv_sec = (time_t)(in_ms / MSEC_PER_SEC),
		.tv_usec = (suseconds_t)(in_ms % MSEC_PER_SEC * 1000),
	};

	(void)event_add(s->frpc.timer, &tv);
}

static uint32_t random_below(uint32_t limit)
{
	uint32_t value = 0;

	if (getrandom(&value, sizeof(value), 0) != (ssize_t)sizeof(value))
		return limit / 2;
	return value % limit;
}

/* Nothing is started before some time has passed: ever more, and never in step with others. */
static void back_off(struct supervisor *s)
{
	uint32_t in_ms = BACKOFF_FIRST_MS;

	for (unsigned int i = 0; i < s->frpc.failures && in_ms < BACKOFF_MAX_MS; i++)
		in_ms *= 2;
	s->frpc.failures++;
	in_ms = MIN_OF(in_ms, BACKOFF_MAX_MS);
	in_ms = in_ms * 3 / 4 + random_below(in_ms / 2);
	s->frpc.retry_ms = rpc_now_ms() + in_ms;
}

/* The end of an attempt. */
static void give_up(struct supervisor *s, bool broken, const char *why)
{
	bool new = !STR_EQ(s->frpc.trouble, why);

	s->frpc.phase = FRPC_DOWN;
	s->frpc.broken = broken;
	proto_text_set(s->frpc.trouble, sizeof(s->frpc.trouble), why);
	if (new)
		log_event(LOG_ERR, "frpc cannot be started", LOG_STR("REASON", why));
	back_off(s);
	tell(s);
	life_kick(s);
}

/* frp-spawn */

static void ask(struct supervisor *s, enum spawn_op op, const struct spawn_request *req)
{
	const struct proto_header header = {.op = op, .request_id = 1, .len = sizeof(*req)};

	if (ipc_send(s->spawn_fd, &header, req, NULL, 0) == 0)
		return;
	s->failed = true;
	(void)event_base_loopbreak(s->service.base);
}

/* Starting. */

static bool port_is_free(uint16_t port)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int on = 1;

	return fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
	       bind(fd, (const struct sockaddr *)&sin, sizeof(sin)) == 0;
}

/* Another port and password each time: who has learned the old ones has nothing. */
static int choose_admin(struct supervisor *s)
{
	static const char hex[] = "0123456789abcdef";
	uint32_t span = s->config.admin_high - s->config.admin_low + 1;
	uint32_t first = random_below(span);
	uint8_t bytes[(RENDER_PASSWORD_SIZE - 1) / 2];
	struct render_admin *admin = &s->frpc.admin;

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return -EIO;
	for (size_t i = 0; i < sizeof(bytes); i++) {
		admin->password[2 * i] = hex[bytes[i] >> 4];
		admin->password[2 * i + 1] = hex[bytes[i] & 15];
	}
	explicit_bzero(bytes, sizeof(bytes));
	for (uint32_t i = 0; i < span; i++) {
		admin->port = (uint16_t)(s->config.admin_low + (first + i) % span);
		if (port_is_free(admin->port))
			return 0;
	}
	return -EADDRINUSE;
}

static void start(struct supervisor *s)
{
	_cleanup_(cleanup_render) char *text = NULL;
	int r = choose_admin(s);

	if (r == 0)
		text = render_file(&s->wanted, &s->frpc.admin, s->config.ca_file);
	if (r < 0 || !text) {
		give_up(s, /* broken= */ false,
			r < 0 ? "no port is free for its admin API" : "out of memory");
		return;
	}
	r = files_replace(s->run_fd, SPAWN_CONFIG, text, strlen(text));
	if (r < 0) {
		give_up(s, /* broken= */ false, "its configuration cannot be written");
		return;
	}
	render_digest(text, s->frpc.digest);
	s->watch.dirty = false;
	s->frpc.phase = FRPC_SPAWNING;
	ask(s, SPAWN_OP_START, &(struct spawn_request){.admin_port = s->frpc.admin.port});
}

/* What is wrong with the frpc that gave this answer; "" if it can be used. */
static void judge(const struct supervisor *s, const struct spawn_answer *answer,
		  char ret_why[static SUPERVISOR_DETAIL_MAX])
{
	int version = answer->result == 0 ? answer_version(answer->text) : 0;

	ret_why[0] = '\0';
	if (answer->result < 0)
		(void)snprintf(ret_why, SUPERVISOR_DETAIL_MAX, "%.60s cannot be run: %.40s",
			       s->config.frpc, log_errno_text(answer->result));
	else if (version < 0)
		(void)snprintf(ret_why, SUPERVISOR_DETAIL_MAX, "%.60s does not tell its version",
			       s->config.frpc);
	else if (version < SUPERVISOR_OLDEST)
		(void)snprintf(ret_why, SUPERVISOR_DETAIL_MAX,
			       "%.60s is version %.*s; 0.52.0 or newer is needed", s->config.frpc,
			       (int)strcspn(answer->text, "\n"), answer->text);
}

static void on_version(struct supervisor *s, const struct spawn_answer *answer)
{
	char why[SUPERVISOR_DETAIL_MAX];

	if (s->frpc.phase != FRPC_ASKED)
		return;
	s->frpc.phase = FRPC_DOWN;
	judge(s, answer, why);
	if (why[0] != '\0') {
		give_up(s, /* broken= */ true, why);
		return;
	}
	s->frpc.broken = false;
	proto_text_set(s->frpc.version, sizeof(s->frpc.version), answer->text);
	s->frpc.version[strcspn(s->frpc.version, "?")] = '\0'; /* what its line's end has become */
	if (s->wanted.configured)
		start(s);
	else
		life_kick(s);
}

static void on_exited(evutil_socket_t fd, short what, void *arg);

static int follow(struct supervisor *s, pid_t pid, int pidfd)
{
	s->frpc.pid = pid;
	s->frpc.pidfd = pidfd;
	s->frpc.exited = event_new(s->service.base, pidfd, EV_READ, on_exited, s);
	if (!s->frpc.exited || event_add(s->frpc.exited, NULL) < 0)
		return -ENOMEM;
	s->frpc.phase = FRPC_UP;
	s->frpc.since_ms = rpc_now_ms();
	return 0;
}

static int write_record(struct supervisor *s, const char *start_time)
{
	struct run_record record = {.pid = (uint32_t)s->frpc.pid, .port = s->frpc.admin.port};
	int r;

	(void)snprintf(record.start, sizeof(record.start), "%.23s", start_time);
	memcpy(record.password, s->frpc.admin.password, sizeof(record.password));
	memcpy(record.digest, s->frpc.digest, sizeof(record.digest));
	memcpy(record.version, s->frpc.version, sizeof(record.version));
	r = files_write_record(s->run_fd, &record);
	if (r < 0)
		log_event(LOG_ERR, "frpc's record cannot be written", LOG_ERRNO(r));
	explicit_bzero(&record, sizeof(record));
	return r;
}

static void on_started(struct supervisor *s, const struct spawn_answer *answer, struct fdlist *fds)
{
	_cleanup_close_ int gate = fdlist_take(fds), pidfd = fdlist_take(fds);
	int r = answer->result > 0 && pidfd >= 0 ? 0 : MIN_OF(answer->result, -1);
	char why[SUPERVISOR_DETAIL_MAX];

	if (s->frpc.phase != FRPC_SPAWNING)
		return;
	if (r == 0)
		r = follow(s, answer->result, TAKE_FD(pidfd));
	if (r == 0)
		r = write_record(s, answer->text);
	/* Without this byte it ends by itself, and is seen to. */
	if (r == 0 && write(gate, "G", 1) == 1) {
		s->frpc.starts++;
		log_event(LOG_NOTICE, "frpc started", LOG_NUM("PID", s->frpc.pid),
			  LOG_STR("VERSION", s->frpc.version),
			  LOG_NUM("ADMIN_PORT", s->frpc.admin.port));
		watch_begin(s);
		tell(s);
	} else if (s->frpc.phase != FRPC_UP) {
		(void)snprintf(why, sizeof(why), "its process cannot be made: %.60s",
			       log_errno_text(r));
		give_up(s, /* broken= */ false, why);
	}
	life_kick(s);
}

/* Ending. */

static void on_reaped(const struct spawn_answer *answer)
{
	if (answer->exit_kind != PROTO_EXIT_UNKNOWN)
		log_event(LOG_NOTICE, "frpc has ended", LOG_NUM("EXIT_KIND", answer->exit_kind),
			  LOG_NUM("EXIT_CODE", answer->exit_code));
}

static void on_exited(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *s = arg;
	struct frpc *f = &s->frpc;

	(void)fd;
	(void)what;
	ask(s, SPAWN_OP_REAP, &(struct spawn_request){.pid = f->pid});
	event_free(TAKE_PTR(f->exited));
	f->pidfd = safe_close(f->pidfd);
	files_drop_record(s->run_fd);
	watch_end(s);
	f->phase = FRPC_DOWN;
	if (f->told_off) {
		f->told_off = false;
		f->retry_ms = 0;
		f->failures = 0;
	} else {
		if (rpc_now_ms() - f->since_ms > STEADY_MS)
			f->failures = 0;
		log_event(LOG_WARNING, "frpc has ended by itself", LOG_NUM("PID", f->pid));
		proto_text_set(f->trouble, sizeof(f->trouble),
			       "frpc has ended; it is started again");
		back_off(s);
	}
	tell(s);
	life_kick(s);
}

void life_stop(struct supervisor *s, const char *why)
{
	struct frpc *f = &s->frpc;

	if (f->phase != FRPC_UP)
		return;
	watch_end(s);
	f->phase = FRPC_STOPPING;
	f->told_off = why[0] == '\0'; /* else it is as if it had crashed */
	proto_text_set(f->trouble, sizeof(f->trouble), why);
	log_event(LOG_NOTICE, "ending frpc", LOG_NUM("PID", f->pid), LOG_STR("REASON", why));
	(void)syscall(SYS_pidfd_send_signal, f->pidfd, f->told_off ? SIGTERM : SIGKILL, NULL, 0);
	arm(s, STOP_MS);
	tell(s);
}

void life_end(struct supervisor *s)
{
	struct pollfd wait = {.fd = s->frpc.pidfd, .events = POLLIN};

	if (s->frpc.pidfd < 0)
		return;
	(void)syscall(SYS_pidfd_send_signal, s->frpc.pidfd, SIGTERM, NULL, 0);
	if (poll(&wait, 1, STOP_MS) != 1) {
		(void)syscall(SYS_pidfd_send_signal, s->frpc.pidfd, SIGKILL, NULL, 0);
		(void)poll(&wait, 1, STOP_MS);
	}
	files_drop_record(s->run_fd);
	(void)unlinkat(s->run_fd, SPAWN_CONFIG, 0);
}

/* What comes next. */

void life_kick(struct supervisor *s)
{
	struct frpc *f = &s->frpc;
	uint64_t now_ms = rpc_now_ms();

	if (f->phase == FRPC_UP && !s->wanted.configured) {
		life_stop(s, "");
	} else if (f->phase == FRPC_UP) {
		watch_refresh(s);
	} else if (f->phase == FRPC_DOWN && !s->wanted.configured) {
		(void)event_del(f->timer);
		f->broken = false;
		(void)unlinkat(s->run_fd, SPAWN_CONFIG, 0);
	} else if (f->phase == FRPC_DOWN && f->retry_ms > now_ms) {
		arm(s, f->retry_ms - now_ms);
	} else if (f->phase == FRPC_DOWN) {
		f->phase = FRPC_ASKED;
		ask(s, SPAWN_OP_VERSION, &(struct spawn_request){0});
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *s = arg;

	(void)fd;
	(void)what;
	if (s->frpc.phase == FRPC_STOPPING)
		(void)syscall(SYS_pidfd_send_signal, s->frpc.pidfd, SIGKILL, NULL, 0);
	else
		life_kick(s);
}

static void on_spawn_answer(evutil_socket_t fd, short what, void *arg)
{
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	uint8_t buf[sizeof(struct proto_header) + sizeof(struct spawn_answer)];
	struct supervisor *s = arg;
	struct spawn_answer answer;
	struct proto_header header;
	ssize_t n = ipc_recv_fds(fd, buf, sizeof(buf), &fds, 2);

	(void)what;
	if (n == -EAGAIN)
		return;
	if (n != (ssize_t)sizeof(buf)) {
		/* frpc goes on; our successor, with a frp-spawn of its own, takes it over. */
		s->failed = true;
		(void)event_base_loopbreak(s->service.base);
		return;
	}
	memcpy(&header, buf, sizeof(header));
	memcpy(&answer, buf + sizeof(header), sizeof(answer));
	answer.text[sizeof(answer.text) - 1] = '\0';
	if (header.op == SPAWN_OP_VERSION)
		on_version(s, &answer);
	else if (header.op == SPAWN_OP_START)
		on_started(s, &answer, &fds);
	else
		on_reaped(&answer);
}

void life_adopt(struct supervisor *s)
{
	struct pollfd ended = {.fd = -1, .events = POLLIN};
	_cleanup_close_ int pidfd = -EBADF;
	struct run_record record;
	char start_time[SPAWN_TIME_SIZE];

	if (files_read_record(s->config.run_dir, &record) < 0)
		return;
	/* First the descriptor, then the time: then it is the time of what the descriptor is of. */
	pidfd = (int)syscall(SYS_pidfd_open, (pid_t)record.pid, 0);
	ended.fd = pidfd;
	if (pidfd < 0 || spawn_start_time((pid_t)record.pid, start_time) < 0 ||
	    !STR_EQ(start_time, record.start) || poll(&ended, 1, 0) != 0) {
		files_drop_record(s->run_fd);
		return;
	}
	s->frpc.admin.port = (uint16_t)record.port;
	memcpy(s->frpc.admin.password, record.password, sizeof(record.password));
	memcpy(s->frpc.digest, record.digest, sizeof(record.digest));
	memcpy(s->frpc.version, record.version, sizeof(record.version));
	explicit_bzero(record.password, sizeof(record.password));
	/* It may not have heard the last wish; hearing it twice does no harm. */
	s->watch.dirty = true;
	if (follow(s, (pid_t)record.pid, TAKE_FD(pidfd)) < 0)
		return;
	log_event(LOG_NOTICE, "frpc taken over", LOG_NUM("PID", s->frpc.pid));
	watch_begin(s);
}

int life_open(struct supervisor *s)
{
	s->frpc.timer = evtimer_new(s->service.base, on_timer, s);
	s->spawn_answer =
		event_new(s->service.base, s->spawn_fd, EV_READ | EV_PERSIST, on_spawn_answer, s);
	return s->frpc.timer && s->spawn_answer && event_add(s->spawn_answer, NULL) == 0 ? 0
											 : -ENOMEM;
}

void life_done(struct supervisor *s)
{
	struct event *events[] = {s->frpc.exited, s->frpc.timer, s->spawn_answer};

	for (size_t i = 0; i < ARRAY_LEN(events); i++)
		if (events[i])
			event_free(events[i]);
	(void)safe_close(s->frpc.pidfd);
	(void)safe_close(s->spawn_fd);
	explicit_bzero(&s->frpc.admin, sizeof(s->frpc.admin));
}
