/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentd: the HTTP API of the suite and the keeper of its instances.
 * Trust: runs as qudata; reads HTTP of tenants and operators, answers of the other daemons.
 */
#include "agentd/agentd.h"
#include "agentd/report.h"
#include "agentd/store.h"
#include "agentd/view.h"
#include "common/ipc.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/options.h"
#include "common/priv.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "agentd.filter.h" /* generated from agentd.allow */

#define CONFIG_PATH   "/etc/qudata/agentd.conf"
#define PORT_LOW      15001 /* where a port is looked for when none is configured */
#define PORT_HIGH     15300
#define TCP_CONNS     256
#define CTL_CONNS     64
#define TCP_BACKLOG   128
#define DRAIN_TIME_MS 500

struct start {
	struct daemon_options options;
	int ctl_fd, tcp_fd; /* owned until the server has them */
};

/* STAGE_OPEN */

static int open_store(struct agentd *a, int data, struct err *reterr)
{
	const char *path = a->config.data_dir;
	int r = auth_load(data, &a->auth, reterr);

	if (r < 0)
		return r;
	if (mkdirat(data, STORE_DIR, 0700) < 0 && errno != EEXIST)
		return err_errno(reterr, -errno, "cannot make %s/%s", path, STORE_DIR);
	a->store_fd = openat(data, STORE_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (a->store_fd < 0)
		return err_errno(reterr, -errno, "cannot open %s/%s", path, STORE_DIR);
	if (flock(a->store_fd, LOCK_EX | LOCK_NB) < 0)
		return err_errno(reterr, -errno, "another agentd uses %s", path);
	return 0;
}

/* A listening socket on 127.0.0.1:@port, or a negative errno. */
static int listen_tcp(uint16_t port)
{
	_cleanup_close_ int fd =
		socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
	const struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int on = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, (const struct sockaddr *)&sin, sizeof(sin)) < 0 || listen(fd, TCP_BACKLOG) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static int open_tcp(struct agentd *a, struct start *start, struct err *reterr)
{
	struct sockaddr_in sin = {0};
	socklen_t len = sizeof(sin);
	int fd = notify_listen_fd("http", SOCK_STREAM);

	if (fd < 0 && fd != -ENOENT)
		return err_errno(reterr, fd, "the passed socket `http` is of no use");
	if (fd < 0 && a->config.port != 0) {
		fd = listen_tcp((uint16_t)a->config.port);
		if (fd < 0)
			return err_errno(reterr, fd, "cannot listen on 127.0.0.1:%u",
					 a->config.port);
	}
	for (uint16_t port = PORT_LOW; fd < 0 && port <= PORT_HIGH; port++) {
		fd = listen_tcp(port);
		if (fd < 0 && fd != -EADDRINUSE)
			return err_errno(reterr, fd, "cannot listen on 127.0.0.1:%u", port);
	}
	if (fd < 0)
		return err_set(reterr, -EADDRINUSE, "no port of %d to %d is free on 127.0.0.1",
			       PORT_LOW, PORT_HIGH);
	start->tcp_fd = fd;
	if (getsockname(fd, (struct sockaddr *)&sin, &len) < 0 || sin.sin_family != AF_INET)
		return err_set(reterr, -EINVAL, "the passed socket `http` is no IPv4 socket");
	a->http_port = ntohs(sin.sin_port);
	return 0;
}

static int open_ctl(struct agentd *a, struct start *start, struct err *reterr)
{
	const struct ipc_place place = {.name = "ctl",
					.path = a->config.ctl_socket,
					.type = SOCK_STREAM,
					.mode = 0660,
					.uid = IPC_KEEP_UID,
					.gid = IPC_KEEP_GID};

	start->ctl_fd = ipc_take(&place, reterr);
	return start->ctl_fd < 0 ? start->ctl_fd : 0;
}

static void on_work(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	drive_all(arg);
}

static void on_term(evutil_socket_t signo, short what, void *arg)
{
	struct agentd *a = arg;
	const struct timeval tv = {.tv_usec = DRAIN_TIME_MS * 1000};

	(void)what;
	log_event(LOG_NOTICE, "ending", LOG_NUM("SIGNAL", signo));
	notify_stopping();
	waiters_free(a);
	relays_free(a);
	http_server_drain(a->http);
	(void)event_base_loopexit(a->base, http_server_conns(a->http) > 0 ? &tv : NULL);
}

static int open_events(struct agentd *a, struct err *reterr)
{
	static const int signals[] = {SIGTERM, SIGINT};
	struct event_config *config = event_config_new();

	if (!config)
		return err_set(reterr, -ENOMEM, "out of memory");
	(void)event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV);
	a->base = event_base_new_with_config(config);
	event_config_free(config);
	if (!a->base)
		return err_set(reterr, -ENOMEM, "cannot make an event loop");
	a->work = evtimer_new(a->base, on_work, a);
	a->timer = evtimer_new(a->base, on_work, a);
	if (!a->work || !a->timer)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		a->on_term[i] = evsignal_new(a->base, signals[i], on_term, a);
		if (!a->on_term[i] || event_add(a->on_term[i], NULL) < 0)
			return err_set(reterr, -ENOMEM, "cannot watch signals");
	}
	return 0;
}

