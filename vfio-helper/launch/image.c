/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.conf of a base image.
 * Trust: runs as a VM's user; reads a file of root's, opened by the helper.
 */
#include "vfio-helper/launch/launch.h"

#include "common/conf.h"
#include "common/fd.h"

#include <assert.h>
#include <endian.h>

#define QCOW2_MAGIC     0x514649fb         /* "QFI\xfb", docs/interop/qcow2.txt of QEMU */
#define QCOW2_DATA_FILE (UINT64_C(1) << 2) /* incompatible feature: data in another file */

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

/*
 * QEMU follows what a qcow2 header says: a backing file, or a file for the data. Ours have neither:
 * the base is root's but comes from elsewhere, and a guest's QEMU can write its overlay's header.
 */
int disk_check(int fd, int format)
{
	struct {
		uint32_t magic, version;
		uint64_t backing_offset;
		uint8_t unused[56];
		uint64_t incompatible;
	} header;

	static_assert(sizeof(header) == 80, "as far as the incompatible features of qcow2");
	if (format == IMAGE_RAW)
		return 0;
	if (pread(fd, &header, sizeof(header), 0) != sizeof(header) ||
	    be32toh(header.magic) != QCOW2_MAGIC || be32toh(header.version) != 3)
		return -EINVAL;
	return header.backing_offset == 0 && !(be64toh(header.incompatible) & QCOW2_DATA_FILE)
		       ? 0
		       : -EPERM;
}

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
