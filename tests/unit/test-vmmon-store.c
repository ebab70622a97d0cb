/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of vmmon's files: ISO image (read back with isoinfo), seed, console ring, keys.
 * Trust: a test; reads nothing from outside.
 */
#include "common/fd.h"
#include "vmmon/iso.h"
#include "vmmon/keys.h"
#include "vmmon/ring.h"
#include "vmmon/seed.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <jansson.h>

static char dir[] = "/tmp/test-vmmon-store.XXXXXX";

/* What a command prints. */
static void output_of(const char *command, char *out, size_t size)
{
	FILE *p = popen(command, "r");
	size_t n;

	assert_non_null(p);
	n = fread(out, 1, size - 1, p);
	out[n] = '\0';
	assert_int_equal(pclose(p), 0);
}

static void write_image(const uint8_t *image, size_t len)
{
	_cleanup_close_ int fd = open("seed.iso", O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, image, len), 0);
}

static void iso_reads_back(void **state)
{
	static char big[5000];
	const struct iso_file files[] = {
		{"user-data", "#cloud-config\n", 14},
		{"host_key.pub", "ssh-ed25519 AAAA\n", 17},
		{"empty", "", 0},
		{"big", big, sizeof(big)},
	};
	_cleanup_free_ uint8_t *image = NULL;
	char out[8192];
	size_t len;

	(void)state;
	memset(big, 'b', sizeof(big));
	assert_int_equal(iso_build("cidata", files, ARRAY_LEN(files), 1 << 20, &image, &len), 0);
	assert_int_equal(len % 2048, 0);
	write_image(image, len);
	output_of("isoinfo -d -i seed.iso", out, sizeof(out));
	assert_non_null(strstr(out, "Volume id: cidata\n"));
	output_of("isoinfo -f -i seed.iso | sort", out, sizeof(out));
	assert_string_equal(out, "/BIG.;1\n/EMPTY.;1\n/HOST_KEY.PUB;1\n/USER-DATA.;1\n");
	output_of("isoinfo -i seed.iso -x '/HOST_KEY.PUB;1'", out, sizeof(out));
	assert_string_equal(out, "ssh-ed25519 AAAA\n");
	output_of("isoinfo -i seed.iso -x '/BIG.;1'", out, sizeof(out));
	assert_int_equal(strlen(out), sizeof(big));
	output_of("isoinfo -i seed.iso -x '/EMPTY.;1'", out, sizeof(out));
	assert_string_equal(out, "");
}

static void iso_refuses(void **state)
{
	static const char *const names[] = {
		"", "a/b", "A", "a.b.c", "..", "a b", "abcdefghijklmnopqrstuvwxyzabc"};
	struct iso_file many[ISO_MAX_FILES + 1];
	uint8_t *image;
	size_t len;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		assert_int_equal(iso_build("x", &(const struct iso_file){names[i], "", 0}, 1,
					   1 << 20, &image, &len),
				 -EINVAL);
	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		many[i] = (struct iso_file){"a", "", 0};
	assert_int_equal(iso_build("x", many, ARRAY_LEN(many), 1 << 20, &image, &len), -EINVAL);
	assert_int_equal(
		iso_build("x", &(const struct iso_file){"a", "", 4096}, 1, 2048 * 22, &image, &len),
		-EFBIG);
}

/* cloud-init reads the same keys from user-data as the light script does from files. */
static void seed_holds_the_contract(void **state)
{
	const struct seed seed = {"vm1", "PRIVATE\nKEY\n", "ssh-ed25519 HOST", "ssh-ed25519 MGMT"};
	_cleanup_free_ uint8_t *image = NULL;
	char out[8192];
	const char *content;
	json_t *config;
	size_t len;

	(void)state;
	assert_int_equal(seed_build(&seed, &image, &len), 0);
	assert_true(len <= PROTO_SEED_MAX);
	write_image(image, len);
	output_of("isoinfo -i seed.iso -x '/HOST_KEY.;1'", out, sizeof(out));
	assert_string_equal(out, seed.host_key);
	output_of("isoinfo -i seed.iso -x '/AUTHORIZED_KEYS.;1'", out, sizeof(out));
	assert_string_equal(out, "ssh-ed25519 MGMT\n");
	output_of("isoinfo -i seed.iso -x '/META-DATA.;1'", out, sizeof(out));
	assert_string_equal(out, "instance-id: vm1\nlocal-hostname: vm1\n");
	output_of("isoinfo -i seed.iso -x '/USER-DATA.;1'", out, sizeof(out));
	assert_memory_equal(out, "#cloud-config\n", 14);
	config = json_loads(out + 14, 0, NULL);
	assert_non_null(config);
	content = json_string_value(json_object_get(
		json_array_get(json_object_get(config, "write_files"), 0), "content"));
	assert_string_equal(content, seed.host_key);
	json_decref(config);
}

