/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a disk claims to be, before any program that understands it is let near it.
 *
 * Trust: pure; reads a stranger's disk. qcow2 as in docs/interop/qcow2.txt of QEMU.
 */
#include <endian.h>

#include "ctl/image/image.h"
#include "proto/proto.h"

#define QCOW2_MAGIC         0x514649fb
#define CLUSTER_LEAST       9
#define CLUSTER_MOST        21
#define SNAPSHOTS_MAX       256
/* Incompatible features that only say how the file is to be read. */
#define FEATURE_DIRTY       (UINT64_C(1) << 0)
#define FEATURE_DATA_FILE   (UINT64_C(1) << 2)
#define FEATURE_COMPRESSION (UINT64_C(1) << 3)
#define FEATURE_EXTENDED_L2 (UINT64_C(1) << 4)
#define FEATURES_TAKEN      (FEATURE_DIRTY | FEATURE_COMPRESSION | FEATURE_EXTENDED_L2)

struct qcow2_header {
	uint32_t magic, version;
	uint64_t backing_offset;
	uint32_t backing_size, cluster_bits;
	uint64_t size;
	uint32_t crypt_method, l1_size;
	uint64_t l1_offset, refcount_offset;
	uint32_t refcount_clusters, n_snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible, compatible, autoclear; /* from version 3 on, as all that follows */
	uint32_t refcount_order, header_length;
};
#define VERSION2_SIZE offsetof(struct qcow2_header, incompatible)

static const struct {
	const char *name;
	size_t at, len;
	const char *magic;
} others[] = {
	{"gzip-compressed (gunzip it first)", 0, 2, "\x1f\x8b"},
	{"xz-compressed (unxz it first)", 0, 6, "\xfd\x37zXZ\0"},
	{"zstd-compressed (unzstd it first)", 0, 4, "\x28\xb5\x2f\xfd"},
	{"bzip2-compressed (bunzip2 it first)", 0, 3, "BZh"},
	{"a zip archive (unzip it first)", 0, 4, "PK\x03\x04"},
	{"a tar archive (unpack it first)", 257, 5, "ustar"},
	{"a VMDK (convert it first: qemu-img convert -f vmdk -O qcow2)", 0, 4, "KDMV"},
	{"a VHDX (convert it first: qemu-img convert -f vhdx -O qcow2)", 0, 8, "vhdxfile"},
	{"a VDI (convert it first: qemu-img convert -f vdi -O qcow2)", 64, 4, "\x7f\x10\xda\xbe"},
	{"a LUKS volume", 0, 6, "LUKS\xba\xbe"},
	{"a web page", 0, 9, "<!DOCTYPE"},
	{"a web page", 0, 5, "<html"},
};

static size_t find_other(const uint8_t *head, size_t n)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(others); i++)
		if (others[i].at + others[i].len <= n &&
		    memcmp(head + others[i].at, others[i].magic, others[i].len) == 0)
			break;
	return i;
}

enum disk_kind disk_detect(const uint8_t *head, size_t n)
{
	static const uint8_t qcow2[] = {'Q', 'F', 'I', 0xfb};

	if (n >= sizeof(qcow2) && memcmp(head, qcow2, sizeof(qcow2)) == 0)
		return DISK_QCOW2;
	if (find_other(head, n) < ARRAY_LEN(others))
		return DISK_OTHER;
	if (n >= 512 && head[510] == 0x55 && head[511] == 0xaa)
		return DISK_RAW;
	if (n >= 1082 && head[1080] == 0x53 && head[1081] == 0xef)
		return DISK_FILESYSTEM;
	return DISK_UNKNOWN;
}

const char *disk_other_name(const uint8_t *head, size_t n)
{
	size_t i = find_other(head, n);

	return i < ARRAY_LEN(others) ? others[i].name : "unknown";
}

