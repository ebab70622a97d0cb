/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmmon: follows running VMs over QMP, serial console, readiness port and SSH, and containers on
 * this host, as agentd asks.
 * Trust: runs as qudata-mon; reads requests of agentd, whatever guests and their QEMUs send, and
 * the answers of this host's container engine.
 */
#include "common/conf.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/options.h"
#include "common/priv.h"
#include "vmmon.filter.h"
#include "vmmon/vmmon.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/stat.h>

#define DEFAULT_CONFIG "/etc/qudata/vmmon.conf"

static const struct conf_key config_keys[] = {
	{.name = "socket", .type = CONF_PATH, CONF_MEMBER(struct vmmon_config, socket)},
	{.name = "socket_group", .type = CONF_TEXT, CONF_MEMBER(struct vmmon_config, socket_group)},
	{.name = "agentd_user", .type = CONF_TEXT, CONF_MEMBER(struct vmmon_config, agentd_user)},
	{.name = "guest_user", .type = CONF_TEXT, CONF_MEMBER(struct vmmon_config, guest_user)},
	{.name = "helper_socket",
	 .type = CONF_PATH,
	 CONF_MEMBER(struct vmmon_config, helper_socket)},
	{.name = "vm_run_dir", .type = CONF_PATH, CONF_MEMBER(struct vmmon_config, vm_run_dir)},
	{.name = "state_dir", .type = CONF_PATH, CONF_MEMBER(struct vmmon_config, state_dir)},
	{.name = "run_dir", .type = CONF_PATH, CONF_MEMBER(struct vmmon_config, run_dir)},
	{.name = "metrics_interval_ms",
	 .type = CONF_U32,
	 CONF_MEMBER(struct vmmon_config, metrics_interval_ms),
	 .low = 0,
	 .high = METRICS_INTERVAL_MAX_MS},
	{.name = "unhealthy_after_s",
	 .type = CONF_U32,
	 CONF_MEMBER(struct vmmon_config, unhealthy_after_s),
	 .low = 5,
	 .high = 3600},
	{.name = "engine_socket",
	 .type = CONF_PATH,
	 CONF_MEMBER(struct vmmon_config, engine_socket)},
	{.name = "engine_rootful",
	 .type = CONF_BOOL,
	 CONF_MEMBER(struct vmmon_config, engine_rootful)},
	{.name = "engine_unlimited",
	 .type = CONF_BOOL,
	 CONF_MEMBER(struct vmmon_config, engine_unlimited)},
	{.name = "engine_registries",
	 .type = CONF_LIST,
	 CONF_MEMBER(struct vmmon_config, engine_registries)},
	{.name = "engine_reserve",
	 .type = CONF_MIB,
	 CONF_MEMBER(struct vmmon_config, engine_reserve_mib),
	 .low = 0,
	 .high = PROTO_MAX_DISK_MIB},
};

static const struct vmmon_config config_defaults = {
	.socket = "/run/qudata/vmmon.sock",
	.socket_group = "qudata",
	.agentd_user = "qudata",
	.guest_user = "root",
	.helper_socket = "/run/qudata/helper.sock",
	.vm_run_dir = "/run/qudata/vm",
	.state_dir = "/var/lib/qudata-mon",
	.run_dir = "/run/qudata-mon",
	.metrics_interval_ms = 500,
	.unhealthy_after_s = 60,
	.engine_socket = "/run/qudata-engine/podman.sock",
	.engine_registries = REGISTRY_ANY,
	.engine_reserve_mib = 4096,
};

/* The default file may be missing; one that was named must be there. */
static int load_config(struct vmmon *m, const struct daemon_options *options, struct err *reterr)
{
	struct err why = {0};
	int r;

	m->config = config_defaults;
	r = conf_load(options->config, config_keys, ARRAY_LEN(config_keys), false, &m->config,
		      reterr);
	if (r == -ENOENT && !options->config_given)
		r = 0;
	if (r == 0 && m->config.metrics_interval_ms > 0 &&
	    m->config.metrics_interval_ms < METRICS_INTERVAL_MIN_MS)
		r = err_set(reterr, -EINVAL,
			    "metrics_interval_ms must be 0 (no figures) or from %u to %u",
			    METRICS_INTERVAL_MIN_MS, METRICS_INTERVAL_MAX_MS);
	if (r == 0 &&
	    m->config.unhealthy_after_s * MSEC_PER_SEC < 3 * m->config.metrics_interval_ms)
		r = err_set(reterr, -EINVAL,
			    "unhealthy_after_s must be three times metrics_interval_ms or more");
	if (r == 0 && registry_list_check(m->config.engine_registries, &why) < 0)
		r = err_set(reterr, -EINVAL, "engine_registries: %.200s", why.text);
	return r;
}

