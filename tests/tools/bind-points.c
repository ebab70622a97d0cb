/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linked to vfio-bind's main(): vfio-bind-points, which is vfio-bind that ends, as by kill -9, at a
 * named place between two steps. For tests, never installed.
 *
 * BIND_POINT=NAME[:N] says where: the N-th time (1) that NAME is passed; `any:N` is the N-th of
 * all.
 *
 * In /run/qudata-bind-point is the same N of all, for one that vfio-helper starts: it stops there,
 * as by SIGSTOP, so that somebody else can be killed meanwhile.
 *
 * BIND_POINT_LOG=FILE: the name of each point that is passed is appended.
 *
 * Trust: runs in tests, as root.
 */
#include "vfio-helper/bind/lease.h"

#include <fcntl.h>
#include <signal.h>

static char wanted[64];
static long countdown = 1;
static int log_fd = -EBADF, what = SIGKILL;

static void at_point(const char *name)
{
	if (log_fd >= 0)
		(void)dprintf(log_fd, "%s\n", name);
	if ((STR_EQ(wanted, "any") || STR_EQ(wanted, name)) && --countdown == 0)
		(void)raise(what);
}

static void stop_by_file(void)
{
	FILE *f = fopen("/run/qudata-bind-point", "re");

	if (f && fscanf(f, "%ld", &countdown) == 1) {
		(void)snprintf(wanted, sizeof(wanted), "any");
		what = SIGSTOP;
	}
	if (f)
		(void)fclose(f);
}

__attribute__((constructor)) static void points_init(void)
{
	const char *point = getenv("BIND_POINT"), *log = getenv("BIND_POINT_LOG");
	char *colon;

	bind_point_hook = at_point;
	if (log) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

		/* priv_sane_start() closes all above 3; nobody reads the standard input. */
		log_fd = dup2(fd, STDIN_FILENO);
	}
	if (!point) {
		stop_by_file();
		return;
	}
	(void)snprintf(wanted, sizeof(wanted), "%s", point);
	colon = strchr(wanted, ':');
	if (colon) {
		*colon = '\0';
		countdown = strtol(colon + 1, NULL, 10);
	}
}
