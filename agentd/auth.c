/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent secret.
 * Trust: runs inside agentd; compares what strangers send.
 */
#include "agentd/auth.h"

#include "common/fd.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

#define LETTERS_DIGITS "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

static const char alphabet[] = LETTERS_DIGITS;      /* of what we make */
static const char may_hold[] = LETTERS_DIGITS "_-"; /* of what we are given */

#define ALPHABET_LEN (sizeof(alphabet) - 1)

static int make_secret(char ret_secret[static AUTH_SECRET_MAX + 1])
{
	size_t n = strlen(AUTH_PREFIX);

	memcpy(ret_secret, AUTH_PREFIX, n);
	while (n < AUTH_SECRET_LEN) {
		uint8_t byte;

		if (getrandom(&byte, sizeof(byte), 0) != sizeof(byte))
			return -errno;
		/* A multiple of the alphabet's length, so that no character is likelier. */
		if (byte < 256 / ALPHABET_LEN * ALPHABET_LEN)
			ret_secret[n++] = alphabet[byte % ALPHABET_LEN];
	}
	ret_secret[n] = '\0';
	return 0;
}

static int write_secret(int dirfd, const char *secret)
{
	char line[AUTH_SECRET_MAX + 2];
	int r;

	(void)snprintf(line, sizeof(line), "%s\n", secret);
	r = fd_replace_file(dirfd, AUTH_FILE, line, strlen(line), 0600);
	explicit_bzero(line, sizeof(line));
	return r;
}

static int create(int dirfd, struct auth *auth, struct err *reterr)
{
	int r = make_secret(auth->secret);

	if (r < 0)
		return err_errno(reterr, r, "cannot get random bytes");
	r = write_secret(dirfd, auth->secret);
	return r < 0 ? err_errno(reterr, r, "cannot write the agent secret") : 0;
}

/* Long enough not to be guessed; an administrator may have chosen another length than ours. */
static bool secret_ok(const char *secret)
{
	size_t n = strlen(AUTH_PREFIX), len = strlen(secret);

	return strncmp(secret, AUTH_PREFIX, n) == 0 && len >= n + 20 && len <= AUTH_SECRET_MAX &&
	       secret[n + strspn(secret + n, may_hold)] == '\0';
}

int auth_load(int dirfd, struct auth *ret_auth, struct err *reterr)
{
	_cleanup_close_ int fd = openat(dirfd, AUTH_FILE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char text[AUTH_SECRET_MAX + 2];
	struct stat st;
	ssize_t n;

	memset(ret_auth, 0, sizeof(*ret_auth));
	if (fd < 0 && errno == ENOENT)
		return create(dirfd, ret_auth, reterr);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(reterr, -errno, "cannot read the agent secret");
	if (!S_ISREG(st.st_mode) || (st.st_mode & 077))
		return err_set(reterr, -EPERM,
			       "the file %s in the state directory can be read by others; "
			       "chmod 0600 it, or remove it to get a new secret",
			       AUTH_FILE);
	n = fd_read_text(fd, text, sizeof(text));
	if (n > 0 && text[n - 1] == '\n')
		text[n - 1] = '\0';
	if (n < 0 || !secret_ok(text))
		return err_set(
			reterr, -EINVAL,
			"the file %s in the state directory holds no secret "
			"(%s and 20 to 60 letters, digits, _ and -); remove it to get a new one",
			AUTH_FILE, AUTH_PREFIX);
	(void)snprintf(ret_auth->secret, sizeof(ret_auth->secret), "%.*s", AUTH_SECRET_MAX, text);
	explicit_bzero(text, sizeof(text));
	return 0;
}

int auth_replace(int dirfd, struct auth *auth, const char *secret)
{
	int r = secret_ok(secret) ? write_secret(dirfd, secret) : -EINVAL;

	if (r < 0)
		return r;
	memset(auth->secret, 0, sizeof(auth->secret));
	(void)snprintf(auth->secret, sizeof(auth->secret), "%s", secret);
	return 0;
}

bool auth_matches(const struct auth *auth, const char *given)
{
	size_t len = strlen(auth->secret), n = strlen(given);
	unsigned int differ = len ^ n ? 1 : 0;

	for (size_t i = 0; i < n; i++)
		differ |= (unsigned char)given[i] ^ (unsigned char)auth->secret[i < len ? i : 0];
	return differ == 0;
}
