/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image's own files: what they say, and writing image.conf and SHA256SUMS.
 *
 * Trust: runs as the operator or root; reads root's files, and a disk's header.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "common/fd.h"
#include "common/log.h"
#include "ctl/image/image.h"
#include "ctl/parse.h"
#include "vfio-helper/launch/launch.h"

#define CHUNK    (1 << 20)
#define SUMS_MAX 16384

static int open_in(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/*
 * Whether there are checksums, and whether something is newer than they are: a hint that costs
 * nothing; verify is the proof.
 */
static const char *sums_state(int dir)
{
	char text[SUMS_MAX];
	struct sums sums;
	struct stat st, file;

	if (fstatat(dir, IMAGE_SUMS, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return "none";
	if (fd_read_file(dir, IMAGE_SUMS, text, sizeof(text)) < 0 || sums_parse(text, &sums) < 0)
		return "changed";
	for (size_t i = 0; i < sums.n; i++)
		if (fstatat(dir, sums.name[i], &file, AT_SYMLINK_NOFOLLOW) < 0 ||
		    file.st_mtime > st.st_mtime)
			return "changed";
	return "recorded";
}

static void read_sizes(int dir, struct base_image *image)
{
	_cleanup_close_ int fd = open_in(dir, IMAGE_DISK);
	struct stat st;

	for (size_t i = 0; i < SUMS_FILES_MAX; i++)
		if (fstatat(dir, record_files[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
			image->actual_bytes += (uint64_t)st.st_blocks * 512;
	if (fd < 0 || fstat(fd, &st) < 0)
		return;
	image->made_s = st.st_mtime;
	if (STR_EQ(image->format, "raw"))
		image->virtual_bytes = (uint64_t)st.st_size;
	else
		(void)disk_check_file(fd, /* strict= */ false, &image->virtual_bytes, NULL);
}

int record_read(const struct place *p, const char *name, struct base_image *ret_image,
		struct err *reterr)
{
	struct base_image image = {.format = "?"};
	_cleanup_close_ int dir = place_image(p, name), conf = -EBADF;
	struct image what;
	int r;

	if (dir < 0)
		return err_errno(reterr, dir, "image %s", name);
	(void)snprintf(image.name, sizeof(image.name), "%s", name);
	conf = open_in(dir, IMAGE_CONF);
	r = conf < 0 ? err_errno(reterr, conf, IMAGE_CONF) : image_read(conf, &what, reterr);
	if (r == 0) {
		image.format = what.format == IMAGE_RAW ? "raw" : "qcow2";
		image.min_disk_mib = what.min_disk_mib;
	}
	image.kernel = faccessat(dir, "kernel", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
	image.sums = sums_state(dir);
	read_sizes(dir, &image);
	*ret_image = image;
	return r;
}

json_t *record_json(const struct base_image *image, const json_t *users)
{
	json_t *list = json_object_get(users, image->name);

	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:I, s:s, s:o}", "name", image->name,
			 "format", image->format, "virtual_bytes", (json_int_t)image->virtual_bytes,
			 "actual_bytes", (json_int_t)image->actual_bytes, "min_disk_mib",
			 (json_int_t)image->min_disk_mib, "boot",
			 image->kernel ? "kernel" : "firmware", "made_at",
			 (json_int_t)image->made_s, "checksums", image->sums, "used_by",
			 !users ? json_null()
			 : list ? json_incref(list)
				: json_array());
}

static bool is_printable(const char *s)
{
	for (; *s; s++)
		if (*s < ' ' || *s > '~')
			return false;
	return true;
}

static int write_file(int dir, const char *name, const char *text)
{
	_cleanup_close_ int fd =
		openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	int r;

	if (fd < 0)
		return -errno;
	r = fd_write_all(fd, text, strlen(text));
	return r == 0 && fchmod(fd, 0644) < 0 ? -errno : r;
}

int record_write_conf(int image_fd, uint32_t min_disk_mib, const char *append, struct err *reterr)
{
	char text[APPEND_MAX + 128];
	_cleanup_close_ int fd = -EBADF;
	struct image image;
	int n = snprintf(text, sizeof(text), "format = qcow2\nmin_disk_mib = %u\n%s%s%s",
			 min_disk_mib, append ? "append = " : "", append ? append : "",
			 append ? "\n" : "");
	int r;

	if (n < 0 || (size_t)n >= sizeof(text) || (append && !is_printable(append)))
		return err_set(reterr, -EINVAL,
			       "--append takes one line of printable ASCII, at most %d characters",
			       APPEND_MAX - 1);
	r = write_file(image_fd, IMAGE_CONF, text);
	if (r < 0)
		return err_errno(reterr, r, IMAGE_CONF);
	fd = open_in(image_fd, IMAGE_CONF);
	return fd < 0 ? err_errno(reterr, fd, IMAGE_CONF) : image_read(fd, &image, reterr);
}

int record_hash(struct progress *progress, int fd, struct sum *ret_sum)
{
	_cleanup_free_ uint8_t *data = malloc(CHUNK);
	uint64_t before = progress->done, at = 0;
	_cleanup_digest_ struct digest d = {0};

	if (!data || digest_init(&d, /* with_sha512= */ false) < 0)
		return -ENOMEM;
	for (;;) {
		ssize_t n = pread(fd, data, CHUNK, (off_t)at);

		if (interrupted())
			return -EINTR;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		if (digest_add(&d, data, (size_t)n) < 0)
			return -ENOMEM;
		at += (uint64_t)n;
		progress_update(progress, before + at);
	}
	return digest_end(&d, NULL, ret_sum);
}

uint64_t record_bytes(int dir)
{
	uint64_t total = 0;
	struct stat st;

	for (size_t i = 0; i < SUMS_FILES_MAX; i++)
		if (fstatat(dir, record_files[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
			total += (uint64_t)st.st_size;
	return total;
}

static int hash_into(FILE *f, struct progress *progress, int dir, const char *name)
{
	_cleanup_close_ int fd = open_in(dir, name);
	struct sum sum;
	int r;

	if (fd == -ENOENT)
		return 0;
	r = fd < 0 ? fd : record_hash(progress, fd, &sum);
	if (r == 0)
		fprintf(f, "%s  %s\n", sum.hex, name);
	return r;
}

int record_write_sums(struct ctl *c, int image_fd, const char *remark, struct err *reterr)
{
	struct progress progress;
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	int r = f ? 0 : -ENOMEM;

	if (r == 0 && remark)
		fprintf(f, "# %s\n", is_printable(remark) ? remark : "imported");
	progress_begin(&progress, c, "hashing", record_bytes(image_fd));
	for (size_t i = 0; i < SUMS_FILES_MAX && r == 0; i++)
		r = hash_into(f, &progress, image_fd, record_files[i]);
	progress_end(&progress);
	if (f && fclose(f) != 0 && r == 0)
		r = -ENOMEM;
	if (r == 0)
		r = write_file(image_fd, IMAGE_SUMS, text);
	free(text);
	return r < 0 ? err_errno(reterr, r, IMAGE_SUMS) : 0;
}
