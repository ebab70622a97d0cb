/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trial of KVM: QEMU boots a real kernel, and its serial port tells whether that came to life.
 * Trust: runs as a VM's user; reads what the kernel under trial and QEMU write.
 */
#include "vfio-helper/launch/launch.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#define SIGN_OF_LIFE "Linux version"
#define CONSOLE_MAX  4096

static uint64_t now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MSEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000000;
}

_noreturn_ static void become_qemu(const struct args *args, int console)
{
	/* It must not outlive us. Not inherited over fork(), so asked for here. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 &&
	    dup2(console, CHILD_FD(FD_CONSOLE)) >= 0)
		(void)execv(args->argv[0], args->argv);
	(void)dprintf(STDERR_FILENO, "vm-launch: %s: %s\n", args->argv[0], strerrordesc_np(errno));
	_exit(126);
}

/* Returns 0 with a verdict, -EPIPE when QEMU ended before there was one. */
static int listen_for_life(int console, uint64_t deadline_ms, enum launch_exit *ret_result)
{
	char text[CONSOLE_MAX];
	size_t used = 0;

	*ret_result = LAUNCH_SILENT;
	while (used < sizeof(text)) {
		struct pollfd wait = {.fd = console, .events = POLLIN};
		uint64_t now = now_ms();
		ssize_t n;

		if (now >= deadline_ms)
			return 0;
		if (poll(&wait, 1, (int)(deadline_ms - now)) <= 0)
			continue;
		n = read(console, text + used, sizeof(text) - used);
		if (n <= 0)
			return -EPIPE;
		used += (size_t)n;
		if (memmem(text, used, SIGN_OF_LIFE, strlen(SIGN_OF_LIFE))) {
			*ret_result = LAUNCH_OK;
			return 0;
		}
	}
	return 0; /* it talks, but is no kernel */
}

int trial_run(const struct args *args, uint32_t seconds, enum launch_exit *ret_result)
{
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF;
	int pair[2], r;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	ours = pair[0];
	theirs = pair[1];
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		become_qemu(args, theirs);
	theirs = safe_close(theirs);
	r = listen_for_life(ours, now_ms() + seconds * MSEC_PER_SEC, ret_result);
	/* Not waited for: a QEMU that hangs in the kernel must not keep the verdict back. */
	(void)kill(pid, SIGKILL);
	return r;
}
