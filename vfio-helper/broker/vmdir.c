/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories and files of VMs. Every path is one checked name or one constant below a directory
 * descriptor, resolved without links.
 * Trust: runs as qudata-helper; works below directories of its own that nobody else can enter,
 * except that the new overlay may be written by whoever was given a descriptor of it, while
 * qemu-img does.
 */
#include "vfio-helper/broker/broker.h"

#include "common/fd.h"
#include "common/ipc.h"

#include <dirent.h>
#include <endian.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#define FREE_STEP (32 << 20) /* bytes; some ten milliseconds however fragmented */

static int open_beneath(int dirfd, const char *name, int flags, mode_t mode)
{
	const struct open_how how = {
		.flags = (unsigned int)(flags | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW),
		.mode = mode,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};
	long fd = syscall(SYS_openat2, dirfd, name, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

int vmdir_open(int parent_fd, const char *name)
{
	if (!proto_name_valid(name))
		return -EINVAL;
	return open_beneath(parent_fd, name, O_RDONLY | O_DIRECTORY, 0);
}

/* A regular file that has this one name, belongs to @owner, and is written by no other. */
static int check_file(int fd, uid_t owner)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_nlink != 1 || st.st_uid != owner)
		return -EPERM;
	return st.st_mode & (S_IWGRP | S_IWOTH) ? -EPERM : 0;
}

int vmdir_open_file(int dirfd, const char *file, int flags, uid_t owner)
{
	_cleanup_close_ int fd = open_beneath(dirfd, file, flags | O_NONBLOCK, 0);
	int r;

	if (fd < 0)
		return fd;
	r = check_file(fd, owner);
	return r < 0 ? r : TAKE_FD(fd);
}

int vmdir_open_vars(int dirfd)
{
	_cleanup_close_ int fd = open_beneath(dirfd, "vars", O_RDWR | O_CREAT | O_NONBLOCK, 0600);
	int r = fd < 0 ? fd : check_file(fd, geteuid());

	return r < 0 ? r : TAKE_FD(fd);
}

