/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading sysfs below a directory descriptor.
 * Trust: runs as root in vfio-bind, and as anyone in vfio-explain; reads sysfs, or a made-up tree.
 */
#include "vfio-helper/pci/sysfs.h"

#include "common/fd.h"

#include <fcntl.h>

int sysfs_open_dir(int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int sysfs_text(int dir_fd, const char *name, char ret_text[static SYSFS_TEXT_SIZE])
{
	/* Not blocking: in a made-up tree it may be a FIFO. */
	_cleanup_close_ int fd =
		openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	ssize_t n;

	ret_text[0] = '\0';
	if (fd < 0)
		return -errno;
	/* All of an attribute comes at once, and is less than a page. */
	n = read(fd, ret_text, SYSFS_TEXT_SIZE - 1);
	ret_text[MAX_OF(n, 0)] = '\0';
	if (n < 0 || n == SYSFS_TEXT_SIZE - 1)
		return n < 0 ? -errno : -EFBIG;
	if (strlen(ret_text) != (size_t)n)
		return -EINVAL;
	if (n > 0 && ret_text[n - 1] == '\n')
		ret_text[--n] = '\0';
	return (int)n;
}

int sysfs_link(int dir_fd, const char *name, char ret_text[static SYSFS_TEXT_SIZE])
{
	ssize_t n = readlinkat(dir_fd, name, ret_text, SYSFS_TEXT_SIZE - 1);

	ret_text[MAX_OF(n, 0)] = '\0';
	return n < 0 ? -errno : (int)n;
}

const char *sysfs_base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

int sysfs_number(const char *text, uint64_t *ret_value)
{
	bool hex = text[0] == '0' && text[1] == 'x';
	const char *digits = hex ? text + 2 : text;
	char *end;

	/* strtoull() would take blanks, signs and a second prefix. */
	if (digits[0] == '\0' ||
	    digits[strspn(digits, hex ? "0123456789abcdefABCDEF" : "0123456789")] != '\0')
		return -EINVAL;
	errno = 0;
	*ret_value = strtoull(digits, &end, hex ? 16 : 10);
	return -errno;
}

DIR *sysfs_list(int dir_fd, const char *name)
{
	int fd = sysfs_open_dir(dir_fd, name);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir)
		(void)safe_close(fd);
	return dir;
}

const char *sysfs_next(DIR *dir)
{
	const struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			return entry->d_name;
	return NULL;
}
