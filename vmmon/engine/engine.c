/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state machine of a container.
 * Trust: runs in vmmon; reads answers of a container engine in a guest, which its tenant owns.
 *
 * One request after the other brings the container to what is wanted (struct phase); beside them a
 * stream of events tells when to look again. Any answer that does not fit begins it anew.
 */
#include "vmmon/engine/engine.h"

#include "common/rpc.h"
#include "vmmon/engine/call.h"
#include "vmmon/engine/frames.h"
#include "vmmon/engine/space.h"

#include <inttypes.h>

#define RETRY_FIRST_MS 500
#define RETRY_LAST_MS  15000
#define BLIND_LOOKS    40    /* in a row: 10 s; then the engine is taken for lost */
#define LOOK_PAUSE_MS  250   /* between two looks, however many events come */
#define RESYNC_MS      30000 /* on this host: between two looks without an event */
#define PULL_TRIES     5
#define SHORT_MS       30000  /* of silence, for what is done at once */
#define LONG_MS        180000 /* of silence, for what disks and registries take their time with */
#define PATH_SIZE      1024

enum phase {
	PHASE_IDLE, /* nothing to ask, or waiting for the clock or an event */
	PHASE_PING,
	PHASE_VERSION,
	PHASE_INFO,        /* only for GPUs, and on this host */
	PHASE_FIND_VOLUME, /* on this host */
	PHASE_FIND,        /* is there a container, and is it this one? */
	PHASE_UNPAUSE,     /* somebody has frozen it */
	PHASE_STOP,
	PHASE_REMOVE,         /* it is another, or none is wanted */
	PHASE_REMOVE_VOLUME,  /* of a container that is not wanted any more, on this host */
	PHASE_REMOVE_NETWORK, /* likewise */
	PHASE_IMAGE,          /* is the image there? */
	PHASE_PULL,
	PHASE_FIND_NETWORK, /* on this host */
	PHASE_NETWORK,      /* likewise */
	PHASE_VOLUME,       /* likewise */
	PHASE_CREATE,
	PHASE_START,
	PHASE_LOOK, /* what has become of it? */
	PHASE_COUNT,
};

struct logs {
	struct engine *engine; /* borrowed */
	struct call *call;     /* owned */
	struct frames frames;
	unsigned int lines;
	engine_logs_fn *fn;
	void *arg;
};

enum goal {
	GOAL_NONE,
	GOAL_RUN, /* the wish */
	GOAL_STOP,
	GOAL_REMOVE,
};

struct engine {
	struct engine_config config;
	struct engine_status status;
	struct wish wish;
	char name[WISH_NAME_SIZE], volume[WISH_NAME_SIZE];
	enum goal goal;
	uint32_t grace_s;
	bool up;
	bool unbounded; /* the engine cannot limit a container's disk */
	bool podman;
	bool made; /* the container, in this attempt */
	bool has_volume;
	bool data_bounded, data_unbounded; /* the volume has a limit; the engine cannot limit one */
	char root[ANSWER_PATH_SIZE]; /* of what the engine keeps on this host; "": not known */
	bool failing;                /* FAILED stands while it is tried again */
	bool answered;               /* the engine, since the guest came up */
	uint64_t since_ms;           /* when the guest came up */
	unsigned int version;
	enum phase phase;
	struct call *call;   /* owned; of the phase */
	struct call *events; /* owned; the stream */
	bool look_again;     /* an event came */
	uint64_t looked_ms;  /* when it was looked last */
	unsigned int blind;  /* looks in a row that showed nothing */
	bool settling;       /* it runs again; whether it stays up will be looked at */
	unsigned int proven; /* number of restarts after which it has stayed up */
	unsigned int restarts;
	uint64_t restarted_ms; /* when that number was seen first */
	enum answer_gpus gpus;
	struct pull pull;
	unsigned int pull_tries;
	uint32_t retry_ms;
	struct event *timer; /* owned; the next attempt, or the next look */
	struct login *login; /* owned */
	struct logs *logs[ENGINE_LOGS_CALLS];
};

static void begin(struct engine *e, enum phase phase);
static void watch_events(struct engine *e);

/* The status. */

static void publish(struct engine *e, struct engine_status *next)
{
	next->login = *login_status(e->login);
	if (memcmp(&e->status, next, sizeof(*next)) == 0)
		return;
	e->status = *next;
	e->config.on_status(e->config.ctx, &e->status);
}

/* Secrets of the wish that the engine repeats do not go further. */
static void hide(char *text, const char *secret)
{
	size_t n = secret ? strlen(secret) : 0;

	if (n < 3)
		return; /* it would make the words unreadable and hide nothing */
	/* Onwards from what is hidden: a secret may consist of asterisks. */
	for (char *at = text; (at = strstr(at, secret)); at += n)
		memset(at, '*', n);
}

static void enter(struct engine *e, enum proto_container_state state, const char *words)
{
	struct engine_status next = {.state = state};

	memcpy(next.id, e->status.id, sizeof(next.id));
	if (state == PROTO_CONTAINER_PULLING)
		next.percent = e->pull.percent;
	(void)snprintf(next.words, sizeof(next.words), "%s", words);
	hide(next.words, e->wish.password);
	publish(e, &next);
}

static void arm(struct engine *e, uint32_t after_ms)
{
	const struct timeval tv = {.tv_sec = after_ms / 1000,
				   .tv_usec = (suseconds_t)(after_ms % 1000) * 1000};

	(void)event_add(e->timer, &tv);
}

/* Ends everything that goes on, but for reads of the log. */
static void halt(struct engine *e)
{
	(void)event_del(e->timer);
	call_free(TAKE_PTR(e->call));
	call_free(TAKE_PTR(e->events));
	login_stop(e->login);
	e->phase = PHASE_IDLE;
	e->look_again = e->settling = false;
	e->blind = 0;
}

