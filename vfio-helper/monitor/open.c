/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vfio-helper opens before it is confined, for itself and for the broker that it starts.
 * Trust: runs as root; reads the administrator's files, and names below directories of root.
 */
#include "vfio-helper/monitor/monitor.h"

#include "common/ipc.h"
#include "common/notify.h"
#include "vfio-helper/bind/bind.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#define LOCK_WAIT_MS 5000

int beside_us(const char *name, char *path, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", path, size);
	char *slash = n > 0 && (size_t)n < size ? memrchr(path, '/', (size_t)n) : NULL;
	size_t room;

	if (!slash)
		return -ENAMETOOLONG;
	room = size - (size_t)(slash + 1 - path);
	return snprintf(slash + 1, room, "%s", name) < (int)room ? 0 : -ENAMETOOLONG;
}

static int find_programs(struct monitor *m, struct err *reterr)
{
	const struct config *c = &m->config;
	const char *const given[] = {c->setup.qemu_binary, c->setup.qemu_img_binary,
				     c->setup.passt_binary};
	int r = beside_us("vm-launch", m->config.setup.launch_binary,
			  sizeof(m->config.setup.launch_binary));

	if (r == 0)
		r = beside_us("vfio-broker", m->broker_binary, sizeof(m->broker_binary));
	if (r == 0)
		r = beside_us("vfio-bind", m->bind_binary, sizeof(m->bind_binary));
	if (r < 0)
		return err_errno(reterr, r, "cannot find the programs beside this one");
	for (size_t i = 0; i < ARRAY_LEN(given) && r == 0; i++)
		r = config_check_trusted(given[i], S_IFREG, reterr);
	return r;
}

/* The directory that @path lies in: nobody but root may put something else there. */
static int check_parent(const char *path, struct err *reterr)
{
	char dir[DIR_TEXT_MAX];

	(void)snprintf(dir, sizeof(dir), "%.*s", (int)(strrchr(path, '/') - path), path);
	return config_check_trusted(dir[0] != '\0' ? dir : "/", S_IFDIR, reterr);
}

static int open_dir(const char *path, mode_t mode, int *ret_fd, struct err *reterr)
{
	int r = 0;

	if (mode != 0 && mkdir(path, mode) == 0)
		r = chmod(path, mode) < 0 ? -errno : 0; /* whatever the umask */
	else if (mode != 0 && errno != EEXIST)
		r = -errno;
	if (r < 0)
		return err_errno(reterr, r, "cannot make %s", path);
	r = config_check_trusted(path, S_IFDIR, reterr);
	if (r < 0)
		return r;
	*ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return *ret_fd < 0 ? err_errno(reterr, -errno, "cannot open %s", path) : 0;
}

/* Opens @name below @dir_fd, a directory that is the broker's own, or makes it so. */
static int open_brokers(int dir_fd, const char *name, mode_t mode, const struct account *helper,
			int *ret_fd, struct err *reterr)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	if (mkdirat(dir_fd, name, 0700) < 0 && errno != EEXIST)
		return err_errno(reterr, -errno, "cannot make %s", name);
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(reterr, -errno, "cannot open %s", name);
	if (st.st_uid == 0 && (fchmod(fd, mode) < 0 || fchown(fd, helper->uid, helper->gid) < 0))
		return err_errno(reterr, -errno, "cannot give %s to the broker", name);
	if ((st.st_uid != 0 && st.st_uid != helper->uid) || (st.st_mode & (S_IWGRP | S_IWOTH)))
		return err_set(reterr, -EPERM,
			       "%s must belong to root or to helper_user, and be writable by no "
			       "other",
			       name);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/*
 * One helper per state directory: two would start a VM twice. The broker is not given the locked
 * directory: it could hand the lock on and keep every later helper out. A dying one gets a moment.
 */
static int lock(int fd, const char *path, struct err *reterr)
{
	for (unsigned int waited_ms = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; waited_ms += 50) {
		if (errno != EWOULDBLOCK || waited_ms >= LOCK_WAIT_MS)
			return err_errno(reterr, -errno, "%s is in use by another vfio-helper",
					 path);
		(void)usleep(50000);
	}
	return 0;
}

static int open_dirs(struct monitor *m, struct err *reterr)
{
	const struct config *c = &m->config;
	int r = open_dir(c->state_dir, 0700, &m->state_fd, reterr);

	if (r == 0)
		r = lock(m->state_fd, c->state_dir, reterr);
	if (r == 0)
		r = open_brokers(m->state_fd, "vms", 0700, &c->helper, &m->vms_fd, reterr);
	if (r == 0)
		r = check_parent(c->run_dir, reterr);
	if (r == 0)
		r = open_brokers(AT_FDCWD, c->run_dir, 0711, &c->helper, &m->run_fd, reterr);
	if (r == 0)
		r = open_dir(c->image_dir, 0, &m->images_fd, reterr);
	if (r < 0)
		return r;
	m->accel_fd = openat(m->state_fd, "accel", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	return m->accel_fd < 0 ? err_errno(reterr, -errno, "cannot open accel") : 0;
}

static int read_boot_id(char boot_id[static 40], struct err *reterr)
{
	char text[64];
	ssize_t n = fd_read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", text, sizeof(text));

	if (n != 37) /* with a newline */
		return err_set(reterr, -EIO, "cannot read the kernel's boot id");
	memcpy(boot_id, text, 36);
	return 0;
}

static int open_signals(int *ret_fd, struct err *reterr)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	*ret_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return *ret_fd < 0 ? err_errno(reterr, -errno, "signals") : 0;
}

