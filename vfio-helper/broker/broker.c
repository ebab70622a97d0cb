/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the broker is given by vfio-helper, and what it begins with.
 * Trust: runs as qudata-helper; reads a sealed struct of vfio-helper's.
 */
#include "vfio-helper/broker/broker.h"

#include "common/fd.h"
#include "common/priv.h"

#include <fcntl.h>
#include <sys/epoll.h>

static int take_setup(struct broker_setup *ret_setup, struct err *reterr)
{
	ssize_t size = fd_memfd_check(BROKER_FD_SETUP, sizeof(*ret_setup));

	if (size < 0)
		return err_set(reterr, -EPIPE, "it is for vfio-helper to start, not for people");
	if (size != sizeof(*ret_setup) ||
	    pread(BROKER_FD_SETUP, ret_setup, sizeof(*ret_setup), 0) != size ||
	    ret_setup->spawn.version != SPAWN_VERSION)
		return err_set(reterr, -EPROTO, "vfio-helper is of another version");
	(void)close(BROKER_FD_SETUP);
	return 0;
}

int broker_open(struct broker *b, struct err *reterr)
{
	int r = take_setup(&b->setup, reterr);

	if (r < 0)
		return r;
	for (int fd = BROKER_FD_PAIR; fd < BROKER_FD_END; fd++)
		if (fd != BROKER_FD_SETUP && fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			return err_errno(reterr, -errno, "descriptor %d of vfio-helper's", fd);
	b->monitor.fd = BROKER_FD_PAIR;
	b->listen_fd = BROKER_FD_LISTEN;
	b->vms_fd = BROKER_FD_VMS;
	b->run_fd = BROKER_FD_RUN;
	b->image_fd = BROKER_FD_IMAGES;
	b->accel_fd = BROKER_FD_ACCEL;
	b->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return b->epoll_fd < 0 ? err_errno(reterr, -errno, "event loop") : 0;
}

static void on_listen(struct broker *b, void *arg)
{
	(void)arg;
	server_accept(&b->server, b->listen_fd);
}

/* Nothing comes unasked from vfio-helper but its end. */
static void on_monitor(struct broker *b, void *arg)
{
	(void)arg;
	b->monitor.lost = true;
}

int broker_begin(struct broker *b, struct err *reterr)
{
	int r;

	stage_assert_running();
	b->refusals = (struct bucket){.tokens = REFUSAL_BURST, .last_ms = loop_now_ms()};
	dispatch_init(b);
	r = vm_load_all(b, reterr);
	if (r < 0)
		return r;
	accel_load(b);
	(void)accel_ready(b);
	gpu_recover_all(b);
	r = loop_watch(b, &b->monitor_watch, b->monitor.fd, on_monitor, NULL);
	if (r == 0)
		r = loop_watch(b, &b->listen_watch, b->listen_fd, on_listen, NULL);
	if (r == 0)
		r = monitor_ready(&b->monitor);
	return r < 0 ? err_errno(reterr, r, "cannot begin") : 0;
}

void broker_done(struct broker *b)
{
	if (b->server.config.watch)
		server_done(&b->server);
	/* The VMs stay; vfio-helper leaves when it sees this end closed. */
	b->monitor.fd = safe_close(b->monitor.fd);
}