static bool on_host(const struct engine *e)
{
	return e->config.instance != NULL;
}

/* Where the engine is, for people. */
static const char *place(const struct engine *e)
{
	return on_host(e) ? "host" : "guest";
}

/* Says that it has failed, and goes on trying. */
static void fail_for_now(struct engine *e, const char *words)
{
	halt(e);
	e->failing = true;
	enter(e, PROTO_CONTAINER_FAILED, words);
	arm(e, e->retry_ms);
	e->retry_ms = MIN_OF(e->retry_ms * 2, (uint32_t)RETRY_LAST_MS);
}

static void give_up(struct engine *e, const char *words)
{
	if (e->goal != GOAL_RUN) {
		fail_for_now(e, words);
		return;
	}
	halt(e);
	enter(e, PROTO_CONTAINER_FAILED, words);
}

/* It is as is wanted, and there is nothing to follow. */
static void reached(struct engine *e, enum proto_container_state state)
{
	halt(e);
	enter(e, state, "");
}

static void retry(struct engine *e, enum proto_container_state state, const char *words)
{
	halt(e);
	if (!e->failing)
		enter(e, state, words);
	arm(e, e->retry_ms);
	e->retry_ms = MIN_OF(e->retry_ms * 2, (uint32_t)RETRY_LAST_MS);
}

/* From now on an engine that does not come back is called missing. */
static void lose_sight(struct engine *e)
{
	e->answered = false;
	e->since_ms = rpc_now_ms();
}

/* Why there is no engine on this host, and what helps. */
static void missing_on_host(struct engine *e, int error)
{
	const char *path = e->config.socket;
	char words[ANSWER_TEXT_SIZE];

	if (error == -EPERM)
		(void)snprintf(words, sizeof(words),
			       "the container engine at %.80s runs as root, and so would be root "
			       "whoever uses it: use rootless podman, or set engine_rootful = yes "
			       "in vmmon.conf",
			       path);
	else if (error == -EACCES)
		(void)snprintf(words, sizeof(words),
			       "vmmon's user may not open the container engine's socket %.100s: "
			       "give its group access",
			       path);
	else
		(void)snprintf(words, sizeof(words),
			       "no container engine answers on this host at %.100s: start it, or "
			       "set engine_socket in vmmon.conf",
			       path);
	fail_for_now(e, words);
}

/* There was no answer, or one that makes no sense. */
static void no_answer(struct engine *e, int error)
{
	bool refused = error == -EPERM || error == -EACCES;

	if (on_host(e) && e->answered)
		lose_sight(e);
	else if (on_host(e) && (refused || rpc_now_ms() - e->since_ms >= e->config.wait_ms)) {
		missing_on_host(e, error);
		return;
	}
	if (!on_host(e) && !e->answered && rpc_now_ms() - e->since_ms >= e->config.wait_ms) {
		give_up(e, "no container engine answers in the guest at /var/run/docker.sock: an "
			   "image needs a base image with one, such as debian-12-engine");
		return;
	}
	retry(e, PROTO_CONTAINER_WAITING,
	      error == -EBADMSG || error == -EFBIG ? "the engine's answers make no sense" : "");
}

/* Words for a refusal of the engine. */
static void refused(struct engine *e, const struct call_result *result, const char *what)
{
	char message[ANSWER_TEXT_SIZE], words[2 * ANSWER_TEXT_SIZE];

	answer_message(result->body, result->len, message);
	if (trouble_of(message) == TROUBLE_SPACE)
		(void)snprintf(words, sizeof(words), "no space is left on the %s's disk", place(e));
	else if (trouble_of(message) == TROUBLE_GPU)
		(void)snprintf(words, sizeof(words),
			       "the instance has GPUs, but the %s's container engine cannot "
			       "give them to a container (are the NVIDIA driver and container "
			       "toolkit there?): %.90s",
			       place(e), message);
	else if (trouble_of(message) == TROUBLE_PORT)
		(void)snprintf(words, sizeof(words),
			       "%s: one of its ports is used by something else in the %s", what,
			       place(e));
	else
		(void)snprintf(words, sizeof(words), "%s: the engine says: %.180s", what,
			       message[0] ? message : "nothing");
	if (result->status >= 500 && trouble_of(message) == TROUBLE_NETWORK)
		retry(e, PROTO_CONTAINER_WAITING, words);
	else
		give_up(e, words);
}

/* Answers of each phase; status and error were not judged yet, but for a lost connection. */

static void on_ping(struct engine *e, const struct call_result *r)
{
	if (r->status != 200) {
		no_answer(e, 0);
		return;
	}
	e->answered = true;
	e->failing = false;
	begin(e, PHASE_VERSION);
}

static void on_version(struct engine *e, const struct call_result *r)
{
	int error = r->status == 200 ? answer_version(r->body, r->len, &e->version) : -EBADMSG;

	if (error == -EPROTONOSUPPORT) {
		give_up(e, on_host(e) ? "the host's container engine is too old: its API has to be "
					"1.41 or newer"
				      : "the guest's container engine is too old: its API has to "
					"be 1.41 or newer");
		return;
	}
	if (error < 0) {
		no_answer(e, error);
		return;
	}
	e->podman = answer_is_podman(r->body, r->len);
	e->gpus = ANSWER_GPUS_NONE;
	begin(e, e->goal == GOAL_RUN && (e->wish.gpus || on_host(e)) ? PHASE_INFO : PHASE_FIND);
}

static const char no_limits[] =
	"the container engine cannot limit memory, processors and processes: give its user cgroup "
	"v2 with these controllers delegated, or, to do without, set engine_unlimited = yes in "
	"vmmon.conf";

