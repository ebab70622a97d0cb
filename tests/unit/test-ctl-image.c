/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ctl/image: checksums and their lists, what a disk claims to be, an image's own files, removal.
 * Trust: a test.
 */
#include <endian.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "ctl/image/image.h"

#define HEX64   "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define OTHER64 "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void hash512(const char *text, size_t repeat, char ret_hex[static 129])
{
	struct sum like = {.n_hex = SHA512_HEX}, sum;
	struct digest d;

	assert_int_equal(digest_init(&d, true), 0);
	for (size_t i = 0; i < repeat; i++)
		assert_int_equal(digest_add(&d, text, strlen(text)), 0);
	assert_int_equal(digest_end(&d, &like, &sum), 0);
	memcpy(ret_hex, sum.hex, 129);
	digest_done(&d);
}

/* FIPS 180-4's examples, and a length for each way the padding can fall. */
static void test_sha512(_unused_ void **state)
{
	char hex[129];

	hash512("abc", 1, hex);
	assert_string_equal(hex,
			    "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
			    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f");
	hash512("", 1, hex);
	assert_string_equal(hex,
			    "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
			    "47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e");
	hash512("a", 1000000, hex);
	assert_string_equal(hex,
			    "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973eb"
			    "de0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e4eadb217ad8cc09b");
}

static void test_sha256_at_once_and_in_parts(_unused_ void **state)
{
	struct sum whole, parts;
	struct digest d;
	char text[300];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)i;
	for (size_t len = 0; len < sizeof(text); len++) {
		assert_int_equal(digest_init(&d, false), 0);
		assert_int_equal(digest_add(&d, text, len), 0);
		assert_int_equal(digest_end(&d, NULL, &whole), 0);
		digest_done(&d);
		assert_int_equal(digest_init(&d, false), 0);
		for (size_t at = 0; at < len; at += 7)
			assert_int_equal(digest_add(&d, text + at, MIN_OF(len - at, (size_t)7)), 0);
		assert_int_equal(digest_end(&d, NULL, &parts), 0);
		digest_done(&d);
		assert_string_equal(whole.hex, parts.hex);
	}
	assert_int_equal(digest_init(&d, false), 0);
	assert_int_equal(digest_add(&d, "abc", 3), 0);
	assert_int_equal(digest_end(&d, NULL, &whole), 0);
	assert_string_equal(whole.hex,
			    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	digest_done(&d);
}

static void test_sum_parse(_unused_ void **state)
{
	struct sum sum;

	assert_int_equal(sum_parse(HEX64, &sum), 0);
	assert_int_equal(sum.n_hex, 64);
	assert_int_equal(sum_parse(HEX64 HEX64, &sum), 0);
	assert_int_equal(sum.n_hex, 128);
	assert_int_equal(
		sum_parse("ABCDEF6789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", &sum),
		0);
	assert_memory_equal(sum.hex, "abcdef6789", 10);
	assert_int_equal(sum_parse("", &sum), -EINVAL);
	assert_int_equal(sum_parse(HEX64 "0", &sum), -EINVAL);
	assert_int_equal(sum_parse(HEX64 " ", &sum), -EINVAL);
	assert_int_equal(sum_parse("g" HEX64, &sum), -EINVAL);
}

static void test_sums_find(_unused_ void **state)
{
	static const struct {
		const char *text;
		int r;
	} cases[] = {
		{HEX64 "  name\n", 0},
		{HEX64 " *name\n", 0},
		{HEX64 "  name", 0},
		{HEX64 "  name\r\n", 0},
		{"SHA256 (name) = " HEX64 "\n", 0},
		{"# comment\n\n" OTHER64 "  other\n" HEX64 "  name\n", 0},
		{HEX64 "  name\n" HEX64 "  name\n", 0},
		{HEX64 "  name\n" OTHER64 "  name\n", -EBADMSG},
		{"", -ENOENT},
		{"\n\n", -ENOENT},
		{HEX64 "\n", -ENOENT},
		{HEX64 "  \n", -ENOENT},
		{HEX64 " name\n", -ENOENT},
		{HEX64 "  names\n", -ENOENT},
		{HEX64 "  ./name\n", -ENOENT},
		{HEX64 "0  name\n", -ENOENT},
		{"x" HEX64 "  name\n", -ENOENT},
		{"SHA256 (name) = \n", -ENOENT},
		{"SHA256 (name", -ENOENT},
		{"SHA1 (name) = " HEX64 "\n", -ENOENT},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct sum sum = {0};

		assert_int_equal(sums_find(cases[i].text, "name", &sum), cases[i].r);
		if (cases[i].r == 0)
			assert_string_equal(sum.hex, HEX64);
	}
}

static void test_sums_parse(_unused_ void **state)
{
	struct sums sums;

	assert_int_equal(
		sums_parse("# inputs x\n" HEX64 "  disk.img\n" OTHER64 "  kernel\n", &sums), 0);
	assert_int_equal(sums.n, 2);
	assert_string_equal(sums.name[1], "kernel");
	assert_string_equal(sums.sum[1].hex, OTHER64);
	assert_int_equal(sums_parse("", &sums), -EBADMSG);
	assert_int_equal(sums_parse("# only\n", &sums), -EBADMSG);
	assert_int_equal(sums_parse(HEX64 "  disk.img", &sums), -EBADMSG);
	assert_int_equal(sums_parse(HEX64 "  passwd\n", &sums), -EBADMSG);
	assert_int_equal(sums_parse(HEX64 HEX64 "  disk.img\n", &sums), -EBADMSG);
	assert_int_equal(sums_parse(HEX64 "  disk.img\n" HEX64 "  disk.img\n", &sums), -EBADMSG);
}

static void test_detect(_unused_ void **state)
{
	uint8_t head[DISK_HEAD_SIZE] = {0};

	assert_int_equal(disk_detect(head, sizeof(head)), DISK_UNKNOWN);
	assert_int_equal(disk_detect(head, 0), DISK_UNKNOWN);
	head[1080] = 0x53;
	head[1081] = 0xef;
	assert_int_equal(disk_detect(head, sizeof(head)), DISK_FILESYSTEM);
	assert_int_equal(disk_detect(head, 1081), DISK_UNKNOWN);
	head[510] = 0x55;
	head[511] = 0xaa;
	assert_int_equal(disk_detect(head, sizeof(head)), DISK_RAW);
	memcpy(head, "\x1f\x8b", 2);
	assert_int_equal(disk_detect(head, sizeof(head)), DISK_OTHER);
	assert_memory_equal(disk_other_name(head, sizeof(head)), "gzip", 4);
	memcpy(head, "QFI\xfb", 4);
	assert_int_equal(disk_detect(head, sizeof(head)), DISK_QCOW2);
	assert_int_equal(disk_detect(head, 3), DISK_UNKNOWN);
}

/* A header of version 3 for 1 GiB, as qemu-img writes it. */
static void make_header(uint8_t head[static 512])
{
	static const uint32_t words[] = {0x514649fb, 3, 0, 0, 0, 16, 0, 1 << 30, 0, 2};

	memset(head, 0, 512);
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		uint32_t word = htobe32(words[i]);

		memcpy(head + 4 * i, &word, 4);
	}
	head[103] = 104;
}

