/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of the GPUs that containers without VMs get.
 * Trust: a test; reads nothing from outside.
 */
#include "agentd/gpus_named.h"
#include "common/fd.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants those above first */
#include <cmocka.h>

#define UUID "-1111-2222-3333-444444444444"
#define A    "GPU-0000001a" UUID
#define B    "GPU-0000002b" UUID
#define C    "GPU-0000003c" UUID
#define PART "MIG-0000000a" UUID

static const uint64_t any[PROTO_MAX_GPUS];

static void test_list(void **state)
{
	static const char *const bad[] = {
		A "," A,
		"a/b",
		A "0",
		"-1",
		"0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16",
		"all",
		"0,all",
		"none",
		"void",
		"0000",
		"01",
		"1a",
		"0x1",
		"1:0",
		"GPU",
		"GPU-",
		"GPU--",
		"GPU-xyz",
		"GPU-1a", /* engines take the first digits: it would be another name of one GPU */
		"GPU-0000001a-1111-2222-3333-44444444444",
		"GPU-0000001a-1111-2222-3333",
		"GPU-0000001a11112222333344444444444444444",
		"GPU-0000001a-1111-2222-33334-44444444444",
		"GPU-0000001A" UUID,
		"gpu-0000001a" UUID,
		"0000001a" UUID,
		"10000",
		"MIG-",
		"MIG-GPU-a/1/0",
		"a",
		B ",0",
		"0,1,MIG-a",
		"nvidia.com/gpu=all",
	};
	struct gpus_named gpus;
	struct err err;

	(void)state;
	assert_int_equal(gpus_named_parse("", &gpus, &err), 0);
	assert_int_equal(gpus.n, 0);
	assert_int_equal(gpus_named_parse(B ", " C "," PART, &gpus, &err), 0);
	assert_int_equal(gpus.n, 3);
	assert_string_equal(gpus.gpus[0].name, B);
	assert_string_equal(gpus.gpus[1].name, C);
	assert_string_equal(gpus.gpus[2].name, PART);
	assert_int_equal(
		gpus_named_parse("0, 7,10,3,4,5,6,11,12,13,14,15,16,17,18,19", &gpus, &err), 0);
	assert_int_equal(gpus.n, 16);
	assert_string_equal(gpus.gpus[2].name, "10");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (gpus_named_parse(bad[i], &gpus, &err) != -EINVAL)
			fail_msg("%s was taken", bad[i]);
}

static void put(int dirfd, const char *gpu, const char *text)
{
	char path[128];
	int fd;

	(void)snprintf(path, sizeof(path), "driver/nvidia/gpus/%s", gpu);
	assert_int_equal(mkdirat(dirfd, path, 0700), 0);
	(void)snprintf(path, sizeof(path), "driver/nvidia/gpus/%s/information", gpu);
	fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	(void)close(fd);
}

/* As the driver has them; in the order of addresses, not of the folder. */
static void test_driver(void **state)
{
	char dir[] = "/tmp/qudata-hostgpus-XXXXXX", command[64];
	struct gpus_named gpus;
	int fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	gpus_named_find(fd, &gpus);
	assert_int_equal(gpus.n, 0);
	assert_int_equal(mkdirat(fd, "driver", 0700), 0);
	assert_int_equal(mkdirat(fd, "driver/nvidia", 0700), 0);
	assert_int_equal(mkdirat(fd, "driver/nvidia/gpus", 0700), 0);
	put(fd, "0000:81:00.0", "Model: \t\t NVIDIA A100\nGPU UUID: \t " B "\nBus Type: PCIe\n");
	put(fd, "0000:01:00.0", "GPU UUID: \t " A "\n");
	put(fd, "0000:41:00.0", "GPU UUID: \t GPU-????????\n");
	put(fd, "nonsense", "GPU UUID: \t " C "\n");
	put(fd, "0000:c1:00.0", "Model: something\n");
	gpus_named_find(fd, &gpus);
	assert_int_equal(gpus.n, 2);
	assert_string_equal(gpus.gpus[0].name, A);
	assert_string_equal(gpus.gpus[1].name, B);
	assert_true(gpus.gpus[0].address < gpus.gpus[1].address);
	(void)close(fd);
	(void)snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

static void test_take(void **state)
{
	struct gpus_named gpus = {.gpus = {{"a", 1, false}, {"b", 2, true}, {"c", 3, false}},
				  .n = 3};
	const uint64_t c[PROTO_MAX_GPUS] = {3}, b[PROTO_MAX_GPUS] = {2}, none[PROTO_MAX_GPUS] = {9};
	char names[PROTO_MAX_GPUS][GPU_NAME_SIZE] = {0};
	struct err err;

	(void)state;
	assert_int_equal(gpus_named_take(&gpus, 4, any, names, &err), -ENODEV);
	assert_int_equal(gpus_named_take(&gpus, 3, any, names, &err), -EBUSY);
	assert_int_equal(gpus_named_take(&gpus, 1, b, names, &err), -EBUSY);
	assert_int_equal(gpus_named_take(&gpus, 1, none, names, &err), -ENODEV);
	assert_string_equal(names[0], "");
	assert_false(gpus.gpus[0].taken || gpus.gpus[2].taken);
	assert_int_equal(gpus_named_take(&gpus, 1, c, names, &err), 0);
	assert_string_equal(names[0], "c");
	assert_int_equal(gpus_named_take(&gpus, 1, any, names, &err), 0);
	assert_string_equal(names[0], "a");
	assert_int_equal(gpus_named_take(&gpus, 1, any, names, &err), -EBUSY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_driver),
		cmocka_unit_test(test_take),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