/* A container without limits would have the whole host. Says whether it is so. */
static bool lacks_limits(const struct engine *e, const struct call_result *r)
{
	bool has = false;

	return on_host(e) && !e->config.unlimited &&
	       (answer_has_limits(r->body, r->len, &has) < 0 || !has);
}

/* On this host each GPU has its name: says why the engine does not have them; false: it does. */
static bool lacks_gpus(struct engine *e, const struct call_result *r)
{
	char gpu[ANSWER_GPU_SIZE] = "", words[ANSWER_TEXT_SIZE];

	if (!e->wish.gpus)
		return false;
	/* Its Docker API takes requests for devices and does nothing about them. */
	if (e->podman || e->gpus == ANSWER_GPUS_NONE) {
		give_up(e, e->podman ? "GPUs were asked for, but podman gives none to containers "
				       "that are made by Docker's API: it takes Docker"
				     : "GPUs were asked for, but the host's container engine has "
				       "no nvidia runtime and no CDI device of NVIDIA's: it needs "
				       "the NVIDIA driver and container toolkit");
		return true;
	}
	if (e->gpus == ANSWER_GPUS_CDI)
		(void)answer_missing_gpu(r->body, r->len, e->wish.gpu_names, gpu);
	if (gpu[0] == '\0')
		return false;
	(void)snprintf(words, sizeof(words),
		       "the host's container engine has no CDI device nvidia.com/gpu=%s: describe "
		       "it with nvidia-ctk cdi generate, or set container_gpus in agentd.conf",
		       gpu);
	give_up(e, words);
	return true;
}

static void on_info_of_host(struct engine *e, const struct call_result *r)
{
	if (answer_root(r->body, r->len, e->root) < 0)
		no_answer(e, -EBADMSG);
	else if (lacks_limits(e, r))
		give_up(e, no_limits);
	else if (!lacks_gpus(e, r))
		begin(e, PHASE_FIND_VOLUME);
}

static void on_info(struct engine *e, const struct call_result *r)
{
	if (r->status != 200 || answer_gpus(r->body, r->len, &e->gpus) < 0)
		no_answer(e, -EBADMSG);
	else if (on_host(e))
		on_info_of_host(e, r);
	else if (!e->wish.gpus || e->gpus != ANSWER_GPUS_NONE)
		begin(e, PHASE_FIND);
	else
		give_up(e, "the instance has GPUs, but the guest's container engine has no nvidia "
			   "runtime and no CDI: its base image needs the NVIDIA driver and "
			   "container toolkit");
}

/* What has our name and not our label is of somebody else: not replaced, started or removed. */
static bool is_foreign(const struct engine *e, const char *owner)
{
	return on_host(e) && !STR_EQ(owner, e->config.instance);
}

static void refuse_foreign(struct engine *e, const char *what, const char *name)
{
	char words[ANSWER_TEXT_SIZE];

	(void)snprintf(words, sizeof(words),
		       "the engine has a %s %s that this agent has not made (it lacks the "
		       "label " WISH_INSTANCE
		       "=%s): it is left alone; rename or remove it, then start the "
		       "instance again",
		       what, name, e->config.instance);
	give_up(e, words);
}

/* Says so when the host's disk is about to be full, on which tenants' data has no limit. */
static bool lacks_space(struct engine *e)
{
	char words[ANSWER_TEXT_SIZE];
	uint64_t mib;

	if (!on_host(e) || e->config.reserve_mib == 0 || !space_free_mib(e->root, &mib) ||
	    mib >= e->config.reserve_mib)
		return false;
	(void)snprintf(words, sizeof(words),
		       "only %" PRIu64 " MiB are free on the disk of the container engine "
		       "(%.80s), and engine_reserve in vmmon.conf keeps %u: make room, then start "
		       "the instance again",
		       mib, e->root, e->config.reserve_mib);
	give_up(e, words);
	return true;
}

/*
 * There is none. On this host the registry is asked even for an image that is there: another
 * instance may have pulled it with a password.
 */
static void without_container(struct engine *e)
{
	if (e->goal == GOAL_STOP) {
		reached(e, PROTO_CONTAINER_STOPPED);
	} else if (e->goal == GOAL_REMOVE) {
		begin(e, PHASE_FIND_VOLUME);
	} else if (!lacks_space(e)) {
		e->pull = (struct pull){0};
		begin(e, on_host(e) ? PHASE_PULL : PHASE_IMAGE);
	}
}

/*
 * One with our wish is there. Rootless podman with cgroup v1 says that it can limit containers, and
 * makes them without: seen before it is started. One that was made so before may be made better.
 */
static void go_on_with(struct engine *e, const struct answer_container *c)
{
	bool unlimited = on_host(e) && !e->config.unlimited && !c->memory_bounded;

	if (unlimited && e->made)
		give_up(e, no_limits);
	else if (unlimited)
		begin(e, PHASE_REMOVE);
	else if (c->paused)
		begin(e, PHASE_UNPAUSE);
	else if (c->running || !lacks_space(e))
		begin(e, PHASE_START);
}

static void on_find(struct engine *e, const struct call_result *r)
{
	struct answer_container c;

	if (r->status == 404) {
		without_container(e);
		return;
	}
	if (r->status != 200 || answer_container(r->body, r->len, &c) < 0) {
		no_answer(e, -EBADMSG);
		return;
	}
	if (is_foreign(e, c.owner) && e->goal == GOAL_RUN)
		refuse_foreign(e, "container", e->name);
	else if (is_foreign(e, c.owner))
		without_container(e);
	else if (e->goal == GOAL_STOP)
		begin(e, PHASE_STOP);
	else if (e->goal == GOAL_RUN && STR_EQ(c.hash, e->wish.hash))
		go_on_with(e, &c);
	else
		begin(e, PHASE_REMOVE);
}

