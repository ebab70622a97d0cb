/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The broker's own records: fixed-size structs, written whole and durably, with a sum that shows
 * what a bad disk or another version has made of them.
 * Trust: runs as qudata-helper, and as root in qudatactl; reads files that the broker wrote, and
 * /proc.
 */
#include "vfio-helper/broker/record.h"

#include "common/fd.h"
#include "common/sha256.h"

#include <fcntl.h>
#include <inttypes.h>

#define RECORD_MAX 512 /* bytes of the largest struct */

struct record {
	uint8_t sum[SHA256_SIZE];
	uint8_t body[RECORD_MAX];
};

/* Over the format's version, the kind of record and its bytes. */
static void fill(struct record *file, const char *name, const void *body, size_t size)
{
	struct sha256 s;

	memcpy(file->body, body, size);
	sha256_init(&s);
	sha256_add(&s, "qudata-record-1", 16);
	sha256_add(&s, name, strlen(name) + 1);
	sha256_add(&s, body, size);
	sha256_end(&s, file->sum);
}

int record_save(int dirfd, const char *name, const void *body, size_t size)
{
	struct record file;

	if (size > sizeof(file.body))
		return -E2BIG;
	fill(&file, name, body, size);
	return fd_replace_file(dirfd, name, &file, sizeof(file.sum) + size, 0600);
}

/* Is @file of @n bytes a record of that name and size? */
static int check(const struct record *file, size_t n, const char *name, void *ret_body, size_t size)
{
	struct record want;

	if (size >= sizeof(file->body) || n != sizeof(file->sum) + size)
		return -EBADMSG;
	fill(&want, name, file->body, size);
	if (memcmp(file->sum, want.sum, sizeof(want.sum)) != 0)
		return -EBADMSG;
	memcpy(ret_body, file->body, size);
	return 0;
}

int record_load(int dirfd, const char *name, void *ret_body, size_t size)
{
	struct record file;
	ssize_t n = fd_read_file(dirfd, name, (char *)&file, sizeof(file));

	return n < 0 ? (int)n : check(&file, (size_t)n, name, ret_body, size);
}

int record_put(int fd, const char *name, const void *body, size_t size)
{
	struct record file;
	size_t len = sizeof(file.sum) + size;

	if (size > sizeof(file.body))
		return -E2BIG;
	fill(&file, name, body, size);
	if (pwrite(fd, &file, len, 0) != (ssize_t)len || ftruncate(fd, (off_t)len) < 0)
		return -EIO;
	return fsync(fd) < 0 ? -errno : 0;
}

int record_get(int fd, const char *name, void *ret_body, size_t size)
{
	struct record file;
	ssize_t n = pread(fd, &file, sizeof(file), 0);

	return n < 0 ? -errno : check(&file, (size_t)n, name, ret_body, size);
}

int process_identify(pid_t pid, uint64_t *ret_start, uid_t *ret_uid)
{
	char path[40], text[4096];
	unsigned int uids[4];
	const char *p;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	n = fd_read_file(AT_FDCWD, path, text, sizeof(text));
	if (n < 0)
		return (int)n;
	p = strrchr(text, ')'); /* the name before may hold anything; field 3 follows it */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (!p || sscanf(p, " %" SCNu64, ret_start) != 1)
		return -EBADMSG;
	(void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
	n = fd_read_file(AT_FDCWD, path, text, sizeof(text));
	if (n < 0)
		return (int)n;
	p = strstr(text, "\nUid:");
	if (!p || sscanf(p, "\nUid: %u %u %u %u", &uids[0], &uids[1], &uids[2], &uids[3]) != 4)
		return -EBADMSG;
	for (size_t i = 1; i < 4; i++)
		if (uids[i] != uids[0])
			return -EBADMSG;
	*ret_uid = uids[0];
	return 0;
}
