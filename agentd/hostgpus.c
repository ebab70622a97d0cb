/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When nvml-probe is asked, and when it must not be.
 * Trust: runs inside agentd; reads reports of nvml-probe, and checks them.
 */
#include "agentd/hostgpus.h"

#include "agentd/metrics.h"
#include "common/ipc.h"
#include "common/log.h"

#include <dirent.h>
#include <limits.h>
#include <sys/queue.h>

#define DRIVERS       "/sys/bus/pci/drivers"
#define DRIVER        "nvidia"
#define PAUSE_MS      5000   /* at least, between two probes */
#define PAUSE_MAX_MS  300000 /* at most, when they come to nothing */
#define PAUSE_FACTOR  10     /* at least as many times as long as the last one took */
#define LOOK_MS       1000   /* between two looks whether there is a GPU at all */
#define CLEAR_MS      3000   /* for a probe to end, before an act on GPUs begins all the same */
#define ANSWER_MS     35000  /* longer than nvml-probe waits for NVML */
#define CUDA_MAJOR    1000
#define CUDA_MINOR    10
#define ADDRESS_CHARS "0123456789abcdef:."

/* An act on GPUs, while a probe has still to end. */
struct act {
	TAILQ_ENTRY(act) link;
	struct hostgpus *h; /* borrowed */
	uint32_t op_number, timeout_ms;
	union proto_body req;
	rpc_reply_fn *fn;
	void *arg;
};
TAILQ_HEAD(act_list, act);

struct waiting {
	TAILQ_ENTRY(waiting) link;
	uint64_t deadline_ms;
	void (*fn)(void *arg);
	void *arg;
};
TAILQ_HEAD(waiting_list, waiting);

struct hostgpus {
	const struct agentd_config *config;
	struct event_base *base;
	struct peers *peers;
	const char *drivers;
	int fd;                 /* owned; a probe may be there while this is open */
	struct event *readable; /* owned */
	struct event *timer;    /* owned */
	struct act_list acts;   /* owned; not begun yet */
	struct waiting_list waiting;
	unsigned int n_acts;   /* begun and not begun: no probe begins meanwhile */
	unsigned int failures; /* in a row */
	bool answered;         /* the probe that runs has told */
	bool ending;           /* it was told to end */
	bool stopped;          /* agentd ends: nothing begins any more */
	uint64_t begun_ms, next_ms, clear_ms;
	uint64_t told_ms, valid_ms; /* of the report; valid_ms 0: there is none */
	struct probe_report report, fake;
	const char *state, *detail;
	bool fake_told;
};

static void begin_acts(struct hostgpus *h);

/* ---- what is known ---- */

static void set_state(struct hostgpus *h, const char *state, const char *detail, uint32_t number)
{
	if (STR_EQ(h->state, state))
		return;
	h->state = state;
	h->detail = detail;
	log_event(STR_EQ(state, "ok") || STR_EQ(state, "no_gpu") ? LOG_INFO : LOG_WARNING,
		  "host GPUs", LOG_STR("STATE", state), LOG_STR("DETAIL", detail),
		  LOG_NUM("NUMBER", number));
}

static void forget_report(struct hostgpus *h)
{
	h->valid_ms = 0;
}

static void failed(struct hostgpus *h, const char *state, const char *detail, uint32_t number)
{
	h->failures++;
	forget_report(h);
	set_state(h, state, detail, number);
}

static uint64_t pause_ms(const struct hostgpus *h, uint64_t took_ms)
{
	uint64_t pause = PAUSE_MS;

	for (unsigned int i = 0; i < h->failures && pause < PAUSE_MAX_MS; i++)
		pause *= 2;
	if (h->failures == 0)
		pause = MAX_OF(pause, took_ms * PAUSE_FACTOR);
	return MIN_OF(pause, (uint64_t)PAUSE_MAX_MS);
}

static void make_fake(struct hostgpus *h)
{
	struct probe_gpu *gpu = &h->fake.gpus[0];

	h->fake = (struct probe_report){.version = PROBE_VERSION, .n_gpus = 1, .cuda = 12040};
	proto_text_set(h->fake.driver, sizeof(h->fake.driver), "made up (debug)");
	*gpu = (struct probe_gpu){.percent = METRICS_FAKE_PERCENT,
				  .celsius = METRICS_FAKE_CELSIUS,
				  .used_mib = METRICS_FAKE_USED,
				  .total_mib = METRICS_FAKE_TOTAL,
				  .milliwatts = METRICS_FAKE_WATTS * 1000};
	proto_text_set(gpu->uuid, sizeof(gpu->uuid), "GPU-00000000-made-up-by-debug");
	proto_text_set(gpu->name, sizeof(gpu->name), "Made-up GPU (debug)");
}