/* What comes after the volume was looked for, and is not to be removed. */
static void after_volume(struct engine *e)
{
	begin(e, e->goal == GOAL_REMOVE ? PHASE_FIND_NETWORK : PHASE_FIND);
}

static void on_find_volume(struct engine *e, const struct call_result *r)
{
	struct answer_thing volume = {0};

	if (r->status != 404 && (r->status != 200 || answer_thing(r->body, r->len, &volume) < 0)) {
		refused(e, r, "the container's volume cannot be looked for");
		return;
	}
	e->has_volume = r->status == 200;
	e->data_bounded = volume.bounded;
	if (e->has_volume && e->goal == GOAL_RUN && is_foreign(e, volume.owner))
		refuse_foreign(e, "volume", e->volume);
	else if (e->has_volume && e->goal == GOAL_REMOVE && !is_foreign(e, volume.owner))
		begin(e, PHASE_REMOVE_VOLUME);
	else
		after_volume(e);
}

static void on_unpause(struct engine *e, const struct call_result *r)
{
	if (r->status == 204 || r->status == 404)
		begin(e, PHASE_FIND);
	else
		refused(e, r, "the container, which somebody has paused, cannot go on");
}

static void on_stop(struct engine *e, const struct call_result *r)
{
	if (r->status == 204 || r->status == 304 || r->status == 404)
		reached(e, PROTO_CONTAINER_STOPPED);
	else
		refused(e, r, "the container cannot be stopped");
}

static void on_remove_volume(struct engine *e, const struct call_result *r)
{
	if (r->status == 204 || r->status == 404)
		after_volume(e);
	else
		refused(e, r, "the container's data cannot be removed");
}

static void on_remove_network(struct engine *e, const struct call_result *r)
{
	if (r->status == 200 || r->status == 204 || r->status == 404)
		reached(e, PROTO_CONTAINER_GONE);
	else
		refused(e, r, "the container's network cannot be removed");
}

static void on_remove(struct engine *e, const struct call_result *r)
{
	if (r->status == 204 || r->status == 404)
		without_container(e);
	else if (r->status == 409) /* it is being removed */
		retry(e, PROTO_CONTAINER_STARTING, "");
	else
		refused(e, r, "the container of an earlier wish cannot be removed");
}

static void on_image(struct engine *e, const struct call_result *r)
{
	if (r->status == 200) {
		begin(e, PHASE_CREATE);
		return;
	}
	if (r->status != 404) {
		refused(e, r, "the image cannot be looked for");
		return;
	}
	e->pull = (struct pull){0};
	begin(e, PHASE_PULL);
}

static int on_pull_line(void *arg, const char *line, size_t len)
{
	struct engine *e = arg;
	int r = pull_line(&e->pull, line, len);

	if (r == 0)
		enter(e, PROTO_CONTAINER_PULLING, "");
	return r;
}

/* The part of the engine's words that says what is wrong with a certificate. */
static const char *cert_reason(const char *why)
{
	const char *at = strstr(why, "x509:");

	return at ? at : why;
}

/* Why an image could not be pulled; what is the network's fault is tried again a few times. */
static void pull_failed(struct engine *e, const char *why)
{
	const char *image = e->wish.image;
	char words[IMAGEREF_MAX + 2 * ANSWER_TEXT_SIZE];

	switch (trouble_of(why)) {
	case TROUBLE_UNKNOWN_IMAGE:
		(void)snprintf(words, sizeof(words), "the registry has no image %s", image);
		break;
	case TROUBLE_DENIED:
		(void)snprintf(words, sizeof(words),
			       "the registry does not give out %.150s: check the name, login and "
			       "password",
			       image);
		break;
	case TROUBLE_SPACE:
		(void)snprintf(words, sizeof(words),
			       "no space is left on the %s's disk for %.150s%s", place(e), image,
			       on_host(e) ? "" : ": ask for more storage_gb");
		break;
	case TROUBLE_PLATFORM:
		(void)snprintf(words, sizeof(words), "%.180s is not made for this machine (amd64)",
			       image);
		break;
	case TROUBLE_CERT:
		(void)snprintf(words, sizeof(words),
			       "the certificate of the registry of %.80s does not verify; a CA of "
			       "one's own goes into /etc/docker/certs.d of the base image: %.80s",
			       image, cert_reason(why));
		break;
	case TROUBLE_NO_TLS:
		(void)snprintf(words, sizeof(words),
			       "the registry of %.100s speaks HTTP where HTTPS is needed: the "
			       "guest's engine would have to have it in insecure-registries",
			       image);
		break;
	case TROUBLE_NETWORK:
	case TROUBLE_PORT:
	case TROUBLE_GPU:
	case TROUBLE_QUOTA:
	case TROUBLE_OTHER:
		(void)snprintf(words, sizeof(words), "pulling %.100s failed: %.130s", image, why);
		break;
	}
	if (trouble_of(why) == TROUBLE_NETWORK && ++e->pull_tries < PULL_TRIES)
		retry(e, PROTO_CONTAINER_PULLING, words);
	else
		give_up(e, words);
}

static void on_pull(struct engine *e, const struct call_result *r)
{
	char message[ANSWER_TEXT_SIZE];

	if (r->status == 200 && e->pull.error[0] == '\0') {
		begin(e, on_host(e) ? PHASE_FIND_NETWORK : PHASE_CREATE);
		return;
	}
	answer_message(r->body, r->len, message);
	pull_failed(e, r->status == 200 ? e->pull.error : message);
}

