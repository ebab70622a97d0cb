/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of create and import, and the beginning: may this name be taken, and taking it.
 *
 * Trust: runs as root; the staged image has been checked.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "common/log.h"
#include "ctl/image/image.h"
#include "ctl/parse.h"

enum ctl_exit image_fail(struct ctl *c, int r, const struct err *err)
{
	if (r == -EINTR)
		return ctl_fail(c, CTL_FAILED, "interrupted; nothing was changed");
	if (r == -ENOSPC || r == -EDQUOT)
		return ctl_fail(c, CTL_FAILED,
				"no space left for images: free some, or take another folder; "
				"nothing was changed");
	return ctl_fail(c, CTL_FAILED, "%s", err->text[0] ? err->text : log_errno_text(r));
}

static bool is_there(const struct place *p, const char *name)
{
	struct stat st;

	return fstatat(p->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

enum ctl_exit publish_check(struct ctl *c, const struct place *p, const char *name)
{
	if (!is_there(p, name))
		return CTL_OK;
	if (!ctl_has(c, OPT_FORCE))
		return ctl_fail(c, CTL_CONFLICT,
				"image %s is there already; --force replaces it if nothing uses it",
				name);
	return users_refuse(c, p, name);
}

static enum ctl_exit print_result(struct ctl *c, const struct place *p, const char *name)
{
	struct base_image image;
	struct err err = {0};
	char disk[24];
	json_t *json;

	if (record_read(p, name, &image, &err) < 0)
		return ctl_fail(c, CTL_FAILED, "%s", err.text);
	progress_bytes(image.actual_bytes, disk);
	if (c->json) {
		json = record_json(&image, NULL);
		ctl_print_json(json);
		json_decref(json);
	} else {
		printf("%s\n", name);
	}
	ctl_note(c, "image %s is ready: %s on disk, VMs need %u MiB", name, disk,
		 image.min_disk_mib);
	return CTL_OK;
}

enum ctl_exit publish(struct ctl *c, const struct place *p, struct staging *s, const char *name)
{
	struct err err = {0};
	enum ctl_exit code = publish_check(c, p, name);
	bool replaced;
	int r;

	if (code != CTL_OK)
		return code;
	r = staging_publish(s, name, ctl_has(c, OPT_FORCE), &replaced);
	if (r == -EINVAL)
		(void)err_set(&err, r,
			      "the file system of %s cannot exchange two folders: remove "
			      "image %s first",
			      p->images_dir, name);
	if (r < 0)
		return image_fail(c, r, &err);
	/* A VM that was prepared just now counts, too. */
	code = replaced ? users_refuse(c, p, name) : CTL_OK;
	if (code != CTL_OK) {
		r = staging_put_back(s, name, replaced);
		return r < 0 ? ctl_fail(c, CTL_FAILED, "image %s could not be put back: %s", name,
					log_errno_text(r))
			     : code;
	}
	return print_result(c, p, name);
}
