/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line that the unprivileged daemons share:
 *   NAME [--config FILE] [--check-config] [--debug] | --help | --version
 */
#pragma once

#include "common/base.h"

struct daemon_options {
	const char *config; /* borrowed from argv, or the default path */
	bool config_given;  /* a default file may be missing, a named one may not */
	bool check_only;    /* read the configuration, say what is wrong with it, and end */
	int log_level;      /* LOG_INFO, or LOG_DEBUG */
};

/*
 * Parses the command line of the daemon @name, whose --help says @purpose. Returns 0, 1 when the
 * program has nothing more to do, or -EINVAL after it has said what is wrong.
 */
int daemon_options_parse(int argc, char *argv[], const char *name, const char *purpose,
			 const char *default_config, struct daemon_options *ret_options);
