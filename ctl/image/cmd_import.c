/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image import: from a file or a URL to an image.
 *
 * Trust: runs as root; the operator names the source, its bytes are a stranger's. They are hashed
 * and stored unread, looked at by disk.c, and converted by a qemu-img that has nothing to lose.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "common/fd.h"
#include "common/log.h"
#include "ctl/image/image.h"
#include "ctl/parse.h"
#include "proto/proto.h"

#define LIST_MAX   (1 << 20)
#define KERNEL_MAX (256 << 20)
#define INITRD_MAX (1 << 30)
#define DISK_MAX   ((uint64_t)PROTO_MAX_DISK_MIB << 20)

struct import {
	struct ctl *c;
	const char *name, *from, *format;
	struct fetch fetch;
	char *list; /* owned; the checksums, or NULL */
	struct sum sum;
	uint64_t resize_bytes, disk_bytes;
	char remark[512];
};

static enum ctl_exit import_usage(struct import *i)
{
	struct ctl *c = i->c;
	uint32_t gib;

	i->name = ctl_arg(c, 0);
	i->from = ctl_value(c, OPT_FROM);
	i->format = ctl_value(c, OPT_FORMAT);
	i->fetch.cacert = ctl_value(c, OPT_CACERT);
	if (ctl_has(c, OPT_TIMEOUT) &&
	    (parse_seconds(ctl_value(c, OPT_TIMEOUT), &i->fetch.stall_s) < 0 ||
	     i->fetch.stall_s == 0))
		return ctl_fail(c, CTL_USAGE, "--timeout: not a time up to one day: %s",
				ctl_value(c, OPT_TIMEOUT));
	if (!parse_is_name(i->name))
		return ctl_fail(c, CTL_USAGE,
				"%s is no name for an image: a-z, 0-9 and -, at most 32", i->name);
	if (!i->from)
		return ctl_fail(c, CTL_USAGE, "image import needs --from FILE or --from URL");
	if (i->format && !STR_EQ(i->format, "qcow2") && !STR_EQ(i->format, "raw"))
		return ctl_fail(c, CTL_USAGE, "--format is qcow2 or raw");
	if (ctl_has(c, OPT_SHA256) && ctl_has(c, OPT_CHECKSUMS))
		return ctl_fail(c, CTL_USAGE, "--sha256 and --checksums exclude each other");
	if (ctl_has(c, OPT_SHA256) &&
	    (sum_parse(ctl_value(c, OPT_SHA256), &i->sum) < 0 || i->sum.n_hex != SHA256_HEX))
		return ctl_fail(c, CTL_USAGE, "--sha256 takes 64 hexadecimal digits");
	if (ctl_has(c, OPT_SIGNATURE) != ctl_has(c, OPT_KEYRING) ||
	    (ctl_has(c, OPT_SIGNATURE) && !ctl_has(c, OPT_CHECKSUMS)))
		return ctl_fail(c, CTL_USAGE,
				"--signature and --keyring go together, and with --checksums");
	if ((ctl_has(c, OPT_APPEND) || ctl_has(c, OPT_INITRD)) && !ctl_has(c, OPT_KERNEL))
		return ctl_fail(c, CTL_USAGE,
				"--append and --initrd need --kernel: without one, the disk boots "
				"by firmware and brings its own");
	if (!ctl_has(c, OPT_SIZE))
		return CTL_OK;
	if (parse_u32(ctl_value(c, OPT_SIZE), 1, PROTO_MAX_DISK_MIB / 1024, &gib) < 0)
		return ctl_fail(c, CTL_USAGE, "--size takes whole GiB, 1 to %u",
				PROTO_MAX_DISK_MIB / 1024);
	i->resize_bytes = (uint64_t)gib << 30;
	return CTL_OK;
}

/* Fetches @source into the new file @name of @dir. */
static int fetch_into(struct import *i, int dir, const char *name, const char *source,
		      uint64_t max_bytes, struct sink *ret_sink, struct err *reterr)
{
	char what[64];
	int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	int r;

	if (fd < 0)
		return err_errno(reterr, -errno, "%s", name);
	*ret_sink = (struct sink){.fd = fd, .max_bytes = max_bytes};
	if (digest_init(&ret_sink->digest, i->sum.n_hex == SHA512_HEX || i->list) < 0)
		return err_set(reterr, -ENOMEM, "out of memory");
	(void)snprintf(what, sizeof(what), "%s %s",
		       strstr(source, "://") && strncasecmp(source, "file:", 5) != 0 ? "downloading"
										     : "reading",
		       name);
	r = fetch(i->c, &i->fetch, source, what, ret_sink, reterr);
	if (r == -EFBIG)
		r = err_set(reterr, r, "%s has more than %llu bytes", source,
			    (unsigned long long)max_bytes);
	if (r == 0 && fchmod(fd, 0644) < 0)
		r = err_errno(reterr, -errno, "%s", name);
	return r;
}