struct hostgpus_view hostgpus_view(struct hostgpus *h)
{
	struct hostgpus_view view = {.state = h->state, .detail = h->detail};
	uint64_t now_ms = rpc_now_ms();

	if (now_ms < h->valid_ms) {
		view.report = &h->report;
		view.age_ms = now_ms - h->told_ms;
	}
	if (!h->config->debug || (view.report && view.report->n_gpus > 0))
		return view;
	if (!h->fake_told)
		log_event(LOG_WARNING, "data of this host's GPUs are made up: debug is on");
	h->fake_told = true;
	return (struct hostgpus_view){.state = "fake",
				      .detail = "made up: debug is on, and no GPU was read",
				      .fake = true,
				      .report = &h->fake};
}

/* ---- one probe ---- */

static bool is_address(const char *name)
{
	return strchr(name, ':') && name[strspn(name, ADDRESS_CHARS)] == '\0';
}

/* Has NVIDIA's driver a GPU? Without one, NVML has nothing to tell and is left alone. */
static bool driver_has_gpu(const struct hostgpus *h)
{
	char path[PATH_MAX];
	const struct dirent *entry;
	bool found = false;
	DIR *dir;

	(void)snprintf(path, sizeof(path), "%s/%s", h->drivers, DRIVER);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir)))
		found = is_address(entry->d_name);
	if (dir)
		(void)closedir(dir);
	return found;
}

static void arm_timer(struct hostgpus *h)
{
	uint64_t at_ms = TAILQ_EMPTY(&h->acts) ? UINT64_MAX : h->clear_ms, now_ms = rpc_now_ms();
	const struct waiting *w;
	struct timeval tv;

	TAILQ_FOREACH(w, &h->waiting, link)
	at_ms = MIN_OF(at_ms, w->deadline_ms);
	if (at_ms == UINT64_MAX) {
		(void)event_del(h->timer);
		return;
	}
	at_ms = at_ms > now_ms ? at_ms - now_ms : 0;
	tv = (struct timeval){.tv_sec = (time_t)(at_ms / MSEC_PER_SEC),
			      .tv_usec = (suseconds_t)(at_ms % MSEC_PER_SEC * 1000)};
	(void)event_add(h->timer, &tv);
}

/* Calls those whose time has come; all of them when nothing more comes. */
static void end_waiting(struct hostgpus *h, bool all)
{
	struct waiting_list due = TAILQ_HEAD_INITIALIZER(due);
	uint64_t now_ms = rpc_now_ms();
	struct waiting *w, *next;

	for (w = TAILQ_FIRST(&h->waiting); w; w = next) {
		next = TAILQ_NEXT(w, link);
		if (!all && w->deadline_ms > now_ms)
			continue;
		TAILQ_REMOVE(&h->waiting, w, link);
		TAILQ_INSERT_TAIL(&due, w, link);
	}
	while ((w = TAILQ_FIRST(&due))) {
		TAILQ_REMOVE(&due, w, link);
		w->fn(w->arg);
		free(w);
	}
}

static void take_report(struct hostgpus *h, const struct probe_report *report)
{
	if (report->state != PROBE_OK) {
		failed(h, probe_state_word(report->state), probe_state_text(report->state),
		       report->detail);
		return;
	}
	h->failures = 0;
	h->report = *report;
	h->told_ms = rpc_now_ms();
	h->valid_ms = h->told_ms + 2 * pause_ms(h, h->told_ms - h->begun_ms) + ANSWER_MS;
	set_state(h, "ok", probe_state_text(PROBE_OK), report->n_gpus);
}

/* Nothing of the probe is left. */
static void probe_gone(struct hostgpus *h)
{
	uint64_t now_ms = rpc_now_ms();

	event_free(h->readable);
	h->readable = NULL;
	h->fd = fd_close_foreign(h->fd);
	if (!h->answered && !h->ending)
		failed(h, "no_answer", "nvml-probe has ended without an answer", 0);
	/* What was ended for an act is made up for soon. */
	h->next_ms = h->answered || !h->ending ? now_ms + pause_ms(h, now_ms - h->begun_ms) : 0;
	end_waiting(h, true);
	begin_acts(h);
	arm_timer(h);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	_Alignas(8) uint8_t bytes[PROTO_MSG_MAX];
	struct probe_report report;
	struct hostgpus *h = arg;
	ssize_t n = ipc_recv_fds((int)fd, bytes, sizeof(bytes), &none, 0);

	(void)what;
	if (n == -EAGAIN)
		return;
	if (n == 0 || (n < 0 && n != -EBADMSG)) {
		probe_gone(h);
		return;
	}
	if (h->answered) /* more than one: not worth a word, it ends anyway */
		return;
	h->answered = true;
	if (n > 0 && probe_decode(bytes, (size_t)n, &report))
		take_report(h, &report);
	else
		failed(h, "garbage", "nvml-probe has sent what cannot be", 0);
	end_waiting(h, true);
	arm_timer(h);
}

