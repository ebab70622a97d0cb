/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.conf of a base image.
 * Trust: runs as a VM's user; reads a file of root's, opened by the helper.
 */
#include "vfio-helper/launch/launch.h"

#include "common/conf.h"
#include "common/fd.h"

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

int image_read(int fd, struct image *ret_image, struct err *reterr)
{
	struct image image = {.format = -1};
	char text[4096];
	ssize_t n = fd_read_text(fd, text, sizeof(text));
	int r;

	if (n < 0)
		return err_errno(reterr, (int)n, "image.conf");
	r = conf_parse("image.conf", text, keys, ARRAY_LEN(keys), &image, reterr);
	if (r < 0)
		return r;
	if (image.format < 0 || image.min_disk_mib == 0)
		return err_set(reterr, -EINVAL, "image.conf lacks format or min_disk_mib");
	*ret_image = image;
	return 0;
}