static void on_find_network(struct engine *e, const struct call_result *r)
{
	struct answer_thing network = {0};
	bool there = r->status == 200;

	if (r->status != 404 && (!there || answer_thing(r->body, r->len, &network) < 0))
		refused(e, r, "the container's network cannot be looked for");
	else if (e->goal == GOAL_REMOVE && (!there || is_foreign(e, network.owner)))
		reached(e, PROTO_CONTAINER_GONE);
	else if (e->goal == GOAL_REMOVE)
		begin(e, PHASE_REMOVE_NETWORK);
	else if (!there)
		begin(e, PHASE_NETWORK);
	else if (is_foreign(e, network.owner))
		refuse_foreign(e, "network", e->name);
	else
		begin(e, e->has_volume ? PHASE_CREATE : PHASE_VOLUME);
}

static void on_network(struct engine *e, const struct call_result *r)
{
	if (r->status == 200 || r->status == 201)
		begin(e, e->has_volume ? PHASE_CREATE : PHASE_VOLUME);
	else
		refused(e, r, "the container's network cannot be made");
}

/* The engine cannot limit something on its disk, as was asked of it; without that it will. */
static bool quota_refused(const struct engine *e, const struct call_result *r)
{
	char message[ANSWER_TEXT_SIZE];

	answer_message(r->body, r->len, message);
	return r->status >= 400 && e->wish.disk_mib > 0 && trouble_of(message) == TROUBLE_QUOTA;
}

static void on_volume(struct engine *e, const struct call_result *r)
{
	if (!e->data_unbounded && quota_refused(e, r)) {
		e->data_unbounded = true;
		begin(e, PHASE_VOLUME);
		return;
	}
	if (r->status != 200 && r->status != 201) {
		refused(e, r, "the container's volume cannot be made");
		return;
	}
	e->has_volume = true;
	e->data_bounded = e->wish.disk_mib > 0 && !e->data_unbounded;
	begin(e, PHASE_CREATE);
}

static void on_create(struct engine *e, const struct call_result *r)
{
	if (!e->unbounded && quota_refused(e, r)) {
		e->unbounded = true;
		begin(e, PHASE_CREATE);
		return;
	}
	if (r->status == 409) { /* made by an attempt whose answer was lost */
		begin(e, PHASE_FIND);
		return;
	}
	if (r->status != 201 || answer_created(r->body, r->len, e->status.id) < 0) {
		refused(e, r, "the container cannot be made");
		return;
	}
	e->made = true;
	begin(e, on_host(e) ? PHASE_FIND : PHASE_START);
}

static void on_start(struct engine *e, const struct call_result *r)
{
	if (r->status == 404)
		begin(e, PHASE_FIND);
	else if (r->status != 204 && r->status != 304)
		refused(e, r, "the container cannot be started");
	else
		watch_events(e);
}

/*
 * One that crashes again and again is not called running in between. The number of restarts begins
 * anew with each start that is not the engine's own idea.
 */
static bool has_settled(struct engine *e, const struct answer_container *c)
{
	uint64_t now = rpc_now_ms();

	e->settling = false;
	if (c->restarts < e->restarts)
		e->proven = e->restarts = 0;
	if (c->restarts == e->proven)
		return true;
	if (c->restarts != e->restarts) {
		e->restarts = c->restarts;
		e->restarted_ms = now;
	}
	if (now - e->restarted_ms >= e->config.steady_ms) {
		e->proven = c->restarts;
		return true;
	}
	e->settling = true;
	return false;
}

/* How it has ended, for people; the exit code is told beside it. */
static void end_words(const struct answer_container *c, char words[static ANSWER_TEXT_SIZE])
{
	const char *why =
		c->oom && !c->error[0] ? "it took more memory than it may have" : c->error;
	int n = 0;

	if (c->restarting && c->restarts > 1)
		n = snprintf(words, ANSWER_TEXT_SIZE,
			     "%u times since it was started; the engine starts it again%s",
			     c->restarts, why[0] ? ": " : "");
	else if (c->restarting)
		n = snprintf(words, ANSWER_TEXT_SIZE, "the engine starts it again%s",
			     why[0] ? ": " : "");
	(void)snprintf(words + n, ANSWER_TEXT_SIZE - (size_t)n, "%s", why);
}

/* Runs again, but for how long? What was said of its end stands. */
static void tell_settling(struct engine *e)
{
	if (e->status.state != PROTO_CONTAINER_EXITED)
		enter(e, PROTO_CONTAINER_STARTING,
		      "it has ended before; it is awaited whether it stays up now");
}

/*
 * When to look again. At once, when there was no event for a while: an engine restarts what has
 * ended after a tenth of a second, and nothing tells its exit code from then on.
 */
static void arm_look(struct engine *e)
{
	uint64_t due, now = rpc_now_ms();

	if (!e->look_again && !e->settling && !on_host(e))
		return;
	if (e->look_again)
		due = e->looked_ms + LOOK_PAUSE_MS;
	else
		due = e->settling ? e->restarted_ms + e->config.steady_ms : now + RESYNC_MS;
	arm(e, due > now ? (uint32_t)(due - now) : 0);
}

/*
 * Podman can say nothing sensible of a container that it is removing. To begin anew would make
 * another one; what has happened is seen soon.
 */
static void look_went_blind(struct engine *e)
{
	if (e->blind++ >= BLIND_LOOKS) {
		no_answer(e, -EBADMSG);
		return;
	}
	e->look_again = true;
	arm_look(e);
}

/* What a container that runs lacks of what was asked for. */
static void lack_words(const struct engine *e, const struct answer_container *c,
		       char words[static ANSWER_TEXT_SIZE])
{
	bool disk = !c->disk_bounded, data = !e->data_bounded;

	if (e->wish.disk_mib > 0 && (disk || data))
		(void)snprintf(words, ANSWER_TEXT_SIZE, "%s no limit: the engine cannot limit %s",
			       !data  ? "its disk has"
			       : disk ? "its disk and /data have"
				      : "/data has",
			       disk && data ? "them" : "it");
}

