/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frp-supervisor: keeps one frpc, and in it the tunnels that agentd asks for.
 * Trust: runs as qudata-frp; reads requests of agentd and what frpc answers.
 */
#include "common/conf.h"
#include "common/ipc.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/options.h"
#include "common/priv.h"
#include "frp-supervisor.filter.h"
#include "frp-supervisor/supervisor.h"

#include <fcntl.h>
#include <grp.h>
#include <jansson.h>
#include <malloc.h>
#include <pwd.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>

#define DEFAULT_CONFIG  "/etc/qudata/frp-supervisor.conf"
#define MAX_CONNECTIONS 4 /* of agentd: two while it is being replaced, and some to spare */

#define MEMBER(m)     CONF_MEMBER(struct supervisor_config, m)
#define PORT(key, m)  .name = (key), .type = CONF_U32, MEMBER(m), .low = 1, .high = UINT16_MAX
#define WORD(key, m)  .name = (key), .type = CONF_TEXT, MEMBER(m)
#define PLACE(key, m) .name = (key), .type = CONF_PATH, MEMBER(m)

static const char *const tls_words[] = {"off", "encrypt", "verify", NULL};

static const struct conf_key config_keys[] = {
	{PLACE("socket", socket)},
	{WORD("socket_group", socket_group)},
	{WORD("agentd_user", agentd_user)},
	{PLACE("frpc", frpc)},
	{PLACE("run_dir", run_dir)},
	{PLACE("tls_ca_file", ca_file)},
	{.name = "tls", .type = CONF_ENUM, MEMBER(policy.tls), .words = tls_words},
	{.name = "keep_frpc", .type = CONF_BOOL, MEMBER(keep_frpc)},
	{PORT("admin_port_low", admin_low)},
	{PORT("admin_port_high", admin_high)},
	{PORT("api_port_low", policy.api_low)},
	{PORT("api_port_high", policy.api_high)},
	{PORT("local_port_low", policy.local_low)},
	{PORT("local_port_high", policy.local_high)},
	{PORT("tcp_port_low", policy.tcp_low)},
	{PORT("tcp_port_high", policy.tcp_high)},
	{PORT("http_port_low", policy.http_low)},
	{PORT("http_port_high", policy.http_high)},
};

static const struct supervisor_config config_defaults = {
	.socket = "/run/qudata/frp.sock",
	.socket_group = "qudata",
	.agentd_user = "qudata",
	.frpc = "/usr/local/bin/frpc",
	.run_dir = "/run/qudata-frp",
	.ca_file = "/etc/ssl/certs/ca-certificates.crt",
	.keep_frpc = true,
	.admin_low = 7400,
	.admin_high = 7499,
	.policy =
		{
			.api_low = 15001,
			.api_high = 15300,
			.local_low = 10000,
			.local_high = 65535,
			.tcp_low = 10000,
			.tcp_high = 15000,
			.http_low = 15001,
			.http_high = 65535,
			.tls = PROTO_TLS_ENCRYPT,
		},
};

static struct supervisor supervisor = {
	.listen_fd = -EBADF,
	.run_fd = -EBADF,
	.spawn_fd = -EBADF,
	.frpc = {.pidfd = -EBADF},
	.watch = {.log_fd = -EBADF, .inotify_fd = -EBADF, .request = {.fd = -EBADF}},
};

/* STAGE_CONFIG */

static int check_config(const struct supervisor_config *c, struct err *reterr)
{
	const struct wanted_policy *p = &c->policy;

	if (c->admin_low > c->admin_high || p->api_low > p->api_high ||
	    p->local_low > p->local_high || p->tcp_low > p->tcp_high || p->http_low > p->http_high)
		return err_set(reterr, -EINVAL, "a *_port_low is above its *_port_high");
	if (c->admin_high >= p->local_low && c->admin_low <= p->local_high)
		return err_set(reterr, -EINVAL,
			       "admin_port_low to admin_port_high overlap local_port_low to "
			       "local_port_high: a tunnel could lead to frpc itself");
	if (!grammar_path(c->frpc) || !grammar_path(c->run_dir) || !grammar_path(c->ca_file))
		return err_set(reterr, -EINVAL,
			       "frpc, run_dir and tls_ca_file are made of letters, digits and "
			       "-._/+@ only");
	return 0;
}

/* The default file may be missing; one that was named must be there. */
static int load_config(struct supervisor *s, const struct daemon_options *options,
		       struct err *reterr)
{
	int r;

