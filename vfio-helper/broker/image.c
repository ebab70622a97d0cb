/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Named base images: <image_dir>/<name>/ with image.conf, disk.img and perhaps kernel and initrd.
 * Trust: runs as qudata-helper; opens files of root and looks into none of them:
 * image.conf is read by vm-launch, disk and kernel by QEMU.
 */
#include "vfio-helper/broker/broker.h"

#include "common/fd.h"

#include <fcntl.h>

/* A kernel is opened once more by QEMU as the VM's user, so its mode has to allow that. */
static int open_kernel(int dir, const char *file)
{
	_cleanup_close_ int fd = vmdir_open_file(dir, file, O_RDONLY, 0);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_mode & S_IROTH ? TAKE_FD(fd) : -EACCES;
}

int image_open_conf(int image_dir, const char *name)
{
	_cleanup_close_ int dir = vmdir_open(image_dir, name);

	return dir < 0 ? dir : vmdir_open_file(dir, "image.conf", O_RDONLY, 0);
}

int image_open(int image_dir, const char *name, int fds[static FD_ROLES], struct err *reterr)
{
	_cleanup_close_ int dir = vmdir_open(image_dir, name);

	if (dir < 0)
		return err_errno(reterr, dir, "image %s", name);
	fds[FD_IMAGE] = vmdir_open_file(dir, "image.conf", O_RDONLY, 0);
	fds[FD_BASE] = vmdir_open_file(dir, "disk.img", O_RDONLY, 0);
	fds[FD_KERNEL] = open_kernel(dir, "kernel");
	fds[FD_INITRD] = fds[FD_KERNEL] < 0 ? -ENOENT : open_kernel(dir, "initrd");
	if (fds[FD_IMAGE] < 0 || fds[FD_BASE] < 0)
		return err_set(reterr, -EIO, "image.conf or disk.img of image %s", name);
	if ((fds[FD_KERNEL] < 0 && fds[FD_KERNEL] != -ENOENT) ||
	    (fds[FD_INITRD] < 0 && fds[FD_INITRD] != -ENOENT))
		return err_set(reterr, -EACCES,
			       "kernel and initrd of image %s must be files of mode 644", name);
	return 0;
}

struct find {
	int image_dir, kernel;
};

static int find_kernel(void *arg, const char *name)
{
	struct find *find = arg;
	_cleanup_close_ int dir = vmdir_open(find->image_dir, name);

	find->kernel =
		dir < 0 || !vmdir_has(dir, "image.conf") ? -ENOENT : open_kernel(dir, "kernel");
	return find->kernel >= 0 ? 1 : 0;
}

int image_find_kernel(int image_dir)
{
	struct find find = {.image_dir = image_dir, .kernel = -ENOENT};
	int r = for_each_name(image_dir, find_kernel, &find);

	return r < 0 ? r : find.kernel;
}
