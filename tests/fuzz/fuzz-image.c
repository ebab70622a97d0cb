/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz harness of what qudatactl image reads of strangers: a disk's header, lists of checksums.
 * Trust: a test; reads the fuzzer's input.
 */
#include <assert.h>

#include "ctl/image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_disk(const uint8_t *data, size_t size)
{
	struct err err = {0};
	uint64_t bytes = 0;
	int r = disk_check_qcow2(data, size, false, &bytes, &err);

	if (disk_detect(data, size) == DISK_OTHER)
		assert(disk_other_name(data, size)[0] != '\0');
	if (r < 0) {
		assert(err.text[0] != '\0');
		assert(disk_check_qcow2(data, size, true, &bytes, NULL) < 0);
		return;
	}
	/* No name of another file has passed, in either version of the format. */
	assert(disk_detect(data, size) == DISK_QCOW2 && bytes > 0);
	for (size_t i = 8; i < 20; i++)
		assert(data[i] == 0);
	if (data[7] == 3)
		assert(!(data[79] & 6));
}

static void fuzz_lists(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	struct sums sums;
	struct sum sum;

	if (!text)
		return;
	memcpy(text, data, size);
	text[size] = '\0';
	if (sums_find(text, "disk.img", &sum) == 0)
		assert(strlen(sum.hex) == sum.n_hex &&
		       strspn(sum.hex, "0123456789abcdef") == sum.n_hex);
	if (sums_parse(text, &sums) == 0)
		assert(sums.n > 0 && sums.n <= SUMS_FILES_MAX && sums.sum[0].n_hex == 64);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_disk(data, size);
	fuzz_lists(data, size);
	return 0;
}