	s->config = config_defaults;
	r = conf_load(options->config, config_keys, ARRAY_LEN(config_keys), false, &s->config,
		      reterr);
	if (r < 0 && (r != -ENOENT || options->config_given))
		return r;
	return check_config(&s->config, reterr);
}

/* STAGE_OPEN */

static int open_run_dir(struct supervisor *s, struct err *reterr)
{
	const char *dir = s->config.run_dir;
	struct stat st;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_errno(reterr, -errno, "cannot make %s", dir);
	s->run_fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->run_fd < 0 || fstat(s->run_fd, &st) < 0)
		return err_errno(reterr, -errno, "cannot open %s", dir);
	if (st.st_uid != geteuid() || (st.st_mode & 077) != 0)
		return err_set(reterr, -EPERM, "%s is not ours alone; make it 0700", dir);
	if (flock(s->run_fd, LOCK_EX | LOCK_NB) < 0)
		return err_errno(reterr, -errno, "another frp-supervisor uses %s", dir);
	return 0;
}

static int watch_peer(void *ctx, struct peer *peer, bool on);

static void on_refused(void *ctx, const struct peer *peer, enum server_refusal why, int detail)
{
	(void)ctx;
	log_event(LOG_WARNING, "peer refused", LOG_NUM("PEER_UID", peer->uid),
		  LOG_NUM("PEER_PID", peer->pid), LOG_NUM("WHY", why), LOG_ERRNO(detail));
}

static int init_server(struct supervisor *s, struct err *reterr)
{
	const struct passwd *agentd = getpwnam(s->config.agentd_user);

	if (!agentd)
		return err_set(reterr, -ENOENT, "there is no user %s (see agentd_user)",
			       s->config.agentd_user);
	server_init(&s->server, &(const struct server_config){
					.self = PROTO_FRP,
					.roles = {{agentd->pw_uid, PROTO_AGENTD}},
					.n_roles = 1,
					.max_per_role = MAX_CONNECTIONS,
					.ctx = s,
					.dispatch = supervisor_dispatch,
					.watch = watch_peer,
					.refused = on_refused,
				});
	return 0;
}

static int open_socket(struct supervisor *s, struct err *reterr)
{
	const struct group *group = getgrnam(s->config.socket_group);
	struct ipc_place place = {.name = "frp",
				  .path = s->config.socket,
				  .type = SOCK_SEQPACKET,
				  .mode = 0660,
				  .uid = IPC_KEEP_UID};

	if (!group)
		return err_set(reterr, -ENOENT, "there is no group %s (see socket_group)",
			       s->config.socket_group);
	place.gid = group->gr_gid;
	s->listen_fd = ipc_take(&place, reterr);
	notify_listen_done();
	return s->listen_fd < 0 ? s->listen_fd : 0;
}

static int open_spawner(struct supervisor *s, struct err *reterr)
{
	struct spawn_config config = {.keep = s->config.keep_frpc};

	memcpy(config.frpc, s->config.frpc, sizeof(config.frpc));
	memcpy(config.run_dir, s->config.run_dir, sizeof(config.run_dir));
	memcpy(config.ca_file, s->config.ca_file, sizeof(config.ca_file));
	s->spawn_fd = spawner_start(&config, reterr);
	return s->spawn_fd < 0 ? s->spawn_fd : 0;
}

static void on_listening(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *s = arg;

	(void)what;
	server_accept(&s->server, fd);
}

static void on_peer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	server_receive(&supervisor.server, arg);
}

static int watch_peer(void *ctx, struct peer *peer, bool on)
{
	struct supervisor *s = ctx;
	struct event *ev = peer->watch;

	peer->watch = NULL;
	if (ev)
		event_free(ev);
	if (!on)
		return 0;
	ev = event_new(s->base, peer->fd, EV_READ | EV_PERSIST, on_peer, peer);
	if (!ev || event_add(ev, NULL) < 0) {
		if (ev)
			event_free(ev);
		return -ENOMEM;
	}
	peer->watch = ev;
	return 0;
}

/* SIGTERM leaves frpc to the next supervisor, unless keep_frpc is off; SIGINT ends both. */
static void on_terminate(evutil_socket_t number, short what, void *arg)
{
	struct supervisor *s = arg;

	(void)what;
	if (number == SIGINT)
		s->config.keep_frpc = false;
	(void)event_base_loopbreak(s->base);
}

