/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which functions are a card, and which cards meet. Pure.
 * Trust: runs as root in vfio-bind, and as anyone for --explain; works on what pci_scan() has read.
 */
#include "vfio-helper/pci/pci.h"

static bool has_vendor(const uint16_t *list, uint32_t n, uint16_t vendor)
{
	for (uint32_t i = 0; i < n; i++)
		if (list[i] == vendor)
			return true;
	return false;
}

bool card_is_gpu(const struct pci_func *func, const struct gpu_policy *policy)
{
	switch (func->class_code >> 8) {
	case PCI_CLASS_VGA:
	case PCI_CLASS_3D:
	case PCI_CLASS_DISPLAY:
		return has_vendor(policy->vendors, policy->n_vendors, func->vendor);
	case PCI_CLASS_ACCELERATOR: /* FPGAs, too: only where policy knows the vendor's as GPUs */
		return has_vendor(policy->accelerators, policy->n_accelerators, func->vendor);
	default:
		return false;
	}
}

static bool is_virtual(const struct pci_func *func)
{
	return func->physfn != PCI_NO_INDEX;
}

static bool is_companion_class(const struct pci_func *func)
{
	uint32_t class = func->class_code >> 8;

	return !is_virtual(func) && (class == PCI_CLASS_AUDIO || class == PCI_CLASS_USB ||
				     class == PCI_CLASS_SERIAL_OTHER);
}

static bool is_bridge(const struct pci_func *func)
{
	uint32_t class = func->class_code >> 8;

	return class == PCI_CLASS_BRIDGE || class == PCI_CLASS_HOST_BRIDGE;
}

/* With another driver than that, a bridge is as foreign as anything. */
static bool is_harmless_bridge(const struct pci_func *func)
{
	return is_bridge(func) && (func->driver[0] == '\0' || STR_EQ(func->driver, "pcieport"));
}

/* More buses than that cannot be below each other; in a made-up tree parents may go round. */
#define DEPTH_MAX 256

/* Is @func behind @bridge, however far? */
static bool is_behind(const struct pci_tree *tree, const struct pci_func *func, uint32_t bridge)
{
	for (uint32_t depth = 0; func->parent != PCI_NO_INDEX && depth < DEPTH_MAX; depth++) {
		if (func->parent == bridge)
			return true;
		func = &tree->funcs[func->parent];
	}
	return false;
}

static uint32_t parent_bridge(const struct pci_tree *tree, uint32_t func)
{
	uint32_t parent = func == PCI_NO_INDEX ? PCI_NO_INDEX : tree->funcs[func].parent;

	if (parent == PCI_NO_INDEX || tree->funcs[parent].class_code >> 8 != PCI_CLASS_BRIDGE)
		return PCI_NO_INDEX;
	return parent;
}

/*
 * The upstream port of the switch whose downstream port the GPU is plugged into: all that hangs
 * right on it are bridges, several of them (one alone would lead to nothing but the GPU's own bus).
 * It is the card's own if behind it nothing lives but this GPU and functions that companions may
 * be. PCI_NO_INDEX: there is none, or it is the board's.
 */
static uint32_t own_switch(const struct pci_tree *tree, uint32_t gpu)
{
	uint32_t port = parent_bridge(tree, parent_bridge(tree, gpu)), n_ports = 0;

	if (port == PCI_NO_INDEX)
		return PCI_NO_INDEX;
	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		const struct pci_func *f = &tree->funcs[i];
		bool bridge = f->class_code >> 8 == PCI_CLASS_BRIDGE;

		if (!is_behind(tree, f, port) || i == gpu || f->physfn == gpu)
			continue;
		if (f->parent == port ? !bridge : !bridge && !is_companion_class(f))
			return PCI_NO_INDEX;
		n_ports += f->parent == port;
	}
	return n_ports > 1 ? port : PCI_NO_INDEX;
}

static bool same_slot(const struct pci_tree *tree, uint32_t a, uint32_t b)
{
	return pci_slot_of(tree->funcs[a].address) == pci_slot_of(tree->funcs[b].address);
}

/* Does @func, in the slot of a GPU, make the slot the host's? */
static bool spoils_slot(const struct pci_func *func, const struct gpu_policy *policy)
{
	return !is_virtual(func) && !is_companion_class(func) && !is_harmless_bridge(func) &&
	       !card_is_gpu(func, policy);
}

void card_functions(const struct pci_tree *tree, const struct gpu_policy *policy, uint32_t gpu,
		    uint8_t *roles)
{
	uint32_t port = own_switch(tree, gpu);
	bool spoilt = false;

	roles[gpu] = PROTO_ROLE_GPU;
	if (is_virtual(&tree->funcs[gpu]))
		return;
	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		if (!same_slot(tree, i, gpu) || !spoils_slot(&tree->funcs[i], policy))
			continue;
		roles[i] = PROTO_ROLE_FOREIGN;
		spoilt = true;
	}
	for (uint32_t i = 0; i < tree->n_funcs && !spoilt; i++) {
		const struct pci_func *f = &tree->funcs[i];
		bool ours = same_slot(tree, i, gpu) ||
			    (port != PCI_NO_INDEX && is_behind(tree, f, port));

		if (ours && is_companion_class(f))
			roles[i] = PROTO_ROLE_COMPANION;
		else if (same_slot(tree, i, gpu) && !is_virtual(f) && card_is_gpu(f, policy))
			roles[i] = PROTO_ROLE_GPU;
	}
}

const struct gpu_lease_ref *gpu_lease_of(const struct gpu_state *state, pci_addr address)
{
	for (uint32_t i = 0; i < state->n_leases; i++)
		if (state->leases[i].address == address)
			return &state->leases[i];
	return NULL;
}

static enum proto_gpu_role role_in_group(const struct pci_func *func,
					 const struct gpu_policy *policy,
					 const struct gpu_state *state)
{
	bool free = func->driver[0] == '\0' ||
		    (func->vfio && gpu_lease_of(state, func->address)); /* bound along before */

	if (card_is_gpu(func, policy))
		return PROTO_ROLE_GPU;
	if (is_harmless_bridge(func))
		return PROTO_ROLE_BRIDGE;
	if (!is_bridge(func) && free && !func->critical &&
	    gpu_policy_has(policy->along, policy->n_along, func->address))
		return PROTO_ROLE_ALONG;
	return PROTO_ROLE_FOREIGN;
}

/* Gives the members of @member's group their roles. Returns whether one of them is new. */
static bool add_group(const struct pci_tree *tree, const struct gpu_policy *policy,
		      const struct gpu_state *state, uint32_t member, uint8_t *roles)
{
	uint32_t group = tree->funcs[member].group;
	bool grown = false;

	for (uint32_t i = 0; i < tree->n_funcs && group != PROTO_NO_GROUP; i++) {
		if (tree->funcs[i].group != group || roles[i] != CARD_NO_PART)
			continue;
		roles[i] = (uint8_t)role_in_group(&tree->funcs[i], policy, state);
		if (roles[i] == PROTO_ROLE_GPU)
			card_functions(tree, policy, i, roles);
		grown = true;
	}
	return grown;
}

void card_closure(const struct pci_tree *tree, const struct gpu_policy *policy,
		  const struct gpu_state *state, uint32_t gpu, uint8_t *roles)
{
	bool grown = true;

	card_functions(tree, policy, gpu, roles);
	while (grown) {
		grown = false;
		for (uint32_t i = 0; i < tree->n_funcs; i++)
			if (roles[i] == PROTO_ROLE_GPU || roles[i] == PROTO_ROLE_COMPANION)
				grown |= add_group(tree, policy, state, i, roles);
	}
}