static int compare(struct sink *sink, const struct sum *want, const char *source,
		   struct err *reterr)
{
	struct sum got;

	if (digest_end(&sink->digest, want, &got) < 0)
		return err_set(reterr, -ENOMEM, "out of memory");
	if (STR_EQ(got.hex, want->hex))
		return 0;
	return err_set(reterr, -EBADMSG, "%s has the wrong checksum: %.16s… instead of %.16s…",
		       source, got.hex, want->hex);
}

/* With a list of checksums, whatever is fetched has to stand in it. */
static int compare_listed(struct import *i, struct sink *sink, const char *source,
			  struct err *reterr)
{
	char name[NAME_MAX + 1];
	struct sum want;
	int r;

	if (!i->list)
		return 0;
	fetch_basename(source, name, sizeof(name));
	r = sums_find(i->list, name, &want);
	if (r < 0)
		return err_set(reterr, r, "%s %s in the list of checksums", name,
			       r == -ENOENT ? "does not stand" : "stands with two sums");
	return compare(sink, &want, source, reterr);
}

static int load_list(struct import *i, const struct staging *s, struct err *reterr)
{
	const char *source = ctl_value(i->c, OPT_CHECKSUMS);
	const char *signature = ctl_value(i->c, OPT_SIGNATURE);
	struct sink sink = {.fd = -EBADF}, signed_by = {.fd = -EBADF};
	int r;

	if (!source)
		return 0;
	r = fetch_into(i, s->fd, "checksums", source, LIST_MAX - 1, &sink, reterr);
	if (r == 0 && signature) {
		r = fetch_into(i, s->fd, "signature", signature, LIST_MAX - 1, &signed_by, reterr);
		if (r == 0)
			r = convert_verify_signature(sink.fd, signed_by.fd,
						     ctl_value(i->c, OPT_KEYRING), reterr);
		if (r == 0)
			ctl_note(i->c, "the checksums' signature is good");
	}
	i->list = r == 0 ? calloc(1, LIST_MAX) : NULL;
	if (r == 0 && (!i->list || pread(sink.fd, i->list, LIST_MAX - 1, 0) < 0))
		r = err_errno(reterr, -errno, "checksums");
	sink_done(&sink);
	sink_done(&signed_by);
	return r;
}

/* The format, and the size that it claims. */
static int look_at_disk(struct import *i, int fd, const struct sink *sink, struct err *reterr)
{
	uint8_t head[DISK_HEAD_SIZE];
	ssize_t n = pread(fd, head, sizeof(head), 0);
	enum disk_kind kind = n < 0 ? DISK_UNKNOWN : disk_detect(head, (size_t)n);
	bool is_qcow2 = kind == DISK_QCOW2;

	if (i->format && STR_EQ(i->format, "qcow2") != is_qcow2)
		return err_set(reterr, -EINVAL, "%s is %s qcow2, and --format says %s", i->from,
			       is_qcow2 ? "a" : "no", i->format);
	if (kind == DISK_OTHER && !i->format)
		return err_set(reterr, -EINVAL, "%s is %s", i->from,
			       disk_other_name(head, (size_t)n));
	if (kind == DISK_UNKNOWN && !i->format)
		return err_set(reterr, -EINVAL,
			       "%s is neither a qcow2 nor a disk with a partition table; --format "
			       "raw takes it as it is",
			       i->from);
	if (kind == DISK_FILESYSTEM && !ctl_has(i->c, OPT_KERNEL))
		return err_set(reterr, -EINVAL,
			       "%s is a bare file system, which no firmware can boot: it needs "
			       "--kernel and --append",
			       i->from);
	i->format = is_qcow2 ? "qcow2" : "raw";
	i->disk_bytes = sink->bytes;
	if (is_qcow2)
		return disk_check_qcow2(head, (size_t)n, /* strict= */ false, &i->disk_bytes,
					reterr);
	return sink->bytes == 0 ? err_set(reterr, -EINVAL, "%s is empty", i->from) : 0;
}

