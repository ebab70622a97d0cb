/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Talking to the service manager.
 * Trust: runs in every daemon; reads environment variables of the service manager.
 */
#include "common/notify.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#define LISTEN_FDS_START 3
#define LISTEN_FDS_LIMIT 32

static int notify_fd = -EBADF;
static uint32_t passed; /* bit per passed descriptor that nobody has taken yet */

void notify_open(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	size_t len = path ? strlen(path) : 0;
	socklen_t size;

	if (len > 1 && len < sizeof(sun.sun_path) && (path[0] == '/' || path[0] == '@')) {
		memcpy(sun.sun_path, path, len);
		if (path[0] == '@')
			sun.sun_path[0] = '\0';
		size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
		notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (notify_fd >= 0 && connect(notify_fd, (struct sockaddr *)&sun, size) < 0)
			notify_fd = safe_close(notify_fd);
	}
	(void)unsetenv("NOTIFY_SOCKET");
}

static void send_text(const char *prefix, const char *status, int flags)
{
	char text[256];
	int n = snprintf(text, sizeof(text), "%s%s%s", prefix, status ? "STATUS=" : "",
			 status ? status : "");

	if (notify_fd >= 0 && n > 0)
		(void)send(notify_fd, text, MIN_OF((size_t)n, sizeof(text) - 1),
			   MSG_NOSIGNAL | flags);
}

void notify_ready(const char *status)
{
	send_text("READY=1\n", status, 0); /* may wait: without it the start fails */
}

void notify_status(const char *status)
{
	send_text("", status, MSG_DONTWAIT);
}

void notify_stopping(void)
{
	send_text("STOPPING=1", NULL, MSG_DONTWAIT);
}

static bool parse_env_number(const char *name, unsigned long *ret_value)
{
	const char *text = getenv(name);
	char *end;

	if (!text || *text < '0' || *text > '9')
		return false;
	errno = 0;
	*ret_value = strtoul(text, &end, 10);
	return errno == 0 && *end == '\0';
}

/* The position of @name in the colon-separated LISTEN_FDNAMES, or -1. */
static int find_name(const char *names, const char *name)
{
	size_t len = strlen(name);
	int index = 0;

	for (const char *p = names; p; index++) {
		size_t part = strcspn(p, ":");

		if (part == len && memcmp(p, name, len) == 0)
			return index;
		p = p[part] == ':' ? p + part + 1 : NULL;
	}
	return -1;
}

static bool is_listening(int fd, int type)
{
	int listening = 0, is_type = 0;
	socklen_t len = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening)
		return false;
	len = sizeof(int);
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &is_type, &len) == 0 && is_type == type;
}

unsigned int notify_listen_begin(void)
{
	unsigned long pid, n;

	if (!parse_env_number("LISTEN_PID", &pid) || pid != (unsigned long)getpid())
		return 0;
	if (!parse_env_number("LISTEN_FDS", &n) || n > LISTEN_FDS_LIMIT)
		return 0;
	for (unsigned int i = 0; i < n; i++)
		if (fcntl(LISTEN_FDS_START + (int)i, F_GETFD) >= 0)
			passed |= 1u << i;
	return (unsigned int)n;
}

int notify_listen_fd(const char *name, int type)
{
	const char *names = getenv("LISTEN_FDNAMES");
	int index, fd, flags;

	if (!names)
		return -ENOENT;
	index = find_name(names, name);
	if (index < 0 || index >= LISTEN_FDS_LIMIT || !(passed & 1u << index))
		return -ENOENT;
	fd = LISTEN_FDS_START + index;
	if (!is_listening(fd, type))
		return -EINVAL;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	passed &= ~(1u << index);
	return fd;
}

void notify_listen_done(void)
{
	for (int i = 0; i < LISTEN_FDS_LIMIT; i++)
		if (passed & 1u << i)
			(void)close(LISTEN_FDS_START + i);
	passed = 0;
	(void)unsetenv("LISTEN_PID");
	(void)unsetenv("LISTEN_FDS");
	(void)unsetenv("LISTEN_FDNAMES");
}
