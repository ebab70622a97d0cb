/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sockets of the suite's protocol: made, reached, accepted.
 * Trust: runs in every daemon; binds paths in directories of its own, learns from the kernel who is
 * at the other end.
 */
#include "common/ipc.h"

#include "common/notify.h"

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

int ipc_take(const struct ipc_place *place, struct err *reterr)
{
	_cleanup_close_ int fd = notify_listen_fd(place->name, place->type);

	if (fd >= 0)
		return TAKE_FD(fd);
	if (fd != -ENOENT)
		return err_errno(reterr, fd, "the socket passed as `%s` is unusable", place->name);
	fd = ipc_listen(place->path, place->type, place->mode, place->gid, reterr);
	if (fd >= 0 && place->uid != IPC_KEEP_UID && chown(place->path, place->uid, place->gid) < 0)
		return err_errno(reterr, -errno, "cannot give %s to its peers", place->path);
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
