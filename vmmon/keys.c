/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys on disk.
 * Trust: runs in vmmon; reads files that vmmon wrote.
 */
#include "vmmon/keys.h"

#include "common/fd.h"
#include "proto/proto.h"
#include "vmmon/seed.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define FILE_PRIVATE  "management_key"
#define FILE_PUBLIC   "management_key.pub"
#define DIR_GUESTS    "guests"
#define FILE_HOST_KEY "host_key.pub"
#define FILE_SEED     "seed.img"
#define PRIVATE_MAX   4096 /* bytes of a private key's file */
#define KEY_TYPE      "ssh-ed25519 "

/* A key pair as text. */
struct pair {
	char *private; /* owned, by libssh's allocator */
	char line[KEYS_LINE_SIZE];
};

static void pair_done(struct pair *p)
{
	if (p->private) {
		explicit_bzero(p->private, strlen(p->private));
		ssh_string_free_char(p->private);
	}
	p->private = NULL;
}

static void key_free(ssh_key *key)
{
	ssh_key_free(*key);
}

static int pair_make(struct pair *ret_pair)
{
	_cleanup_(key_free) ssh_key key = NULL;
	char *base64 = NULL;
	int n;

	if (ssh_pki_generate(SSH_KEYTYPE_ED25519, 0, &key) != SSH_OK ||
	    ssh_pki_export_pubkey_base64(key, &base64) != SSH_OK)
		return -EIO;
	n = snprintf(ret_pair->line, sizeof(ret_pair->line), KEY_TYPE "%s", base64);
	ssh_string_free_char(base64);
	if (n < 0 || (size_t)n >= sizeof(ret_pair->line))
		return -EIO;
	if (ssh_pki_export_privkey_base64(key, NULL, NULL, NULL, &ret_pair->private) != SSH_OK)
		return -EIO;
	return 0;
}

static int read_line(int dirfd, const char *name, char ret_line[static KEYS_LINE_SIZE])
{
	char line[KEYS_LINE_SIZE];
	ssize_t n = fd_read_file(dirfd, name, line, sizeof(line));

	if (n < 0)
		return (int)n;
	if (strncmp(line, KEY_TYPE, strlen(KEY_TYPE)) != 0 || strlen(line) != (size_t)n)
		return -EBADMSG;
	memcpy(ret_line, line, sizeof(line));
	return 0;
}

static int write_line(int dirfd, const char *name, const char *line)
{
	return fd_replace_file(dirfd, name, line, strlen(line), 0644);
}

/* The public file is written last: where it is, the private one is complete. */
static int make_management(struct keys *k)
{
	_cleanup_(pair_done) struct pair pair = {0};
	int r = pair_make(&pair);

	if (r < 0)
		return r;
	r = fd_replace_file(k->state_fd, FILE_PRIVATE, pair.private, strlen(pair.private), 0600);
	if (r < 0)
		return r;
	r = write_line(k->state_fd, FILE_PUBLIC, pair.line);
	if (r < 0)
		return r;
	memcpy(k->management_public, pair.line, sizeof(pair.line));
	return 0;
}

