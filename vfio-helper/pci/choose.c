/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the GPUs that are asked for to the functions to be bound, all or none. Pure.
 * Trust: runs as root in vfio-bind; the addresses asked for come from agentd.
 */
#include "vfio-helper/pci/pci.h"

/* Was the GPU @func asked for? */
static bool asked(const struct pci_tree *tree, uint32_t func, const pci_addr *gpus, uint32_t n)
{
	return gpu_policy_has(gpus, n, tree->funcs[func].address);
}

/* "0000:01:00.0 not_viable: 0000:01:00.1 (not of the card; driver nvme), …", cut where it ends. */
static int refuse(const struct gpu *gpu, const struct pci_tree *tree, struct err *reterr)
{
	char text[ERR_TEXT_MAX], address[PCI_TEXT_SIZE];
	size_t used;

	pci_addr_text(tree->funcs[gpu->func].address, address);
	used = (size_t)snprintf(text, sizeof(text), "%s may not be rented", address);
	for (uint32_t i = 0; i < gpu->n_reasons && used < sizeof(text); i++) {
		const struct gpu_reason *reason = &gpu->reasons[i];

		pci_addr_text(reason->address, address);
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s %s%s%s%s%s",
					 i ? "," : ":", proto_gpu_reason_name(reason->reason),
					 reason->address ? " " : "", reason->address ? address : "",
					 reason->what[0] ? " " : "", reason->what);
	}
	return err_set(reterr, -EPERM, "%s", text);
}

/* Are all GPUs that would be bound with this one asked for, too? */
static int check_company(const struct gpu *gpu, const struct pci_tree *tree, const pci_addr *gpus,
			 uint32_t n, struct err *reterr)
{
	char address[PCI_TEXT_SIZE], other[PCI_TEXT_SIZE];

	for (uint32_t i = 0; i < gpu->n_parts; i++) {
		if (gpu->parts[i].role != PROTO_ROLE_GPU ||
		    asked(tree, gpu->parts[i].func, gpus, n))
			continue;
		pci_addr_text(tree->funcs[gpu->func].address, address);
		pci_addr_text(tree->funcs[gpu->parts[i].func].address, other);
		return err_set(reterr, -EXDEV,
			       "%s can only be had together with %s: they meet in an IOMMU group",
			       address, other);
	}
	return 0;
}

/* Puts @func into the ascending list, once. */
static int put(uint32_t func, uint32_t *funcs, uint32_t *n)
{
	uint32_t at = *n;

	for (uint32_t i = 0; i < *n; i++)
		if (funcs[i] == func)
			return 0;
	if (*n == PROTO_MAX_DEVICES)
		return -E2BIG;
	for (; at > 0 && funcs[at - 1] > func; at--)
		funcs[at] = funcs[at - 1];
	funcs[at] = func;
	(*n)++;
	return 0;
}

int gpu_choose(const struct gpu_list *list, const struct pci_tree *tree, const pci_addr *gpus,
	       uint32_t n, uint32_t ret_funcs[static PROTO_MAX_DEVICES], uint32_t *ret_n,
	       struct err *reterr)
{
	uint32_t n_funcs = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = gpu_find(list, tree, gpus[i]);
		const struct gpu *gpu = at == PCI_NO_INDEX ? NULL : &list->gpus[at];
		char address[PCI_TEXT_SIZE];
		int r = 0;

		pci_addr_text(gpus[i], address);
		if (!gpu)
			return err_set(reterr, -ENODEV, "%s is no GPU that is for rent", address);
		if (gpu->verdict != PROTO_GPU_RENTABLE)
			return refuse(gpu, tree, reterr);
		r = check_company(gpu, tree, gpus, n, reterr);
		for (uint32_t k = 0; r == 0 && k < gpu->n_parts; k++)
			if (gpu_part_is_bound(&gpu->parts[k]))
				r = put(gpu->parts[k].func, ret_funcs, &n_funcs);
		if (r == -E2BIG)
			return err_set(reterr, r, "more than %d functions", PROTO_MAX_DEVICES);
		if (r < 0)
			return r;
	}
	*ret_n = n_funcs;
	return 0;
}
