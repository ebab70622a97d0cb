/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State machine of a watched guest.
 * Trust: runs in vmmon; reads QMP, console and readiness of a VM that may be hostile.
 */
#include "vmmon/guest.h"

#include "common/log.h"
#include "common/rpc.h"

#define RETRY_FIRST_MS    20
#define RETRY_LAST_MS     1000
#define CONNECT_MAX_MS    10000 /* a QEMU whose socket is not there by then will not come */
#define PROBE_FIRST_MS    4000  /* a guest that can notify has done so by then, mostly */
#define ANNOUNCE_PER_S    8
#define POWERDOWN_WAIT_MS 5000
#define SET_KEYS_PHASE_MS 60000 /* an emulated guest on a busy host takes its time */
#define SOCKET_PATH_SIZE  108

static void add_timer(struct event *ev, uint64_t after_ms)
{
	const struct timeval tv = {.tv_sec = (time_t)(after_ms / MSEC_PER_SEC),
				   .tv_usec = (suseconds_t)(after_ms % MSEC_PER_SEC * 1000)};

	(void)event_add(ev, &tv);
}

/* A guest that resets itself in a loop must not flood agentd: the newest state is enough. */
static void announce(struct guest *g)
{
	uint64_t now = rpc_now_ms();

	if (g->state == g->announced)
		return;
	if (now - g->announce_window_ms >= MSEC_PER_SEC) {
		g->announce_window_ms = now;
		g->announce_used = 0;
	}
	if (g->announce_used >= ANNOUNCE_PER_S) {
		add_timer(g->announce, g->announce_window_ms + MSEC_PER_SEC - now);
		return;
	}
	g->announce_used++;
	g->announced = g->state;
	g->env->on_state(g->env->ctx, g);
}

static void on_announce(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	announce(arg);
}

static void enter(struct guest *g, enum proto_guest_state state)
{
	if (g->state == state)
		return;
	g->state = state;
	g->ring->ready = state == PROTO_GUEST_READY;
	if (state != PROTO_GUEST_READY)
		guest_keys_cancel(&g->tenant, PROTO_UNREACHABLE);
	if (g->container)
		container_set_up(g->container, state == PROTO_GUEST_READY);
	if (g->metrics)
		metrics_set_up(g->metrics, state == PROTO_GUEST_READY);
	announce(g);
}

static void answer_powerdown(struct guest *g, enum proto_status status)
{
	(void)event_del(g->powerdown_deadline);
	if (g->powerdown.serial != 0)
		g->env->reply(g->env->ctx, &g->powerdown, status, 0);
}

static void on_powerdown_deadline(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	answer_powerdown(arg, PROTO_TIMEOUT);
}

static void on_ready(void *arg)
{
	struct guest *g = arg;

	if (g->state == PROTO_GUEST_CONNECTING)
		g->heard_ready = true;
	if (g->state != PROTO_GUEST_BOOTING && g->state != PROTO_GUEST_RESETTING)
		return;
	ready_stop(g->ready);
	enter(g, PROTO_GUEST_READY);
}

static void close_all(struct guest *g)
{
	(void)event_del(g->retry);
	qmp_free(TAKE_PTR(g->qmp));
	console_free(TAKE_PTR(g->console));
	ready_free(TAKE_PTR(g->ready));
	if (g->metrics)
		metrics_set_process(g->metrics, NULL);
	answer_powerdown(g, PROTO_UNREACHABLE);
}

static int socket_path(const struct guest *g, const char *name, char path[static SOCKET_PATH_SIZE])
{
	int n = snprintf(path, SOCKET_PATH_SIZE, "%s/%s/%s", g->env->vm_run_dir, g->vm, name);

	return n < SOCKET_PATH_SIZE ? 0 : -ENAMETOOLONG;
}

/* QEMU answers. A guest that was ready before this process began is asked at once. */
static void on_up(struct guest *g)
{
	char path[SOCKET_PATH_SIZE];
	bool was_ready = g->ring->ready;

	if (g->metrics && socket_path(g, "qmp.sock", path) == 0)
		metrics_set_process(g->metrics, path);
	if (g->state != PROTO_GUEST_CONNECTING)
		return; /* it shut down while we negotiated */
	enter(g, PROTO_GUEST_BOOTING);
	if (g->heard_ready)
		on_ready(g);
	else
		ready_probe(g->ready, was_ready ? 0 : PROBE_FIRST_MS);
}

static void on_reset(struct guest *g)
{
	if (g->state == PROTO_GUEST_CONNECTING)
		return;
	enter(g, PROTO_GUEST_RESETTING);
	ready_probe(g->ready, PROBE_FIRST_MS);
}

static void on_stopping(struct guest *g)
{
	ready_stop(g->ready);
	enter(g, PROTO_GUEST_STOPPING);
}

