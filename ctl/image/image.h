/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Base images on this host: the folder's one shared header.
 *
 * An image is a folder <images_dir>/<NAME>/ with image.conf, disk.img, perhaps kernel and initrd,
 * and SHA256SUMS over them. A new one is built in a folder ".new.*" beside the others and takes its
 * name by one rename; what a crash leaves is swept by the next command that writes.
 */
#pragma once

#include <limits.h>
#include <sys/types.h>

#include <openssl/evp.h>

#include "common/err.h"
#include "ctl/ctl.h"

#define IMAGE_DISK "disk.img"
#define IMAGE_CONF "image.conf"
#define IMAGE_SUMS "SHA256SUMS"

/* ---- the place: place.c ---- */

struct place {
	char images_dir[PATH_MAX];
	char vms_dir[PATH_MAX]; /* of the helper's VMs, when images_dir is the helper's; else "" */
	char qemu_img[PATH_MAX];
	int fd;      /* owned; images_dir */
	int lock_fd; /* owned; -EBADF unless it was opened for writing */
};

#define PLACE_INIT                                                                                 \
	{                                                                                          \
		.fd = -EBADF, .lock_fd = -EBADF                                                    \
	}
#define _cleanup_place_ _cleanup_(place_done)

/*
 * Opens the folder that --images-dir, QUDATA_IMAGE_DIR or helper.conf names. With @write, also
 * takes the lock that keeps a second writer out, and sweeps what a crash has left. Failures are
 * reported.
 */
enum ctl_exit place_open(struct ctl *c, bool write, struct place *ret_place);
void place_done(struct place *p);
/* The directory of image @name: a descriptor, or a negative errno. */
int place_image(const struct place *p, const char *name);
/* Calls @fn for each image, in the order of their names, until it returns non-zero. */
int place_each(const struct place *p, int (*fn)(void *arg, const char *name), void *arg);

/* A folder in the making. */
struct staging {
	const struct place *place; /* borrowed; NULL: nothing is there */
	char name[24];             /* ".new.XXXXXX" */
	int fd;                    /* owned; the folder itself, for whatever is needed on the way */
	int image_fd;              /* owned; "image" in it, which becomes the image */
};

#define STAGING_INIT                                                                               \
	{                                                                                          \
		.fd = -EBADF, .image_fd = -EBADF                                                   \
	}
#define _cleanup_staging_ _cleanup_(staging_done)

int staging_open(const struct place *p, struct staging *ret_staging);
/* Removes what is left of it. */
void staging_done(struct staging *s);
/*
 * Makes "image" the image @name, durably: the old one or the new one is there at any moment.
 * -EEXIST: there is one already and @replace is not set. @ret_replaced: the old one is now in the
 * staging folder's "image".
 */
int staging_publish(struct staging *s, const char *name, bool replace, bool *ret_replaced);
/* Takes image @name away, into "image" of the staging folder; -ENOENT: there is none. */
int staging_take_away(struct staging *s, const char *name);
/* Undoes staging_publish() of a replacement, or staging_take_away(). */
int staging_put_back(struct staging *s, const char *name, bool replaced);

/* Removes @name below @dirfd with all that is in it, following no link. */
int remove_tree(int dirfd, const char *name);

/* ---- who uses what: users.c ---- */

/*
 * Which VMs have their disk on which image: an object of arrays of VM ids, by the image's name.
 * Owned by the caller. The helper's records are what counts; the agent adds those that it has not
 * prepared yet. @ret_known says whether the records could be read, @ret_unclear (may be NULL; 33
 * bytes) names a VM whose image cannot be told: one in the making, or a damaged record.
 */
json_t *users_load(struct ctl *c, const struct place *p, bool *ret_known, char *ret_unclear);
/* The ids of a load that use @name, "a, b"; owned by the caller, NULL when there are none. */
char *users_of(const json_t *users, const char *name);
/* Reports and refuses when @name is in use, or when that cannot be known. */
enum ctl_exit users_refuse(struct ctl *c, const struct place *p, const char *name);

/* ---- what a disk claims to be: disk.c. Pure but for reading @fd ---- */

