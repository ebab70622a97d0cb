/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image verify.
 *
 * Trust: runs as the operator; reads what it may of the folder of images. Disks are looked at by a
 * qemu-img that has nothing to lose.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "common/log.h"
#include "ctl/image/image.h"
#include "ctl/text.h"

#define SUMS_MAX 16384

struct verification {
	struct ctl *c;
	const struct place *place;
	json_t *json;
	size_t n_bad;
	bool stop;
};

static int load_sums(int dir, struct sums *ret_sums, struct err *reterr)
{
	char text[SUMS_MAX];
	ssize_t n = fd_read_file(dir, IMAGE_SUMS, text, sizeof(text));

	if (n == -ENOENT)
		return err_set(reterr, -ENOENT,
			       "no checksums were recorded when it was made (sha256sum %s kernel "
			       "initrd %s >%s records what is there now)",
			       IMAGE_DISK, IMAGE_CONF, IMAGE_SUMS);
	if (n < 0)
		return err_errno(reterr, (int)n, IMAGE_SUMS);
	return sums_parse(text, ret_sums) < 0
		       ? err_set(reterr, -EBADMSG, "%s is damaged", IMAGE_SUMS)
		       : 0;
}

static bool covers(const struct sums *sums, const char *name)
{
	for (size_t i = 0; i < sums->n; i++)
		if (STR_EQ(sums->name[i], name))
			return true;
	return false;
}

static int verify_file(struct progress *progress, int dir, const char *name, const struct sum *want,
		       struct err *reterr)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct sum got;
	struct stat st;
	int r;

	if (fd < 0)
		return err_errno(reterr, -errno, "%s", name);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(reterr, -EBADMSG, "%s is no regular file", name);
	r = record_hash(progress, fd, &got);
	if (r < 0)
		return err_errno(reterr, r, "%s", name);
	return STR_EQ(got.hex, want->hex)
		       ? 0
		       : err_set(reterr, -EBADMSG, "%s is not what was recorded", name);
}

static int verify_image(struct verification *v, int dir, const char *name, struct err *reterr)
{
	_cleanup_close_ int disk = -EBADF;
	struct progress progress;
	struct base_image image;
	struct sums sums;
	uint64_t bytes;
	int r = load_sums(dir, &sums, reterr);

	for (size_t i = 0; r == 0 && i < SUMS_FILES_MAX; i++)
		if (faccessat(dir, record_files[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0 &&
		    !covers(&sums, record_files[i]))
			r = err_set(reterr, -EBADMSG, "%s was added later", record_files[i]);
	progress_begin(&progress, v->c, name, r == 0 ? record_bytes(dir) : 0);
	for (size_t i = 0; r == 0 && i < sums.n; i++)
		r = verify_file(&progress, dir, sums.name[i], &sums.sum[i], reterr);
	progress_end(&progress);
	if (r == 0)
		r = record_read(v->place, name, &image, reterr);
	if (r < 0 || !STR_EQ(image.format, "qcow2"))
		return r;
	disk = openat(dir, IMAGE_DISK, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (disk < 0)
		return err_errno(reterr, -errno, IMAGE_DISK);
	r = disk_check_file(disk, /* strict= */ false, &bytes, reterr);
	return r < 0 ? r : convert_check(v->place, disk, reterr);
}

static int verify_one(void *arg, const char *name)
{
	struct verification *v = arg;
	_cleanup_close_ int dir = place_image(v->place, name);
	struct err err = {0};
	int r = dir < 0 ? err_errno(&err, dir, "image %s", name) : verify_image(v, dir, name, &err);

	if (interrupted()) {
		v->stop = true;
		return 1;
	}
	v->n_bad += r < 0;
	if (r < 0)
		(void)json_array_append_new(v->json, json_pack("{s:s, s:b, s:s}", "name", name,
							       "ok", false, "error", err.text));
	else
		(void)json_array_append_new(v->json,
					    json_pack("{s:s, s:b}", "name", name, "ok", true));
	if (!v->c->json) {
		printf("%s: %s", name, r < 0 ? "DAMAGED: " : "ok");
		if (r < 0)
			text_put(stdout, err.text, strlen(err.text));
		putchar('\n');
		(void)fflush(stdout);
	}
	return 0;
}

enum ctl_exit cmd_image_verify(struct ctl *c)
{
	_cleanup_place_ struct place p = PLACE_INIT;
	struct verification v = {.c = c, .place = &p};
	const char *name = ctl_arg(c, 0);
	enum ctl_exit code = CTL_OK;

	if ((name != NULL) == ctl_has(c, OPT_ALL))
		return ctl_fail(c, CTL_USAGE, "image verify takes a NAME or --all");
	code = place_open(c, /* write= */ false, &p);
	if (code != CTL_OK)
		return code;
	if (name) {
		_cleanup_close_ int dir = place_image(&p, name);

		if (dir < 0)
			return ctl_fail(c, CTL_NOT_FOUND, "there is no image %s in %s", name,
					p.images_dir);
	}
	interrupt_catch();
	v.json = json_array();
	if (name)
		(void)verify_one(&v, name);
	else
		(void)place_each(&p, verify_one, &v);
	if (c->json)
		ctl_print_json(v.json);
	json_decref(v.json);
	if (v.stop)
		return ctl_fail(c, CTL_FAILED, "interrupted");
	return v.n_bad > 0 ? CTL_FAILED : CTL_OK;
}
