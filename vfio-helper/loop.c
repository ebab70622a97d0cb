/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helper's event loop: epoll, one event at a time, and the nearest deadline.
 * Trust: runs as root; reads nothing itself.
 */
#include "vfio-helper/helper.h"

#include <sys/epoll.h>
#include <time.h>

uint64_t loop_now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MSEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000000;
}

int loop_watch(struct helper *h, struct watch *w, int fd, watch_fn *fn, void *arg)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = w};

	*w = (struct watch){.fd = fd, .fn = fn, .arg = arg};
	if (epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	w->fd = -EBADF;
	return -errno;
}

void loop_unwatch(struct helper *h, struct watch *w)
{
	/* Before the close: an open file that another process shares would stay in the set. */
	if (w->fd >= 0 && w->fn)
		(void)epoll_ctl(h->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	*w = (struct watch){.fd = -EBADF};
}

/* Milliseconds to the nearest deadline for epoll_wait(); -1 when there is none. */
static int next_timeout(const struct helper *h)
{
	uint64_t now = loop_now_ms(), next = 0;

	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (h->vms[i].deadline_ms != 0 && (next == 0 || h->vms[i].deadline_ms < next))
			next = h->vms[i].deadline_ms;
	if (next == 0)
		return -1;
	return next <= now ? 0 : (int)MIN_OF(next - now, (uint64_t)INT_MAX);
}

int loop_run(struct helper *h)
{
	while (!h->stop && !h->spawner.lost) {
		struct epoll_event event;
		/* One at a time: handling it may end what a second event was for. */
		int n = epoll_wait(h->epoll_fd, &event, 1, next_timeout(h));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 1) {
			struct watch *w = event.data.ptr;

			if (w->fn)
				w->fn(h, w->arg);
		}
		vm_expire(h, loop_now_ms());
	}
	return h->spawner.lost ? -EPIPE : 0;
}
