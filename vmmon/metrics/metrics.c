/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream of a guest's figures, its heartbeat, and their way into the series.
 * Trust: runs in vmmon; reads SSH of a guest, which its tenant owns.
 */
#include "vmmon/metrics/metrics.h"

#include "common/log.h"
#include "common/rpc.h"
#include "vmmon/metrics/command.h"
#include "vmmon/metrics/process.h"

#include <time.h>

#define READ_MAX     4096 /* bytes in one step */
#define KIB_PER_MIB  1024
#define GPU_FRESH_MS 5000 /* figures of a GPU that are older are not told */
#define GOOD_LOOKS   60   /* as many in a row, and the pauses begin anew */
#define STALL_LOOKS  3

enum phase {
	PHASE_OFF,   /* the guest is not up */
	PHASE_PAUSE, /* until the next attempt */
	PHASE_LOGIN, /* and opening the channel */
	PHASE_EXEC,
	PHASE_STREAM,
};

struct metrics {
	struct metrics_config config;
	enum phase phase;
	struct session *session; /* owned, as all that follow */
	struct event *timer;     /* the end of the present phase */
	struct event *silence;   /* the guest is unhealthy when it comes */
	struct series *series;
	int process_fd;
	ssh_channel channel; /* the session's */
	struct lines lines;
	struct lines_look last;
	uint64_t last_ms; /* monotonic; 0: there is nothing to compare with */
	struct lines_gpu gpus[PROTO_MAX_GPUS];
	uint64_t gpu_ms[PROTO_MAX_GPUS]; /* monotonic */
	uint64_t window_ms;
	uint32_t window_bytes;
	uint32_t pause_ms, looks;
	const char *trouble; /* constant; why the last stream ended */
	const char *failing; /* constant; why the present one is about to */
	enum proto_health health;
	enum proto_container_state container;
};

static void arm(struct event *ev, uint32_t in_ms)
{
	const struct timeval tv = {.tv_sec = (time_t)(in_ms / MSEC_PER_SEC),
				   .tv_usec = (suseconds_t)(in_ms % MSEC_PER_SEC * 1000)};

	(void)event_add(ev, &tv);
}

static uint32_t stall_ms(const struct metrics *m)
{
	return MAX_OF(m->config.pace.stall_ms, STALL_LOOKS * m->config.pace.interval_ms);
}

/* ---- the heartbeat ---- */

static void set_health(struct metrics *m, enum proto_health health)
{
	char words[METRICS_WORDS_SIZE] = "";

	if (m->health == health)
		return;
	m->health = health;
	if (health == PROTO_HEALTH_BAD)
		(void)snprintf(words, sizeof(words),
			       "the guest has sent no figures of itself for %u s: %s",
			       m->config.pace.silent_ms / (uint32_t)MSEC_PER_SEC,
			       m->trouble ? m->trouble : "it is silent");
	m->config.on_health(m->config.ctx, health, words);
}

static void on_silence(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	set_health(arg, PROTO_HEALTH_BAD);
}

/* ---- what comes in ---- */

static uint64_t unix_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * MSEC_PER_SEC + (uint64_t)now.tv_nsec / 1000000;
}

/* Ticks since the last look; a guest that has begun to count anew is not compared. */
static uint16_t cpu_permille(const struct lines_look *last, const struct lines_look *look)
{
	uint64_t total = look->cpu_total - last->cpu_total;
	uint64_t busy = look->cpu_busy - last->cpu_busy;

	if (last->cpu_total == 0 || look->cpu_total <= last->cpu_total ||
	    look->cpu_busy < last->cpu_busy)
		return UINT16_MAX;
	return (uint16_t)(MIN_OF(busy, total) * 1000 / total);
}

static uint32_t small_mib(uint64_t kib)
{
	return (uint32_t)MIN_OF(kib / KIB_PER_MIB, (uint64_t)UINT32_MAX);
}

static uint16_t fresh_gpus(const struct metrics *m, uint64_t now_ms)
{
	unsigned int mask = 0;

	for (size_t i = 0; i < PROTO_MAX_GPUS; i++)
		if (m->gpu_ms[i] != 0 &&
		    now_ms - m->gpu_ms[i] <=
			    MAX_OF(GPU_FRESH_MS, STALL_LOOKS * m->config.pace.interval_ms))
			mask |= 1u << i;
	return (uint16_t)mask;
}

