/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What agentd reads about GPUs: the first byte chooses between pci.ids, an address, and a list of
 * records, of which any choice must keep the rules.
 * Trust: test.
 */
#include "agentd/gpus.h"
#include "agentd/pciids.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(const char name[static PCIIDS_NAME_SIZE])
{
	size_t len = strnlen(name, PCIIDS_NAME_SIZE);

	assert(len < PCIIDS_NAME_SIZE);
	for (size_t i = 0; i < len; i++)
		assert(name[i] >= 0x20 && name[i] <= 0x7e);
}

static void read_names(const char *text, size_t len)
{
	struct pciids_name names[] = {{.vendor = 0x10de, .device = 0x2204},
				      {.vendor = 0x1002, .device = 0x744c}};

	pciids_lookup(text, len, names, ARRAY_LEN(names));
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		check_name(names[i].vendor_name);
		check_name(names[i].device_name);
	}
}

static void read_address(const uint8_t *data, size_t size)
{
	char text[64], back[GPUS_TEXT_SIZE];
	uint64_t address, again;

	(void)snprintf(text, sizeof(text), "%.*s", (int)MIN_OF(size, sizeof(text) - 1),
		       (const char *)data);
	if (gpus_parse_address(text, &address) < 0)
		return;
	assert(address > 0 && address <= PROTO_PCI_MAX);
	gpus_address_text(address, back);
	assert(gpus_parse_address(back, &again) == 0 && again == address);
}

/* Whatever the list says, a choice is of rentable GPUs, as many as wanted, and of whole sets. */
static void check_choice(const struct gpus *gpus, uint32_t count)
{
	uint64_t chosen[PROTO_MAX_GPUS] = {0};
	char *why = NULL;

	if (gpus_choose(gpus, count, NULL, 0, chosen, &why) == 0) {
		assert(!why && proto_gpus_count(chosen) == count);
		for (size_t i = 0; i < count; i++)
			assert(gpus_find(gpus, chosen[i])->card.verdict == PROTO_GPU_RENTABLE);
		assert(count == 0 || gpus_check(gpus, chosen, NULL, 0, &why) == 0);
	} else {
		assert(why && *why);
	}
	free(why);
}

static void read_list(const uint8_t *data, size_t size)
{
	struct gpus gpus = {0};
	struct err why = {0};

	if (size == 0)
		return;
	if (gpus_decode(data + 1, size - 1, data[0], &gpus, &why) < 0) {
		assert(why.text[0] != '\0' && gpus.n == 0);
		return;
	}
	assert(gpus.n == data[0]);
	for (uint32_t count = 0; count <= PROTO_MAX_GPUS; count++)
		check_choice(&gpus, count);
	gpus_done(&gpus);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	if (data[0] == 'i')
		read_names((const char *)data + 1, size - 1);
	else if (data[0] == 'a')
		read_address(data + 1, size - 1);
	else
		read_list(data + 1, size - 1);
	return 0;
}
