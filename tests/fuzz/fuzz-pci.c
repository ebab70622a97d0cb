/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-helper/pci: the first byte chooses a parser of sysfs' and helper.conf's texts, or the rules,
 * which then judge a machine made of the bytes. Whatever is accepted must hold what vfio-bind takes
 * for granted.
 * Trust: test.
 */
#include "vfio-helper/config.h"
#include "vfio-helper/pci/pci.h"
#include "vfio-helper/pci/sysfs.h"

#include <assert.h>

#define FUNC_BYTES 8
#define FUNCS_MAX  48

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_address(const char *text)
{
	char again[PCI_TEXT_SIZE];
	pci_addr addr;

	if (pci_addr_parse(text, &addr) < 0)
		return;
	assert(addr <= PROTO_PCI_MAX);
	pci_addr_text(addr, again);
	assert(STR_EQ(text, again));
}

static void read_number(const char *text)
{
	uint64_t value;

	if (sysfs_number(text, &value) == 0)
		assert(text[0] >= '0' && text[0] <= '9');
}

static void read_bars(const char *text)
{
	uint64_t bars[PCI_BARS];
	uint32_t wide;

	if (pci_parse_resource(text, bars, &wide) < 0)
		return;
	for (uint32_t i = 0; i < PCI_BARS; i++)
		assert(!(wide & 1u << i) || bars[i] > 0);
	assert(wide < 1u << PCI_BARS);
}

static void read_policy(const char *text)
{
	struct gpu_policy policy;
	struct gpu_keys keys = {.vendors = ""};
	struct err err = {0};

	proto_text_set(keys.vendors, sizeof(keys.vendors), text);
	proto_text_set(keys.never, sizeof(keys.never), text);
	proto_text_set(keys.services, sizeof(keys.services), text);
	if (gpu_policy_parse(&keys, &policy, &err) < 0)
		assert(err.text[0] != '\0');
	/* No text is a vendor, an address and a unit at once. */
	else
		assert(policy.n_vendors == 0 && policy.n_never == 0 && policy.n_services == 0);
	keys.vendors[0] = keys.never[0] = '\0';
	if (gpu_policy_parse(&keys, &policy, &err) == 0)
		for (uint32_t i = 0; i < policy.n_services; i++)
			assert(policy.services[i][0] != '-' && !strchr(policy.services[i], '/'));
}

/* A function of FUNC_BYTES bytes; whatever they are, it is one that a scan could give. */
static struct pci_func make_func(const uint8_t *b, uint32_t index, uint32_t n)
{
	static const uint16_t classes[] = {
		PCI_CLASS_VGA,         PCI_CLASS_3D,           PCI_CLASS_DISPLAY,
		PCI_CLASS_AUDIO,       PCI_CLASS_HOST_BRIDGE,  PCI_CLASS_BRIDGE,
		PCI_CLASS_BRIDGE,      PCI_CLASS_USB,          PCI_CLASS_SERIAL_OTHER,
		PCI_CLASS_ACCELERATOR, PCI_CLASS_BRIDGE_OTHER, 0x0200};
	static const char *const drivers[] = {"",         "nvidia",  "vfio-pci", "pcieport",
					      "pci-stub", "nouveau", "igb",      ""};
	static const uint16_t vendors[] = {0x10de, 0x10de, 0x1002, 0x1022, 0x8086, 0x1a03};
	struct pci_func f = {.address = (pci_addr)index << 2 | (b[0] & 3),
			     .vendor = vendors[b[1] % ARRAY_LEN(vendors)],
			     .class_code = (uint32_t)classes[b[2] % ARRAY_LEN(classes)] << 8,
			     .group = b[3] & 8 ? PROTO_NO_GROUP : b[3] & 7,
			     .parent = b[4] < n ? b[4] : PCI_NO_INDEX,
			     .physfn = b[5] < n && b[5] != index ? b[5] : PCI_NO_INDEX,
			     .n_vfs = b[6] & 1,
			     .n_mdevs = b[6] >> 1 & 1,
			     .boot_vga = b[6] & 4,
			     .display = b[6] & 8,
			     .critical = b[6] & 16,
			     .near = true};

