/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frp-supervisor: will run the tunnels; for now it answers that there are none.
 * Trust: runs as qudata-frp; reads requests of agentd.
 */
#include "common/conf.h"
#include "common/ipc.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/options.h"
#include "common/priv.h"
#include "frp-supervisor.filter.h"
#include "frp-supervisor/supervisor.h"

#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>

#define DEFAULT_CONFIG  "/etc/qudata/frp-supervisor.conf"
#define MAX_CONNECTIONS 4 /* of agentd: two while it is being replaced, and some to spare */

static const struct conf_key config_keys[] = {
	{.name = "socket", .type = CONF_PATH, CONF_MEMBER(struct supervisor_config, socket)},
	{.name = "socket_group",
	 .type = CONF_TEXT,
	 CONF_MEMBER(struct supervisor_config, socket_group)},
	{.name = "agentd_user",
	 .type = CONF_TEXT,
	 CONF_MEMBER(struct supervisor_config, agentd_user)},
};

static const struct supervisor_config config_defaults = {
	.socket = "/run/qudata/frp.sock",
	.socket_group = "qudata",
	.agentd_user = "qudata",
};

static volatile sig_atomic_t terminate;

static void on_terminate(int number)
{
	(void)number;
	terminate = 1;
}

/* The default file may be missing; one that was named must be there. */
static int load_config(struct supervisor *s, const struct daemon_options *options,
		       struct err *reterr)
{
	int r;

	s->config = config_defaults;
	r = conf_load(options->config, config_keys, ARRAY_LEN(config_keys), false, &s->config,
		      reterr);
	return r == -ENOENT && !options->config_given ? 0 : r;
}

static int watch_peer(void *ctx, struct peer *peer, bool on)
{
	(void)ctx;
	(void)peer;
	(void)on;
	return 0; /* the loop asks for every open connection each time */
}

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
	const struct group *group;
	int fd = notify_listen_fd("frp", SOCK_SEQPACKET);

	notify_listen_done();
	if (fd != -ENOENT) {
		s->listen_fd = fd;
		return fd < 0 ? err_errno(reterr, fd, "the socket passed as `frp` is unusable") : 0;
	}
	group = getgrnam(s->config.socket_group);
	if (!group)
		return err_set(reterr, -ENOENT, "there is no group %s (see socket_group)",
			       s->config.socket_group);
	s->listen_fd = ipc_listen(s->config.socket, SOCK_SEQPACKET, 0660, group->gr_gid, reterr);
	return s->listen_fd < 0 ? s->listen_fd : 0;
}

/* SIGTERM and SIGINT arrive only while ppoll() waits, so that none is missed. */
static int catch_signals(sigset_t *ret_waiting, struct err *reterr)
{
	const struct sigaction action = {.sa_handler = on_terminate};
	sigset_t blocked;

	(void)sigemptyset(&blocked);
	(void)sigaddset(&blocked, SIGTERM);
	(void)sigaddset(&blocked, SIGINT);
	if (sigprocmask(SIG_BLOCK, &blocked, ret_waiting) < 0 ||
	    sigaction(SIGTERM, &action, NULL) < 0 || sigaction(SIGINT, &action, NULL) < 0)
		return err_errno(reterr, -errno, "cannot catch signals");
	(void)sigdelset(ret_waiting, SIGTERM);
	(void)sigdelset(ret_waiting, SIGINT);
	return 0;
}

static void serve_ready(struct supervisor *s, const struct pollfd *fds)
{
	for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
		if (fds[i].revents != 0 && s->server.peers[i].fd == fds[i].fd)
			server_receive(&s->server, &s->server.peers[i]);
	if (fds[SERVER_MAX_PEERS].revents != 0)
		server_accept(&s->server, s->listen_fd);
}

static int serve(struct supervisor *s, const sigset_t *waiting, struct err *reterr)
{
	struct pollfd fds[SERVER_MAX_PEERS + 1];

	stage_assert_running();
	while (!terminate) {
		for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
			fds[i] = (struct pollfd){.fd = s->server.peers[i].fd, .events = POLLIN};
		fds[SERVER_MAX_PEERS] = (struct pollfd){.fd = s->listen_fd, .events = POLLIN};
		if (ppoll(fds, ARRAY_LEN(fds), NULL, waiting) >= 0)
			serve_ready(s, fds);
		else if (errno != EINTR)
			return err_errno(reterr, -errno, "cannot wait for requests");
	}
	return 0;
}

static int run(struct supervisor *s, const struct daemon_options *options, struct err *reterr)
{
	sigset_t waiting;
	int r;

	stage_enter(STAGE_CONFIG);
	r = load_config(s, options, reterr);
	if (r < 0 || options->check_only)
		return r;
	stage_enter(STAGE_OPEN);
	log_open("frp-supervisor", options->log_level);
	notify_open();
	r = init_server(s, reterr);
	if (r == 0)
		r = open_socket(s, reterr);
	if (r == 0)
		r = catch_signals(&waiting, reterr);
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
	notify_ready("no tunnel is configured");
	r = serve(s, &waiting, reterr);
	notify_stopping();
	return r;
}

int main(int argc, char *argv[])
{
	static struct supervisor s = {.listen_fd = -EBADF};
	struct daemon_options options;
	struct err err = {0};
	int r = priv_sane_start(argc, notify_listen_begin(), &err);

	if (r == 0) {
		r = daemon_options_parse(argc, argv, "frp-supervisor",
					 "Holds the place of the tunnels' supervisor",
					 DEFAULT_CONFIG, &options);
		if (r != 0)
			return r < 0 ? 2 : 0;
		for (size_t i = 0; i < SERVER_MAX_PEERS; i++)
			s.server.peers[i].fd = -EBADF;
		r = run(&s, &options, &err);
		server_done(&s.server);
		(void)safe_close(s.listen_fd);
	}
	if (r < 0)
		(void)fprintf(stderr, "frp-supervisor: %s\n", err.text);
	return r < 0 ? 1 : 0;
}