enum disk_kind {
	DISK_UNKNOWN, /* nothing that could boot */
	DISK_QCOW2,
	DISK_RAW,        /* with a partition table */
	DISK_FILESYSTEM, /* raw, an ext file system from its first byte: needs a kernel */
	DISK_OTHER,      /* known and not taken: disk_other_name() */
};

#define DISK_HEAD_SIZE 4096 /* bytes that disk_detect() looks at, where there are as many */

enum disk_kind disk_detect(const uint8_t *head, size_t n);
/* "gzip", "VMDK", … of a DISK_OTHER, with what to do. */
const char *disk_other_name(const uint8_t *head, size_t n);

/*
 * Checks a qcow2 header: it names no other file, is not encrypted, and asks for no table that its
 * size does not explain. @ret_bytes is the disk's size. @strict is for files of our own making:
 * no snapshots and no features either.
 */
int disk_check_qcow2(const uint8_t *head, size_t n, bool strict, uint64_t *ret_bytes,
		     struct err *reterr);
/* The same of an open file. */
int disk_check_file(int fd, bool strict, uint64_t *ret_bytes, struct err *reterr);

/* ---- checksums: sums.c ---- */

#define SHA256_HEX ((size_t)64)
#define SHA512_HEX ((size_t)128)

/* What was counted over a stream: libcrypto's. */
struct digest {
	EVP_MD_CTX *sha256, *sha512; /* owned; NULL: not counted */
};
#define _cleanup_digest_ _cleanup_(digest_done)

struct sum {
	size_t n_hex; /* SHA256_HEX or SHA512_HEX */
	char hex[SHA512_HEX + 1];
};

/* 64 or 128 hexadecimal digits of either case. */
int sum_parse(const char *text, struct sum *ret_sum);
/*
 * The sum of @name in a list of checksums: "HEX  name", "HEX *name", "SHA256 (name) = HEX", other
 * lines between them. -ENOENT when it is not there, -EBADMSG when it is there twice and differs.
 */
int sums_find(const char *text, const char *name, struct sum *ret_sum);

#define SUMS_FILES_MAX 4
struct sums {
	size_t n;
	char name[SUMS_FILES_MAX][16];
	struct sum sum[SUMS_FILES_MAX];
};
/* An image's own SHA256SUMS, strictly: its known files, each once. -EBADMSG. */
int sums_parse(const char *text, struct sums *ret_sums);

/* Each: 0, or -ENOMEM when libcrypto fails. What was begun is ended by digest_done(). */
int digest_init(struct digest *d, bool with_sha512);
int digest_add(struct digest *d, const void *data, size_t len);
/* The sum of all so far, once, of the kind which @like has (NULL: SHA-256). */
int digest_end(struct digest *d, const struct sum *like, struct sum *ret_sum);
void digest_done(struct digest *d);

/* ---- progress: progress.c ---- */

struct progress {
	const char *what;
	bool quiet, tty;
	uint64_t done, total; /* total 0: unknown */
	int64_t begun_ms, shown_ms;
	int shown_percent;
	bool line_open;
};

void progress_begin(struct progress *p, const struct ctl *c, const char *what, uint64_t total);
void progress_update(struct progress *p, uint64_t done);
/* A line of its own, whatever else is shown. */
void progress_remark(struct progress *p, const char *text);
void progress_end(struct progress *p);
/* "1.5 GiB", "12 KiB". */
void progress_bytes(uint64_t bytes, char ret_text[static 24]);

/* SIGINT, SIGTERM and SIGHUP only set a flag from then on, so that what was begun is removed. */
void interrupt_catch(void);
bool interrupted(void);

/* ---- getting bytes: sink.c, fetch.c ---- */

/* Where fetched bytes go: a file, with holes for zeros. */
struct sink {
	int fd; /* borrowed */
	uint64_t bytes, max_bytes;
	struct digest digest;
};

int sink_write(struct sink *s, const void *data, size_t len);
/* Sets the file's length; 0 or a negative errno. */
int sink_end(struct sink *s);
/* Closes the file and ends the digest: for who owns both. */
void sink_done(struct sink *s);