static void ring_keeps_the_tail(void **state)
{
	_cleanup_close_ int dirfd = open(".", O_RDONLY | O_DIRECTORY);
	static char chunk[RING_SIZE - 7], tail[RING_SIZE];
	struct ring_file *ring, *again;

	(void)state;
	assert_int_equal(ring_open(dirfd, "vm1", false, &ring), -ENOENT);
	assert_int_equal(ring_open(dirfd, "../x", true, &ring), -EINVAL);
	assert_int_equal(ring_open(dirfd, "vm1", true, &ring), 0);
	assert_int_equal(ring_tail(ring, tail, sizeof(tail)), 0);
	memset(chunk, 'a', sizeof(chunk));
	ring_write(ring, chunk, sizeof(chunk));
	ring_write(ring, "0123456789", 10);
	assert_int_equal(ring_tail(ring, tail, 12), 12);
	assert_memory_equal(tail, "aa0123456789", 12);
	assert_int_equal(ring_tail(ring, tail, sizeof(tail)), RING_SIZE);
	assert_memory_equal(tail + RING_SIZE - 10, "0123456789", 10);
	ring->ready = 1;
	/* As a killed process leaves it: another mapping sees everything. */
	assert_int_equal(ring_open(dirfd, "vm1", false, &again), 0);
	assert_int_equal(again->total, sizeof(chunk) + 10);
	assert_int_equal(again->ready, 1);
	ring_close(again);
	ring_close(ring);
	assert_int_equal(ring_remove(dirfd, "vm1"), 0);
	assert_int_equal(ring_remove(dirfd, "vm1"), 0);
	assert_int_equal(ring_open(dirfd, "vm1", false, &ring), -ENOENT);
}

static size_t size_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (size_t)st.st_size;
}

static void keys_converge(void **state)
{
	struct keys k = KEYS_INIT, again = KEYS_INIT;
	char path[128], line[KEYS_LINE_SIZE], other[KEYS_LINE_SIZE];
	_cleanup_close_ int first = -EBADF, second = -EBADF;
	static char a[PROTO_SEED_MAX], b[PROTO_SEED_MAX];
	struct err err = {0};
	struct stat st;
	ssh_key key;

	(void)state;
	assert_true(snprintf(path, sizeof(path), "%s/state", dir) < (int)sizeof(path));
	assert_true(keys_open(&k, path, &err) == -ENOENT);
	assert_int_equal(mkdir("state", 0700), 0);
	assert_int_equal(keys_open(&k, path, &err), 0);
	assert_int_equal(stat("state/management_key", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(keys_management(&k, &key), 0);
	ssh_key_free(key);

	assert_int_equal(keys_pinned(&k, "vm1", line), -ENOENT);
	assert_int_equal(keys_enrol(&k, "vm1", line), 0);
	first = keys_pending_seed(&k, "vm1");
	assert_true(fd_memfd_check(first, PROTO_SEED_MAX) > 0);

	/* A new process, before delivery: the same key, the same bytes. */
	assert_int_equal(keys_open(&again, path, &err), 0);
	assert_string_equal(again.management_public, k.management_public);
	assert_int_equal(keys_enrol(&again, "vm1", other), 0);
	assert_string_equal(line, other);
	second = keys_pending_seed(&again, "vm1");
	assert_int_equal(size_of(first), size_of(second));
	assert_int_equal(pread(first, a, sizeof(a), 0), (ssize_t)size_of(first));
	assert_int_equal(pread(second, b, sizeof(b), 0), (ssize_t)size_of(second));
	assert_memory_equal(a, b, size_of(first));

	/* Killed between the two files: nothing was sent, so a new pair is made. */
	assert_int_equal(unlink("state/guests/vm1/host_key.pub"), 0);
	assert_int_equal(keys_enrol(&k, "vm1", other), 0);
	assert_string_not_equal(line, other);

	/* Delivered: the private key is gone from this side, the pin stays. */
	assert_int_equal(keys_seed_delivered(&k, "vm1"), 0);
	assert_int_equal(keys_seed_delivered(&k, "vm1"), 0);
	assert_int_equal(keys_pending_seed(&k, "vm1"), -ENOENT);
	assert_int_equal(keys_enrol(&k, "vm1", line), 0);
	assert_string_equal(line, other);
	assert_int_equal(keys_pending_seed(&k, "vm1"), -ENOENT);
	assert_int_equal(keys_pinned(&k, "vm1", line), 0);
	assert_string_equal(line, other);

	assert_int_equal(keys_discard(&k, "vm1"), 0);
	assert_int_equal(keys_discard(&k, "vm1"), 0);
	assert_int_equal(access("state/guests/vm1", F_OK), -1);
	keys_done(&again);
	keys_done(&k);
}

static void keys_are_bounded(void **state)
{
	struct keys k = KEYS_INIT;
	char path[128], name[16], line[KEYS_LINE_SIZE];

	(void)state;
	assert_true(snprintf(path, sizeof(path), "%s/state", dir) < (int)sizeof(path));
	assert_int_equal(keys_open(&k, path, NULL), 0);
	assert_int_equal(keys_enrol(&k, "../../x", line), -EINVAL);
	for (int i = 0; i < KEYS_MAX_GUESTS; i++) {
		(void)snprintf(name, sizeof(name), "vm%d", i);
		assert_int_equal(keys_enrol(&k, name, line), 0);
	}
	assert_int_equal(keys_enrol(&k, "more", line), -ENOSPC);
	assert_int_equal(keys_enrol(&k, "vm0", line), 0);
	keys_done(&k);
}

static int setup(void **state)
{
	(void)state;
	return mkdtemp(dir) && chdir(dir) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
	char command[64];

	(void)state;
	(void)snprintf(command, sizeof(command), "rm -rf %s", dir);
	return chdir("/") == 0 ? system(command) : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(iso_reads_back),          cmocka_unit_test(iso_refuses),
		cmocka_unit_test(seed_holds_the_contract), cmocka_unit_test(ring_keeps_the_tail),
		cmocka_unit_test(keys_converge),           cmocka_unit_test(keys_are_bounded),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
