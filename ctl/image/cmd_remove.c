/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image remove.
 *
 * Trust: runs as root; takes away one folder of images that nothing uses.
 */
#include "common/log.h"
#include "ctl/image/image.h"

static enum ctl_exit confirm(struct ctl *c, const char *name)
{
	char answer[8] = "";

	if (ctl_has(c, OPT_YES))
		return CTL_OK;
	if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
		return ctl_fail(c, CTL_USAGE, "removing image %s needs --yes", name);
	fprintf(stderr, "Remove image %s? [y/N] ", name);
	if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != 'y' && answer[0] != 'Y'))
		return ctl_fail(c, CTL_FAILED, "nothing was removed");
	return CTL_OK;
}

static enum ctl_exit take_away(struct ctl *c, const struct place *p, const char *name)
{
	_cleanup_staging_ struct staging s = STAGING_INIT;
	enum ctl_exit code;
	int r = staging_open(p, &s);

	if (r == 0)
		r = staging_take_away(&s, name);
	if (r < 0)
		return ctl_fail(c, CTL_FAILED, "image %s cannot be removed: %s", name,
				log_errno_text(r));
	/* A VM that was prepared just now counts, too. */
	code = users_refuse(c, p, name);
	if (code == CTL_OK)
		return CTL_OK;
	r = staging_put_back(&s, name, /* replaced= */ false);
	return r < 0 ? ctl_fail(c, CTL_FAILED, "image %s could not be put back: %s", name,
				log_errno_text(r))
		     : code;
}

enum ctl_exit cmd_image_remove(struct ctl *c)
{
	_cleanup_place_ struct place p = PLACE_INIT;
	_cleanup_close_ int dir = -EBADF;
	const char *name = ctl_arg(c, 0);
	enum ctl_exit code = place_open(c, /* write= */ true, &p);

	if (code != CTL_OK)
		return code;
	dir = place_image(&p, name);
	if (dir < 0)
		return ctl_fail(c, CTL_NOT_FOUND, "there is no image %s in %s", name, p.images_dir);
	code = users_refuse(c, &p, name);
	if (code == CTL_OK)
		code = confirm(c, name);
	if (code == CTL_OK)
		code = take_away(c, &p, name);
	if (code == CTL_OK)
		ctl_note(c, "image %s is removed", name);
	return code;
}