static void add_process(struct metrics *m, struct series_point *point)
{
	uint64_t rss_kib;

	if (m->process_fd < 0)
		return;
	if (process_read(m->process_fd, &point->qemu_cpu_ms, &rss_kib) < 0) {
		m->process_fd = safe_close(m->process_fd);
		return;
	}
	point->qemu_rss_mib = small_mib(rss_kib);
	point->qemu_known = 1;
}

static void add_sample(struct metrics *m, const struct lines_look *look, uint64_t now_ms)
{
	struct series_point point = {
		.time_ms = unix_ms(),
		.memory_kib = look->memory_kib,
		.available_kib = look->available_kib,
		.network_in = look->network_in,
		.network_out = look->network_out,
		.disk_read = look->disk_read,
		.disk_written = look->disk_written,
		.root_mib = small_mib(look->root_kib),
		.root_used_mib = small_mib(look->root_used_kib),
		.cpu_permille = cpu_permille(&m->last, look),
		.gpus = fresh_gpus(m, now_ms),
		.container = (uint8_t)m->container,
	};

	add_process(m, &point);
	series_add(m->series, &point, m->gpus);
	m->last = *look;
	m->last_ms = now_ms;
}

static void on_look(void *arg, const struct lines_look *look)
{
	struct metrics *m = arg;
	uint64_t now_ms = rpc_now_ms();

	/* It decides how often; we, how often it counts. */
	if (m->last_ms != 0 && now_ms - m->last_ms < m->config.pace.interval_ms / 4)
		return;
	add_sample(m, look, now_ms);
	arm(m->timer, stall_ms(m));
	arm(m->silence, m->config.pace.silent_ms);
	if (m->looks == 0)
		log_event(LOG_INFO, "figures of a guest", LOG_STR("VM", m->config.vm));
	if (++m->looks == GOOD_LOOKS)
		m->pause_ms = m->config.pace.retry_ms;
	set_health(m, PROTO_HEALTH_GOOD);
}

static void on_gpu(void *arg, uint32_t index, const struct lines_gpu *gpu)
{
	struct metrics *m = arg;

	m->gpus[index] = *gpu;
	m->gpu_ms[index] = rpc_now_ms();
}

/* Counts what was read; false when it is more than any guest has to say in a second. */
static bool charge(struct metrics *m, size_t n)
{
	uint64_t now_ms = rpc_now_ms();

	if (now_ms - m->window_ms >= MSEC_PER_SEC) {
		m->window_ms = now_ms;
		m->window_bytes = 0;
	}
	m->window_bytes += (uint32_t)n;
	return m->window_bytes <= METRICS_BYTES_PER_S;
}

/* ---- the stream's life ---- */

/* Ends the stream; it is tried again. */
static void give_up(struct metrics *m, const char *why)
{
	const struct metrics_pace *pace = &m->config.pace;

	session_free(TAKE_PTR(m->session));
	m->channel = NULL;
	/* One record for each reason in a row, and not for each attempt. */
	if (m->looks > 0 || m->trouble != why)
		log_event(LOG_NOTICE, "no figures of a guest", LOG_STR("VM", m->config.vm),
			  LOG_STR("WHY", why));
	m->trouble = why;
	m->failing = NULL;
	m->phase = PHASE_PAUSE;
	arm(m->timer, m->pause_ms);
	m->pause_ms = MIN_OF(2 * m->pause_ms, pace->retry_max_ms);
}

/* From within on_step(), where the session may not be freed: on_end() follows at once. */
static void fail(struct metrics *m, const char *why)
{
	m->failing = why;
	session_fail(m->session);
}

static bool try_open(struct metrics *m)
{
	int r = SSH_ERROR;

	if (!m->channel)
		m->channel = ssh_channel_new(session_ssh(m->session));
	if (m->channel)
		r = ssh_channel_open_session(m->channel);
	if (r == SSH_ERROR)
		fail(m, "the guest's sshd opens no session");
	return r == SSH_OK;
}

static bool try_exec(struct metrics *m)
{
	char command[COMMAND_MAX];
	int r;

	command_make(m->config.pace.interval_ms, command);
	r = ssh_channel_request_exec(m->channel, command);
	if (r != SSH_OK && r != SSH_AGAIN)
		fail(m, "the guest's sshd runs no command");
	return r == SSH_OK;
}

/* What goes to the standard error is nothing to us, but would pile up unread. */
static bool drain_errors(struct metrics *m)
{
	char waste[READ_MAX];
	int n = ssh_channel_read_nonblocking(m->channel, waste, sizeof(waste), 1);

	return n <= 0 || charge(m, (size_t)n);
}

