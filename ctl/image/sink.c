/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes on their way into a file: counted, hashed, zeros left out.
 *
 * Trust: runs as root; writes a stranger's bytes without looking at them.
 */
#include "ctl/image/image.h"

#define HOLE_SIZE 65536

static bool all_zero(const uint8_t *p, size_t len)
{
	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

static int write_at(int fd, const uint8_t *p, size_t len, uint64_t at)
{
	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int sink_write(struct sink *s, const void *data, size_t len)
{
	const uint8_t *p = data;
	int r;

	if (len > s->max_bytes - s->bytes)
		return -EFBIG;
	r = digest_add(&s->digest, data, len);
	if (r < 0)
		return r;
	while (len > 0) {
		size_t n = MIN_OF(len, HOLE_SIZE - (size_t)(s->bytes % HOLE_SIZE));

		r = all_zero(p, n) ? 0 : write_at(s->fd, p, n, s->bytes);
		if (r < 0)
			return r;
		s->bytes += n;
		p += n;
		len -= n;
	}
	return 0;
}

int sink_end(struct sink *s)
{
	return ftruncate(s->fd, (off_t)s->bytes) < 0 ? -errno : 0;
}

void sink_done(struct sink *s)
{
	s->fd = safe_close(s->fd);
	digest_done(&s->digest);
}
