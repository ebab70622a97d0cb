/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the small files that an operator names: public keys, environment lists.
 *
 * Trust: runs as the operator; reads files that the operator names.
 */
#include "ctl/keyfile.h"

#include <fcntl.h>

#include "ctl/parse.h"

#define FILE_TEXT_MAX 65536

char *file_read_text(struct ctl *c, const char *path, enum ctl_exit *ret_code)
{
	_cleanup_free_ char *text = malloc(FILE_TEXT_MAX + 1);
	_cleanup_close_ int fd = -EBADF;
	size_t len = 0;

	*ret_code = CTL_FAILED;
	if (!text) {
		*ret_code = ctl_fail(c, CTL_FAILED, "out of memory");
		return NULL;
	}
	fd = STR_EQ(path, "-") ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	while (fd >= 0 && len <= FILE_TEXT_MAX) {
		ssize_t n = read(fd, text + len, FILE_TEXT_MAX + 1 - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			fd = safe_close(fd);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	if (fd < 0)
		*ret_code = ctl_fail(c, CTL_FAILED, "cannot read %s: %s", path, strerror(errno));
	else if (len > FILE_TEXT_MAX || memchr(text, 0, len))
		*ret_code = ctl_fail(c, CTL_FAILED, "%s is not a short text file", path);
	else
		*ret_code = CTL_OK;
	if (*ret_code != CTL_OK)
		return NULL;
	text[len] = 0;
	return TAKE_PTR(text);
}

char *file_read_public_key(struct ctl *c, const char *path, enum ctl_exit *ret_code)
{
	_cleanup_free_ char *text = file_read_text(c, path, ret_code);
	char *line = NULL;
	int r;

	if (!text)
		return NULL;
	r = parse_public_key(text, &line);
	explicit_bzero(text, strlen(text));
	if (r == -EPERM)
		*ret_code = ctl_fail(c, CTL_USAGE,
				     "%s is a private key and was not sent; give its public half "
				     "(%s.pub)",
				     path, path);
	else if (r < 0)
		*ret_code = ctl_fail(c, CTL_USAGE, "%s does not hold one public SSH key", path);
	return line;
}