static void status_of(const struct engine *e, const struct answer_container *c,
		      struct engine_status *ret_next)
{
	memcpy(ret_next->id, c->id, sizeof(ret_next->id));
	if (!c->running) {
		ret_next->state = PROTO_CONTAINER_EXITED;
		ret_next->exit_code = c->exit_code;
		end_words(c, ret_next->words);
		hide(ret_next->words, e->wish.password);
	} else if (c->paused) {
		ret_next->state = PROTO_CONTAINER_FAILED;
		(void)snprintf(
			ret_next->words, sizeof(ret_next->words),
			"the container was paused by someone else; start the instance again");
	} else {
		ret_next->state = PROTO_CONTAINER_RUNNING;
		lack_words(e, c, ret_next->words);
	}
}

static void on_look(struct engine *e, const struct call_result *r)
{
	struct engine_status next = {0};
	struct answer_container c;

	if (r->status == 404) {
		give_up(e, on_host(e) ? "the container was removed by someone else; start the "
					"instance again"
				      : "the container was removed in the guest; start the "
					"instance again");
		return;
	}
	if (r->status != 200 || answer_container(r->body, r->len, &c) < 0) {
		look_went_blind(e);
		return;
	}
	if (is_foreign(e, c.owner)) {
		refuse_foreign(e, "container", e->name);
		return;
	}
	e->blind = 0;
	e->retry_ms = RETRY_FIRST_MS;
	status_of(e, &c, &next);
	if (!c.running || !e->wish.ssh)
		login_stop(e->login);
	else if (!c.paused)
		login_begin(e->login, e->version, c.id, c.started);
	if (c.running && !c.paused && !has_settled(e, &c))
		tell_settling(e);
	else
		publish(e, &next);
	arm_look(e);
}

/* What each phase asks. */
static const struct {
	const char *method;
	const char *path; /* behind the version */
	const char *tail; /* behind the container's name, which comes then; NULL: without both */
	enum proto_container_state state;
	uint32_t silence_ms;
	void (*answer)(struct engine *e, const struct call_result *result);
} phases[PHASE_COUNT] = {
	[PHASE_PING] = {"GET", "/_ping", NULL, PROTO_CONTAINER_WAITING, LONG_MS, on_ping},
	[PHASE_VERSION] = {"GET", "/version", NULL, PROTO_CONTAINER_WAITING, SHORT_MS, on_version},
	[PHASE_INFO] = {"GET", "/info", NULL, PROTO_CONTAINER_WAITING, SHORT_MS, on_info},
	[PHASE_FIND] = {"GET", "/containers/", "/json", PROTO_CONTAINER_STARTING, SHORT_MS,
			on_find},
	[PHASE_UNPAUSE] = {"POST", "/containers/", "/unpause", PROTO_CONTAINER_STARTING, LONG_MS,
			   on_unpause},
	[PHASE_STOP] = {"POST", "/containers/", "/stop?t=", PROTO_CONTAINER_STARTING, LONG_MS,
			on_stop},
	[PHASE_REMOVE] = {"DELETE", "/containers/", "?force=true", PROTO_CONTAINER_STARTING,
			  LONG_MS, on_remove},
	[PHASE_FIND_VOLUME] = {"GET", "/volumes/", NULL, PROTO_CONTAINER_STARTING, SHORT_MS,
			       on_find_volume},
	[PHASE_REMOVE_VOLUME] = {"DELETE", "/volumes/", NULL, PROTO_CONTAINER_STARTING, LONG_MS,
				 on_remove_volume},
	[PHASE_REMOVE_NETWORK] = {"DELETE", "/networks/", "", PROTO_CONTAINER_STARTING, LONG_MS,
				  on_remove_network},
	[PHASE_IMAGE] = {"GET", NULL, NULL, PROTO_CONTAINER_STARTING, SHORT_MS, on_image},
	[PHASE_PULL] = {"POST", NULL, NULL, PROTO_CONTAINER_PULLING, LONG_MS, on_pull},
	[PHASE_FIND_NETWORK] = {"GET", "/networks/", "", PROTO_CONTAINER_STARTING, SHORT_MS,
				on_find_network},
	[PHASE_NETWORK] = {"POST", "/networks/create", NULL, PROTO_CONTAINER_STARTING, LONG_MS,
			   on_network},
	[PHASE_VOLUME] = {"POST", "/volumes/create", NULL, PROTO_CONTAINER_STARTING, LONG_MS,
			  on_volume},
	[PHASE_CREATE] = {"POST", "/containers/create?name=", "", PROTO_CONTAINER_STARTING, LONG_MS,
			  on_create},
	[PHASE_START] = {"POST", "/containers/", "/start", PROTO_CONTAINER_STARTING, LONG_MS,
			 on_start},
	[PHASE_LOOK] = {"GET", "/containers/", "/json", PROTO_CONTAINER_RUNNING, SHORT_MS, on_look},
};

