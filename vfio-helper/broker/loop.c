/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The broker's event loop: epoll, one event at a time, and the nearest deadline.
 * Trust: runs as qudata-helper; reads nothing itself.
 */
#include "vfio-helper/broker/broker.h"

#include <sys/epoll.h>
#include <time.h>

uint64_t loop_now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MSEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000000;
}

int loop_watch(struct broker *b, struct watch *w, int fd, watch_fn *fn, void *arg)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = w};

	*w = (struct watch){.fd = fd, .fn = fn, .arg = arg};
	if (epoll_ctl(b->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	w->fd = -EBADF;
	return -errno;
}

void loop_unwatch(struct broker *b, struct watch *w)
{
	/* Before the close: an open file that another process shares would stay in the set. */
	if (w->fd >= 0 && w->fn)
		(void)epoll_ctl(b->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	*w = (struct watch){.fd = -EBADF};
}

/* Milliseconds to the nearest deadline for epoll_wait(); -1 when there is none. */
static int next_timeout(const struct broker *b)
{
	uint64_t now = loop_now_ms(), next = UINT64_MAX;

	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (b->vms[i].deadline_ms != 0)
			next = MIN_OF(next, b->vms[i].deadline_ms);
	for (size_t i = 0; i < ACT_MAX; i++)
		if (b->acts[i].deadline_ms != 0)
			next = MIN_OF(next, b->acts[i].deadline_ms);
	if (next == UINT64_MAX)
		return -1;
	return next <= now ? 0 : (int)MIN_OF(next - now, (uint64_t)INT_MAX);
}

int loop_run(struct broker *b)
{
	while (!b->monitor.lost) {
		bool more = vmdir_free_some(b);
		struct epoll_event event;
		/* One at a time: handling it may end what a second event was for. */
		int n = epoll_wait(b->epoll_fd, &event, 1, more ? 0 : next_timeout(b));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 1) {
			struct watch *w = event.data.ptr;

			if (w->fn)
				w->fn(b, w->arg);
		}
		vm_expire(b, loop_now_ms());
		act_expire(b, loop_now_ms());
	}
	return 0;
}
