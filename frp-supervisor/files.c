/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of the run directory.
 * Trust: runs in frp-supervisor; reads its own files and /proc.
 */
#include "frp-supervisor/files.h"

#include "common/conf.h"
#include "common/fd.h"

#include <fcntl.h>

#define RECORD_NAME "frpc.run"

static const struct conf_key record_keys[] = {
	{.name = "pid",
	 .type = CONF_U32,
	 CONF_MEMBER(struct run_record, pid),
	 .low = 2,
	 .high = INT32_MAX},
	{.name = "start", .type = CONF_TEXT, CONF_MEMBER(struct run_record, start)},
	{.name = "port",
	 .type = CONF_U32,
	 CONF_MEMBER(struct run_record, port),
	 .low = 1,
	 .high = UINT16_MAX},
	{.name = "password", .type = CONF_TEXT, CONF_MEMBER(struct run_record, password)},
	{.name = "digest", .type = CONF_TEXT, CONF_MEMBER(struct run_record, digest)},
	{.name = "version", .type = CONF_TEXT, CONF_MEMBER(struct run_record, version)},
};

int files_replace(int dirfd, const char *name, const void *data, size_t len)
{
	_cleanup_close_ int fd = -EBADF;
	char temporary[64];
	int r;

	(void)snprintf(temporary, sizeof(temporary), ".%s.new", name);
	fd = openat(dirfd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	r = fd_write_all(fd, data, len);
	if (r == 0 && renameat(dirfd, temporary, dirfd, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(dirfd, temporary, 0);
	return r;
}

int files_write_record(int run_fd, const struct run_record *record)
{
	char text[512];
	int len = snprintf(text, sizeof(text),
			   "pid = %u\nstart = %s\nport = %u\npassword = %s\ndigest = %s\n"
			   "version = %s\n",
			   record->pid, record->start, record->port, record->password,
			   record->digest, record->version);
	int r = files_replace(run_fd, RECORD_NAME, text, (size_t)len);

	explicit_bzero(text, sizeof(text));
	return r;
}

int files_read_record(const char *run_dir, struct run_record *ret_record)
{
	char path[512];
	int r;

	(void)snprintf(path, sizeof(path), "%s/" RECORD_NAME, run_dir);
	memset(ret_record, 0, sizeof(*ret_record));
	r = conf_load(path, record_keys, ARRAY_LEN(record_keys), /* root_owned= */ false,
		      ret_record, NULL);
	if (r < 0)
		return r;
	return ret_record->pid != 0 && ret_record->start[0] != '\0' && ret_record->port != 0 &&
			       strspn(ret_record->password, "0123456789abcdef") == 32
		       ? 0
		       : -EINVAL;
}

void files_drop_record(int run_fd)
{
	(void)unlinkat(run_fd, RECORD_NAME, 0);
}
