/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-helper: the suite's one process that stays root. Options and start-up stages, nothing else.
 * Trust: runs as root; reads its arguments and helper.conf before it is confined.
 */
#include "vfio-helper/monitor/monitor.h"

#include "common/notify.h"
#include "common/priv.h"
#include "vfio-helper.filter.h"

#include <getopt.h>
#include <linux/capability.h>
#include <signal.h>

#define DEFAULT_CONFIG "/etc/qudata/helper.conf"

static const char usage[] =
	"usage: vfio-helper [--config FILE] [--check-config]\n"
	"       vfio-helper --explain [--sysfs DIR] [--config FILE]\n"
	"       vfio-helper --version | --help\n"
	"\n"
	"The root helper of qudata-agent: makes, starts and ends VMs for agentd.\n"
	"  --config FILE    read FILE instead of " DEFAULT_CONFIG "\n"
	"  --check-config   check the configuration, note missing accounts, exit\n"
	"  --explain        say of each GPU whether it may be rented, and why not\n";

/* To become the users of its children, and to have what vfio-bind is started with (bind.h). */
#define CAPS                                                                                       \
	(UINT64_C(1) << CAP_SETUID | UINT64_C(1) << CAP_SETGID | UINT64_C(1) << CAP_SETPCAP |      \
	 UINT64_C(1) << CAP_CHOWN | UINT64_C(1) << CAP_SYS_PTRACE |                                \
	 UINT64_C(1) << CAP_DAC_READ_SEARCH)

static struct monitor monitor = {.pair_fd = -EBADF,
				 .signal_fd = -EBADF,
				 .broker_pidfd = -EBADF,
				 .listen_fd = -EBADF,
				 .cgroup_fd = -EBADF,
				 .audit.fd = -EBADF};

struct options {
	const char *config;
	bool check_only;
};

/* Returns 0 to go on, 1 when all is said, or -EINVAL. */
static int parse_options(int argc, char *argv[], struct options *ret_options)
{
	static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
					      {"check-config", no_argument, NULL, 'k'},
					      {"version", no_argument, NULL, 'v'},
					      {"help", no_argument, NULL, 'h'},
					      {0}};
	int c;

	*ret_options = (struct options){.config = DEFAULT_CONFIG};
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (c == 'c') {
			ret_options->config = optarg;
		} else if (c == 'k') {
			ret_options->check_only = true;
		} else if (c == 'v' || c == 'h') {
			(void)fputs(c == 'v' ? "vfio-helper " QUDATA_VERSION "\n" : usage, stdout);
			return 1;
		} else {
			return -EINVAL;
		}
	}
	return optind == argc ? 0 : -EINVAL;
}

/* vfio-explain has the code that decides; what else stands on the command line is for it. */
static int explain(char *argv[])
{
	char path[256];
	int r = beside_us("vfio-explain", path, sizeof(path));

	(void)signal(SIGPIPE, SIG_DFL);
	if (r == 0) {
		(void)execv(path, argv);
		r = -errno;
	}
	(void)fprintf(stderr, "vfio-helper: cannot run vfio-explain: %s\n", log_errno_text(r));
	return 1;
}

static int run(struct monitor *m, const struct options *options, struct err *reterr)
{
	int r = config_load(options->config, &m->config, reterr);

	if (r < 0)
		return r;
	r = accounts_load(&m->config, "/etc/passwd", reterr);
	if (options->check_only) {
		/* The file is right; whether this machine is set up for it is another question. */
		if (r < 0)
			(void)fprintf(stderr, "note: %s\n", reterr->text);
		return 0;
	}
	if (r < 0)
		return r;
	if (geteuid() != 0)
		return err_set(reterr, -EPERM, "vfio-helper has to be started as root");

	stage_enter(STAGE_OPEN);
	m->config_path = options->config;
	notify_open();
	r = monitor_open(m, reterr);
	if (r == 0)
		r = priv_confine("vfio-helper", CAPS, filter_vfio_helper, filter_vfio_helper_len,
				 reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_RUN);
	r = monitor_serve(m);
	notify_stopping();
	return r < 0 ? err_errno(reterr, r, "the broker has ended") : 0;
}

int main(int argc, char *argv[])
{
	struct err err = {0};
	struct options options;
	int r = priv_sane_start(argc, notify_listen_begin(), &err);

	if (r == 0 && argc > 1 && STR_EQ(argv[1], "--explain"))
		return explain(argv);
	stage_enter(STAGE_CONFIG);
	log_open("vfio-helper", LOG_INFO);
	if (r == 0) {
		r = parse_options(argc, argv, &options);
		if (r != 0) {
			if (r < 0)
				(void)fputs(usage, stderr);
			return r < 0 ? 2 : 0;
		}
		r = run(&monitor, &options, &err);
	}
	monitor_done(&monitor);
	if (r < 0)
		log_event(LOG_ERR, err.text);
	return r < 0 ? 1 : 0;
}
