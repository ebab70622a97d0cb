/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process that stands in for frpc: it has frpc's command line and lives in frpc's cage (filter,
 * Landlock, limits), and leaves the rest to fakefrpc.py, which it reaches on loopback by the port
 * in the file `fake.port` beside its configuration. On order it reads its configuration again,
 * prints, ends, or tries what the cage must refuse. Trust: a test; linked statically, as frpc is.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Tests write another one over it. */
static volatile char version[] = "VERSION=0.61.2\0          ";

static void need(int ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "door: %s: %s\n", what, strerror(errno));
	exit(9);
}

static size_t read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t n;

	need(fd >= 0, path);
	while ((n = read(fd, buf + used, size - used)) > 0)
		used += (size_t)n;
	(void)close(fd);
	return used;
}

static void put(int fd, const void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, (const char *)data + done, len - done);

		need(n > 0, "write");
		done += (size_t)n;
	}
}

static void get(int fd, void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = read(fd, (char *)data + done, len - done);

		if (n <= 0)
			exit(0); /* the test is over */
		done += (size_t)n;
	}
}

static void send_config(int fd, const char *path)
{
	static char text[1 << 20];
	uint32_t len = (uint32_t)read_file(path, text, sizeof(text)), be = htonl(len);

	put(fd, &be, sizeof(be));
	put(fd, text, len);
}

static int try_bind(uint16_t port)
{
	const struct sockaddr_in sin = {.sin_family = AF_INET,
					.sin_port = htons(port),
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	return bind(fd, (const struct sockaddr *)&sin, sizeof(sin)) < 0 ? errno : 0;
}

static int try_open(const char *path, int flags)
{
	int fd = open(path, flags, 0600);

	return fd < 0 ? errno : 0;
}

static int try_exec(void)
{
	static char name[] = "true";
	char *argv[] = {name, NULL};

	(void)execve("/bin/true", argv, NULL);
	return errno;
}

/* 0: it could; else the errno. What is fatal ends this process. */
static int attempt(const char *what, const char *config)
{
	if (strcmp(what, "exec") == 0)
		return try_exec();
	if (strcmp(what, "fork") == 0)
		return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) < 0 ? errno : 0;
	if (strcmp(what, "bind") == 0)
		return try_bind(7399);
	if (strcmp(what, "write") == 0)
		return try_open(config, O_WRONLY);
	if (strcmp(what, "create") == 0)
		return try_open("/tmp/door", O_RDWR | O_CREAT);
	if (strcmp(what, "passwd") == 0)
		return try_open("/etc/passwd", O_RDONLY);
	if (strcmp(what, "proc") == 0)
		return try_open("/proc/1/status", O_RDONLY);
	if (strcmp(what, "home") == 0)
		return try_open("/usr/bin/env", O_RDONLY);
	if (strcmp(what, "unix") == 0)
		return socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? errno : 0;
	if (strcmp(what, "ptrace") == 0)
		return syscall(SYS_ptrace, 0, 0, 0, 0) < 0 ? errno : 0;
	if (strcmp(what, "kill") == 0)
		return syscall(SYS_kill, getppid(), 0) < 0 ? errno : 0;
	return -1;
}

static void serve(int fd, const char *config)
{
	char order, text[4096];
	uint32_t len;
	int result;

	for (;;) {
		get(fd, &order, 1);
		get(fd, &len, sizeof(len));
		len = ntohl(len) < sizeof(text) ? ntohl(len) : sizeof(text) - 1;
		get(fd, text, len);
		text[len] = '\0';
		switch (order) {
		case 'R':
			send_config(fd, config);
			break;
		case 'L':
			put(STDOUT_FILENO, text, len);
			break;
		case 'T':
			result = attempt(text, config);
			put(fd, &result, sizeof(result));
			break;
		default:
			exit(atoi(text));
		}
	}
}

int main(int argc, char *argv[])
{
	char path[512], port[16] = "", *slash;
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd;

	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		(void)puts((const char *)version + strlen("VERSION="));
		return 0;
	}
	need(argc == 3 && strcmp(argv[1], "-c") == 0, "usage");
	(void)snprintf(path, sizeof(path), "%s", argv[2]);
	slash = strrchr(path, '/');
	need(slash != NULL, "path");
	(void)snprintf(slash + 1, sizeof(path) - (size_t)(slash + 1 - path), "fake.port");
	(void)read_file(path, port, sizeof(port) - 1);
	sin.sin_port = htons((uint16_t)atoi(port));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	need(fd >= 0 && connect(fd, (const struct sockaddr *)&sin, sizeof(sin)) == 0, "connect");
	put(fd, "door", 4);
	send_config(fd, argv[2]);
	serve(fd, argv[2]);
}
