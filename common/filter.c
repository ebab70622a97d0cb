/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Closing a system-call filter over the process.
 * Trust: runs in every program that is confined, before it reads input.
 */
#include "common/priv.h"

#include <linux/seccomp.h>
#include <sys/syscall.h>

int priv_enter_filter(const char *name, const struct sock_filter *filter, size_t len,
		      struct err *reterr)
{
	const struct sock_fprog prog = {
		.len = (unsigned short)len,
		.filter = (struct sock_filter *)filter,
	};

	if (len == 0)
		return 0; /* built with -Dsandbox=off */
	if (len > BPF_MAXINSNS)
		return err_set(reterr, -EINVAL, "the system-call filter of %s is too long", name);
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog) != 0)
		return err_errno(reterr, errno > 0 ? -errno : -EPERM,
				 "cannot load the system-call filter of %s", name);
	return 0;
}
