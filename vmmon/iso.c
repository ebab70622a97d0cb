/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ISO 9660 (ECMA-119): sixteen empty sectors, volume descriptor, terminator, two path tables, the
 * root directory, the files.
 * Trust: runs in vmmon; writes what vmmon made itself.
 */
#include "vmmon/iso.h"

#define SECTOR      2048u
#define AT_PRIMARY  16u
#define AT_END      17u
#define AT_TABLE_LE 18u
#define AT_TABLE_BE 19u
#define AT_ROOT     20u
#define AT_FILES    21u
#define TABLE_LEN   10u /* one record: the root */
#define FLAG_DIR    2

static void put_le(uint8_t *p, uint32_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)(value >> 8 * i);
}

static void put_be(uint8_t *p, uint32_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

/* The standard stores most numbers twice, in both byte orders. */
static void put_both(uint8_t *p, uint32_t value, size_t bytes)
{
	put_le(p, value, bytes);
	put_be(p + bytes, value, bytes);
}

static void put_text(uint8_t *p, size_t size, const char *text)
{
	memset(p, ' ', size);
	memcpy(p, text, MIN_OF(strlen(text), size));
}

static uint32_t sectors_of(size_t len)
{
	return (uint32_t)((len + SECTOR - 1) / SECTOR);
}

/* Writes one directory record at @p and returns its length, which is always even. */
static size_t put_record(uint8_t *p, uint32_t sector, uint32_t len, uint8_t flags, const char *id,
			 size_t id_len)
{
	static const uint8_t date[7] = {120, 1, 1, 0, 0, 0, 0}; /* 2020: images are reproducible */
	size_t record = 33 + id_len + (id_len % 2 == 0 ? 1 : 0);

	p[0] = (uint8_t)record;
	put_both(p + 2, sector, 4);
	put_both(p + 10, len, 4);
	memcpy(p + 18, date, sizeof(date));
	p[25] = flags;
	put_both(p + 28, 1, 2);
	p[32] = (uint8_t)id_len;
	memcpy(p + 33, id, id_len);
	return record;
}

/* "meta-data" becomes "META-DATA.;1", "host_key.pub" "HOST_KEY.PUB;1". */
static int make_id(const char *name, char id[static ISO_NAME_MAX + 4], size_t *ret_len)
{
	size_t len = strlen(name), dots = 0;

	if (len == 0 || len > ISO_NAME_MAX)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		char c = name[i];

		if (c >= 'a' && c <= 'z')
			c = (char)(c - 'a' + 'A');
		else if (c == '.')
			dots++;
		else if (!(c >= '0' && c <= '9') && c != '-' && c != '_')
			return -EINVAL;
		id[i] = c;
	}
	if (dots > 1)
		return -EINVAL;
	memcpy(id + len, dots == 1 ? ";1" : ".;1", dots == 1 ? 3 : 4);
	*ret_len = len + (dots == 1 ? 2 : 3);
	return 0;
}

static void put_descriptors(uint8_t *image, const char *volume, uint32_t sectors)
{
	uint8_t *p = image + AT_PRIMARY * SECTOR;
	uint8_t *end = image + AT_END * SECTOR;

	p[0] = 1;
	memcpy(p + 1, "CD001\1", 6);
	put_text(p + 8, 32, "");
	put_text(p + 40, 32, volume);
	put_both(p + 80, sectors, 4);
	put_both(p + 120, 1, 2); /* volumes in the set */
	put_both(p + 124, 1, 2); /* this one's number */
	put_both(p + 128, SECTOR, 2);
	put_both(p + 132, TABLE_LEN, 4);
	put_le(p + 140, AT_TABLE_LE, 4);
	put_be(p + 148, AT_TABLE_BE, 4);
	(void)put_record(p + 156, AT_ROOT, SECTOR, FLAG_DIR, "", 1);
	put_text(p + 190, 623, ""); /* names of set, publisher, preparer, application, files */
	for (size_t i = 0; i < 4; i++)
		memset(p + 813 + 17 * i, '0', 16); /* dates: not given */
	p[881] = 1;

	end[0] = 255;
	memcpy(end + 1, "CD001\1", 6);
}

static void put_path_tables(uint8_t *image)
{
	uint8_t *le = image + AT_TABLE_LE * SECTOR;
	uint8_t *be = image + AT_TABLE_BE * SECTOR;

	le[0] = be[0] = 1;
	put_le(le + 2, AT_ROOT, 4);
	put_be(be + 2, AT_ROOT, 4);
	put_le(le + 6, 1, 2);
	put_be(be + 6, 1, 2);
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(const struct iso_file *const *)a)->name,
		      (*(const struct iso_file *const *)b)->name);
}

static int put_files(uint8_t *image, const struct iso_file *const *sorted, size_t n)
{
	uint8_t *dir = image + AT_ROOT * SECTOR;
	uint32_t sector = AT_FILES;
	size_t used = 0;

	used += put_record(dir, AT_ROOT, SECTOR, FLAG_DIR, "\0", 1);
	used += put_record(dir + used, AT_ROOT, SECTOR, FLAG_DIR, "\1", 1);
	for (size_t i = 0; i < n; i++) {
		const struct iso_file *f = sorted[i];
		char id[ISO_NAME_MAX + 4];
		size_t id_len;
		int r = make_id(f->name, id, &id_len);

		if (r < 0)
			return r;
		used += put_record(dir + used, sector, (uint32_t)f->len, 0, id, id_len);
		if (f->len > 0)
			memcpy(image + (size_t)sector * SECTOR, f->data, f->len);
		sector += sectors_of(f->len);
	}
	return 0;
}

int iso_build(const char *volume, const struct iso_file *files, size_t n, size_t max,
	      uint8_t **ret_image, size_t *ret_len)
{
	const struct iso_file *sorted[ISO_MAX_FILES];
	_cleanup_free_ uint8_t *image = NULL;
	uint32_t sectors = AT_FILES;
	int r;

	if (n > ISO_MAX_FILES || strlen(volume) > 32)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		if (files[i].len > max)
			return -EFBIG;
		sorted[i] = &files[i];
		sectors += sectors_of(files[i].len);
	}
	if ((size_t)sectors * SECTOR > max)
		return -EFBIG;
	qsort(sorted, n, sizeof(sorted[0]), by_name);
	image = calloc(sectors, SECTOR);
	if (!image)
		return -ENOMEM;
	put_descriptors(image, volume, sectors);
	put_path_tables(image);
	r = put_files(image, sorted, n);
	if (r < 0)
		return r;
	*ret_image = TAKE_PTR(image);
	*ret_len = (size_t)sectors * SECTOR;
	return 0;
}