static int open_peers(struct agentd *a, struct err *reterr)
{
	const struct peers_config config = {
		.paths = {[PEER_HELPER] = a->config.helper_socket,
			  [PEER_VMMON] = a->config.vmmon_socket,
			  [PEER_FRP] = a->config.frp_socket},
		.ctx = a,
		.changed = drive_peer_changed,
		.on_event = drive_peer_event,
	};

	return peers_new(a->base, &config, &a->peers, reterr);
}

static int open_all(struct agentd *a, struct start *start, struct err *reterr)
{
	_cleanup_close_ int data = open(a->config.data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (data < 0)
		return err_errno(reterr, -errno, "cannot open the data directory %s",
				 a->config.data_dir);
	(void)umask(077);
	notify_open();
	json_object_seed(0); /* opens /dev/urandom, which the filter forbids later */
	gpu_names_open(&a->gpu_names, a->config.pci_ids);
	r = open_store(a, data, reterr);
	if (r == 0)
		r = open_ctl(a, start, reterr);
	if (r == 0)
		r = open_tcp(a, start, reterr);
	notify_listen_done();
	if (r == 0)
		r = controlplane_open(&a->config, data, a->http_port, &a->auth, &a->cp, reterr);
	if (r == 0)
		r = tunnels_open(&a->tunnels, &a->config, data, reterr);
	explicit_bzero(a->config.api_key, sizeof(a->config.api_key));
	if (r == 0)
		r = open_events(a, reterr);
	if (r == 0)
		r = open_peers(a, reterr);
	if (r == 0)
		r = hostgpus_new(&a->config, a->base, a->peers, NULL, &a->hostgpus, reterr);
	return r;
}

/* STAGE_RUN */

static int serve_http(struct agentd *a, struct start *start, struct err *reterr)
{
	const struct http_config config = {
		.on_head = api_on_head,
		.handler = api_handle,
		.on_refusal = api_on_refusal,
		.arg = a,
	};
	int r = http_server_new(a->base, &config, &a->http);

	if (r == 0)
		r = http_server_add_fd(a->http, start->ctl_fd, LISTENER_CTL, CTL_CONNS, NULL);
	if (r < 0)
		return err_errno(reterr, r, "cannot serve HTTP");
	start->ctl_fd = -EBADF;
	r = http_server_add_fd(a->http, start->tcp_fd, LISTENER_TCP, TCP_CONNS, NULL);
	if (r < 0)
		return err_errno(reterr, r, "cannot serve HTTP");
	start->tcp_fd = -EBADF;
	return 0;
}

static int load_instances(struct agentd *a, struct err *reterr)
{
	struct instance *inst;
	int r = store_load(a->store_fd, a, &a->instances, reterr);

	if (r < 0)
		return r;
	TAILQ_FOREACH(inst, &a->instances, link)
	{
		/* Where it ran cannot be read any more; for its deletion it has to be said. */
		if (inst->quarantined)
			inst->on_host |= a->config.backend == BACKEND_CONTAINER;
		agentd_changed(a, inst);
	}
	return 0;
}

static int run_loop(struct agentd *a, struct start *start, struct err *reterr)
{
	int r;

	stage_assert_running();
	r = load_instances(a, reterr);
	if (r == 0)
		r = serve_http(a, start, reterr);
	if (r == 0)
		r = report_start(a, reterr);
	if (r < 0)
		return r;
	peers_start(a->peers);
	(void)malloc_trim(0); /* what starting took is not needed again */
	agentd_tell_manager(a);
	log_event(LOG_NOTICE, "ready", LOG_NUM("HTTP_PORT", a->http_port),
		  LOG_NUM("INSTANCES", agentd_count(a)));
	notify_ready(a->told);
	if (event_base_dispatch(a->base) < 0)
		return err_set(reterr, -EIO, "the event loop has failed");
	return 0;
}

static void free_event(struct event *ev)
{
	if (ev)
		event_free(ev);
}

static void agentd_done(struct agentd *a)
{
	struct instance *inst;

	/* Callbacks of what goes first may still look at what goes later. */
	if (a->http) {
		waiters_free(a);
		relays_free(a);
	}
	hostgpus_stop(a->hostgpus);
	peers_free(a->peers); /* callbacks of what was asked ask whether the peer is still there */
	hostgpus_free(a->hostgpus);
	controlplane_free(a->cp);
	a->peers = NULL;
	http_server_free(a->http);
	while ((inst = TAILQ_FIRST(&a->instances))) {
		TAILQ_REMOVE(&a->instances, inst, link);
		instance_free(inst);
	}
	free(a->list_view);
	free(a->bare_view);
	for (size_t i = 0; i < ARRAY_LEN(a->on_term); i++)
		free_event(a->on_term[i]);
	free_event(a->work);
	free_event(a->timer);
	if (a->base)
		event_base_free(a->base);
	a->store_fd = safe_close(a->store_fd);
	gpu_names_done(&a->gpu_names);
	explicit_bzero(&a->auth, sizeof(a->auth));
	explicit_bzero(&a->tunnels, sizeof(a->tunnels));
}

static int run(int argc, char *argv[], struct err *reterr)
{
	_cleanup_(agentd_done) struct agentd a = {.store_fd = -EBADF, .gpu_names.fd = -EBADF};
	struct start start = {.ctl_fd = -EBADF, .tcp_fd = -EBADF};
	int r;

	TAILQ_INIT(&a.instances);
	TAILQ_INIT(&a.waiters);
	LIST_INIT(&a.relays);
	a.started_s = (int64_t)time(NULL);

	stage_enter(STAGE_CONFIG);
	r = daemon_options_parse(argc, argv, "agentd", "Serves the suite's HTTP API", CONFIG_PATH,
				 &start.options);
	if (r != 0)
		return r < 0 ? err_set(reterr, r, "wrong arguments") : 0;
	r = config_load(start.options.config, start.options.config_given, &a.config, reterr);
	if (r < 0 || start.options.check_only)
		return r;
	r = config_load_key(&a.config, reterr);
	if (r < 0)
		return r;
	log_open("agentd", a.config.debug ? LOG_DEBUG : start.options.log_level);

	stage_enter(STAGE_OPEN);
	r = open_all(&a, &start, reterr);
	if (r == 0)
		r = priv_confine("agentd", /* keep= */ 0, filter_agentd, filter_agentd_len, reterr);
	if (r < 0)
		return r;

	stage_enter(STAGE_RUN);
	return run_loop(&a, &start, reterr);
}

int main(int argc, char *argv[])
{
	struct err why = {0};
	int r = priv_sane_start(argc, notify_listen_begin(), &why);

	/* One thread, small objects: one arena, and freed memory goes back soon. */
	(void)mallopt(M_ARENA_MAX, 1);
	(void)mallopt(M_TRIM_THRESHOLD, 64 * 1024);
	log_open("agentd", LOG_INFO);
	if (r == 0)
		r = run(argc, argv, &why);
	if (r < 0) {
		log_event(LOG_ERR, "cannot run", LOG_STR("REASON", why.text));
		return 1;
	}
	return 0;
}
