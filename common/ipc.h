/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SOCK_SEQPACKET Unix sockets: one datagram is one message, descriptors by SCM_RIGHTS, identity
 * from the kernel. ipc_recv() is the only recvmsg() of the tree.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "common/fd.h"
#include "proto/proto.h"

#include <sys/socket.h>
#include <sys/types.h>

/* Leaves mode or group of a socket's path as they are. */
#define IPC_KEEP_GID ((gid_t)-1)
#define IPC_KEEP_UID ((uid_t)-1)

/*
 * Binds and listens on @path, replacing a socket that a dead process left there (never another kind
 * of file). The path gets @mode and group @gid (IPC_KEEP_GID: unchanged). @type is SOCK_SEQPACKET
 * or SOCK_STREAM. Returns a non-blocking, close-on-exec descriptor or a negative errno.
 */
int ipc_listen(const char *path, int type, mode_t mode, gid_t gid, struct err *reterr);

/* A listening socket that the service manager may pass as @name, and that else is made at @path. */
struct ipc_place {
	const char *name, *path;
	int type;
	mode_t mode;
	uid_t uid; /* IPC_KEEP_UID: ours */
	gid_t gid;
};

/*
 * The socket that the service manager passed, or else a new one as by ipc_listen(). One that was
 * passed and is unusable is an error. Followed by notify_listen_done(), after the last.
 */
int ipc_take(const struct ipc_place *place, struct err *reterr);

/* Connects to @path without blocking; a negative errno when nobody listens there. */
int ipc_connect(const char *path, int type);

/* Accepts one connection, non-blocking and close-on-exec, with the peer's credentials. */
int ipc_accept(int listen_fd, struct ucred *ret_cred);

/* The credentials of the process at the other end (of connect() or listen() time, see unix(7)). */
int ipc_peer_cred(int fd, struct ucred *ret_cred);

/*
 * Receives one datagram of at most @size bytes without blocking; received descriptors are added to
 * @fds, which owns them whatever is returned. Returns the length (0: end of file), -EAGAIN,
 * -EBADMSG when anything was truncated or more descriptors came than a message may carry, or
 * another errno.
 */
ssize_t ipc_recv(int fd, void *buf, size_t size, struct fdlist *fds);

/* The same with room for @max_fds (at most FDLIST_MAX) descriptors: between halves of one daemon.
 */
ssize_t ipc_recv_fds(int fd, void *buf, size_t size, struct fdlist *fds, size_t max_fds);

/*
 * Sends one datagram without blocking: @header, @header->len bytes of @body, @n_fds descriptors
 * (at most FDLIST_MAX; they stay the caller's). Returns 0, -EAGAIN when the peer does not read, or
 * another negative errno.
 */
int ipc_send(int fd, const struct proto_header *header, const void *body, const int *fds,
	     size_t n_fds);

/*
 * Forks, with a socket pair between the two: each gets its end as @ret_fd, close-on-exec. @flags:
 * SOCK_NONBLOCK or 0, for both. Returns 0 in the child, else the child's pid or a negative errno.
 */
pid_t ipc_fork(int flags, int *ret_fd, struct err *reterr);
