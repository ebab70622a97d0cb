/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport of the suite's protocol.
 * Trust: runs in every daemon; reads datagrams and descriptors of a peer that may be hostile.
 */
#include "common/ipc.h"

#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 16

static int fill_address(const char *path, struct sockaddr_un *ret_sun)
{
	size_t len = strlen(path);

	if (len == 0 || len >= sizeof(ret_sun->sun_path))
		return -ENAMETOOLONG;
	memset(ret_sun, 0, sizeof(*ret_sun));
	ret_sun->sun_family = AF_UNIX;
	memcpy(ret_sun->sun_path, path, len);
	return 0;
}

static int remove_stale(const char *path, int type, struct err *reterr)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_errno(reterr, -errno, "cannot look at %s", path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(reterr, -EEXIST, "%s exists and is no socket; remove it", path);
	fd = ipc_connect(path, type);
	if (fd >= 0 || fd == -EAGAIN || fd == -EPROTOTYPE) /* the latter two: it lives, too */
		return err_set(reterr, -EADDRINUSE, "another process listens on %s; stop it", path);
	if (unlink(path) < 0)
		return err_errno(reterr, -errno, "cannot replace the socket %s", path);
	return 0;
}

/* In a set-group-ID directory the group is right already, and no membership is needed to set it. */
static int set_group(const char *path, gid_t gid)
{
	struct stat st;

	if (gid == IPC_KEEP_GID)
		return 0;
	if (lstat(path, &st) == 0 && st.st_gid == gid)
		return 0;
	return chown(path, (uid_t)-1, gid) < 0 ? -errno : 0;
}

int ipc_listen(const char *path, int type, mode_t mode, gid_t gid, struct err *reterr)
{
	_cleanup_close_ int fd = -EBADF;
	struct sockaddr_un sun;
	mode_t mask;
	int r = fill_address(path, &sun);

	if (r < 0)
		return err_set(reterr, r, "the socket path %s is too long (107 bytes at most)",
			       path);
	r = remove_stale(path, type, reterr);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(reterr, -errno, "cannot make a socket");
	/* Nobody may connect before the final owner and mode are set. */
	mask = umask(0777);
	r = bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ? -errno : 0;
	(void)umask(mask);
	if (r < 0)
		return err_errno(reterr, r, "cannot bind %s", path);
	r = set_group(path, gid);
	if (r < 0)
		return err_errno(reterr, r, "cannot give %s to group %u", path, gid);
	if (chmod(path, mode) < 0)
		return err_errno(reterr, -errno, "cannot set the mode of %s", path);
	if (listen(fd, BACKLOG) < 0)
		return err_errno(reterr, -errno, "cannot listen on %s", path);
	return TAKE_FD(fd);
}

int ipc_connect(const char *path, int type)
{
	_cleanup_close_ int fd = -EBADF;
	struct sockaddr_un sun;
	int r = fill_address(path, &sun);

	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int ipc_accept(int listen_fd, struct ucred *ret_cred)
{
	_cleanup_close_ int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	int r;

	if (fd < 0)
		return -errno;
	r = ipc_peer_cred(fd, ret_cred);
	if (r < 0)
		return r;
	return TAKE_FD(fd);
}

int ipc_peer_cred(int fd, struct ucred *ret_cred)
{
	socklen_t len = sizeof(*ret_cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret_cred, &len) < 0)
		return -errno;
	return len == sizeof(*ret_cred) ? 0 : -EBADMSG;
}

/* Moves every descriptor of one control message into @fds; closes what does not fit. */
static int take_rights(const struct cmsghdr *cmsg, struct fdlist *fds)
{
	size_t n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	int r = 0;

	if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
		if (fdlist_add(fds, fd) < 0)
			r = -EBADMSG;
	}
	return r;
}

ssize_t ipc_recv(int fd, void *buf, size_t size, struct fdlist *fds)
{
	return ipc_recv_fds(fd, buf, size, fds, PROTO_MAX_FDS);
}

ssize_t ipc_recv_fds(int fd, void *buf, size_t size, struct fdlist *fds, size_t max_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * FDLIST_MAX)];
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = size};
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	bool sane = true;
	ssize_t n;

	do
		n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	/* Every descriptor is taken in first, so that none can leak by a later refusal. */
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c))
		if (take_rights(c, fds) < 0)
			sane = false;
	if (!sane || fds->n > max_fds || (mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return -EBADMSG;
	return n;
}

int ipc_send(int fd, const struct proto_header *header, const void *body, const int *fds,
	     size_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * FDLIST_MAX)];
	} control = {0};
	struct iovec iov[2] = {
		{.iov_base = (void *)header, .iov_len = sizeof(*header)},
		{.iov_base = (void *)body, .iov_len = header->len},
	};
	struct msghdr mh = {.msg_iov = iov, .msg_iovlen = header->len > 0 ? 2 : 1};
	ssize_t n;

	if (n_fds > FDLIST_MAX)
		return -E2BIG;
	if (n_fds > 0) {
		struct cmsghdr *c;

		mh.msg_control = control.bytes;
		mh.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	do
		n = sendmsg(fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == sizeof(*header) + header->len ? 0 : -EIO;
}
