/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptor helpers.
 * Trust: runs in every program; received descriptors come from a peer that may be hostile.
 */
#include "common/fd.h"

#include <signal.h>
#include <sys/time.h>

#define FOREIGN_CLOSE_MS 20
#define NEXT_CLOSE_MS    1

static void on_alarm(int number)
{
	(void)number; /* its arrival is what ends a wait */
}

/*
 * From now on no close waits longer than that, and each further one only as long as a signal's next
 * arrival takes; 0: as long as it likes.
 */
static void close_within_ms(long ms)
{
	const struct itimerval timer = {
		.it_value = {.tv_usec = ms * 1000},
		.it_interval = {.tv_usec = ms > 0 ? NEXT_CLOSE_MS * 1000 : 0}};

	(void)setitimer(ITIMER_REAL, &timer, NULL);
}

void fdlist_done(struct fdlist *list)
{
	const struct sigaction interrupt = {.sa_handler = on_alarm};
	struct sigaction old;

	if (list->n == 0)
		return;
	(void)sigaction(SIGALRM, &interrupt, &old);
	close_within_ms(FOREIGN_CLOSE_MS);
	for (size_t i = 0; i < list->n; i++)
		(void)safe_close(list->fds[i]);
	close_within_ms(0);
	(void)sigaction(SIGALRM, &old, NULL);
	list->n = 0;
}

int fd_close_foreign(int fd)
{
	struct fdlist one = {.fds = {fd}, .n = fd >= 0};

	fdlist_done(&one);
	return -EBADF;
}

int fdlist_add(struct fdlist *list, int fd)
{
	if (list->n == FDLIST_MAX) {
		(void)safe_close(fd);
		return -E2BIG;
	}
	list->fds[list->n++] = fd;
	return 0;
}

int fdlist_take(struct fdlist *list)
{
	int fd;

	if (list->n == 0)
		return -EBADF;
	fd = list->fds[0];
	list->n--;
	memmove(list->fds, list->fds + 1, list->n * sizeof(list->fds[0]));
	return fd;
}

int fd_write_all(int fd, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}