int keys_open(struct keys *k, const char *dir, struct err *reterr)
{
	int r;

	k->state_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (k->state_fd < 0)
		return err_errno(reterr, -errno, "cannot open the state directory %s", dir);
	if (mkdirat(k->state_fd, DIR_GUESTS, 0700) < 0 && errno != EEXIST)
		return err_errno(reterr, -errno, "cannot make %s/" DIR_GUESTS, dir);
	k->guests_fd =
		openat(k->state_fd, DIR_GUESTS, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (k->guests_fd < 0)
		return err_errno(reterr, -errno, "cannot open %s/" DIR_GUESTS, dir);
	r = read_line(k->state_fd, FILE_PUBLIC, k->management_public);
	if (r == -ENOENT)
		r = make_management(k);
	return r < 0 ? err_errno(reterr, r, "cannot read or make the management key in %s", dir)
		     : 0;
}

void keys_done(struct keys *k)
{
	k->guests_fd = safe_close(k->guests_fd);
	k->state_fd = safe_close(k->state_fd);
}

int keys_management(const struct keys *k, ssh_key *ret_key)
{
	char text[PRIVATE_MAX];
	ssize_t n = fd_read_file(k->state_fd, FILE_PRIVATE, text, sizeof(text));
	int r = 0;

	if (n < 0)
		return (int)n;
	if (ssh_pki_import_privkey_base64(text, NULL, NULL, NULL, ret_key) != SSH_OK)
		r = -EBADMSG;
	explicit_bzero(text, sizeof(text));
	return r;
}

static int open_guest(const struct keys *k, const char *vm)
{
	int fd;

	if (!proto_name_valid(vm))
		return -EINVAL;
	fd = openat(k->guests_fd, vm, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void cleanup_closedir(DIR **dir)
{
	if (*dir)
		(void)closedir(*dir);
}

static int count_guests(const struct keys *k)
{
	_cleanup_close_ int fd = openat(k->guests_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(cleanup_closedir) DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	int n = 0;

	if (!dir)
		return -errno;
	(void)TAKE_FD(fd);
	for (struct dirent *e = readdir(dir); e; e = readdir(dir))
		if (e->d_name[0] != '.')
			n++;
	return n;
}

static int make_guest_dir(const struct keys *k, const char *vm)
{
	int n = count_guests(k);

	if (n < 0)
		return n;
	if (n >= KEYS_MAX_GUESTS)
		return -ENOSPC;
	if (mkdirat(k->guests_fd, vm, 0700) < 0)
		return -errno;
	if (fsync(k->guests_fd) < 0)
		return -errno;
	return open_guest(k, vm);
}

/*
 * The seed is written before the public key: where a public key is, its seed waits or was
 * delivered, and a seed without one was never sent.
 */
static int make_host_key(const struct keys *k, int dirfd, const char *vm,
			 char ret_line[static KEYS_LINE_SIZE])
{
	_cleanup_(pair_done) struct pair pair = {0};
	_cleanup_free_ uint8_t *image = NULL;
	size_t len = 0;
	int r = pair_make(&pair);

	if (r < 0)
		return r;
	r = seed_build(&(const struct seed){.name = vm,
					    .host_key = pair.private,
					    .host_key_public = pair.line,
					    .management_key = k->management_public},
		       &image, &len);
	if (r < 0)
		return r;
	r = fd_replace_file(dirfd, FILE_SEED, image, len, 0600);
	explicit_bzero(image, len);
	if (r < 0)
		return r;
	r = write_line(dirfd, FILE_HOST_KEY, pair.line);
	if (r < 0)
		return r;
	memcpy(ret_line, pair.line, sizeof(pair.line));
	return 0;
}

int keys_enrol(const struct keys *k, const char *vm, char ret_line[static KEYS_LINE_SIZE])
{
	_cleanup_close_ int dirfd = open_guest(k, vm);
	int r;

	if (dirfd == -ENOENT)
		dirfd = make_guest_dir(k, vm);
	if (dirfd < 0)
		return dirfd;
	r = read_line(dirfd, FILE_HOST_KEY, ret_line);
	return r == -ENOENT ? make_host_key(k, dirfd, vm, ret_line) : r;
}

int keys_pending_seed(const struct keys *k, const char *vm)
{
	_cleanup_close_ int dirfd = open_guest(k, vm);
	_cleanup_free_ char *image = NULL;
	ssize_t n;
	int fd;

	if (dirfd < 0)
		return dirfd;
	image = malloc(PROTO_SEED_MAX + 1);
	if (!image)
		return -ENOMEM;
	n = fd_read_file(dirfd, FILE_SEED, image, PROTO_SEED_MAX + 1);
	if (n < 0)
		return (int)n;
	fd = fd_memfd_sealed("seed", image, (size_t)n);
	explicit_bzero(image, (size_t)n);
	return fd;
}

static int remove_file(int dirfd, const char *name)
{
	return unlinkat(dirfd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int keys_seed_delivered(const struct keys *k, const char *vm)
{
	_cleanup_close_ int dirfd = open_guest(k, vm);

	return dirfd < 0 ? dirfd : remove_file(dirfd, FILE_SEED);
}

int keys_pinned(const struct keys *k, const char *vm, char ret_line[static KEYS_LINE_SIZE])
{
	_cleanup_close_ int dirfd = open_guest(k, vm);

	return dirfd < 0 ? dirfd : read_line(dirfd, FILE_HOST_KEY, ret_line);
}

int keys_discard(const struct keys *k, const char *vm)
{
	/* Temporary names, too: a replacement may have been interrupted. */
	static const char *const files[] = {FILE_HOST_KEY, FILE_SEED, "." FILE_HOST_KEY ".new",
					    "." FILE_SEED ".new"};
	_cleanup_close_ int dirfd = open_guest(k, vm);

	if (dirfd < 0)
		return dirfd == -ENOENT ? 0 : dirfd;
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		int r = remove_file(dirfd, files[i]);

		if (r < 0)
			return r;
	}
	if (unlinkat(k->guests_fd, vm, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return -errno;
	return fsync(k->guests_fd) < 0 ? -errno : 0;
}
