/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections to the other daemons.
 * Trust: runs inside agentd; reads answers of vfio-helper, vmmon and frp-supervisor.
 */
#include "agentd/peers.h"

#include "common/log.h"

#include <event2/event.h>
#include <sys/inotify.h>

#define HELLO_TIMEOUT_MS 10000
#define RETRY_FIRST_MS   10
#define RETRY_BURST      9     /* doublings after a change in the directory: 5 s in all */
#define RETRY_MAX_MS     30000 /* for a peer that accepts and does not greet */

enum peer_state {
	PEER_DOWN,     /* no connection */
	PEER_GREETING, /* connected, hello not answered */
	PEER_UP,
};

struct peer_link {
	struct peers *peers; /* borrowed */
	enum peer_id id;
	enum peer_state state;
	struct rpc rpc;
	struct event *readable; /* owned; while connected */
	struct event *retry;    /* owned */
	struct event *deadline; /* owned; of the earliest request */
	uint64_t deadline_ms;   /* UINT64_MAX: not armed */
	unsigned int tries;     /* since the last change of the directory or the last success */
	char trouble[96];
};

struct peers {
	struct event_base *base; /* borrowed */
	struct peers_config config;
	struct peers_limits limits;
	char registries[sizeof(((struct vmmon_hello_rep *)0)->registries)];
	bool has_registries;
	int inotify_fd; /* -EBADF: not available, timers do its work */
	struct event *changes;
	bool ending;
	struct peer_link links[PEER_COUNT];
};

static void link_connect(struct peer_link *link);

const char *peers_name(enum peer_id id)
{
	static const char *const names[PEER_COUNT] = {"vfio-helper", "vmmon", "frp-supervisor"};

	return names[id];
}

static void arm(struct event *ev, uint64_t in_ms)
{
	const struct timeval tv = {
		.tv_sec = (time_t)(in_ms / MSEC_PER_SEC),
		.tv_usec = (suseconds_t)(in_ms % MSEC_PER_SEC * 1000),
	};

	(void)evtimer_add(ev, &tv);
}

/* Deadlines of requests. */

static void link_arm_deadline(struct peer_link *link)
{
	uint64_t next = rpc_next_deadline_ms(&link->rpc), now = rpc_now_ms();

	if (next == link->deadline_ms)
		return;
	link->deadline_ms = next;
	if (next == UINT64_MAX)
		(void)evtimer_del(link->deadline);
	else
		arm(link->deadline, next > now ? next - now : 0);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct peer_link *link = arg;

	(void)fd;
	(void)what;
	link->deadline_ms = UINT64_MAX;
	rpc_expire(&link->rpc);
	link_arm_deadline(link);
}

/* Coming and going. */

/*
 * Tries again soon if that can help: shortly after a change in the directory the listener may not
 * be quite ready; a peer that takes connections without greeting, and one whose directory cannot be
 * watched, are tried for ever, ever more rarely.
 */
static void link_retry(struct peer_link *link, bool reachable)
{
	bool for_ever = reachable || link->peers->inotify_fd < 0;
	uint64_t in_ms = RETRY_FIRST_MS;

	if (link->peers->ending || (!for_ever && link->tries >= RETRY_BURST))
		return;
	for (unsigned int i = 0; i < link->tries && in_ms < RETRY_MAX_MS; i++)
		in_ms *= 2;
	link->tries++;
	arm(link->retry, MIN_OF(in_ms, RETRY_MAX_MS));
}

static void link_up(struct peer_link *link)
{
	link->state = PEER_UP;
	link->tries = 0;
	link->trouble[0] = '\0';
	log_event(LOG_NOTICE, "peer connected", LOG_STR("PEER", peers_name(link->id)));
	link->peers->config.changed(link->peers->config.ctx, link->id, true);
}

static void on_close(void *ctx)
{
	struct peer_link *link = ctx;
	bool was_up = link->state == PEER_UP;

	link->state = PEER_DOWN;
	event_free(TAKE_PTR(link->readable));
	link_arm_deadline(link);
	if (was_up) {
		(void)snprintf(link->trouble, sizeof(link->trouble), "the connection has ended");
		log_event(LOG_WARNING, "peer lost", LOG_STR("PEER", peers_name(link->id)));
		link->peers->config.changed(link->peers->config.ctx, link->id, false);
	}
	link_retry(link, /* reachable= */ !was_up);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct peer_link *link = arg;

	(void)fd;
	(void)what;
	rpc_receive(&link->rpc);
	link_arm_deadline(link);
}

static void on_rpc_event(void *ctx, uint32_t op_number, const void *body)
{
	struct peer_link *link = ctx;

	link->peers->config.on_event(link->peers->config.ctx, link->id, op_number, body);
}

/* Greetings. */