static void make_path(const struct engine *e, enum phase phase, char path[static PATH_SIZE])
{
	const char *tail = phases[phase].tail;
	size_t size = PATH_SIZE;
	int n = 0;

	if (phase != PHASE_PING && phase != PHASE_VERSION)
		n = snprintf(path, size, "/v%u.%u", e->version / 1000, e->version % 1000);
	path += n;
	size -= (size_t)n;
	if (phase == PHASE_IMAGE) /* imageref.c lets nothing through that needs encoding */
		(void)snprintf(path, size, "/images/%s/json", e->wish.image);
	else if (phase == PHASE_PULL)
		(void)snprintf(path, size, "%s", e->wish.pull);
	else if (phase == PHASE_STOP)
		(void)snprintf(path, size, "%s%s%s%u", phases[phase].path, e->name, tail,
			       e->grace_s);
	else if (phase == PHASE_REMOVE) /* on this host with the volumes that the image declares */
		(void)snprintf(path, size, "%s%s%s%s", phases[phase].path, e->name, tail,
			       on_host(e) ? "&v=true" : "");
	else if (phase == PHASE_FIND_VOLUME || phase == PHASE_REMOVE_VOLUME)
		(void)snprintf(path, size, "%s%s", phases[phase].path, e->volume);
	else
		(void)snprintf(path, size, "%s%s%s", phases[phase].path, tail ? e->name : "",
			       tail ? tail : "");
}

static char *make_volume(const struct engine *e)
{
	return wish_host_volume(e->config.instance, e->data_unbounded ? 0 : e->wish.disk_mib,
				e->podman);
}

static const char *body_of(const struct engine *e, enum phase phase, const char *volume)
{
	bool cdi = e->gpus == ANSWER_GPUS_CDI && e->wish.create_cdi;

	if (phase == PHASE_NETWORK)
		return e->wish.network;
	if (phase == PHASE_VOLUME)
		return volume;
	if (phase != PHASE_CREATE)
		return NULL;
	if (e->unbounded)
		return cdi ? e->wish.create_cdi_unbounded : e->wish.create_unbounded;
	return cdi ? e->wish.create_cdi : e->wish.create;
}

/* A connection that broke: is it the pull's, the network's, or is there no engine? */
static void call_broke(struct engine *e, enum phase phase, int error)
{
	if (phase == PHASE_PULL && (error == -EBADMSG || error == -EFBIG))
		give_up(e, "pulling failed: the engine's answers make no sense");
	else
		no_answer(e, error);
}

static void on_call_done(void *arg, const struct call_result *result)
{
	struct engine *e = arg;
	struct call *call = TAKE_PTR(e->call);
	enum phase phase = e->phase;

	e->phase = PHASE_IDLE;
	if (result->error < 0)
		call_broke(e, phase, result->error);
	else
		phases[phase].answer(e, result);
	call_free(call); /* the result is its */
}

static void begin(struct engine *e, enum phase phase)
{
	char path[PATH_SIZE];
	uint32_t grace_ms = phase == PHASE_STOP ? e->grace_s * (uint32_t)MSEC_PER_SEC : 0;
	_cleanup_free_ char *volume = phase == PHASE_VOLUME ? make_volume(e) : NULL;
	int r;
	const struct call_request request = {
		.method = phases[phase].method,
		.path = path,
		.auth = phase == PHASE_PULL ? e->wish.auth : NULL,
		.body = body_of(e, phase, volume),
		.silence_ms = phases[phase].silence_ms + grace_ms,
		.arg = e,
		.on_line = phase == PHASE_PULL ? on_pull_line : NULL,
		.on_done = on_call_done,
	};

	make_path(e, phase, path);
	/* Looking again changes nothing by itself. */
	if (phase == PHASE_LOOK) {
		e->look_again = false;
		e->looked_ms = rpc_now_ms();
	} else if (e->status.state != phases[phase].state && !e->failing) {
		enter(e, phases[phase].state, "");
	}
	e->phase = phase;
	r = call_start(e->config.base, e->config.link, &request, &e->call);
	if (r < 0) {
		e->call = NULL;
		no_answer(e, r);
	}
}

/* Events. */

static int on_event_line(void *arg, const char *line, size_t len)
{
	struct engine *e = arg;

	/* What it says is not believed, nor needed: it is a reason to look. */
	(void)line;
	(void)len;
	if (e->look_again)
		return 0;
	e->look_again = true;
	if (e->phase == PHASE_IDLE)
		arm_look(e);
	return 0;
}

static void on_events_end(void *arg, const struct call_result *result)
{
	struct engine *e = arg;

	(void)result;
	if (on_host(e))
		lose_sight(e);
	/* The engine has ended, or the connection: it is all looked at anew. */
	retry(e, PROTO_CONTAINER_WAITING, "");
}

/* Listens before it looks, so that nothing falls between. */
static void watch_events(struct engine *e)
{
	char path[PATH_SIZE];
	const struct call_request request = {
		.method = "GET",
		.path = path,
		.arg = e,
		.on_line = on_event_line,
		.on_done = on_events_end,
	};
	int r = 0;

	/*
	 * {"type":["container"],"container":["qudata"],"event":[…]}. The last two events are
	 * podman's words for two of the others.
	 */
	(void)snprintf(path, sizeof(path),
		       "/v%u.%u/events?filters=%%7B%%22type%%22%%3A%%5B%%22container%%22%%5D%%2C"
		       "%%22container%%22%%3A%%5B%%22%s%%22%%5D%%2C%%22event%%22%%3A"
		       "%%5B%%22start%%22%%2C%%22die%%22%%2C%%22destroy%%22%%2C%%22pause%%22%%2C"
		       "%%22unpause%%22%%2C%%22died%%22%%2C"
		       "%%22remove%%22%%5D%%7D",
		       e->version / 1000, e->version % 1000, e->name);
	if (!e->events)
		r = call_start(e->config.base, e->config.link, &request, &e->events);
	if (r < 0)
		no_answer(e, r);
	else
		begin(e, PHASE_LOOK);
}

/* The machine as a whole. */

static void start_over(struct engine *e)
{
	halt(e);
	if (e->up && e->goal != GOAL_NONE)
		begin(e, PHASE_PING);
	else if (e->goal != GOAL_NONE)
		enter(e, PROTO_CONTAINER_WAITING, "");
}