bool vmdir_has(int dirfd, const char *file)
{
	return faccessat(dirfd, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

bool vmdir_is_vm(int parent_fd, const char *name)
{
	_cleanup_close_ int dir = vmdir_open(parent_fd, name);

	return dir >= 0 && vmdir_has(dir, "record");
}

/* getdents64() by hand: readdir() allocates. */
int for_each_name(int dirfd, int (*fn)(void *arg, const char *name), void *arg)
{
	_cleanup_close_ int fd = open_beneath(dirfd, ".", O_RDONLY | O_DIRECTORY, 0);
	_Alignas(struct dirent64) char buf[4096];

	if (fd < 0)
		return fd;
	for (;;) {
		ssize_t n = getdents64(fd, buf, sizeof(buf));

		if (n <= 0)
			return n < 0 ? -errno : 0;
		for (ssize_t at = 0; at < n;) {
			const struct dirent64 *entry = (const void *)(buf + at);
			int r;

			at += entry->d_reclen;
			if (STR_EQ(entry->d_name, ".") || STR_EQ(entry->d_name, ".."))
				continue;
			r = fn(arg, entry->d_name);
			if (r != 0)
				return r;
		}
	}
}

static int remove_entry(void *arg, const char *name)
{
	return unlinkat(*(const int *)arg, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int vmdir_remove(int parent_fd, const char *name)
{
	_cleanup_close_ int dir = vmdir_open(parent_fd, name);
	int r;

	if (dir == -ENOENT)
		return 0;
	if (dir < 0)
		return dir;
	/* First of all it stops being a VM: what a crash leaves is removed at the next start. */
	if (unlinkat(dir, "record", 0) == 0 && fsync(dir) < 0)
		return -errno;
	r = for_each_name(dir, remove_entry, &dir);
	if (r < 0)
		return r;
	if (unlinkat(parent_fd, name, AT_REMOVEDIR) < 0)
		return -errno;
	return fsync(parent_fd) < 0 ? -errno : 0;
}

int vmdir_forget(struct broker *b, const char *name)
{
	_cleanup_close_ int dir = vmdir_open(b->vms_fd, name);
	_cleanup_close_ int disk =
		dir < 0 ? dir : vmdir_open_file(dir, "disk.qcow2", O_RDWR, geteuid());
	int r = vmdir_remove(b->vms_fd, name);
	struct stat st;

	if (r < 0 || disk < 0 || fstat(disk, &st) < 0 || st.st_size <= FREE_STEP)
		return r;
	/* Open, the inode stays; vmdir_free_some() frees its blocks. Without room it goes at once.
	 */
	for (size_t i = 0; i < ARRAY_LEN(b->doomed); i++)
		if (b->doomed[i].fd == 0) {
			b->doomed[i] = (struct doomed){.fd = TAKE_FD(disk), .size = st.st_size};
			break;
		}
	return 0;
}

bool vmdir_free_some(struct broker *b)
{
	for (size_t i = 0; i < ARRAY_LEN(b->doomed); i++) {
		struct doomed *d = &b->doomed[i];

		if (d->fd == 0)
			continue;
		d->size -= MIN_OF(d->size, (off_t)FREE_STEP);
		if (d->size == 0 || ftruncate(d->fd, d->size) < 0) {
			(void)close(d->fd);
			*d = (struct doomed){0};
		}
		return true;
	}
	return false;
}

int vmdir_create(struct broker *b, struct vm *vm, int *ret_disk_fd)
{
	_cleanup_close_ int dir = -EBADF, disk = -EBADF;
	int r = vmdir_forget(b, vm->name);

	if (r < 0)
		return r;
	if (mkdirat(b->vms_fd, vm->name, 0700) < 0)
		return -errno;
	dir = vmdir_open(b->vms_fd, vm->name);
	if (dir < 0)
		return dir;
	disk = open_beneath(dir, "disk.qcow2", O_RDWR | O_CREAT | O_EXCL, 0600);
	if (disk < 0)
		return disk;
	/* For qemu-img, which opens its descriptor again as the VM's user; nobody reaches the file
	 * by its path. vmdir_finish() ends this. */
	if (fchmod(disk, 0666) < 0)
		return -errno;
	*ret_disk_fd = TAKE_FD(disk);
	return 0;
}

/* What qemu-img made of "the image's minimum" stands in the qcow2 header, which we go by. */
static int disk_size(int fd, uint32_t max_mib, uint32_t *ret_mib)
{
	uint64_t size;

	if (pread(fd, &size, sizeof(size), 24) != sizeof(size))
		return -EIO;
	size = be64toh(size) >> 20;
	if (size == 0 || size > max_mib)
		return -EIO;
	*ret_mib = (uint32_t)size;
	return 0;
}

int vmdir_finish(struct broker *b, struct vm *vm, int disk_fd)
{
	_cleanup_close_ int dir = vmdir_open(b->vms_fd, vm->name);
	int r;

	if (dir < 0)
		return dir;
	if (fchmod(disk_fd, 0600) < 0)
		return -errno;
	r = check_file(disk_fd, geteuid());
	if (r == 0)
		r = disk_size(disk_fd, b->setup.spawn.max_disk_mib, &vm->rec.disk_mib);
	if (r < 0)
		return r;
	if (fsync(disk_fd) < 0)
		return -errno;
	r = record_save(dir, "record", &vm->rec, sizeof(vm->rec));
	if (r < 0)
		return r;
	return fsync(b->vms_fd) < 0 ? -errno : 0;
}

int vmdir_seed(struct broker *b, const struct vm *vm, int memfd, size_t size)
{
	static uint8_t data[PROTO_SEED_MAX], old[PROTO_SEED_MAX + 1];
	_cleanup_close_ int dir = vmdir_open(b->vms_fd, vm->name);
	_cleanup_close_ int fd = -EBADF;
	ssize_t n;

	if (dir < 0)
		return dir;
	if (size > sizeof(data) || pread(memfd, data, size, 0) != (ssize_t)size)
		return -EIO;
	fd = vmdir_open_file(dir, "seed.img", O_RDONLY, geteuid());
	if (fd < 0)
		return fd == -ENOENT ? fd_replace_file(dir, "seed.img", data, size, 0600) : fd;
	n = pread(fd, old, sizeof(old), 0);
	if (n < 0)
		return -errno;
	return (size_t)n == size && memcmp(old, data, size) == 0 ? 0 : -EEXIST;
}

int vmdir_run(struct broker *b, const struct vm *vm, int fds[static FD_ROLES], struct err *reterr)
{
	static const struct {
		const char *name;
		enum fd_role role;
	} sockets[] = {
		{"qmp.sock", FD_QMP}, {"console.sock", FD_CONSOLE}, {"ready.sock", FD_READY}};
	gid_t gid = b->setup.vmmon.gid;
	char path[DIR_TEXT_MAX + PROTO_NAME_SIZE + 16];
	_cleanup_close_ int dir = -EBADF;
	int r = vmdir_remove(b->run_fd, vm->name);

	if (r < 0 || mkdirat(b->run_fd, vm->name, 0700) < 0)
		return err_errno(reterr, r < 0 ? r : -errno, "run directory");
	dir = vmdir_open(b->run_fd, vm->name);
	for (size_t i = 0; i < ARRAY_LEN(sockets); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s/%s", b->setup.run_dir, vm->name,
			       sockets[i].name);
		fds[sockets[i].role] = ipc_listen(path, SOCK_STREAM, 0660, gid, reterr);
		if (fds[sockets[i].role] < 0)
			return fds[sockets[i].role];
	}
	/* Open to vmmon only now that all is there. */
	if (dir < 0 || fchown(dir, (uid_t)-1, gid) < 0 || fchmod(dir, 0750) < 0)
		return err_errno(reterr, -errno, "owner of the run directory");
	return 0;
}
