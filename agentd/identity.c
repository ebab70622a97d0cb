/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who this agent is to the world outside.
 * Trust: runs inside agentd before it is confined; reads files of its own and the administrator's.
 */
#include "agentd/identity.h"

#include "common/fd.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

/* A UUID of version 4, RFC 9562. */
static int make_uuid(char text[static IDENTITY_SIZE])
{
	uint8_t b[16];

	if (getrandom(b, sizeof(b), 0) != sizeof(b))
		return -errno;
	b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
	b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
	(void)snprintf(text, IDENTITY_SIZE,
		       "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
		       b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12],
		       b[13], b[14], b[15]);
	return 0;
}

static bool uuid_ok(const char *text)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if ((text[i] == '-') != (i == 8 || i == 13 || i == 18 || i == 23))
			return false;
	return len == 36 && text[strspn(text, "0123456789abcdef-")] == '\0';
}

int identity_load(int data_fd, char ret_id[static IDENTITY_SIZE], struct err *reterr)
{
	char text[IDENTITY_SIZE + 8] = "";
	ssize_t n = fd_read_file(data_fd, IDENTITY_FILE, text, sizeof(text));
	int r;

	memset(ret_id, 0, IDENTITY_SIZE);
	text[strcspn(text, "\n")] = '\0';
	if (n >= 0 && uuid_ok(text)) {
		memcpy(ret_id, text, strlen(text));
		return 0;
	}
	if (n != -ENOENT)
		return err_set(reterr, -EINVAL,
			       "the file %s in the state directory holds no UUID; remove it to "
			       "become a new agent",
			       IDENTITY_FILE);
	r = make_uuid(ret_id);
	if (r < 0)
		return err_errno(reterr, r, "cannot get random bytes");
	(void)snprintf(text, sizeof(text), "%s\n", ret_id);
	r = fd_replace_file(data_fd, IDENTITY_FILE, text, strlen(text), 0600);
	return r < 0 ? err_errno(reterr, r, "cannot write %s", IDENTITY_FILE) : 0;
}

int identity_read_secret(const char *path, const char *what, char *ret_text, size_t size,
			 struct err *reterr)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(reterr, -errno, "cannot read %s from %s", what, path);
	if (!S_ISREG(st.st_mode) || (st.st_mode & 077))
		return err_set(reterr, -EPERM, "%s can be read by others; chmod 0600 it", path);
	n = fd_read_text(fd, ret_text, size);
	if (n < 0)
		return err_errno(reterr, (int)n, "cannot read %s from %s", what, path);
	ret_text[strcspn(ret_text, "\r\n")] = '\0';
	return 0;
}
