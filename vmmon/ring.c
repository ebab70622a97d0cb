/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The console's ring file.
 * Trust: runs in vmmon; keeps bytes of the guest, interprets none.
 */
#include "vmmon/ring.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAGIC UINT64_C(0x3230474e49524451) /* "QDRING02" */

static int file_name(const char *vm, char name[static 64])
{
	return proto_name_valid(vm) && snprintf(name, 64, "%s.console", vm) < 64 ? 0 : -EINVAL;
}

int ring_open(int dirfd, const char *vm, bool create, struct ring_file **ret_ring)
{
	_cleanup_close_ int fd = -EBADF;
	struct ring_file *ring;
	struct stat st;
	char name[64];

	if (file_name(vm, name) < 0)
		return -EINVAL;
	fd = openat(dirfd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | (create ? O_CREAT : 0), 0600);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if ((size_t)st.st_size != sizeof(*ring)) {
		if (!create)
			return -ENOENT;
		/* Reserve every page: a full disk must be an error here, not SIGBUS later. */
		int r = posix_fallocate(fd, 0, sizeof(*ring));

		if (r != 0)
			return -r;
		if (ftruncate(fd, sizeof(*ring)) < 0)
			return -errno;
	}
	ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED)
		return -errno;
	if (ring->magic != MAGIC) {
		memset(ring, 0, offsetof(struct ring_file, bytes));
		ring->magic = MAGIC;
	}
	*ret_ring = ring;
	return 0;
}

void ring_close(struct ring_file *ring)
{
	if (ring)
		(void)munmap(ring, sizeof(*ring));
}

int ring_remove(int dirfd, const char *vm)
{
	char name[64];

	if (file_name(vm, name) < 0)
		return -EINVAL;
	return unlinkat(dirfd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

void ring_write(struct ring_file *ring, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len > 0) {
		size_t at = ring->total % RING_SIZE;
		size_t n = MIN_OF(len, RING_SIZE - at);

		memcpy(ring->bytes + at, p, n);
		ring->total += n;
		p += n;
		len -= n;
	}
}

size_t ring_fresh(const struct ring_file *ring, size_t len)
{
	return (size_t)MIN_OF(ring->total - MIN_OF(ring->begun, ring->total), (uint64_t)len);
}

size_t ring_tail(const struct ring_file *ring, void *buf, size_t max)
{
	size_t len = (size_t)MIN_OF(ring->total, MIN_OF((uint64_t)max, (uint64_t)RING_SIZE));
	size_t at = (size_t)((ring->total - len) % RING_SIZE);
	size_t first = MIN_OF(len, RING_SIZE - at);

	memcpy(buf, ring->bytes + at, first);
	memcpy((uint8_t *)buf + first, ring->bytes, len - first);
	return len;
}