static int open_loop(struct supervisor *s, struct err *reterr)
{
	struct event_config *config = event_config_new();

	if (config &&
	    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_IGNORE_ENV) == 0)
		s->base = event_base_new_with_config(config);
	if (config)
		event_config_free(config);
	if (!s->base)
		return err_set(reterr, -ENOMEM, "cannot make an event loop");
	s->listening = event_new(s->base, s->listen_fd, EV_READ | EV_PERSIST, on_listening, s);
	s->terminate[0] = evsignal_new(s->base, SIGTERM, on_terminate, s);
	s->terminate[1] = evsignal_new(s->base, SIGINT, on_terminate, s);
	if (!s->listening || !s->terminate[0] || !s->terminate[1] ||
	    event_add(s->terminate[0], NULL) < 0 || event_add(s->terminate[1], NULL) < 0 ||
	    life_open(s) < 0)
		return err_set(reterr, -ENOMEM, "cannot watch signals and sockets");
	return watch_open(s, reterr);
}

static int open_all(struct supervisor *s, struct err *reterr)
{
	int r = init_server(s, reterr);

	json_object_seed(0); /* opens /dev/urandom, which the filter forbids later */
	if (r == 0)
		r = open_run_dir(s, reterr);
	if (r == 0)
		r = open_socket(s, reterr);
	if (r == 0)
		r = open_spawner(s, reterr);
	return r == 0 ? open_loop(s, reterr) : r;
}

/* STAGE_RUN */

static void close_all(struct supervisor *s)
{
	server_done(&s->server);
	watch_done(s);
	life_done(s);
	if (s->listening)
		event_free(s->listening);
	for (size_t i = 0; i < ARRAY_LEN(s->terminate); i++)
		if (s->terminate[i])
			event_free(s->terminate[i]);
	if (s->base)
		event_base_free(s->base);
	wanted_clear(&s->wanted);
	(void)safe_close(s->listen_fd);
	(void)safe_close(s->run_fd);
}

static int serve(struct supervisor *s, struct err *reterr)
{
	int r;

	stage_assert_running();
	r = wanted_load(&s->wanted, &s->config.policy, s->run_fd);
	if (r < 0 && r != -ENOENT)
		log_event(LOG_WARNING, "what was wanted before cannot be read", LOG_ERRNO(r));
	life_adopt(s);
	life_kick(s);
	if (event_add(s->listening, NULL) < 0)
		return err_set(reterr, -ENOMEM, "cannot watch the socket");
	notify_ready(s->wanted.configured ? "starting" : "no server is configured");
	r = event_base_dispatch(s->base);
	notify_stopping();
	if (s->failed)
		return err_set(reterr, -EIO, "frp-spawn is lost");
	if (!s->config.keep_frpc)
		life_end(s);
	return r < 0 ? err_set(reterr, -EIO, "the event loop failed") : 0;
}

static int run(struct supervisor *s, const struct daemon_options *options, struct err *reterr)
{
	int r;

	stage_enter(STAGE_CONFIG);
	r = load_config(s, options, reterr);
	if (r < 0 || options->check_only)
		return r;
	if (geteuid() == 0) /* before it makes files that its own user could not open */
		return err_set(reterr, -EPERM,
			       "refusing to run as root: start it as its own user (the unit file "
			       "does, `setpriv --reuid` does)");
	stage_enter(STAGE_OPEN);
	log_open("frp-supervisor", options->log_level);
	notify_open();
	r = open_all(s, reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_DROP);
	r = priv_drop(0, reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_SECCOMP);
	r = priv_enter_filter("frp-supervisor", filter_frp_supervisor, filter_frp_supervisor_len,
			      reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_RUN);
	return serve(s, reterr);
}

int main(int argc, char *argv[])
{
	struct daemon_options options;
	struct err err = {0};
	int r = priv_sane_start(argc, notify_listen_begin(), &err);

	if (r == 0) {
		r = daemon_options_parse(argc, argv, "frp-supervisor",
					 "Keeps the tunnels: one frpc and its configuration",
					 DEFAULT_CONFIG, &options);
		if (r != 0)
			return r < 0 ? 2 : 0;
		for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
			supervisor.server.peers[i].fd = -EBADF;
		(void)umask(0077);
		/* One thread, small objects: one arena, and freed memory goes back soon. */
		(void)mallopt(M_ARENA_MAX, 1);
		(void)mallopt(M_TRIM_THRESHOLD, 64 * 1024);
		r = run(&supervisor, &options, &err);
		close_all(&supervisor);
	}
	if (r < 0)
		(void)fprintf(stderr, "frp-supervisor: %s\n", err.text);
	return r < 0 ? 1 : 0;
}