static void on_note(void *arg, enum qmp_note note)
{
	struct guest *g = arg;

	switch (note) {
	case QMP_NOTE_UP:
		on_up(g);
		return;
	case QMP_NOTE_RESET:
		on_reset(g);
		return;
	case QMP_NOTE_SHUTDOWN:
	case QMP_NOTE_POWERDOWN:
		on_stopping(g);
		return;
	case QMP_NOTE_PANICKED:
		if (!g->panicked) /* once: it is the guest that decides how often */
			log_event(LOG_WARNING, "guest panicked", LOG_STR("VM", g->vm));
		g->panicked = true;
		return;
	case QMP_NOTE_PRESSED:
		answer_powerdown(g, PROTO_OK);
		return;
	case QMP_NOTE_REFUSED:
		answer_powerdown(g, PROTO_FAILED);
		return;
	case QMP_NOTE_CLOSED:
		close_all(g);
		enter(g, PROTO_GUEST_GONE);
		return;
	}
}

/* Connects what is not connected yet; 0 when all is. The console first, to miss as little. */
static int connect_all(struct guest *g)
{
	char path[SOCKET_PATH_SIZE];
	int r = 0, r_qmp = 0;

	if (!console_connected(g->console)) {
		r = socket_path(g, "console.sock", path);
		if (r == 0)
			r = console_connect(g->console, path);
	}
	if (r == 0 && !ready_connected(g->ready)) {
		r = socket_path(g, "ready.sock", path);
		if (r == 0)
			r = ready_connect(g->ready, path);
	}
	if (!g->qmp) {
		r_qmp = socket_path(g, "qmp.sock", path);
		if (r_qmp == 0)
			r_qmp = qmp_open(g->env->base, path, on_note, g, &g->qmp);
	}
	return r_qmp < 0 ? r_qmp : r;
}

static void try_connect(struct guest *g)
{
	int r = connect_all(g);

	if (r == 0)
		return;
	if (g->waited_ms < CONNECT_MAX_MS) {
		add_timer(g->retry, g->retry_ms);
		g->waited_ms += g->retry_ms;
		g->retry_ms = MIN_OF(g->retry_ms * 2, (uint32_t)RETRY_LAST_MS);
		return;
	}
	log_event(LOG_WARNING, "cannot connect to all sockets of a VM", LOG_STR("VM", g->vm),
		  LOG_ERRNO(r));
	if (g->qmp)
		return; /* its state can be followed all the same */
	close_all(g);
	enter(g, PROTO_GUEST_GONE);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	try_connect(arg);
}

static int begin(struct guest *g)
{
	g->console = console_new(g->env->base, g->ring);
	g->ready = ready_new(g->env->base, g->ssh_port, on_ready, g);
	if (!g->console || !g->ready)
		return -ENOMEM;
	g->heard_ready = false;
	g->retry_ms = RETRY_FIRST_MS;
	g->waited_ms = 0;
	try_connect(g);
	return 0;
}

/* Where and as whom to log in; @host_key becomes part of it. */
static int make_target(const struct guest *g, char host_key[static KEYS_LINE_SIZE],
		       struct session_target *ret_target)
{
	int r = keys_pinned(g->env->keys, g->vm, host_key);

	*ret_target = (struct session_target){
		.base = g->env->base,
		.port = g->ssh_port,
		.user = g->env->guest_user,
		.host_key = host_key,
	};
	return r < 0 ? r : keys_management(g->env->keys, &ret_target->management_key);
}

static int start_keys(void *ctx, const struct keys_list *list, ssh_done_fn *fn, void *arg,
		      struct ssh_job **ret_job)
{
	char host_key[KEYS_LINE_SIZE];
	struct session_target target;
	int r = make_target(ctx, host_key, &target);

	if (r < 0)
		return r;
	return ssh_job_start(&target, list->text, list->len, SET_KEYS_PHASE_MS, fn, arg, ret_job);
}

static int start_session(void *ctx, const struct session_handler *handler,
			 struct session **ret_session)
{
	char host_key[KEYS_LINE_SIZE];
	struct session_target target;
	int r = make_target(ctx, host_key, &target);

	return r < 0 ? r : session_start(&target, handler, ret_session);
}

static void announce_container(void *ctx, const struct engine_status *status)
{
	const struct guest *g = ctx;

	if (g->metrics)
		metrics_set_container(g->metrics, status->state);
	g->env->on_container(g->env->ctx, g, status);
}

static void announce_health(void *ctx, enum proto_health health, const char *words)
{
	const struct guest *g = ctx;

	g->env->on_health(g->env->ctx, g, health, words);
}

/* The VM has the keys, or will not: answers, as soon as the container has them, too. */
static void tenant_reply(void *ctx, struct ticket *ticket, enum proto_status status,
			 uint32_t n_keys)
{
	struct guest *g = ctx;
	bool busy = g->container && container_keys_busy(g->container);

	if (status == PROTO_OK && busy && g->n_held < ARRAY_LEN(g->held)) {
		g->held[g->n_held].ticket = *ticket;
		g->held[g->n_held++].n_keys = n_keys;
		return;
	}
	g->env->reply(g->env->ctx, ticket, status, n_keys);
}

static void on_container_keys(void *ctx)
{
	struct guest *g = ctx;
	size_t n = g->n_held;

	g->n_held = 0;
	for (size_t i = 0; i < n; i++)
		g->env->reply(g->env->ctx, &g->held[i].ticket, PROTO_OK, g->held[i].n_keys);
}