static int make_disk(struct import *i, const struct place *p, const struct staging *s,
		     const struct sink *source, struct err *reterr)
{
	_cleanup_close_ int out = openat(s->image_fd, IMAGE_DISK,
					 O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	struct progress progress;
	int r;

	if (out < 0)
		return err_errno(reterr, -errno, IMAGE_DISK);
	if (i->resize_bytes != 0 && i->resize_bytes < i->disk_bytes)
		return err_set(reterr, -EINVAL,
			       "the disk has %llu MiB already: --size only enlarges",
			       (unsigned long long)(i->disk_bytes >> 20));
	/* What is cut off or damaged would be converted into zeros. */
	r = STR_EQ(i->format, "qcow2") ? convert_check(p, source->fd, reterr) : 0;
	if (r < 0)
		return r;
	progress_begin(&progress, i->c, "converting", i->disk_bytes);
	r = convert_disk(p, &progress, i->format, source->fd, out, i->disk_bytes, i->resize_bytes,
			 reterr);
	progress_end(&progress);
	return r;
}

static int import_disk(struct import *i, const struct place *p, const struct staging *s,
		       struct err *reterr)
{
	struct sink sink = {.fd = -EBADF};
	int r = fetch_into(i, s->fd, "disk", i->from, DISK_MAX, &sink, reterr);

	if (r == 0 && ctl_has(i->c, OPT_SHA256))
		r = compare(&sink, &i->sum, i->from, reterr);
	if (r == 0)
		r = compare_listed(i, &sink, i->from, reterr);
	if (r == 0)
		r = look_at_disk(i, sink.fd, &sink, reterr);
	if (r == 0)
		r = make_disk(i, p, s, &sink, reterr);
	sink_done(&sink);
	(void)unlinkat(s->fd, "disk", 0);
	return r;
}

static int import_file(struct import *i, const struct staging *s, enum ctl_opt option,
		       const char *name, uint64_t max_bytes, struct err *reterr)
{
	const char *source = ctl_value(i->c, option);
	struct sink sink = {.fd = -EBADF};
	int r;

	if (!source)
		return 0;
	r = fetch_into(i, s->image_fd, name, source, max_bytes, &sink, reterr);
	if (r == 0)
		r = compare_listed(i, &sink, source, reterr);
	sink_done(&sink);
	return r;
}

/* Anybody may read it; what follows the path of an address may be a token. */
static void make_remark(struct import *i)
{
	char date[32] = "";
	time_t now = time(NULL);
	struct tm tm;

	if (gmtime_r(&now, &tm))
		(void)strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &tm);
	(void)snprintf(i->remark, sizeof(i->remark), "imported %s from %.*s, %s", date,
		       (int)strcspn(i->from, "?#"), i->from,
		       ctl_has(i->c, OPT_SIGNATURE)           ? "signature and checksum verified"
		       : i->list || ctl_has(i->c, OPT_SHA256) ? "checksum verified"
							      : "unverified");
}

static int import_all(struct import *i, const struct place *p, struct staging *s,
		      struct err *reterr)
{
	uint64_t mib;
	int r = staging_open(p, s);

	if (r < 0)
		return err_errno(reterr, r, "%s", p->images_dir);
	r = load_list(i, s, reterr);
	if (r == 0)
		r = import_disk(i, p, s, reterr);
	if (r == 0)
		r = import_file(i, s, OPT_KERNEL, "kernel", KERNEL_MAX, reterr);
	if (r == 0)
		r = import_file(i, s, OPT_INITRD, "initrd", INITRD_MAX, reterr);
	if (r < 0)
		return r;
	mib = (MAX_OF(i->disk_bytes, i->resize_bytes) + (1 << 20) - 1) >> 20;
	r = record_write_conf(s->image_fd, (uint32_t)mib, ctl_value(i->c, OPT_APPEND), reterr);
	make_remark(i);
	return r < 0 ? r : record_write_sums(i->c, s->image_fd, i->remark, reterr);
}

enum ctl_exit cmd_image_import(struct ctl *c)
{
	_cleanup_place_ struct place p = PLACE_INIT;
	_cleanup_staging_ struct staging s = STAGING_INIT;
	struct import i = {.c = c};
	struct err err = {0};
	enum ctl_exit code = import_usage(&i);
	int r;

	if (code == CTL_OK)
		code = place_open(c, /* write= */ true, &p);
	if (code == CTL_OK)
		code = publish_check(c, &p, i.name);
	if (code != CTL_OK)
		return code;
	if (!ctl_has(c, OPT_SHA256) && !ctl_has(c, OPT_CHECKSUMS))
		ctl_note(c, "no checksum was given: what comes is taken as it is");
	r = import_all(&i, &p, &s, &err);
	free(i.list);
	return r < 0 ? image_fail(c, r, &err) : publish(c, &p, &s, i.name);
}