#define FETCH_STALL_S 60

struct fetch {
	const char *cacert; /* file with authorities to trust instead of the system's, or NULL */
	uint32_t stall_s;   /* how long next to nothing may come; 0: FETCH_STALL_S */
};

/*
 * Copies what @source (https URL, file: URL, or path) names into @sink. Whatever a server sends is
 * read by a process without privilege. What breaks or stalls is taken up where it ended, a bounded
 * number of times. 0, or a negative errno with @reterr.
 */
int fetch(struct ctl *c, const struct fetch *f, const char *source, const char *what,
	  struct sink *sink, struct err *reterr);
/* The last part of its path. */
void fetch_basename(const char *source, char *ret_name, size_t size);

/* ---- programs that read a stranger's bytes: tool.c ---- */

struct tool {
	const char *program; /* path */
	const char *const *argv;
	const int *fds; /* become TOOL_FD(0), … */
	size_t n_fds;
	uint64_t max_bytes;        /* of any file that it writes; 0: none */
	struct progress *progress; /* fed by "(12.34/100%)"; may be NULL */
};

#define TOOL_FD(i) (3 + (int)(i))

/*
 * Runs it as an unprivileged user with nothing but @fds, limits, and a filter of system calls, and
 * waits. Its exit status, or a negative errno. @ret_text is the last line of what it printed.
 */
int tool_run(const struct tool *t, char *ret_text, size_t size, struct err *reterr);
/* In a child: gives up what root has and sets limits. For tool.c and fetch.c. */
int tool_become_nobody(uint64_t max_bytes, struct err *reterr);

/* ---- qemu-img and gpgv: convert.c ---- */

/* Writes the disk @in_fd of format @format into the empty file @out_fd, as a qcow2 of its own. */
int convert_disk(const struct place *p, struct progress *progress, const char *format, int in_fd,
		 int out_fd, uint64_t bytes, uint64_t resize_bytes, struct err *reterr);
/* qemu-img check. */
int convert_check(const struct place *p, int fd, struct err *reterr);
/* gpgv: are these bytes signed by a key of the keyring? */
int convert_verify_signature(int data_fd, int signature_fd, const char *keyring,
			     struct err *reterr);

/* ---- an image's own files: record.c ---- */

/* What an image is. */
struct base_image {
	char name[33];
	const char *format;    /* "qcow2", "raw", "?" */
	uint32_t min_disk_mib; /* 0: unknown */
	uint64_t virtual_bytes, actual_bytes;
	bool kernel;
	int64_t made_s;
	const char *sums; /* "recorded", "none", "changed" */
};

int record_read(const struct place *p, const char *name, struct base_image *ret_image,
		struct err *reterr);
/* As JSON, with @users (borrowed, may be NULL) as "used_by". */
json_t *record_json(const struct base_image *image, const json_t *users);
/* Writes image.conf (format qcow2) and reads it back by the rules of who will read it. */
int record_write_conf(int image_fd, uint32_t min_disk_mib, const char *append, struct err *reterr);
/* Hashes each file, shows progress, writes SHA256SUMS with @remark (may be NULL) as a comment. */
int record_write_sums(struct ctl *c, int image_fd, const char *remark, struct err *reterr);
/* Bytes of all files of an image that checksums cover. */
uint64_t record_bytes(int dir);
/* Hashes @fd from its beginning; -EINTR when interrupted. */
int record_hash(struct progress *progress, int fd, struct sum *ret_sum);
extern const char *const record_files[SUMS_FILES_MAX];

/* ---- the end of create and import: publish.c ---- */

/* Refuses what could not be put under @name anyway, before the work begins. Reports. */
enum ctl_exit publish_check(struct ctl *c, const struct place *p, const char *name);
/* Puts the staged image under @name and prints what it is. Reports. */
enum ctl_exit publish(struct ctl *c, const struct place *p, struct staging *s, const char *name);
/* A failure, with the remedy for a full disk and the like. Reports. */
enum ctl_exit image_fail(struct ctl *c, int r, const struct err *err);
