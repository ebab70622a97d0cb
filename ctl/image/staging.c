/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making, replacing and removing an image by one rename, and removing what is left over.
 *
 * Trust: runs as root; works below a folder that only root can write. What it removes may be the
 * tree of a guest: no link in it is followed.
 */
#include "ctl/image/image.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define DEPTH_MAX 64 /* of a tree that is removed; a guest's file system is not half as deep */

static int remove_below(int dirfd, const char *name, unsigned int depth);

static int remove_entries(int fd, unsigned int depth)
{
	DIR *dir = fdopendir(fd);
	int r = 0;

	if (!dir) {
		r = -errno;
		(void)safe_close(fd);
		return r;
	}
	for (struct dirent *d = readdir(dir); d && r == 0; d = readdir(dir))
		if (!STR_EQ(d->d_name, ".") && !STR_EQ(d->d_name, ".."))
			r = remove_below(fd, d->d_name, depth);
	(void)closedir(dir);
	return r;
}

static int remove_below(int dirfd, const char *name, unsigned int depth)
{
	int fd, r;

	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth == DEPTH_MAX)
		return -ELOOP;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = remove_entries(fd, depth + 1);
	if (r < 0)
		return r;
	return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int remove_tree(int dirfd, const char *name)
{
	return remove_below(dirfd, name, 0);
}

/* mkdtemp() takes a path; this folder is known by its descriptor. */
static int make_folder(const struct place *p, struct staging *s)
{
	for (unsigned int i = 0; i < 100; i++) {
		(void)snprintf(s->name, sizeof(s->name), ".new.%d.%u", (int)getpid(), i);
		if (mkdirat(p->fd, s->name, 0700) == 0)
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

int staging_open(const struct place *p, struct staging *ret_staging)
{
	_cleanup_staging_ struct staging s = STAGING_INIT;
	int r = make_folder(p, &s);

	if (r < 0)
		return r;
	s.place = p;
	s.fd = openat(p->fd, s.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s.fd < 0 || mkdirat(s.fd, "image", 0755) < 0)
		return -errno;
	s.image_fd = openat(s.fd, "image", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s.image_fd < 0 || fchmod(s.image_fd, 0755) < 0)
		return -errno;
	*ret_staging = s;
	s = (struct staging)STAGING_INIT;
	return 0;
}

void staging_done(struct staging *s)
{
	s->fd = safe_close(s->fd);
	s->image_fd = safe_close(s->image_fd);
	if (s->place)
		(void)remove_tree(s->place->fd, s->name);
	s->place = NULL;
}

static int sync_folder(int fd)
{
	for (size_t i = 0; i < SUMS_FILES_MAX + 1; i++) {
		const char *name = i < SUMS_FILES_MAX ? record_files[i] : IMAGE_SUMS;
		_cleanup_close_ int file =
			openat(fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

		if (file < 0 && errno != ENOENT)
			return -errno;
		if (file >= 0 && fsync(file) < 0)
			return -errno;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

static int rename_durably(int from_fd, const char *from, int to_fd, const char *to,
			  unsigned int flags)
{
	if (renameat2(from_fd, from, to_fd, to, flags) < 0)
		return -errno;
	return fsync(from_fd) < 0 || fsync(to_fd) < 0 ? -errno : 0;
}

int staging_publish(struct staging *s, const char *name, bool replace, bool *ret_replaced)
{
	int r = sync_folder(s->image_fd);

	*ret_replaced = false;
	if (r == 0)
		r = rename_durably(s->fd, "image", s->place->fd, name, RENAME_NOREPLACE);
	if (r != -EEXIST || !replace)
		return r;
	r = rename_durably(s->fd, "image", s->place->fd, name, RENAME_EXCHANGE);
	*ret_replaced = r == 0;
	return r;
}

int staging_take_away(struct staging *s, const char *name)
{
	if (unlinkat(s->fd, "image", AT_REMOVEDIR) < 0)
		return -errno;
	return rename_durably(s->place->fd, name, s->fd, "image", RENAME_NOREPLACE);
}

int staging_put_back(struct staging *s, const char *name, bool replaced)
{
	return rename_durably(s->fd, "image", s->place->fd, name,
			      replaced ? RENAME_EXCHANGE : RENAME_NOREPLACE);
}