static void test_check_qcow2(_unused_ void **state)
{
	static const struct {
		size_t at;
		uint8_t value;
		int r, strict;
	} cases[] = {
		{400, 1, 0, 0},               /* not looked at */
		{4, 1, -EINVAL, -EINVAL},     /* version */
		{7, 2, 0, 0},                 /* the older one */
		{15, 1, -EPERM, -EPERM},      /* backing file */
		{19, 1, -EPERM, -EPERM},      /* its name's length alone */
		{23, 8, -EINVAL, -EINVAL},    /* clusters of 256 bytes */
		{23, 22, -EINVAL, -EINVAL},   /* of 4 MiB */
		{24, 0xff, -ERANGE, -ERANGE}, /* size */
		{35, 1, -EPERM, -EPERM},      /* encryption */
		{35, 2, -EPERM, -EPERM},
		{36, 1, -EINVAL, -EINVAL}, /* 16 million entries of the table */
		{39, 1, -EINVAL, -EINVAL}, /* fewer than the size needs */
		{38, 1, 0, 0},             /* some more */
		{63, 1, 0, -EINVAL},       /* a snapshot */
		{61, 1, -EINVAL, -EINVAL},
		{79, 1, 0, -EPERM},      /* dirty */
		{79, 2, -EPERM, -EPERM}, /* corrupt */
		{79, 4, -EPERM, -EPERM}, /* data file */
		{79, 8, 0, -EPERM},      /* compression */
		{72, 1, -EPERM, -EPERM}, /* not known */
	};
	uint8_t head[512];
	uint64_t bytes;

	make_header(head);
	assert_int_equal(disk_check_qcow2(head, sizeof(head), true, &bytes, NULL), 0);
	assert_int_equal(bytes, 1 << 30);
	for (size_t n = 0; n < 104; n++)
		assert_int_equal(disk_check_qcow2(head, n, false, &bytes, NULL), -EINVAL);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		make_header(head);
		head[cases[i].at] = cases[i].value;
		assert_int_equal(disk_check_qcow2(head, sizeof(head), false, &bytes, NULL),
				 cases[i].r);
		assert_int_equal(disk_check_qcow2(head, sizeof(head), true, &bytes, NULL),
				 cases[i].strict);
	}
}

static void test_basename(_unused_ void **state)
{
	static const char *const cases[][2] = {
		{"https://host/a/b.qcow2", "b.qcow2"},
		{"https://host/b?x=/y", "b"},
		{"https://host/b#/y", "b"},
		{"/a/b?c", "b?c"},
		{"b", "b"},
		{"a/", ""},
	};
	char name[32];

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		fetch_basename(cases[i][0], name, sizeof(name));
		assert_string_equal(name, cases[i][1]);
	}
}

