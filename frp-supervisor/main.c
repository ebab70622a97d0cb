/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frp-supervisor: keeps one frpc, and in it the tunnels that agentd asks for.
 * Trust: runs as qudata-frp; reads requests of agentd and what frpc answers.
 */
#include "common/conf.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/options.h"
#include "common/priv.h"
#include "frp-supervisor.filter.h"
#include "frp-supervisor/supervisor.h"

#include <fcntl.h>
#include <jansson.h>
#include <malloc.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>

#define DEFAULT_CONFIG "/etc/qudata/frp-supervisor.conf"

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

static int open_spawner(struct supervisor *s, struct err *reterr)
{
	struct spawn_config config = {.keep = s->config.keep_frpc};

	memcpy(config.frpc, s->config.frpc, sizeof(config.frpc));
	memcpy(config.run_dir, s->config.run_dir, sizeof(config.run_dir));
	memcpy(config.ca_file, s->config.ca_file, sizeof(config.ca_file));
	s->spawn_fd = spawner_start(&config, reterr);
	return s->spawn_fd < 0 ? s->spawn_fd : 0;
}

/* SIGTERM leaves frpc to the next supervisor, unless keep_frpc is off; SIGINT ends both. */
static void on_ended(void *ctx, int number)
{
	struct supervisor *s = ctx;

	if (number == SIGINT)
		s->config.keep_frpc = false;
}

static int open_service(struct supervisor *s, struct err *reterr)
{
	return service_open(&s->service,
			    &(const struct service_config){
				    .name = "frp",
				    .self = PROTO_FRP,
				    .socket = s->config.socket,
				    .socket_group = s->config.socket_group,
				    .agentd_user = s->config.agentd_user,
				    .ctx = s,
				    .dispatch = supervisor_dispatch,
				    .ended = on_ended,
			    },
			    reterr);
}

static int open_followers(struct supervisor *s, struct err *reterr)
{
	if (life_open(s) < 0)
		return err_set(reterr, -ENOMEM, "cannot watch frpc");
	return watch_open(s, reterr);
}

static int open_all(struct supervisor *s, struct err *reterr)
{
	int r = open_run_dir(s, reterr);

	json_object_seed(0); /* opens /dev/urandom, which the filter forbids later */
	if (r == 0)
		r = open_service(s, reterr);
	if (r == 0)
		r = open_spawner(s, reterr);
	return r == 0 ? open_followers(s, reterr) : r;
}

/* STAGE_RUN */

static void close_all(struct supervisor *s)
{
	watch_done(s);
	life_done(s);
	wanted_clear(&s->wanted);
	service_done(&s->service);
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
	r = service_listen(&s->service, reterr);
	if (r < 0)
		return r;
	notify_ready(s->wanted.configured ? "starting" : "no server is configured");
	r = service_run(&s->service, reterr);
	if (s->failed)
		return err_set(reterr, -EIO, "frp-spawn is lost");
	if (!s->config.keep_frpc)
		life_end(s);
	return r;
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
	r = priv_confine("frp-supervisor", 0, filter_frp_supervisor, filter_frp_supervisor_len,
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
		service_init(&supervisor.service);
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