static int connect_probe(struct hostgpus *h)
{
	int fd = ipc_connect(h->config->nvml_socket, SOCK_SEQPACKET);

	if (fd < 0)
		return fd;
	h->readable = event_new(h->base, fd, EV_READ | EV_PERSIST, on_readable, h);
	if (!h->readable || event_add(h->readable, NULL) < 0)
		abort(); /* out of memory for a hundred bytes */
	h->fd = fd;
	h->answered = h->ending = false;
	h->begun_ms = rpc_now_ms();
	return 0;
}

void hostgpus_want(struct hostgpus *h)
{
	uint64_t now_ms = rpc_now_ms();
	int r;

	if (h->fd >= 0 || h->n_acts > 0 || h->stopped || now_ms < h->next_ms)
		return;
	if (h->config->nvml == NVML_NO) {
		set_state(h, "off", "nvml = no in agentd.conf", 0);
		return;
	}
	if (h->config->nvml == NVML_AUTO && !driver_has_gpu(h)) {
		forget_report(h);
		set_state(h, "no_gpu", "no GPU has the host's NVIDIA driver", 0);
		h->next_ms = now_ms + LOOK_MS;
		return;
	}
	r = connect_probe(h);
	if (r < 0) {
		failed(h, "no_probe", "qudata-nvml.socket does not listen", (uint32_t)-r);
		h->next_ms = now_ms + pause_ms(h, 0);
	}
}

bool hostgpus_is_asking(const struct hostgpus *h)
{
	return h->fd >= 0 && !h->answered;
}

void hostgpus_wait(struct hostgpus *h, uint32_t wait_ms, void (*fn)(void *arg), void *arg)
{
	struct waiting *w;

	hostgpus_want(h);
	w = hostgpus_is_asking(h) && !h->ending ? calloc(1, sizeof(*w)) : NULL;
	if (!w) {
		fn(arg);
		return;
	}
	*w = (struct waiting){.deadline_ms = rpc_now_ms() + wait_ms, .fn = fn, .arg = arg};
	TAILQ_INSERT_TAIL(&h->waiting, w, link);
	arm_timer(h);
}

/* ---- acts on GPUs ---- */

static void act_done(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct act act = *(struct act *)arg;
	struct hostgpus *h = act.h;

	free(arg);
	h->n_acts--;
	if (act.op_number != OP_GPU_LIST) { /* other GPUs are the host's than before */
		forget_report(h);
		h->next_ms = 0;
	}
	act.fn(act.arg, status, rep, fds);
}

static int begin_act(struct act *act)
{
	return peers_call(act->h->peers, PEER_HELPER, act->op_number, &act->req, /* fd= */ -EBADF,
			  act->timeout_ms, act_done, act);
}

static void refuse_act(struct act *act)
{
	struct fdlist none = {0};

	act_done(act, PROTO_UNREACHABLE, NULL, &none);
}