/* Ends a connection whose greeting went wrong; rpc_close() may be called from its own callbacks. */
static void link_refuse(struct peer_link *link, enum proto_status status)
{
	(void)snprintf(link->trouble, sizeof(link->trouble), "it does not greet: %s",
		       proto_status_text(status));
	log_event(LOG_WARNING, "peer does not greet", LOG_STR("PEER", peers_name(link->id)),
		  LOG_STR("STATUS", proto_status_name(status)));
	rpc_close(&link->rpc);
}

static void on_subscribed(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct peer_link *link = arg;

	(void)rep;
	(void)fds;
	if (status == PROTO_OK)
		link_up(link);
	else
		link_refuse(link, status);
}

static void helper_greeted(struct peer_link *link, const struct helper_hello_rep *rep)
{
	const struct vm_subscribe_req req = {0};
	struct peers_limits *limits = &link->peers->limits;

	*limits = (struct peers_limits){
		.known = true,
		.max_vms = rep->max_vms,
		.max_cpus = rep->max_cpus,
		.max_memory_mib = rep->max_memory_mib,
		.max_disk_mib = rep->max_disk_mib,
		.port_low = (uint16_t)rep->port_low,
		.port_high = (uint16_t)rep->port_high,
	};
	(void)snprintf(limits->boot_id, sizeof(limits->boot_id), "%.39s", rep->boot_id);
	if (rpc_call(&link->rpc, OP_VM_SUBSCRIBE, &req, /* fd= */ -EBADF, HELLO_TIMEOUT_MS,
		     on_subscribed, link) < 0)
		link_refuse(link, PROTO_FAILED);
}

static void vmmon_greeted(struct peer_link *link, const struct vmmon_hello_rep *rep)
{
	struct peers *peers = link->peers;

	memcpy(peers->registries, rep->registries, sizeof(peers->registries));
	peers->has_registries = true;
	link_up(link);
}

static void on_hello(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct peer_link *link = arg;
	uint32_t version;

	_Static_assert(offsetof(struct helper_hello_rep, version) == 0 &&
			       offsetof(struct vmmon_hello_rep, version) == 0 &&
			       offsetof(struct frp_hello_rep, version) == 0,
		       "an answer to a greeting does not begin with the version");
	(void)fds;
	if (status != PROTO_OK) {
		link_refuse(link, status);
		return;
	}
	memcpy(&version, rep, sizeof(version)); /* where all three answers have it */
	if (version != PROTO_VERSION)
		link_refuse(link, PROTO_MISMATCH);
	else if (link->id == PEER_HELPER)
		helper_greeted(link, rep);
	else if (link->id == PEER_VMMON)
		vmmon_greeted(link, rep);
	else
		link_up(link);
}

static int link_greet(struct peer_link *link)
{
	static const uint32_t hellos[PEER_COUNT] = {OP_HELPER_HELLO, OP_VMMON_HELLO, OP_FRP_HELLO};
	/* All three have one form, asserted below. */
	const struct helper_hello_req req = {.version = PROTO_VERSION};

	_Static_assert(sizeof(struct helper_hello_req) == sizeof(struct vmmon_hello_req) &&
			       sizeof(struct helper_hello_req) == sizeof(struct frp_hello_req),
		       "the greetings differ");
	return rpc_call(&link->rpc, hellos[link->id], &req, /* fd= */ -EBADF, HELLO_TIMEOUT_MS,
			on_hello, link);
}

static void link_connect(struct peer_link *link)
{
	int r;

	if (rpc_fd(&link->rpc) >= 0)
		return;
	r = rpc_connect(&link->rpc, link->peers->config.paths[link->id]);
	if (r < 0) {
		(void)snprintf(link->trouble, sizeof(link->trouble), "%s: %.60s",
			       r == -ENOENT || r == -ECONNREFUSED ? "it does not listen"
								  : "cannot connect",
			       log_errno_text(r));
		link_retry(link, /* reachable= */ false);
		return;
	}
	link->state = PEER_GREETING;
	link->readable = event_new(link->peers->base, rpc_fd(&link->rpc), EV_READ | EV_PERSIST,
				   on_readable, link);
	if (!link->readable)
		abort(); /* out of memory for a hundred bytes */
	(void)event_add(link->readable, NULL);
	if (link_greet(link) < 0)
		rpc_close(&link->rpc);
	link_arm_deadline(link);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	link_connect(arg);
}

/* Something has changed in a directory with sockets: a good moment to try. */
static void on_changes(evutil_socket_t fd, short what, void *arg)
{
	struct peers *peers = arg;
	char buf[4096] __attribute__((aligned(8)));

	(void)what;
	while (read(fd, buf, sizeof(buf)) > 0)
		;
	for (size_t i = 0; i < PEER_COUNT; i++) {
		struct peer_link *link = &peers->links[i];

		if (link->state != PEER_DOWN || rpc_fd(&link->rpc) >= 0)
			continue;
		link->tries = 0;
		link_connect(link);
	}
}

