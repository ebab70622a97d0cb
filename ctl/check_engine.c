/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The capability check of the backend: with containers on this host, who their engine runs as, what
 * it can limit and how much room it has.
 *
 * Trust: runs as the operator, read only; reads the suite's configuration, and what the agent says
 * of the engine: vmmon alone may ask it.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "ctl/check.h"
#include "ctl/text.h"

#define CONF_MAX       16384
#define DEFAULT_SOCKET "/run/qudata-engine/podman.sock"
#define MOUNTS_MAX     ((size_t)1 << 20)

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

/* Is @path on or below @mount? */
static bool is_below(const char *path, const char *mount)
{
	size_t n = strlen(mount);

	return STR_EQ(mount, "/") ||
	       (strncmp(path, mount, n) == 0 && (path[n] == '/' || path[n] == '\0'));
}

/* Is the XFS that @path is on mounted with project quotas? */
static bool has_quotas(const struct check_env *env, const char *path)
{
	_cleanup_free_ char *text = malloc(MOUNTS_MAX);
	char mount[512], best[512] = "", type[32], options[512], *rest = text, *line;
	bool found = false;

	if (!text || check_read(env, "proc/self/mountinfo", text, MOUNTS_MAX) < 0)
		return false;
	while ((line = strsep(&rest, "\n"))) {
		const char *tail = strstr(line, " - ");

		if (!tail || sscanf(line, "%*s %*s %*s %*s %511s", mount) != 1 ||
		    sscanf(tail, " - %31s %*s %511s", type, options) != 2 ||
		    !is_below(path, mount) || strlen(mount) < strlen(best))
			continue;
		snprintf(best, sizeof(best), "%s", mount);
		found = STR_EQ(type, "xfs") &&
			(strstr(options, "prjquota") || strstr(options, "pquota"));
	}
	return found;
}

static const char *text_of(const struct check_env *env, const char *key)
{
	const char *text = json_string_value(json_object_get(env->engine, key));

	return text ? text : "";
}

static bool is_set(const struct check_env *env, const char *key)
{
	return json_is_true(json_object_get(env->engine, key));
}

static int64_t number_of(const struct check_env *env, const char *key)
{
	return json_integer_value(json_object_get(env->engine, key));
}

static void check_engine_limits(const struct check_env *env, struct check_report *report)
{
	static const char *const keys[] = {"limits_memory", "limits_cpus", "limits_processes"};
	static const char *const words[] = {"memory", "processors", "processes"};
	bool hollow = is_set(env, "rootless") && number_of(env, "cgroup") == 1;
	enum check_level bad = is_set(env, "unlimited") ? CHECK_WARN : CHECK_FAIL;
	char missing[64] = "";

	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		size_t len = strlen(missing);

		if (!is_set(env, keys[i]))
			snprintf(missing + len, sizeof(missing) - len, "%s%s", len ? ", " : "",
				 words[i]);
	}
	if (*missing)
		check_add(report, bad, "engine-limits",
			  "delegate the cgroup controllers cpu, memory and pids to the engine's "
			  "user; see vmmon.conf(5)",
			  "containers cannot be limited in: %s (cgroup v%d)", missing,
			  (int)number_of(env, "cgroup"));
	else if (hollow)
		check_add(report, bad, "engine-limits",
			  "boot with systemd.unified_cgroup_hierarchy=1",
			  "with cgroup v1 an ordinary user's engine limits nothing, whatever it "
			  "says");
	else
		check_add(report, CHECK_OK, "engine-limits", NULL,
			  "containers are limited in memory, processors and processes (cgroup v%d)",
			  (int)number_of(env, "cgroup"));
}

/* What to do so that disks can be limited. */
static const char *disk_remedy(const struct check_env *env)
{
	if (is_set(env, "rootless"))
		return "give the engine a file system of its own and keep engine_reserve: an "
		       "ordinary user's engine cannot set quotas";
	if (!STR_EQ(text_of(env, "backing"), "xfs"))
		return "put what the engine keeps on XFS that is mounted with pquota";
	return "mount that XFS with pquota (rootflags=pquota for the root file system), and "
	       "restart the engine";
}

