/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Named base images: <image_dir>/<name>/ with image.conf, disk.img and perhaps kernel and initrd.
 * Trust: runs as root; reads files below a directory of root. It never looks into a disk.
 */
#include "vfio-helper/helper.h"

#include "common/fd.h"

#include <fcntl.h>

static const char *const format_words[] = {"qcow2", "raw", NULL};

static const struct conf_key keys[] = {
	{.name = "format",
	 .type = CONF_ENUM,
	 CONF_MEMBER(struct image, format),
	 .words = format_words},
	{.name = "min_disk_mib",
	 .type = CONF_MIB,
	 CONF_MEMBER(struct image, min_disk_mib),
	 .low = 1,
	 .high = PROTO_MAX_DISK_MIB},
	{.name = "append", .type = CONF_TEXT, CONF_MEMBER(struct image, append)},
};

int image_load(int image_dir, const char *name, struct image *ret_image, struct err *reterr)
{
	_cleanup_close_ int dir = vmdir_open(image_dir, name);
	struct image image = {.format = -1};
	char text[4096];
	ssize_t n;
	int r;

	if (dir < 0)
		return err_errno(reterr, dir, "image %s", name);
	n = fd_read_file(dir, "image.conf", text, sizeof(text));
	if (n < 0)
		return err_errno(reterr, (int)n, "image.conf of image %s", name);
	r = conf_parse("image.conf", text, keys, ARRAY_LEN(keys), &image, reterr);
	if (r < 0)
		return r;
	if (image.format < 0 || image.min_disk_mib == 0)
		return err_set(reterr, -EINVAL,
			       "image.conf of image %s lacks format or min_disk_mib", name);
	*ret_image = image;
	return 0;
}

/* A kernel is opened once more by QEMU as the VM's user, so its mode has to allow that. */
static int open_kernel(int dir, const char *file)
{
	_cleanup_close_ int fd = vmdir_open_file(dir, file, O_RDONLY);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_mode & S_IROTH ? TAKE_FD(fd) : -EACCES;
}

int image_open(int image_dir, const char *name, struct image_fds *ret_fds, struct err *reterr)
{
	_cleanup_close_ int dir = vmdir_open(image_dir, name);
	struct image_fds fds = {-EBADF, -EBADF, -EBADF};
	int r = 0;

	if (dir < 0)
		return err_errno(reterr, dir, "image %s", name);
	fds.disk = vmdir_open_file(dir, "disk.img", O_RDONLY);
	fds.kernel = open_kernel(dir, "kernel");
	fds.initrd = fds.kernel < 0 ? -ENOENT : open_kernel(dir, "initrd");
	if (fds.disk < 0)
		r = err_errno(reterr, fds.disk, "disk.img of image %s", name);
	else if ((fds.kernel < 0 && fds.kernel != -ENOENT) ||
		 (fds.initrd < 0 && fds.initrd != -ENOENT))
		r = err_set(reterr, -EACCES,
			    "kernel and initrd of image %s must be files of mode 644", name);
	if (r < 0)
		image_close(&fds);
	else
		*ret_fds = fds;
	return r;
}

void image_close(struct image_fds *fds)
{
	fds->disk = safe_close(fds->disk);
	fds->kernel = safe_close(fds->kernel);
	fds->initrd = safe_close(fds->initrd);
}

struct find {
	int image_dir;
	char *ret_name;
};

static int has_kernel(void *arg, const char *name)
{
	const struct find *find = arg;
	_cleanup_close_ int dir = vmdir_open(find->image_dir, name);

	if (dir < 0 || !vmdir_has(dir, "kernel") || !vmdir_has(dir, "image.conf"))
		return 0;
	return proto_name_set(find->ret_name, name) < 0 ? 0 : 1;
}

int image_find_kernel(int image_dir, char ret_name[static PROTO_NAME_SIZE])
{
	struct find find = {.image_dir = image_dir, .ret_name = ret_name};
	int r = for_each_name(image_dir, has_kernel, &find);

	return r == 0 ? -ENOENT : r < 0 ? r : 0;
}
