/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing of a tar archive (POSIX.1-1988, "ustar") with one folder and one file.
 * Trust: runs in vmmon; holds lists that were checked.
 */
#include "vmmon/engine/keyfile.h"

#define BLOCK 512

/* One header; all texts but the name are numbers in octal. */
struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type;
	char link[100], magic[6], version[2], user[32], group[32], major[8], minor[8];
	char prefix[155], pad[12];
};

_Static_assert(sizeof(struct header) == BLOCK, "a header is one block");

static void fill(struct header *h, const char *name, char type, unsigned int mode, size_t size)
{
	const unsigned char *bytes = (const unsigned char *)h;
	unsigned int sum = 0;

	*h = (struct header){.type = type, .magic = "ustar", .version = {'0', '0'}};
	(void)snprintf(h->name, sizeof(h->name), "%s", name);
	(void)snprintf(h->mode, sizeof(h->mode), "%07o", mode);
	(void)snprintf(h->uid, sizeof(h->uid), "%07o", 0u);
	(void)snprintf(h->gid, sizeof(h->gid), "%07o", 0u);
	(void)snprintf(h->size, sizeof(h->size), "%011zo", size);
	(void)snprintf(h->mtime, sizeof(h->mtime), "%011o", 0u);
	/* Of all bytes, with blanks in the sum's own place. */
	memset(h->sum, ' ', sizeof(h->sum));
	for (size_t i = 0; i < BLOCK; i++)
		sum += bytes[i];
	(void)snprintf(h->sum, sizeof(h->sum), "%06o", sum);
}

char *keyfile_archive(const char *text, size_t len, size_t *ret_len)
{
	size_t padded = (len + BLOCK - 1) / BLOCK * BLOCK;
	/* Two headers, the file, and two empty blocks for the end. */
	char *archive = calloc(1, 4 * BLOCK + padded);
	struct header h;

	if (!archive)
		return NULL;
	fill(&h, ".ssh/", '5', 0700, 0);
	memcpy(archive, &h, BLOCK);
	fill(&h, KEYFILE_NAME, '0', 0600, len);
	memcpy(archive + BLOCK, &h, BLOCK);
	memcpy(archive + 2 * (size_t)BLOCK, text, len);
	*ret_len = 4 * BLOCK + padded;
	return archive;
}
