/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The unprivileged daemons' command line.
 * Trust: runs in agentd, vmmon and frp-supervisor; reads arguments of whoever starts them.
 */
#include "common/options.h"

#include <getopt.h>
#include <syslog.h>

static void usage(FILE *f, const char *name, const char *purpose)
{
	(void)fprintf(f,
		      "usage: %s [--config FILE] [--check-config] [--debug]\n"
		      "       %s --help | --version\n"
		      "%s; see %s(8).\n",
		      name, name, purpose, name);
}

int daemon_options_parse(int argc, char *argv[], const char *name, const char *purpose,
			 const char *default_config, struct daemon_options *ret_options)
{
	static const struct option table[] = {
		{"config", required_argument, NULL, 'c'}, {"check-config", no_argument, NULL, 'k'},
		{"debug", no_argument, NULL, 'd'},        {"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},      {0},
	};
	int c;

	*ret_options = (struct daemon_options){.config = default_config, .log_level = LOG_INFO};
	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (c) {
		case 'c':
			ret_options->config = optarg;
			ret_options->config_given = true;
			break;
		case 'k':
			ret_options->check_only = true;
			break;
		case 'd':
			ret_options->log_level = LOG_DEBUG;
			break;
		case 'h':
			usage(stdout, name, purpose);
			return 1;
		case 'V':
			(void)printf("%s " QUDATA_VERSION "\n", name);
			return 1;
		default:
			usage(stderr, name, purpose);
			return -EINVAL;
		}
	}
	if (optind == argc)
		return 0;
	usage(stderr, name, purpose);
	return -EINVAL;
}
