/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the helper opens before it is confined, and what it begins with afterwards.
 * Trust: runs as root; reads the administrator's files and its own.
 */
#include "vfio-helper/helper.h"

#include "common/fd.h"
#include "common/ipc.h"
#include "common/notify.h"
#include "common/priv.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/signalfd.h>

#define LOCK_WAIT_MS 5000

static int open_dir(const char *path, mode_t mode, int *ret_fd, struct err *reterr)
{
	int r;

	if (mode != 0 && mkdir(path, mode) == 0)
		r = chmod(path, mode) < 0 ? -errno : 0; /* whatever the umask */
	else
		r = mode == 0 || errno == EEXIST ? 0 : -errno;
	if (r < 0)
		return err_errno(reterr, r, "cannot make %s", path);
	r = config_check_trusted(path, S_IFDIR, reterr);
	if (r < 0)
		return r;
	*ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return *ret_fd < 0 ? err_errno(reterr, -errno, "cannot open %s", path) : 0;
}

/* One helper per state directory: two would start a VM twice. A dying one gets a moment. */
static int lock_state(int fd, const char *path, struct err *reterr)
{
	for (unsigned int waited_ms = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; waited_ms += 50) {
		if (errno != EWOULDBLOCK || waited_ms >= LOCK_WAIT_MS)
			return err_errno(reterr, -errno, "%s is in use by another vfio-helper",
					 path);
		(void)usleep(50000);
	}
	return 0;
}

static int open_dirs(struct helper *h, struct err *reterr)
{
	const struct config *c = &h->config;
	int r = open_dir(c->state_dir, 0700, &h->state_fd, reterr);

	if (r == 0)
		r = lock_state(h->state_fd, c->state_dir, reterr);
	if (r == 0 && mkdirat(h->state_fd, "vms", 0700) < 0 && errno != EEXIST)
		r = err_errno(reterr, -errno, "cannot make %s/vms", c->state_dir);
	if (r == 0) {
		h->vms_fd = openat(h->state_fd, "vms", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		r = h->vms_fd < 0 ? err_errno(reterr, -errno, "cannot open vms") : 0;
	}
	if (r == 0)
		r = open_dir(c->run_dir, 0711, &h->run_fd, reterr);
	if (r == 0)
		r = open_dir(c->image_dir, 0, &h->image_fd, reterr);
	return r;
}

static int check_programs(const struct config *c, struct err *reterr)
{
	int r = config_check_trusted(c->setup.qemu_binary, S_IFREG, reterr);

	if (r == 0)
		r = config_check_trusted(c->setup.qemu_img_binary, S_IFREG, reterr);
	return r < 0 ? r : config_check_trusted(c->setup.passt_binary, S_IFREG, reterr);
}

static int open_signals(struct helper *h, struct err *reterr)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	h->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return h->signal_fd < 0 || h->epoll_fd < 0 ? err_errno(reterr, -errno, "event loop") : 0;
}

static int read_boot_id(struct helper *h, struct err *reterr)
{
	char text[64];
	ssize_t n = fd_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", text, sizeof(text));

	if (n != 37) /* with a newline */
		return err_set(reterr, -EIO, "cannot read the kernel's boot id");
	memcpy(h->boot_id, text, 36);
	return 0;
}

/* Nobody but root may put something else where the socket is being made. */
static int check_parent(const char *path, struct err *reterr)
{
	char dir[DIR_TEXT_MAX];

	(void)snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(path, '/') - path), path);
	return config_check_trusted(dir[0] != '\0' ? dir : "/", S_IFDIR, reterr);
}

int helper_open(struct helper *h, struct err *reterr)
{
	int r = check_programs(&h->config, reterr);

	if (r < 0)
		return r;
	h->listen_fd = notify_listen_fd("helper", SOCK_SEQPACKET);
	if (h->listen_fd == -EINVAL)
		return err_set(reterr, -EINVAL,
			       "the socket passed as `helper` is no listening "
			       "SOCK_SEQPACKET socket");
	notify_listen_done();
	/* First of all, so that it can hold nothing that the rest opens. */
	(void)accel_kvm_group(&h->config.setup.kvm_gid);
	r = spawner_start(&h->config.setup, &h->spawner, reterr);
	if (r == 0)
		r = open_dirs(h, reterr);
	if (r == 0)
		r = read_boot_id(h, reterr);
	if (r == 0)
		r = open_signals(h, reterr);
	if (r == 0)
		r = cgroup_open(&h->config, &h->cgroup_fd, reterr);
	if (r < 0)
		return r;
	if (h->listen_fd >= 0)
		return 0;
	r = check_parent(h->config.socket, reterr);
	if (r < 0)
		return r;
	h->listen_fd = ipc_listen(h->config.socket, SOCK_SEQPACKET, 0660, IPC_KEEP_GID, reterr);
	if (h->listen_fd < 0)
		return h->listen_fd;
	/* Its two peers, and nobody else, by their own ids: neither has to be in a group of the
	 * other. */
	if (chown(h->config.socket, h->config.agentd.uid, h->config.vmmon.gid) < 0)
		return err_errno(reterr, -errno, "cannot give %s to its peers", h->config.socket);
	return 0;
}

static void on_listen(struct helper *h, void *arg)
{
	(void)arg;
	server_accept(&h->server, h->listen_fd);
}

static void on_signal(struct helper *h, void *arg)
{
	(void)arg;
	h->stop = true;
}

/* Nothing comes unasked from the spawner but its end. */
static void on_spawner(struct helper *h, void *arg)
{
	(void)arg;
	log_event(LOG_ERR, "the spawner has ended");
	h->spawner.lost = true;
}

int helper_begin(struct helper *h, struct err *reterr)
{
	int r;

	stage_assert_running();
	r = audit_open(h, reterr);
	if (r < 0)
		return r;
	dispatch_init(h);
	r = vm_load_all(h, reterr);
	if (r < 0)
		return r;
	accel_load(h);
	(void)accel_ready(h);
	r = loop_watch(h, &h->signal_watch, h->signal_fd, on_signal, NULL);
	if (r == 0)
		r = loop_watch(h, &h->spawner_watch, h->spawner.fd, on_spawner, NULL);
	if (r == 0)
		r = loop_watch(h, &h->listen_watch, h->listen_fd, on_listen, NULL);
	return r < 0 ? err_errno(reterr, r, "cannot watch") : 0;
}

void helper_done(struct helper *h)
{
	if (h->server.config.watch)
		server_done(&h->server);
	/* The VMs stay; the spawner leaves when it sees this end closed. */
	h->spawner.fd = safe_close(h->spawner.fd);
}