static void read_stream(struct metrics *m)
{
	const struct lines_handler handler = {m, on_look, on_gpu};
	char buf[READ_MAX];
	int n = ssh_channel_read_nonblocking(m->channel, buf, sizeof(buf), 0), r;

	if (!drain_errors(m) || (n > 0 && !charge(m, (size_t)n))) {
		fail(m, "it sends more than there is to say");
		return;
	}
	if (n > 0) {
		r = lines_feed(&m->lines, buf, (size_t)n, &handler);
		if (r < 0)
			fail(m, "it sends what are no figures");
		else
			session_kick(m->session);
		return;
	}
	if (n == SSH_ERROR || ssh_channel_is_eof(m->channel) || ssh_channel_is_closed(m->channel) ||
	    ssh_channel_get_exit_status(m->channel) >= 0)
		fail(m, "the command in the guest has ended");
}

static void on_step(void *arg)
{
	struct metrics *m = arg;

	if (m->phase == PHASE_LOGIN && try_open(m))
		m->phase = PHASE_EXEC;
	if (m->phase == PHASE_EXEC && try_exec(m))
		m->phase = PHASE_STREAM;
	if (m->phase == PHASE_STREAM)
		read_stream(m);
}

static void on_end(void *arg)
{
	struct metrics *m = arg;

	if (m->failing)
		give_up(m, m->failing);
	else
		give_up(m, session_is_up(m->session) ? "the connection to the guest has ended"
						     : "the guest cannot be logged in to");
}

static void begin(struct metrics *m)
{
	const struct session_handler handler = {m, on_step, on_end};
	int r = m->config.start(m->config.ctx, &handler, &m->session);

	m->lines = (struct lines){0};
	m->looks = 0;
	memset(m->gpu_ms, 0, sizeof(m->gpu_ms));
	if (r < 0) {
		m->session = NULL;
		give_up(m, "no connection to the guest can be begun");
		return;
	}
	m->phase = PHASE_LOGIN;
	arm(m->timer, m->config.pace.login_ms);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct metrics *m = arg;

	(void)fd;
	(void)what;
	if (m->phase == PHASE_PAUSE && m->config.busy && m->config.busy(m->config.ctx))
		arm(m->timer, m->config.pace.begin_ms);
	else if (m->phase == PHASE_PAUSE)
		begin(m);
	else if (m->looks == 0)
		give_up(m, "the guest cannot be logged in to in time, or says nothing");
	else
		give_up(m, "it has stalled");
}

struct metrics *metrics_new(const struct metrics_config *config)
{
	struct metrics *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->config = *config;
	m->process_fd = -EBADF;
	m->series = series_new(unix_ms());
	m->timer = event_new(config->base, -1, 0, on_timer, m);
	m->silence = event_new(config->base, -1, 0, on_silence, m);
	if (!m->series || !m->timer || !m->silence) {
		metrics_free(m);
		return NULL;
	}
	return m;
}

void metrics_free(struct metrics *m)
{
	if (!m)
		return;
	session_free(m->session);
	if (m->timer)
		event_free(m->timer);
	if (m->silence)
		event_free(m->silence);
	series_free(m->series);
	(void)safe_close(m->process_fd);
	free(m);
}

void metrics_set_up(struct metrics *m, bool up)
{
	if (up == (m->phase != PHASE_OFF))
		return;
	if (up) {
		m->phase = PHASE_PAUSE;
		m->pause_ms = m->config.pace.retry_ms;
		arm(m->timer, m->config.pace.begin_ms);
		arm(m->silence, m->config.pace.silent_ms);
		return;
	}
	session_free(TAKE_PTR(m->session));
	m->channel = NULL;
	m->phase = PHASE_OFF;
	m->trouble = m->failing = NULL;
	(void)event_del(m->timer);
	(void)event_del(m->silence);
	set_health(m, PROTO_HEALTH_UNKNOWN);
}

void metrics_set_process(struct metrics *m, const char *socket)
{
	int r = 0;

	m->process_fd = safe_close(m->process_fd);
	if (socket)
		r = process_find(socket, &m->process_fd);
	if (r < 0)
		log_event(LOG_INFO, "what QEMU takes of the host is not known",
			  LOG_STR("VM", m->config.vm), LOG_ERRNO(r));
}

void metrics_set_container(struct metrics *m, enum proto_container_state state)
{
	m->container = state;
}

enum proto_health metrics_health(const struct metrics *m)
{
	return m->health;
}

const struct series *metrics_series(const struct metrics *m)
{
	return m->series;
}