static int open_run_dir(struct vmmon *m, struct err *reterr)
{
	const char *dir = m->config.run_dir;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_errno(reterr, -errno, "cannot make %s", dir);
	m->run_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return m->run_fd < 0 ? err_errno(reterr, -errno, "cannot open %s", dir) : 0;
}

static int open_service(struct vmmon *m, struct err *reterr)
{
	return service_open(&m->service,
			    &(const struct service_config){
				    .name = "vmmon",
				    .self = PROTO_VMMON,
				    .socket = m->config.socket,
				    .socket_group = m->config.socket_group,
				    .agentd_user = m->config.agentd_user,
				    .ctx = m,
				    .dispatch = vmmon_dispatch,
			    },
			    reterr);
}

static int open_followers(struct vmmon *m)
{
	struct event_base *base = m->service.base;

	m->env = (struct guest_env){
		.base = base,
		.vm_run_dir = m->config.vm_run_dir,
		.guest_user = m->config.guest_user,
		.run_fd = m->run_fd,
		.keys = &m->keys,
		.pace = {.interval_ms = m->config.metrics_interval_ms,
			 .silent_ms = m->config.unhealthy_after_s * (uint32_t)MSEC_PER_SEC,
			 METRICS_PACE_DEFAULT},
		.ctx = m,
		.on_state = vmmon_on_state,
		.on_container = vmmon_on_container,
		.on_health = vmmon_on_health,
		.reply = vmmon_reply,
	};
	m->host_env = (struct host_env){
		.base = base,
		.socket = m->config.engine_socket,
		.rootful = m->config.engine_rootful,
		.unlimited = m->config.engine_unlimited,
		.reserve_mib = m->config.engine_reserve_mib,
		.registries = m->config.engine_registries,
		.ctx = m,
		.on_container = vmmon_on_host_container,
		.reply = vmmon_reply,
	};
	return helper_client_init(&m->helper, base, m->config.helper_socket);
}

static int open_all(struct vmmon *m, struct err *reterr)
{
	int r = keys_open(&m->keys, m->config.state_dir, reterr);

	if (r == 0)
		r = open_run_dir(m, reterr);
	if (r == 0)
		r = open_service(m, reterr);
	return r < 0 ? r : open_followers(m);
}

static void close_all(struct vmmon *m)
{
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		guest_free(TAKE_PTR(m->guests[i]));
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		host_container_free(TAKE_PTR(m->hosts[i]));
	survey_free(TAKE_PTR(m->survey));
	helper_client_done(&m->helper);
	service_done(&m->service);
	keys_done(&m->keys);
	(void)safe_close(m->run_fd);
}

static int run(struct vmmon *m, const struct daemon_options *options, struct err *reterr)
{
	int r;

	stage_enter(STAGE_CONFIG);
	r = load_config(m, options, reterr);
	if (r < 0 || options->check_only)
		return r;
	if (geteuid() == 0) /* before it makes files that its own user could not open */
		return err_set(reterr, -EPERM,
			       "refusing to run as root: start it as its own user (the unit file "
			       "does, `setpriv --reuid` does)");
	stage_enter(STAGE_OPEN);
	log_open("vmmon", options->log_level);
	notify_open();
	r = open_all(m, reterr);
	if (r < 0)
		return r;
	r = priv_confine("vmmon", 0, filter_vmmon, filter_vmmon_len, reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_RUN);
	r = service_listen(&m->service, reterr);
	if (r < 0)
		return r;
	notify_ready("watching");
	return service_run(&m->service, reterr);
}

int main(int argc, char *argv[])
{
	static struct vmmon vmmon;
	struct daemon_options options;
	struct err err = {0};
	int r = priv_sane_start(argc, notify_listen_begin(), &err);

	if (r == 0) {
		r = daemon_options_parse(argc, argv, "vmmon",
					 "Follows the VMs: QMP, console, keys over SSH",
					 DEFAULT_CONFIG, &options);
		if (r != 0)
			return r < 0 ? 2 : 0;
		vmmon.keys = KEYS_INIT;
		vmmon.run_fd = -EBADF;
		service_init(&vmmon.service);
		(void)umask(0077);
		/* One thread, so one arena; what a session needed goes back to the kernel. */
		(void)mallopt(M_ARENA_MAX, 1);
		(void)mallopt(M_TRIM_THRESHOLD, 64 * 1024);
		(void)mallopt(M_MMAP_THRESHOLD, 64 * 1024);
		r = run(&vmmon, &options, &err);
		close_all(&vmmon);
	}
	if (r < 0)
		(void)fprintf(stderr, "vmmon: %s\n", err.text);
	return r < 0 ? 1 : 0;
}