static int make_dir(char path[static 32])
{
	int fd;

	(void)snprintf(path, 32, "/tmp/test-image.XXXXXX");
	assert_non_null(mkdtemp(path));
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void test_write_conf(_unused_ void **state)
{
	char path[32], text[600];
	_cleanup_close_ int dir = make_dir(path);
	struct err err;

	assert_int_equal(record_write_conf(dir, 7, "a = b # c", &err), 0);
	assert_int_equal(unlinkat(dir, IMAGE_CONF, 0), 0);
	assert_int_equal(record_write_conf(dir, 7, NULL, &err), 0);
	/* What is there is never written over. */
	assert_int_equal(record_write_conf(dir, 7, NULL, &err), -EEXIST);
	assert_int_equal(unlinkat(dir, IMAGE_CONF, 0), 0);
	assert_int_equal(record_write_conf(dir, 7, "a\nb", &err), -EINVAL);
	assert_int_equal(record_write_conf(dir, 7, "\xc3\xa9", &err), -EINVAL);
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_true(record_write_conf(dir, 7, text, &err) < 0);
	(void)unlinkat(dir, IMAGE_CONF, 0);
	text[512] = '\0';
	assert_true(record_write_conf(dir, 7, text, &err) < 0);
	assert_int_equal(remove_tree(AT_FDCWD, path), 0);
}

/* Links are removed, not followed; a tree without an end is given up. */
static void test_remove_tree(_unused_ void **state)
{
	char path[32], deep[300] = "d";
	_cleanup_close_ int dir = make_dir(path);
	struct stat st;

	assert_int_equal(mkdirat(dir, "keep", 0755), 0);
	assert_int_equal(close(openat(dir, "keep/file", O_CREAT | O_WRONLY, 0644)), 0);
	assert_int_equal(mkdirat(dir, "tree", 0755), 0);
	assert_int_equal(mkdirat(dir, "tree/sub", 0755), 0);
	assert_int_equal(symlinkat("../keep", dir, "tree/link"), 0);
	assert_int_equal(symlinkat("../../keep/file", dir, "tree/sub/link"), 0);
	assert_int_equal(mkfifoat(dir, "tree/sub/fifo", 0600), 0);
	assert_int_equal(remove_tree(dir, "tree"), 0);
	assert_int_equal(fstatat(dir, "tree", &st, 0), -1);
	assert_int_equal(fstatat(dir, "keep/file", &st, 0), 0);
	assert_int_equal(remove_tree(dir, "none"), 0);
	for (size_t i = 0; i < 70; i++) {
		assert_int_equal(mkdirat(dir, deep, 0755), 0);
		(void)strncat(deep, "/d", sizeof(deep) - strlen(deep) - 1);
	}
	assert_int_equal(remove_tree(dir, "d"), -ELOOP);
	deep[2 * 40 - 1] = '\0';
	assert_int_equal(remove_tree(dir, deep), 0);
	assert_int_equal(remove_tree(AT_FDCWD, path), 0);
}

/* Zeros become holes, and the length is right whatever comes last. */
static void test_sink(_unused_ void **state)
{
	char path[32];
	_cleanup_close_ int dir = make_dir(path);
	_cleanup_close_ int fd = openat(dir, "f", O_RDWR | O_CREAT, 0600);
	struct sink sink = {.fd = fd, .max_bytes = 3 << 20};
	uint8_t *data = calloc(1, 1 << 20);
	struct sum sum;
	struct stat st;

	assert_non_null(data);
	assert_int_equal(digest_init(&sink.digest, false), 0);
	data[70000] = 1;
	assert_int_equal(sink_write(&sink, data, 1000), 0);
	assert_int_equal(sink_write(&sink, data, 1 << 20), 0);
	assert_int_equal(sink_write(&sink, data + 100000, 900000), 0);
	assert_int_equal(sink_write(&sink, data, 2 << 20), -EFBIG);
	assert_int_equal(sink_end(&sink), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, 1000 + (1 << 20) + 900000);
	assert_true(st.st_blocks * 512 <= 1 << 17);
	assert_int_equal(pread(fd, data, 1, 71000), 1);
	assert_int_equal(data[0], 1);
	assert_int_equal(digest_end(&sink.digest, NULL, &sum), 0);
	digest_done(&sink.digest);
	struct progress progress = {.quiet = true};
	struct sum again;
	assert_int_equal(record_hash(&progress, fd, &again), 0);
	assert_string_equal(sum.hex, again.hex);
	free(data);
	assert_int_equal(remove_tree(AT_FDCWD, path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha512),
		cmocka_unit_test(test_sha256_at_once_and_in_parts),
		cmocka_unit_test(test_sum_parse),
		cmocka_unit_test(test_sums_find),
		cmocka_unit_test(test_sums_parse),
		cmocka_unit_test(test_detect),
		cmocka_unit_test(test_check_qcow2),
		cmocka_unit_test(test_basename),
		cmocka_unit_test(test_write_conf),
		cmocka_unit_test(test_remove_tree),
		cmocka_unit_test(test_sink),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
