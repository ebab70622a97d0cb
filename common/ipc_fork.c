/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process of one's own, and a socket to it.
 * Trust: runs in daemons that divide themselves; reads nothing.
 */
#include "common/ipc.h"

pid_t ipc_fork(int flags, int *ret_fd, struct err *reterr)
{
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF;
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0, pair) < 0)
		return err_errno(reterr, -errno, "cannot make a socket pair");
	ours = pair[0];
	theirs = pair[1];
	pid = fork();
	if (pid < 0)
		return err_errno(reterr, -errno, "cannot fork");
	*ret_fd = pid > 0 ? TAKE_FD(ours) : TAKE_FD(theirs);
	return pid;
}