/* The group that may open /dev/kvm, 0 when none is needed. */
static gid_t kvm_group(void)
{
	struct stat st;

	if (stat("/dev/kvm", &st) < 0 || (st.st_mode & (S_IROTH | S_IWOTH)) == (S_IROTH | S_IWOTH))
		return 0;
	return (st.st_mode & (S_IRGRP | S_IWGRP)) == (S_IRGRP | S_IWGRP) ? st.st_gid : 0;
}

static int open_socket(struct monitor *m, struct err *reterr)
{
	const struct config *c = &m->config;
	/* Its two peers, and nobody else, by their own ids: neither has to be in a group of the
	 * other. */
	const struct ipc_place place = {.name = "helper",
					.path = c->socket,
					.type = SOCK_SEQPACKET,
					.mode = 0660,
					.uid = c->agentd.uid,
					.gid = c->vmmon.gid};

	int r = check_parent(c->socket, reterr);

	if (r < 0)
		return r;
	m->listen_fd = ipc_take(&place, reterr);
	notify_listen_done();
	return m->listen_fd < 0 ? m->listen_fd : 0;
}

/* Where no GPU may be rented out, vfio-bind is for giving back what was: it has been there then. */
static bool has_use_for_bind(const struct config *c)
{
	char path[DIR_TEXT_MAX + sizeof("/" BIND_LOCK)];

	(void)snprintf(path, sizeof(path), "%s/" BIND_LOCK, c->gpu.state_dir);
	return c->gpu.vendors[0] != '\0' || access(path, F_OK) == 0;
}

static int setup_memfd(const struct monitor *m)
{
	const struct config *c = &m->config;
	struct broker_setup setup = {.spawn = c->setup,
				     .agentd = c->agentd,
				     .vmmon = c->vmmon,
				     .max_total_memory_mib = c->max_total_memory_mib,
				     .accel = (uint32_t)c->accel,
				     .bind_ms = BIND_DEADLINE_MS,
				     .gpus = c->gpu.vendors[0] != '\0'};

	memcpy(setup.run_dir, c->run_dir, sizeof(setup.run_dir));
	memcpy(setup.boot_id, m->boot_id, sizeof(setup.boot_id));
	return fd_memfd_sealed("broker-setup", &setup, sizeof(setup));
}

static int start_broker(struct monitor *m, struct err *reterr)
{
	_cleanup_close_ int setup = setup_memfd(m), theirs = -EBADF;
	int pair[2], fds[BROKER_FD_END - BROKER_FD_PAIR], r;

	if (setup < 0)
		return err_errno(reterr, setup, "cannot make the broker's setup");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(reterr, -errno, "cannot make a socket pair");
	m->pair_fd = pair[0];
	theirs = pair[1];
	fds[BROKER_FD_PAIR - BROKER_FD_PAIR] = theirs;
	fds[BROKER_FD_SETUP - BROKER_FD_PAIR] = setup;
	fds[BROKER_FD_LISTEN - BROKER_FD_PAIR] = m->listen_fd;
	fds[BROKER_FD_VMS - BROKER_FD_PAIR] = m->vms_fd;
	fds[BROKER_FD_RUN - BROKER_FD_PAIR] = m->run_fd;
	fds[BROKER_FD_IMAGES - BROKER_FD_PAIR] = m->images_fd;
	fds[BROKER_FD_ACCEL - BROKER_FD_PAIR] = m->accel_fd;
	r = child_broker(m->broker_binary, &m->config, fds, &m->broker_pidfd);
	if (r < 0)
		return err_errno(reterr, r, "cannot start %s", m->broker_binary);
	m->broker_pid = r;
	/* These are its own now. */
	m->vms_fd = safe_close(m->vms_fd);
	m->listen_fd = safe_close(m->listen_fd);
	m->run_fd = safe_close(m->run_fd);
	m->images_fd = safe_close(m->images_fd);
	m->accel_fd = safe_close(m->accel_fd);
	return 0;
}

int monitor_open(struct monitor *m, struct err *reterr)
{
	int r = find_programs(m, reterr);

	if (r == 0)
		r = open_dirs(m, reterr);
	/* A broker that has outlived its monitor listens, and would write beside the new one. */
	if (r == 0 && child_sweep(&m->config.helper) < 0)
		r = err_set(reterr, -EIO, "cannot end what runs as %s", m->config.helper_user);
	if (r == 0)
		r = read_boot_id(m->boot_id, reterr);
	if (r == 0)
		r = open_socket(m, reterr);
	if (r == 0)
		r = open_signals(&m->signal_fd, reterr);
	if (r == 0)
		r = cgroup_open(&m->config, &m->cgroup_fd, reterr);
	if (r == 0)
		r = audit_open(m->state_fd, m->boot_id, &m->audit, reterr);
	if (r < 0)
		return r;
	m->config.setup.version = SPAWN_VERSION;
	m->config.setup.kvm_gid = kvm_group();
	m->binds = has_use_for_bind(&m->config);
	return start_broker(m, reterr);
}
