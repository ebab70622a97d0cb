/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qudatactl: the operator's tool. Parses, dispatches by the command table, reports.
 *
 * Trust: runs as the operator; reads argv, environment and the agent's answers.
 */
#include <locale.h>
#include <signal.h>

#include "ctl/api.h"
#include "ctl/ctl.h"

int main(int argc, char *argv[])
{
	struct ctl c = {0};
	enum ctl_exit r;

	(void)setlocale(LC_CTYPE, "");
	/* A reader that went away (`| head`) is noticed by the failing write. */
	(void)signal(SIGPIPE, SIG_DFL);
	/* Known before the command line is, for errors about the command line itself. */
	for (int i = 1; i < argc && !STR_EQ(argv[i], "--"); i++)
		c.json = c.json || STR_EQ(argv[i], "--json") || STR_EQ(argv[i], "-j");
	ctl_setup_output(&c);
	r = ctl_parse(&c, argc, argv);
	if (r == CTL_OK) {
		c.json = ctl_has(&c, OPT_JSON);
		c.quiet = ctl_has(&c, OPT_QUIET);
		if (ctl_has(&c, OPT_HELP) && c.cmd)
			ctl_command_help(stdout, c.cmd);
		else if (ctl_has(&c, OPT_HELP))
			ctl_usage(stdout);
		else if (ctl_has(&c, OPT_VERSION))
			puts("qudatactl " QUDATA_VERSION);
		else if (c.cmd)
			r = c.cmd->run(&c);
		else
			r = ctl_fail(&c, CTL_USAGE, "no command\nTry: qudatactl --help");
	}
	c.api = api_free(c.api);
	ctl_done(&c);
	/* A full disk behind stdout must not look like success. */
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "qudatactl: cannot write the output: %s\n", strerror(errno));
		return r == CTL_OK ? CTL_FAILED : (int)r;
	}
	return (int)r;
}