static bool installs_keys(void *ctx)
{
	const struct guest *g = ctx;

	return g->tenant.job;
}

static int make_metrics(struct guest *g)
{
	const struct metrics_config config = {
		.base = g->env->base,
		.pace = g->env->pace,
		.vm = g->vm,
		.ctx = g,
		.start = start_session,
		.busy = installs_keys,
		.on_health = announce_health,
	};

	if (g->ssh_port == 0 || g->env->pace.interval_ms == 0)
		return 0;
	g->metrics = metrics_new(&config);
	return g->metrics ? 0 : -ENOMEM;
}

/* What the console said in an earlier run is not of this one. */
static int open_ring(struct guest *g)
{
	int r = ring_open(g->env->run_fd, g->vm, true, &g->ring);

	if (r == 0 && g->ring->generation != g->generation) {
		g->ring->generation = g->generation;
		g->ring->begun = g->ring->total;
		g->ring->ready = 0;
	}
	return r;
}

int guest_new(const struct guest_env *env, const char *vm, uint64_t generation, uint16_t ssh_port,
	      struct guest **ret_guest)
{
	struct guest *g = calloc(1, sizeof(*g));
	int r;

	if (!g)
		return -ENOMEM;
	g->env = env;
	g->generation = generation;
	g->ssh_port = ssh_port;
	g->state = g->announced = PROTO_GUEST_CONNECTING;
	g->tenant = (struct guest_keys){.ctx = g, .start = start_keys, .reply = tenant_reply};
	g->retry = event_new(env->base, -1, 0, on_retry, g);
	g->announce = event_new(env->base, -1, 0, on_announce, g);
	g->powerdown_deadline = event_new(env->base, -1, 0, on_powerdown_deadline, g);
	r = proto_name_set(g->vm, vm);
	if (r == 0 && (!g->retry || !g->announce || !g->powerdown_deadline))
		r = -ENOMEM;
	if (r == 0)
		r = open_ring(g);
	if (r == 0)
		r = make_metrics(g);
	if (r == 0)
		r = begin(g);
	if (r < 0) {
		guest_free(g);
		return r;
	}
	*ret_guest = g;
	return 0;
}

static void free_event(struct event *ev)
{
	if (ev)
		event_free(ev);
}

void guest_free(struct guest *g)
{
	if (!g)
		return;
	guest_keys_cancel(&g->tenant, PROTO_UNREACHABLE);
	container_free(TAKE_PTR(g->container));
	if (g->retry && g->powerdown_deadline)
		close_all(g);
	metrics_free(g->metrics);
	ring_close(g->ring);
	free(g->keys);
	free_event(g->retry);
	free_event(g->announce);
	free_event(g->powerdown_deadline);
	free(g);
}

void guest_reconnect(struct guest *g)
{
	if (g->state != PROTO_GUEST_GONE)
		return;
	g->state = g->announced = PROTO_GUEST_CONNECTING; /* the answer to the watch says so */
	if (begin(g) < 0) {
		close_all(g);
		enter(g, PROTO_GUEST_GONE);
	}
}

int guest_powerdown(struct guest *g, const struct ticket *ticket)
{
	if (g->powerdown.serial != 0)
		return PROTO_BUSY;
	if (!g->qmp || qmp_powerdown(g->qmp) < 0)
		return PROTO_UNREACHABLE;
	g->powerdown = *ticket;
	add_timer(g->powerdown_deadline, POWERDOWN_WAIT_MS);
	return PROTO_DEFERRED;
}

/* A copy for the container: for that which runs, and for those that are yet to be made. */
static int keep_keys(struct guest *g, const char *text, size_t len)
{
	char *copy = malloc(len + 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, text, len);
	free(g->keys);
	g->keys = copy;
	g->keys_len = len;
	return g->container ? container_set_keys(g->container, text, len) : 0;
}

int guest_set_keys(struct guest *g, char *text, size_t len, uint32_t n_keys,
		   const struct ticket *ticket)
{
	if (g->state != PROTO_GUEST_READY || g->ssh_port == 0) {
		free(text);
		return PROTO_UNREACHABLE;
	}
	if (keep_keys(g, text, len) < 0) {
		free(text);
		return PROTO_FAILED;
	}
	return guest_keys_set(&g->tenant, text, len, n_keys, ticket);
}

int guest_set_container(struct guest *g, struct wish *wish)
{
	const struct container_config config = {
		.base = g->env->base,
		.ctx = g,
		.start = start_session,
		.announce = announce_container,
		.on_keys = on_container_keys,
	};
	bool is_new = !g->container;

	if (g->ssh_port == 0)
		return PROTO_UNREACHABLE;
	if (!g->container)
		g->container = container_new(&config);
	if (!g->container)
		return PROTO_FAILED;
	if (is_new && g->keys && container_set_keys(g->container, g->keys, g->keys_len) < 0)
		return PROTO_FAILED;
	container_set_up(g->container, g->state == PROTO_GUEST_READY);
	container_set_wish(g->container, wish);
	return PROTO_OK;
}
