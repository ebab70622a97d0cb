/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proof, before a network is given to a guest, that the VM's user cannot reach the host's loopback:
 * passt connects to whatever address a guest names, so the packet filter has to refuse this user.
 * The filter's rules are not parsed; the thing itself is tried.
 * Trust: runs as the VM's user in the process that becomes passt; talks to itself.
 */
#include "vfio-helper/launch/launch.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

union address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

static int listener(int family, int type)
{
	_cleanup_close_ int fd = socket(family, type | SOCK_CLOEXEC, 0);
	union address any = {.sa.sa_family = (sa_family_t)family};

	if (family == AF_INET)
		any.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		any.in6.sin6_addr = in6addr_loopback;
	if (fd < 0 || bind(fd, &any.sa, family == AF_INET ? sizeof(any.in) : sizeof(any.in6)) < 0)
		return -errno;
	if (type == SOCK_STREAM && listen(fd, 1) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/* Refused in words: anything else, a timeout too, is no proof. */
static bool refused(int error)
{
	return error == ECONNREFUSED || error == EPERM || error == EACCES;
}

static int try_one(int family, int type)
{
	const struct timeval second = {.tv_sec = 1};
	_cleanup_close_ int target = listener(family, type), fd = -EBADF;
	union address to;
	socklen_t len = sizeof(to);
	char byte = 'x';

	if (target < 0) /* a family that the host does not have cannot be reached */
		return target == -EAFNOSUPPORT || target == -EADDRNOTAVAIL ? 0 : target;
	if (getsockname(target, &to.sa, &len) < 0)
		return -errno;
	fd = socket(family, type | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second)) < 0)
		return -errno;
	if (connect(fd, &to.sa, len) < 0)
		return refused(errno) ? 0 : -errno;
	if (type == SOCK_STREAM)
		return -EISCONN;
	/* The filter refuses it here; a datagram that left may only be late. */
	if (send(fd, &byte, 1, MSG_NOSIGNAL) >= 0)
		return -EISCONN;
	return refused(errno) ? 0 : -errno;
}

int isolation_check(void)
{
	static const int families[] = {AF_INET, AF_INET6};

	for (size_t i = 0; i < ARRAY_LEN(families); i++) {
		int r = try_one(families[i], SOCK_STREAM);

		if (r == 0)
			r = try_one(families[i], SOCK_DGRAM);
		if (r < 0)
			return r;
	}
	return 0;
}
