/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VFIO's device nodes: whose they are, and what a VM's QEMU is told about the devices behind them.
 * Trust: runs as root; reads sysfs and changes owners below /dev/vfio.
 */
#include "vfio-helper/bind/act.h"

#include "vfio-helper/pci/sysfs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define NODE_TEXT 48

/* How the devices of one lease are used. */
struct access {
	bool iommufd;
	uid_t uid;
	gid_t gid;
};

/*
 * Opens a node without using it, and makes sure that it is the device that sysfs calls so: @class
 * is the directory below class/ that has its number.
 */
static int node_open(const struct bind_env *env, const char *path, const char *class,
		     struct err *reterr)
{
	_cleanup_close_ int fd = openat(env->dev_fd, path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char attr[80], text[32], want[32];
	struct stat st;

	if (fd < 0)
		return err_errno(reterr, -errno, "/dev/%s", path);
	(void)snprintf(attr, sizeof(attr), "class/%s/%s/dev", class, sysfs_base(path));
	attr_read(env->sysfs_fd, attr, text, sizeof(text));
	if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode))
		return err_set(reterr, -EIO, "/dev/%s is no device", path);
	(void)snprintf(want, sizeof(want), "%u:%u", major(st.st_rdev), minor(st.st_rdev));
	if (!STR_EQ(text, want))
		return err_set(reterr, -EIO, "/dev/%s is another device", path);
	return TAKE_FD(fd);
}

int node_check(const struct bind_env *env, uint32_t group, struct err *reterr)
{
	_cleanup_close_ int fd = -EBADF;
	char path[NODE_TEXT];

	(void)snprintf(path, sizeof(path), "vfio/%u", group);
	/* Without the old interface (CONFIG_VFIO_GROUP=n) there are no groups' nodes. */
	if (faccessat(env->dev_fd, "vfio/vfio", F_OK, 0) < 0)
		return 0;
	fd = node_open(env, path, "vfio", reterr);
	return MIN_OF(fd, 0);
}

/* The mode first when it is given away, the owner first when it comes back: root has no FOWNER. */
static int node_give(const struct bind_env *env, const char *path, const char *class, uid_t uid,
		     gid_t gid, struct err *reterr)
{
	_cleanup_close_ int fd = node_open(env, path, class, reterr);
	char self[40];
	struct stat st;
	int r;

	if (fd < 0)
		return fd;
	(void)snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	r = fstat(fd, &st);
	if (r == 0 && st.st_uid != geteuid())
		r = fchownat(fd, "", geteuid(), getegid(), AT_EMPTY_PATH);
	if (r == 0)
		r = chmod(self, 0600); /* fchmod() takes no O_PATH */
	if (r == 0)
		r = fchownat(fd, "", uid, gid, AT_EMPTY_PATH);
	return r < 0 ? err_errno(reterr, -errno, "cannot change the owner of /dev/%s", path) : 0;
}

/* N of the function's vfio-dev/vfioN. */
static uint32_t cdev_of(int dirfd)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(dirfd, "vfio-dev");
	const char *name;
	unsigned int number;

	while (dir && (name = sysfs_next(dir)))
		if (sscanf(name, "vfio%u", &number) == 1)
			return number;
	return UINT32_MAX;
}

static int give_one(const struct bind_env *env, const struct lease_func *f, const struct access *to,
		    struct err *reterr)
{
	_cleanup_close_ int dirfd = func_open(env, f);
	char path[NODE_TEXT];
	uint32_t cdev;

	/* Once it has been unplugged, the group's number may be that of another one's node. */
	if (dirfd < 0 || pci_read_group(dirfd) != f->group)
		return err_set(reterr, -ENODEV, "it is not what was leased");
	if (!to->iommufd) {
		(void)snprintf(path, sizeof(path), "vfio/%u", f->group);
		return node_give(env, path, "vfio", to->uid, to->gid, reterr);
	}
	cdev = cdev_of(dirfd);
	if (cdev == UINT32_MAX)
		return err_set(reterr, -ENODEV, "the kernel has no VFIO character devices");
	(void)snprintf(path, sizeof(path), "vfio/devices/vfio%u", cdev);
	return node_give(env, path, "vfio-dev", to->uid, to->gid, reterr);
}

int nodes_revoke(const struct job *job, struct err *reterr)
{
	struct access root = {.uid = geteuid(), .gid = getegid()};
	struct err why = {0};
	int result = 0;

	for (uint32_t i = 0; i < job->lease.n_funcs; i++)
		for (int way = 0; way < 2; way++) {
			int r;

			root.iommufd = way == 1;
			r = give_one(job->env, &job->lease.funcs[i], &root, &why);
			if (r < 0 && r != -ENODEV && r != -ENOENT) {
				result = r;
				if (reterr)
					*reterr = why;
			}
		}
	return result;
}

/* Group files are what every QEMU knows; the new way is taken where the old is gone, or is asked
 * for. */
static bool wants_iommufd(const struct bind_env *env)
{
	if (env->keys.iommufd != TRISTATE_AUTO)
		return env->keys.iommufd == TRISTATE_YES;
	return faccessat(env->dev_fd, "vfio/vfio", F_OK, 0) < 0;
}

