/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folder of images: finding it, its lock, walking it.
 *
 * Trust: runs as the operator or root; reads helper.conf and a folder that only root can write.
 */
#include "ctl/image/image.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/log.h"
#include "ctl/parse.h"
#include "vfio-helper/config.h"

#define HELPER_CONF "/etc/qudata/helper.conf"

void place_done(struct place *p)
{
	p->fd = safe_close(p->fd);
	p->lock_fd = safe_close(p->lock_fd);
}

/* Are these two paths one folder? */
static bool same_folder(int fd, const char *path)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

/* Where the helper has its images and VMs: --helper-config, or the default if there is one. */
static int read_helper_conf(struct ctl *c, struct config *ret_config, struct err *reterr)
{
	const char *path = ctl_value(c, OPT_HELPER_CONFIG);
	int r = config_load(path ? path : HELPER_CONF, ret_config, reterr);

	return r == -ENOENT && !path ? config_load(NULL, ret_config, reterr) : r;
}

static enum ctl_exit lock_place(struct ctl *c, struct place *p)
{
	struct stat st;

	if (fstat(p->fd, &st) < 0)
		return ctl_fail(c, CTL_FAILED, "%s: %s", p->images_dir, log_errno_text(-errno));
	if (faccessat(p->fd, ".", W_OK, AT_EACCESS) < 0)
		return ctl_fail(c, CTL_DENIED, "run this as root: %s belongs to %s", p->images_dir,
				st.st_uid == 0 ? "root" : "another user");
	if (st.st_uid != geteuid() || (st.st_mode & 022))
		return ctl_fail(c, CTL_DENIED,
				"%s must belong to root and be writable by nobody else: "
				"chown root: it, and chmod 755",
				p->images_dir);
	p->lock_fd = openat(p->fd, ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (p->lock_fd < 0)
		return ctl_fail(c, CTL_FAILED, "%s/.lock: %s", p->images_dir,
				log_errno_text(-errno));
	if (flock(p->lock_fd, LOCK_EX | LOCK_NB) < 0)
		return ctl_fail(c, CTL_CONFLICT,
				"another command is changing %s; try again when it is done",
				p->images_dir);
	return CTL_OK;
}

static int sweep_one(struct place *p, const char *name)
{
	static const char *const ours[] = {".new.", ".mkimage."};

	for (size_t i = 0; i < ARRAY_LEN(ours); i++)
		if (strncmp(name, ours[i], strlen(ours[i])) == 0)
			return remove_tree(p->fd, name);
	return 0;
}

/* Under the lock: whoever made these is gone. */
static void sweep(struct ctl *c, struct place *p)
{
	int fd = openat(p->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir) {
		(void)safe_close(fd);
		return;
	}
	for (struct dirent *d = readdir(dir); d; d = readdir(dir)) {
		int r = sweep_one(p, d->d_name);

		if (r < 0)
			ctl_note(c, "%s/%s cannot be removed: %s", p->images_dir, d->d_name,
				 log_errno_text(r));
	}
	(void)closedir(dir);
}

enum ctl_exit place_open(struct ctl *c, bool write, struct place *ret_place)
{
	_cleanup_free_ struct config *config = calloc(1, sizeof(*config));
	_cleanup_place_ struct place p = PLACE_INIT;
	const char *dir = ctl_value(c, OPT_IMAGES_DIR);
	struct err err = {0};
	enum ctl_exit r;

	if (!config)
		return ctl_fail(c, CTL_FAILED, "out of memory");
	if (read_helper_conf(c, config, &err) < 0)
		return ctl_fail(c, CTL_FAILED, "%s", err.text);
	if (!dir)
		dir = getenv("QUDATA_IMAGE_DIR");
	if (!dir || !*dir)
		dir = config->image_dir;
	(void)snprintf(p.images_dir, sizeof(p.images_dir), "%s", dir);
	(void)snprintf(p.qemu_img, sizeof(p.qemu_img), "%s", config->setup.qemu_img_binary);
	p.fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (p.fd < 0)
		return ctl_fail(c, errno == EACCES ? CTL_DENIED : CTL_FAILED, "%s: %s%s", dir,
				log_errno_text(-errno),
				errno == ENOENT ? " (systemd-tmpfiles --create makes it)" : "");
	if (same_folder(p.fd, config->image_dir))
		(void)snprintf(p.vms_dir, sizeof(p.vms_dir), "%s/vms", config->state_dir);
	if (write) {
		interrupt_catch();
		r = lock_place(c, &p);
		if (r != CTL_OK)
			return r;
		sweep(c, &p);
	}
	*ret_place = p;
	p = (struct place)PLACE_INIT;
	return CTL_OK;
}

int place_image(const struct place *p, const char *name)
{
	int fd;

	if (!parse_is_name(name))
		return -EINVAL;
	fd = openat(p->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_candidate(const struct dirent *d)
{
	return parse_is_name(d->d_name);
}

int place_each(const struct place *p, int (*fn)(void *arg, const char *name), void *arg)
{
	struct dirent **list = NULL;
	int n = scandirat(p->fd, ".", &list, is_candidate, by_name), r = n < 0 ? -errno : 0;

	for (int i = 0; i < n; i++) {
		struct stat st;

		if (r == 0 && fstatat(p->fd, list[i]->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISDIR(st.st_mode))
			r = fn(arg, list[i]->d_name);
		free(list[i]);
	}
	free(list);
	return r;
}