static void begin_acts(struct hostgpus *h)
{
	struct act_list due = TAILQ_HEAD_INITIALIZER(due);
	struct act *act;

	TAILQ_CONCAT(&due, &h->acts, link);
	while ((act = TAILQ_FIRST(&due))) {
		TAILQ_REMOVE(&due, act, link);
		if (begin_act(act) < 0)
			refuse_act(act);
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct hostgpus *h = arg;

	(void)fd;
	(void)what;
	end_waiting(h, false);
	if (!TAILQ_EMPTY(&h->acts) && rpc_now_ms() >= h->clear_ms) {
		log_event(LOG_WARNING, "nvml-probe cannot be ended; the GPUs are acted on with it");
		begin_acts(h);
	}
	arm_timer(h);
}

static size_t request_size(uint32_t op_number)
{
	switch (op_number) {
	case OP_GPU_LIST:
		return sizeof(struct gpu_list_req);
	case OP_GPU_BIND:
		return sizeof(struct gpu_bind_req);
	case OP_GPU_RELEASE:
		return sizeof(struct gpu_release_req);
	case OP_GPU_RECOVER:
		return sizeof(struct gpu_recover_req);
	default:
		return 0;
	}
}

bool hostgpus_is_act(uint32_t op_number)
{
	return request_size(op_number) > 0;
}

int hostgpus_call(struct hostgpus *h, uint32_t op_number, const void *req, uint32_t timeout_ms,
		  rpc_reply_fn *fn, void *arg)
{
	struct act *act;
	int r;

	if (h->stopped || !peers_up(h->peers, PEER_HELPER))
		return -ENOTCONN;
	act = calloc(1, sizeof(*act));
	if (!act)
		return -ENOMEM;
	*act = (struct act){
		.h = h, .op_number = op_number, .timeout_ms = timeout_ms, .fn = fn, .arg = arg};
	memcpy(&act->req, req, request_size(op_number));
	h->n_acts++;
	if (h->fd < 0) {
		r = begin_act(act);
		if (r < 0) {
			h->n_acts--;
			free(act);
		}
		return r;
	}
	if (!h->ending)
		(void)shutdown(h->fd, SHUT_WR);
	h->ending = true;
	if (TAILQ_EMPTY(&h->acts))
		h->clear_ms = rpc_now_ms() + CLEAR_MS;
	TAILQ_INSERT_TAIL(&h->acts, act, link);
	arm_timer(h);
	return 0;
}

/* ---- the object ---- */

int hostgpus_new(const struct agentd_config *config, struct event_base *base, struct peers *peers,
		 const char *drivers, struct hostgpus **ret_gpus, struct err *reterr)
{
	struct hostgpus *h = calloc(1, sizeof(*h));

	if (!h)
		return err_set(reterr, -ENOMEM, "out of memory");
	*h = (struct hostgpus){.config = config,
			       .base = base,
			       .peers = peers,
			       .drivers = drivers ? drivers : DRIVERS,
			       .fd = -EBADF,
			       .state = "not_asked",
			       .detail = "nobody has asked yet"};
	TAILQ_INIT(&h->acts);
	TAILQ_INIT(&h->waiting);
	make_fake(h);
	h->timer = evtimer_new(base, on_timer, h);
	if (!h->timer) {
		free(h);
		return err_set(reterr, -ENOMEM, "out of memory");
	}
	*ret_gpus = h;
	return 0;
}

void hostgpus_stop(struct hostgpus *h)
{
	struct act *act;

	if (!h)
		return;
	h->stopped = true;
	end_waiting(h, true);
	while ((act = TAILQ_FIRST(&h->acts))) {
		TAILQ_REMOVE(&h->acts, act, link);
		refuse_act(act);
	}
}

void hostgpus_free(struct hostgpus *h)
{
	if (!h)
		return;
	if (h->readable)
		event_free(h->readable);
	if (h->fd >= 0)
		(void)fd_close_foreign(h->fd);
	event_free(h->timer);
	free(h);
}

/* ---- for others ---- */

void hostgpus_cuda_text(const struct probe_report *report, char ret_text[static 16])
{
	ret_text[0] = '\0';
	if (report->cuda != 0)
		(void)snprintf(ret_text, 16, "%u.%u", report->cuda / CUDA_MAJOR,
			       report->cuda % CUDA_MAJOR / CUDA_MINOR);
}

void hostgpus_sum(const struct probe_report *report, uint32_t *ret_percent, uint32_t *ret_celsius,
		  uint32_t *ret_memory_percent)
{
	struct metrics_gpu_ev gpus[PROTO_MAX_GPUS] = {0};
	struct metrics_look look = {.sample.gpus = report->n_gpus, .gpus = gpus};
	const struct metrics_list list = {.looks = &look, .n = 1};

	_Static_assert(PROBE_UNKNOWN == PROTO_NO_FIGURE, "what is unknown differs");
	for (uint32_t i = 0; i < report->n_gpus; i++)
		gpus[i] = (struct metrics_gpu_ev){.percent = report->gpus[i].percent,
						  .celsius = report->gpus[i].celsius,
						  .used_mib = report->gpus[i].used_mib,
						  .total_mib = report->gpus[i].total_mib};
	metrics_sum_gpus(&list, ret_percent, ret_celsius, ret_memory_percent);
}

const struct probe_gpu *hostgpus_find(const struct hostgpus_view *view, uint64_t address)
{
	for (uint32_t i = 0; view->report && i < view->report->n_gpus; i++)
		if (view->report->gpus[i].address == address)
			return &view->report->gpus[i];
	return NULL;
}

const struct probe_gpu *hostgpus_find_name(const struct hostgpus_view *view, const char *name)
{
	if (view->fake)
		return &view->report->gpus[0];
	for (uint32_t i = 0; view->report && i < view->report->n_gpus; i++)
		if (STR_EQ(view->report->gpus[i].uuid, name))
			return &view->report->gpus[i];
	return NULL;
}
