/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of the suite's protocol.
 * Trust: runs in every daemon; reads datagrams and descriptors of a peer that may be hostile.
 */
#include "common/ipc.h"

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
		if (!c) /* there is room for it, as just said */
			return -EINVAL;
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
