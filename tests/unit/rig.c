/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of common/ share.
 * Trust: runs in tests only.
 */
#include "tests/unit/rig.h"

#include <dirent.h>
#include <ftw.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static char directory[PATH_MAX];

const char *rig_dir(void)
{
	const char *base = getenv("TMPDIR");

	if (directory[0] != '\0')
		return directory;
	(void)snprintf(directory, sizeof(directory), "%s/qudata-test.XXXXXX", base ? base : "/tmp");
	if (!mkdtemp(directory) || chmod(directory, 0755) < 0) {
		perror(directory);
		abort();
	}
	return directory;
}

const char *rig_path(const char *name)
{
	static char paths[8][PATH_MAX + 64];
	static size_t next;
	char *path = paths[next++ % ARRAY_LEN(paths)];

	(void)snprintf(path, sizeof(paths[0]), "%s/%s", rig_dir(), name);
	return path;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

void rig_done(void)
{
	if (directory[0] == '\0')
		return;
	(void)nftw(directory, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
	directory[0] = '\0';
}

size_t rig_count_entries(const char *path)
{
	DIR *dir = opendir(path);
	size_t n = 0;

	if (!dir) {
		perror(path);
		abort();
	}
	for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
		if (!STR_EQ(e->d_name, ".") && !STR_EQ(e->d_name, ".."))
			n++;
	(void)closedir(dir);
	return n;
}

size_t rig_count_fds(void)
{
	return rig_count_entries("/proc/self/fd") - 1; /* without the directory's own */
}

int rig_send(int fd, const void *buf, size_t len, const int *fds, size_t n_fds)
{
	_cleanup_free_ char *control = calloc(1, CMSG_SPACE(sizeof(int) * (n_fds + 1)));
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	if (!control)
		abort();
	if (n_fds > 0) {
		struct cmsghdr *c;

		mh.msg_control = control;
		mh.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	return sendmsg(fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

ssize_t rig_recv(int fd, void *buf, size_t size, size_t *ret_n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 64)];
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = size};
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n = recvmsg(fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	size_t got = 0;

	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c))
		for (size_t i = 0; CMSG_LEN(i * sizeof(int)) < c->cmsg_len; i++) {
			int one;

			memcpy(&one, CMSG_DATA(c) + i * sizeof(int), sizeof(one));
			(void)close(one);
			got++;
		}
	if (ret_n_fds)
		*ret_n_fds = got;
	return n;
}

int rig_connect(const char *path, int type)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	if (fd < 0 || strlen(path) >= sizeof(sun.sun_path))
		abort();
	memcpy(sun.sun_path, path, strlen(path));
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

int rig_in_child(int (*fn)(void *arg), const void *arg)
{
	int status = 0;
	pid_t pid;

	(void)fflush(NULL);
	pid = fork();
	if (pid < 0)
		abort();
	if (pid == 0)
		_exit(fn((void *)arg));
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			abort();
	return status;
}