/* Into the machine's order of bytes; what version 2 lacks is 0. */
static int read_header(const uint8_t *head, size_t n, struct qcow2_header *ret_header)
{
	struct qcow2_header h = {0};

	if (n < VERSION2_SIZE)
		return -EINVAL;
	memcpy(&h, head, VERSION2_SIZE);
	h.version = be32toh(h.version);
	if (be32toh(h.magic) != QCOW2_MAGIC || (h.version != 2 && h.version != 3))
		return -EINVAL;
	if (h.version == 3) {
		if (n < sizeof(h))
			return -EINVAL;
		memcpy(&h, head, sizeof(h));
		h.version = 3;
	}
	h.cluster_bits = be32toh(h.cluster_bits);
	h.size = be64toh(h.size);
	h.crypt_method = be32toh(h.crypt_method);
	h.l1_size = be32toh(h.l1_size);
	h.n_snapshots = be32toh(h.n_snapshots);
	h.incompatible = be64toh(h.incompatible);
	*ret_header = h;
	return 0;
}

/* Entries of the first-level table that a disk of this size needs. */
static uint64_t l1_needed(const struct qcow2_header *h)
{
	unsigned int entry_bits = h->incompatible & FEATURE_EXTENDED_L2 ? 4 : 3;
	unsigned int bits = h->cluster_bits + h->cluster_bits - entry_bits;

	return (h->size >> bits) + ((h->size & ((UINT64_C(1) << bits) - 1)) != 0);
}

static int check_names(const struct qcow2_header *h, struct err *reterr)
{
	if (h->backing_offset != 0 || h->backing_size != 0)
		return err_set(reterr, -EPERM,
			       "the disk names a backing file: flatten it first (qemu-img convert "
			       "-O qcow2), where that file is");
	if (h->incompatible & FEATURE_DATA_FILE)
		return err_set(reterr, -EPERM,
			       "the disk names another file for its data: convert it first "
			       "(qemu-img convert -O qcow2), where that file is");
	if (h->crypt_method != 0)
		return err_set(reterr, -EPERM, "the disk is encrypted: decrypt it first");
	return 0;
}

int disk_check_qcow2(const uint8_t *head, size_t n, bool strict, uint64_t *ret_bytes,
		     struct err *reterr)
{
	uint64_t taken = strict ? 0 : FEATURES_TAKEN;
	struct qcow2_header h;
	int r;

	if (read_header(head, n, &h) < 0)
		return err_set(reterr, -EINVAL, "the disk is no qcow2 of version 2 or 3");
	r = check_names(&h, reterr);
	if (r < 0)
		return r;
	if (h.incompatible & ~taken)
		return err_set(reterr, -EPERM,
			       "the disk has features that are unknown here, or is marked as "
			       "damaged (0x%llx)",
			       (unsigned long long)h.incompatible);
	if (h.cluster_bits < CLUSTER_LEAST || h.cluster_bits > CLUSTER_MOST)
		return err_set(reterr, -EINVAL, "the disk's clusters have an impossible size");
	if (h.size == 0 || h.size > (uint64_t)PROTO_MAX_DISK_MIB << 20)
		return err_set(reterr, -ERANGE, "the disk claims a size of %llu bytes",
			       (unsigned long long)h.size);
	/* Room for a disk that was larger once; not for a table that only eats memory. */
	if (h.l1_size < l1_needed(&h) || h.l1_size > 4 * l1_needed(&h) + 4096)
		return err_set(reterr, -EINVAL,
			       "the disk has a table of %u entries, its size needs %llu", h.l1_size,
			       (unsigned long long)l1_needed(&h));
	if (h.n_snapshots > (strict ? 0 : SNAPSHOTS_MAX))
		return err_set(reterr, -EINVAL, "the disk has %u snapshots", h.n_snapshots);
	*ret_bytes = h.size;
	return 0;
}

int disk_check_file(int fd, bool strict, uint64_t *ret_bytes, struct err *reterr)
{
	uint8_t head[sizeof(struct qcow2_header)];
	ssize_t n = pread(fd, head, sizeof(head), 0);

	if (n < 0)
		return err_errno(reterr, -errno, "cannot read the disk");
	return disk_check_qcow2(head, (size_t)n, strict, ret_bytes, reterr);
}
