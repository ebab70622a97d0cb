/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The capability check of the backend: with containers on this host, who their engine runs as.
 *
 * Trust: runs as the operator, read only; reads the suite's configuration.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "ctl/check.h"

#define CONF_MAX       16384
#define DEFAULT_SOCKET "/run/qudata-engine/podman.sock"

/* The value of @key in a file of `key = value` lines, or @otherwise. */
static void conf_value(const struct check_env *env, const char *path, const char *key,
		       const char *otherwise, char *ret_value, size_t size)
{
	char text[CONF_MAX], *rest = text, *line;

	snprintf(ret_value, size, "%s", otherwise);
	if (check_read(env, path, text, sizeof(text)) < 0)
		return;
	while ((line = strsep(&rest, "\n"))) {
		size_t n = strlen(key);

		line += strspn(line, " \t");
		if (strncmp(line, key, n) != 0 || !strchr(" \t=", line[n]) || line[n] == '\0')
			continue;
		line += n + strspn(line + n, " \t=");
		snprintf(ret_value, size, "%.*s", (int)strcspn(line, " \t\r"), line);
	}
}

void check_engine(const struct check_env *env, struct check_report *report)
{
	static const char start[] = "start the engine, or set engine_socket; see vmmon.conf(5)";
	char backend[16], path[256];
	struct stat st;

	conf_value(env, "etc/qudata/agentd.conf", "backend", "vm", backend, sizeof(backend));
	if (env->backend)
		snprintf(backend, sizeof(backend), "%s", env->backend);
	if (!STR_EQ(backend, "container")) {
		check_add(report, CHECK_OK, "backend", NULL, "new instances are VMs");
		return;
	}
	conf_value(env, "etc/qudata/vmmon.conf", "engine_socket", DEFAULT_SOCKET, path,
		   sizeof(path));
	check_add(report, CHECK_INFO, "backend", NULL,
		  "new instances are containers on this host without VMs: tenants share its "
		  "kernel, and nothing else on this list that is about VMs matters");
	if (fstatat(env->root_fd, path + strspn(path, "/"), &st, 0) < 0)
		check_add(report, errno == EACCES ? CHECK_INFO : CHECK_FAIL, "engine",
			  errno == EACCES ? NULL : start, "%s: %s", path, strerror(errno));
	else if (!S_ISSOCK(st.st_mode))
		check_add(report, CHECK_FAIL, "engine", start, "%s is not a socket", path);
	else if (st.st_uid == 0)
		check_add(
			report, CHECK_WARN, "engine",
			"use rootless podman; without engine_rootful = yes vmmon refuses this one",
			"%s belongs to root: whoever may use it is root on this host, so vmmon is",
			path);
	else
		check_add(report, CHECK_OK, "engine", NULL, "%s belongs to user %u, not to root",
			  path, st.st_uid);
}