/* Begins anew, for a new goal or a new occasion. */
static void set_out(struct engine *e)
{
	e->pull_tries = 0;
	e->retry_ms = RETRY_FIRST_MS;
	e->since_ms = rpc_now_ms();
	e->failing = e->unbounded = e->data_unbounded = e->made = false;
	start_over(e);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct engine *e = arg;

	(void)fd;
	(void)what;
	if (e->events) /* whatever ends the stream clears it */
		begin(e, PHASE_LOOK);
	else
		start_over(e);
}

static void on_login(void *ctx)
{
	struct engine *e = ctx;
	struct engine_status next = e->status;

	publish(e, &next);
}

static void on_keys(void *ctx)
{
	struct engine *e = ctx;

	e->config.on_keys(e->config.ctx);
}

struct engine *engine_new(const struct engine_config *config)
{
	struct engine *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->config = *config;
	e->retry_ms = RETRY_FIRST_MS;
	wish_name(config->instance, e->name);
	if (config->instance)
		wish_volume(config->instance, e->volume);
	e->timer = event_new(config->base, -1, 0, on_timer, e);
	e->login = login_new(&(const struct login_config){.base = config->base,
							  .link = config->link,
							  .ctx = e,
							  .on_status = on_login,
							  .on_keys = on_keys});
	if (!e->timer || !e->login) {
		if (e->timer)
			event_free(e->timer);
		login_free(e->login);
		free(e);
		return NULL;
	}
	return e;
}

static void logs_end(struct logs *l, int r, const char *text, size_t len);

static void cancel_logs(struct engine *e)
{
	for (size_t i = 0; i < ENGINE_LOGS_CALLS; i++)
		if (e->logs[i])
			logs_end(e->logs[i], -ECANCELED, NULL, 0);
}

void engine_free(struct engine *e)
{
	if (!e)
		return;
	halt(e);
	cancel_logs(e);
	login_free(e->login);
	event_free(e->timer);
	wish_done(&e->wish);
	free(e);
}

void engine_set_wish(struct engine *e, struct wish *wish)
{
	bool same = e->goal == GOAL_RUN && STR_EQ(e->wish.hash, wish->hash);

	wish_done(&e->wish);
	e->wish = *wish;
	*wish = (struct wish){0};
	e->goal = GOAL_RUN;
	if (!same || e->status.state == PROTO_CONTAINER_FAILED ||
	    e->status.state == PROTO_CONTAINER_EXITED)
		set_out(e);
}

void engine_stop(struct engine *e, uint32_t grace_s)
{
	e->goal = GOAL_STOP;
	e->grace_s = grace_s;
	set_out(e);
}

void engine_remove(struct engine *e)
{
	e->goal = GOAL_REMOVE;
	set_out(e);
}

int engine_set_keys(struct engine *e, const char *text, size_t len)
{
	return login_set_keys(e->login, text, len);
}

bool engine_keys_busy(const struct engine *e)
{
	return login_keys_busy(e->login);
}

void engine_set_up(struct engine *e, bool up)
{
	if (up == e->up)
		return;
	e->up = up;
	e->answered = false;
	if (!up)
		cancel_logs(e);
	set_out(e);
}

const struct engine_status *engine_status(const struct engine *e)
{
	return &e->status;
}

/* Logs. */

static void logs_end(struct logs *l, int r, const char *text, size_t len)
{
	struct engine *e = l->engine;

	for (size_t i = 0; i < ENGINE_LOGS_CALLS; i++)
		if (e->logs[i] == l)
			e->logs[i] = NULL;
	l->fn(l->arg, r, text, len);
	call_free(l->call);
	frames_done(&l->frames);
	free(l);
}

static int on_log_bytes(void *arg, const uint8_t *data, size_t len)
{
	struct logs *l = arg;

	return frames_feed(&l->frames, data, len);
}

static void on_logs_done(void *arg, const struct call_result *result)
{
	struct logs *l = arg;
	size_t len = 0;
	const char *text = frames_tail(&l->frames, l->lines, &len);

	if (result->error < 0)
		logs_end(l, result->error, NULL, 0);
	else if (result->status != 200)
		logs_end(l, result->status == 404 ? -ENOENT : -EIO, NULL, 0);
	else
		logs_end(l, 0, text, len);
}

static struct logs **free_logs(struct engine *e)
{
	for (size_t i = 0; i < ENGINE_LOGS_CALLS; i++)
		if (!e->logs[i])
			return &e->logs[i];
	return NULL;
}

int engine_logs(struct engine *e, unsigned int lines, size_t max, engine_logs_fn *fn, void *arg)
{
	struct logs **slot = free_logs(e), *l;
	char path[PATH_SIZE];
	struct call_request request = {
		.method = "GET",
		.path = path,
		.silence_ms = SHORT_MS,
		.on_bytes = on_log_bytes,
		.on_done = on_logs_done,
	};
	int r;

	if (!e->up || e->version == 0)
		return -ENOTCONN;
	l = slot ? calloc(1, sizeof(*l)) : NULL;
	if (!l)
		return slot ? -ENOMEM : -EBUSY;
	*l = (struct logs){
		.engine = e, .frames = {.max = max}, .lines = lines, .fn = fn, .arg = arg};
	request.arg = l;
	(void)snprintf(path, sizeof(path), "/v%u.%u/containers/%s/logs?stdout=1&stderr=1&tail=%u",
		       e->version / 1000, e->version % 1000, e->name, lines);
	r = call_start(e->config.base, e->config.link, &request, &l->call);
	if (r < 0) {
		free(l);
		return r;
	}
	*slot = l;
	return 0;
}