static void check_engine_disk(const struct check_env *env, struct check_report *report)
{
	const char *driver = text_of(env, "driver"), *backing = text_of(env, "backing");
	bool overlay = STR_EQ(driver, "overlay") || STR_EQ(driver, "overlay2");

	if (overlay && STR_EQ(backing, "xfs") && !is_set(env, "rootless") &&
	    has_quotas(env, text_of(env, "root")))
		check_add(report, CHECK_OK, "engine-disk", NULL,
			  "containers' disks and /data can be limited (%s on XFS with project "
			  "quotas)",
			  driver);
	else if (STR_EQ(driver, "btrfs") && !is_set(env, "podman"))
		check_add(report, CHECK_WARN, "engine-disk", disk_remedy(env),
			  "containers' own disks can be limited (btrfs), /data cannot: a tenant "
			  "can fill the disk of all");
	else
		check_add(report, CHECK_WARN, "engine-disk", disk_remedy(env),
			  "containers' disks and /data cannot be limited (%s%s%s%s): a tenant can "
			  "fill the disk of all",
			  driver, *backing ? " on " : "", backing,
			  is_set(env, "rootless") ? ", as an ordinary user" : "");
}

static void check_engine_space(const struct check_env *env, struct check_report *report)
{
	static const char remedy[] = "make room; image prune --all removes images that no "
				     "container uses";
	int64_t mib = number_of(env, "free_mib"), reserve = number_of(env, "reserve_mib");
	char free_text[TEXT_AGE_MAX], reserve_text[TEXT_AGE_MAX];
	bool known = json_is_integer(json_object_get(env->engine, "free_mib"));

	text_mib(mib, free_text);
	text_mib(reserve, reserve_text);
	if (!known)
		check_add(report, CHECK_WARN, "engine-space", NULL,
			  "how much is free under %s is not known", text_of(env, "root"));
	else if (reserve == 0)
		check_add(report, CHECK_WARN, "engine-space", "set engine_reserve in vmmon.conf",
			  "%s free under %s, and no reserve is kept", free_text,
			  text_of(env, "root"));
	else
		check_add(report, mib < reserve ? CHECK_FAIL : CHECK_OK, "engine-space", remedy,
			  "%s free under %s, engine_reserve keeps %s", free_text,
			  text_of(env, "root"), reserve_text);
}

static const char *state_remedy(const char *state)
{
	if (STR_EQ(state, "closed"))
		return "let vmmon's group open the socket; see vmmon.conf(5)";
	if (STR_EQ(state, "root"))
		return "use rootless podman; or set engine_rootful = yes, which makes vmmon root";
	if (STR_EQ(state, "old") || STR_EQ(state, "senseless"))
		return "install Docker 20.10, podman 4 or newer";
	return "start the engine, or set engine_socket; see vmmon.conf(5)";
}

/* What vmmon was told by the engine. */
static void check_answers(const struct check_env *env, struct check_report *report)
{
	const char *state = text_of(env, "state"), *socket = text_of(env, "socket");

	if (!STR_EQ(state, "ok")) {
		check_add(report, CHECK_FAIL, "engine", state_remedy(state), "%s: %s", socket,
			  text_of(env, "detail"));
		return;
	}
	if (is_set(env, "rootless"))
		check_add(report, CHECK_OK, "engine", NULL, "%s %s at %s runs as an ordinary user",
			  is_set(env, "podman") ? "podman" : "Docker", text_of(env, "version"),
			  socket);
	else
		check_add(report, CHECK_WARN, "engine", "use rootless podman",
			  "%s %s at %s runs as root: whoever may use it is root on this host, so "
			  "vmmon is",
			  is_set(env, "podman") ? "podman" : "Docker", text_of(env, "version"),
			  socket);
	check_engine_limits(env, report);
	check_engine_disk(env, report);
	check_engine_space(env, report);
}

/* Nobody has asked it: who its socket belongs to. */
static void check_engine_socket(const struct check_env *env, struct check_report *report)
{
	static const char start[] = "start the engine, or set engine_socket; see vmmon.conf(5)";
	char path[256];
	struct stat st;

	conf_value(env, "etc/qudata/vmmon.conf", "engine_socket", DEFAULT_SOCKET, path,
		   sizeof(path));
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
	check_add(report, CHECK_INFO, "engine-limits", NULL,
		  "not known: the daemons do not answer, and only vmmon may ask the engine");
}

void check_engine(const struct check_env *env, struct check_report *report)
{
	char backend[16];

	conf_value(env, "etc/qudata/agentd.conf", "backend", "vm", backend, sizeof(backend));
	if (env->backend)
		snprintf(backend, sizeof(backend), "%s", env->backend);
	if (!STR_EQ(backend, "container")) {
		check_add(report, CHECK_OK, "backend", NULL, "new instances are VMs");
		return;
	}
	check_add(report, CHECK_INFO, "backend", NULL,
		  "new instances are containers on this host without VMs: tenants share its "
		  "kernel, and nothing else on this list that is about VMs matters");
	if (json_is_object(env->engine))
		check_answers(env, report);
	else
		check_engine_socket(env, report);
}