/* Set-up. */

static void watch_directories(struct peers *peers)
{
	peers->inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (peers->inotify_fd < 0) {
		peers->inotify_fd = -EBADF;
		return;
	}
	for (size_t i = 0; i < PEER_COUNT; i++) {
		char dir[256];
		char *slash;

		(void)snprintf(dir, sizeof(dir), "%s", peers->config.paths[i]);
		slash = strrchr(dir, '/');
		if (!slash)
			continue;
		slash[slash == dir ? 1 : 0] = '\0';
		/* A socket is bound, then given its mode: both are seen. */
		if (inotify_add_watch(peers->inotify_fd, dir,
				      IN_CREATE | IN_ATTRIB | IN_MOVED_TO) >= 0)
			continue;
		log_event(LOG_WARNING, "socket directory cannot be watched, trying by the clock",
			  LOG_STR("DIRECTORY", dir), LOG_ERRNO(-errno));
		peers->inotify_fd = safe_close(peers->inotify_fd);
		return;
	}
}

static int link_init(struct peers *peers, enum peer_id id)
{
	static const enum proto_role roles[PEER_COUNT] = {PROTO_HELPER, PROTO_VMMON, PROTO_FRP};
	struct peer_link *link = &peers->links[id];
	const struct rpc_config config = {
		.self = PROTO_AGENTD,
		.peer = roles[id],
		.ctx = link,
		.on_event = on_rpc_event,
		.on_close = on_close,
	};

	link->peers = peers;
	link->id = id;
	link->deadline_ms = UINT64_MAX;
	(void)snprintf(link->trouble, sizeof(link->trouble), "not connected yet");
	rpc_init(&link->rpc, &config);
	link->retry = evtimer_new(peers->base, on_retry, link);
	link->deadline = evtimer_new(peers->base, on_deadline, link);
	return link->retry && link->deadline ? 0 : -ENOMEM;
}

int peers_new(struct event_base *base, const struct peers_config *config, struct peers **ret_peers,
	      struct err *reterr)
{
	struct peers *peers = calloc(1, sizeof(*peers));

	if (!peers)
		return err_set(reterr, -ENOMEM, "out of memory");
	peers->base = base;
	peers->config = *config;
	watch_directories(peers);
	for (size_t i = 0; i < PEER_COUNT; i++)
		if (link_init(peers, (enum peer_id)i) < 0)
			goto no_memory;
	if (peers->inotify_fd >= 0) {
		peers->changes =
			event_new(base, peers->inotify_fd, EV_READ | EV_PERSIST, on_changes, peers);
		if (!peers->changes)
			goto no_memory;
	}
	*ret_peers = peers;
	return 0;
no_memory:
	peers_free(peers);
	return err_set(reterr, -ENOMEM, "out of memory");
}

static void free_event(struct event *ev)
{
	if (ev)
		event_free(ev);
}

void peers_free(struct peers *peers)
{
	if (!peers)
		return;
	peers->ending = true;
	for (size_t i = 0; i < PEER_COUNT; i++) {
		struct peer_link *link = &peers->links[i];

		if (link->peers)
			rpc_close(&link->rpc);
		free_event(link->retry);
		free_event(link->deadline);
	}
	free_event(peers->changes);
	(void)safe_close(peers->inotify_fd);
	free(peers);
}

void peers_start(struct peers *peers)
{
	if (peers->changes)
		(void)event_add(peers->changes, NULL);
	for (size_t i = 0; i < PEER_COUNT; i++)
		link_connect(&peers->links[i]);
}

bool peers_up(const struct peers *peers, enum peer_id id)
{
	/* Without a descriptor it is just being closed, and its callbacks run. */
	return peers->links[id].state == PEER_UP && rpc_fd(&peers->links[id].rpc) >= 0;
}

const char *peers_trouble(const struct peers *peers, enum peer_id id)
{
	return peers_up(peers, id) ? "" : peers->links[id].trouble;
}

const char *peers_registries(const struct peers *peers)
{
	return peers->has_registries ? peers->registries : NULL;
}

const struct peers_limits *peers_limits(const struct peers *peers)
{
	return &peers->limits;
}

int peers_call(struct peers *peers, enum peer_id id, uint32_t op_number, const void *req, int fd,
	       uint32_t timeout_ms, rpc_reply_fn *fn, void *arg)
{
	struct peer_link *link = &peers->links[id];
	int r;

	if (!peers_up(peers, id))
		return -ENOTCONN;
	r = rpc_call(&link->rpc, op_number, req, fd, timeout_ms, fn, arg);
	link_arm_deadline(link);
	return r;
}