static uint32_t card_of(const struct lease *l, const struct lease_func *f)
{
	uint32_t card = 0;

	while (card < l->n_gpus && l->gpus[card] != f->gpu)
		card++;
	return card;
}

/* 0 for the GPU itself, then its companions in order. */
static uint32_t number_in_card(const struct lease *l, const struct lease_func *f)
{
	uint32_t n = f->address == f->gpu ? 0 : 1;

	for (const struct lease_func *o = l->funcs; o < f && n > 0; o++)
		n += o->gpu == f->gpu && o->address != o->gpu && o->role == PROTO_ROLE_COMPANION;
	return n;
}

static void describe(const struct bind_env *env, const struct lease *l, const struct lease_func *f,
		     int dirfd, bool iommufd, struct launch_device *ret_device)
{
	struct launch_device d = {.address = f->address, .cdev = UINT32_MAX};
	struct pci_func p = {0};

	pci_read_more(dirfd, &p);
	d.node = p.node;
	for (int i = 0; i < PCI_BARS; i++)
		if (p.wide & 1u << i) {
			d.window_bytes += p.bars[i];
			d.largest_bar = MAX_OF(d.largest_bar, p.bars[i]);
		}
	if (iommufd)
		d.cdev = cdev_of(dirfd);
	d.card = card_of(l, f);
	d.function = number_in_card(l, f);
	d.flags = (f->address == f->gpu ? LAUNCH_DEVICE_GPU : 0) |
		  (env->keys.rom == TRISTATE_NO ? LAUNCH_DEVICE_NO_ROM : 0) |
		  (env->keys.hide_vm ? LAUNCH_DEVICE_HIDE_VM : 0);
	*ret_device = d;
}

/* Only what still is as the lease says, on the guest's driver, and for rent, is given. */
static int grant_all(const struct job *job, const struct access *to, struct bind_answer *ans,
		     struct err *reterr)
{
	const struct gpu_policy *policy = &job->env->policy;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < job->lease.n_funcs; i++) {
		const struct lease_func *f = &job->lease.funcs[i];
		_cleanup_close_ int dirfd = func_open(job->env, f);
		char address[PCI_TEXT_SIZE];

		pci_addr_text(f->address, address);
		if (f->role == PROTO_ROLE_GPU &&
		    gpu_policy_has(policy->never, policy->n_never, f->address))
			return err_set(reterr, -EPERM, "%s is not for rent: gpu_never", address);
		if (dirfd < 0 || pci_read_group(dirfd) != f->group ||
		    !driver_is(dirfd, func_guest_driver(f)))
			return err_set(reterr, -EIO, "%s is not what was leased", address);
		r = give_one(job->env, f, to, reterr);
		/* What is bound along for the group's sake is no guest's. */
		if (r == 0 && f->role <= PROTO_ROLE_COMPANION)
			describe(job->env, &job->lease, f, dirfd, to->iommufd,
				 &ans->devices[ans->n_devices++]);
	}
	return r;
}

/* Finds and locks the lease of the VM for the two acts below. */
static int load_held(struct job *job, const struct bind_request *req, struct err *why)
{
	int r = lock_vm(job->env->lock_fd, req->vm, LOCK_WAIT_MS);

	if (r < 0)
		return err_errno(why, r, "another act on this VM's lease");
	r = lease_load(job->env->state_fd, req->vm, &job->lease);
	if (r < 0)
		return err_errno(why, r, "the VM's lease");
	if (job->lease.phase != LEASE_HELD)
		return err_set(why, -EBUSY, "the VM's lease is being taken or ended");
	return 0;
}

enum proto_status act_grant(const struct bind_env *env, const struct bind_request *req,
			    struct bind_answer *ans, int *ret_iommu_fd, struct err *why)
{
	const struct account *user = &env->users[req->slot];
	struct access to = {wants_iommufd(env), user->uid, user->gid};
	_cleanup_close_ int iommu_fd = -EBADF;
	_cleanup_(job_done) struct job job;
	int r;

	job_init(&job, env);
	r = load_held(&job, req, why);
	if (r < 0)
		return act_status(r);
	if (to.iommufd) {
		iommu_fd = openat(env->dev_fd, "iommu", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
		if (iommu_fd < 0)
			r = err_errno(why, -errno == -ENOENT ? -ENODEV : -errno, "/dev/iommu");
	}
	if (r == 0)
		r = grant_all(&job, &to, ans, why);
	if (r < 0) {
		(void)nodes_revoke(&job, NULL);
		memset(ans->devices, 0, sizeof(ans->devices));
		ans->n_devices = 0;
		return act_status(r);
	}
	ans->done = job.lease.n_funcs;
	ans->n_gpus = job.lease.n_gpus;
	*ret_iommu_fd = TAKE_FD(iommu_fd);
	return PROTO_OK;
}

enum proto_status act_revoke(const struct bind_env *env, const struct bind_request *req,
			     struct bind_answer *ans, struct err *why)
{
	_cleanup_(job_done) struct job job;
	int r;

	job_init(&job, env);
	r = load_held(&job, req, why);
	if (r == -ENOENT) /* nothing was granted that is not root's again */
		return PROTO_OK;
	if (r == 0)
		r = nodes_revoke(&job, why);
	ans->done = r == 0 ? job.lease.n_funcs : 0;
	return act_status(r);
}