	(void)snprintf(f.driver, sizeof(f.driver), "%s", drivers[b[7] & 7]);
	f.vfio = STR_EQ(f.driver, "vfio-pci");
	return f;
}

static bool same_bind(const struct gpu *a, const struct gpu *b)
{
	if (a->n_parts != b->n_parts || a->verdict != b->verdict || a->n_reasons != b->n_reasons)
		return false;
	for (uint32_t i = 0; i < a->n_parts; i++)
		if (a->parts[i].func != b->parts[i].func || a->parts[i].role != b->parts[i].role)
			return false;
	return true;
}

static void check_gpu(const struct gpu_list *list, const struct pci_tree *tree,
		      const struct gpu *gpu)
{
	assert(gpu->n_reasons == 0 ? gpu->verdict == PROTO_GPU_RENTABLE
				   : gpu->verdict == gpu->reasons[0].reason);
	for (uint32_t i = 1; i < gpu->n_reasons; i++)
		assert(gpu->reasons[i - 1].reason <= gpu->reasons[i].reason);
	for (uint32_t i = 0; i < gpu->n_parts; i++) {
		const struct gpu_part *part = &gpu->parts[i];
		const struct pci_func *f = &tree->funcs[part->func];
		uint32_t class = f->class_code >> 8;

		assert(i == 0 || gpu->parts[i - 1].func < part->func);
		assert(part->role != PROTO_ROLE_FOREIGN || gpu->verdict != PROTO_GPU_RENTABLE);
		if (gpu_part_is_bound(part)) {
			assert(class != PCI_CLASS_BRIDGE && class != PCI_CLASS_HOST_BRIDGE &&
			       class != PCI_CLASS_BRIDGE_OTHER);
			assert(part->role == PROTO_ROLE_GPU || !f->critical);
			assert(part->role == PROTO_ROLE_GPU || f->physfn == PCI_NO_INDEX);
			assert(f->group != PROTO_NO_GROUP || gpu->verdict == PROTO_GPU_NO_IOMMU);
		}
		/* Whoever meets is judged as one. */
		if (part->role == PROTO_ROLE_GPU)
			assert(same_bind(gpu, &list->gpus[gpu_find(list, tree, f->address)]));
	}
}

static void judge(const uint8_t *data, size_t size)
{
	uint32_t n = (uint32_t)MIN_OF(size / FUNC_BYTES, (size_t)FUNCS_MAX);
	struct pci_func funcs[FUNCS_MAX];
	struct pci_tree tree = {.funcs = funcs, .n_funcs = n};
	struct gpu_policy policy = {.vendors = {0x10de, 0x1002},
				    .n_vendors = 2,
				    .accelerators = {0x1002},
				    .n_accelerators = 1};
	struct gpu_state state = {0};
	struct gpu_list list;

	for (uint32_t i = 0; i < n; i++)
		funcs[i] = make_func(data + (size_t)i * FUNC_BYTES, i, n);
	assert(gpu_judge(&tree, &policy, &state, &list) == 0);
	for (uint32_t i = 0; i < list.n; i++) {
		uint32_t chosen[PROTO_MAX_DEVICES], n_chosen;

		check_gpu(&list, &tree, &list.gpus[i]);
		if (list.gpus[i].verdict != PROTO_GPU_RENTABLE)
			assert(gpu_choose(&list, &tree, &funcs[list.gpus[i].func].address, 1,
					  chosen, &n_chosen, NULL) == -EPERM);
	}
	gpu_list_done(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[SYSFS_TEXT_SIZE];

	if (size == 0)
		return 0;
	(void)snprintf(text, sizeof(text), "%.*s", (int)(size - 1), (const char *)data + 1);
	switch (data[0]) {
	case 'a':
		read_address(text);
		break;
	case 'n':
		read_number(text);
		break;
	case 'r':
		read_bars(text);
		break;
	case 't':
		assert(pci_parse_resets(text) < 1u << PROTO_RESET_COUNT);
		break;
	case 'p':
		read_policy(text);
		break;
	default:
		judge(data + 1, size - 1);
	}
	return 0;
}
