/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which functions are a card, and which cards meet. Pure.
 * Trust: runs as root in vfio-bind, and as anyone in vfio-explain; works on what pci_scan() has
 * read.
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

#define VENDOR_ATI 0x1002
#define VENDOR_AMD 0x1022

bool pci_is_behind(const struct pci_tree *tree, const struct pci_func *func, uint32_t bridge)
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

/* Chips of one maker? AMD's have either of two numbers. */
static bool same_maker(const struct pci_func *a, const struct pci_func *b)
{
	return a->vendor == b->vendor || (a->vendor == VENDOR_ATI && b->vendor == VENDOR_AMD);
}

/*
 * The upstream port of the switch whose downstream port the GPU is plugged into: all that hangs
 * right on it are bridges, several of them (one alone would lead to nothing but the GPU's own bus).
 * It is the card's own if behind it nothing lives but this GPU and functions that companions may
 * be; and if the GPU's maker has made it, for a box on a cable has a switch and a USB controller,
 * too. PCI_NO_INDEX: there is none, or it is the board's.
 */
static uint32_t own_switch(const struct pci_tree *tree, uint32_t gpu)
{
	uint32_t port = parent_bridge(tree, parent_bridge(tree, gpu)), n_ports = 0;

	if (port == PCI_NO_INDEX || !same_maker(&tree->funcs[gpu], &tree->funcs[port]))
		return PCI_NO_INDEX;
	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		const struct pci_func *f = &tree->funcs[i];
		bool bridge = f->class_code >> 8 == PCI_CLASS_BRIDGE;

		if (!pci_is_behind(tree, f, port) || i == gpu || f->physfn == gpu)
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

/* Does something else live in the slot of the GPU? Never asked of a virtual one, which has none. */
static bool slot_is_hosts(const struct card_map *map, uint32_t gpu)
{
	for (uint32_t i = 0; i < map->tree->n_funcs; i++)
		if (same_slot(map->tree, i, gpu) && spoils_slot(&map->tree->funcs[i], map->policy))
			return true;
	return false;
}

/* Gives GPU @gpu its companions. Of two GPUs in one slot the first has them all, and the second. */
static void claim(struct card_map *map, uint32_t gpu)
{
	const struct pci_tree *tree = map->tree;
	uint32_t port;

	if (map->gpu_of[gpu] == PCI_NO_INDEX)
		map->gpu_of[gpu] = gpu;
	if (is_virtual(&tree->funcs[gpu]) || map->gpu_of[gpu] != gpu || slot_is_hosts(map, gpu))
		return;
	port = own_switch(tree, gpu);
	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		const struct pci_func *f = &tree->funcs[i];
		bool beside = same_slot(tree, i, gpu);
		bool behind = port != PCI_NO_INDEX && pci_is_behind(tree, f, port);

		if (((beside || behind) && is_companion_class(f)) ||
		    (beside && !is_virtual(f) && card_is_gpu(f, map->policy)))
			map->gpu_of[i] = gpu;
	}
}

int card_map_make(const struct pci_tree *tree, const struct gpu_policy *policy,
		  const struct gpu_state *state, struct card_map *ret_map)
{
	/* At least one, for an empty tree is none that failed. */
	uint32_t *gpu_of = calloc(tree->n_funcs + 1, sizeof(*gpu_of));
	uint8_t *roles = calloc(tree->n_funcs + 1, sizeof(*roles));

	*ret_map = (struct card_map){
		.tree = tree, .policy = policy, .state = state, .gpu_of = gpu_of, .roles = roles};
	if (!gpu_of || !roles) {
		card_map_done(ret_map);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < tree->n_funcs; i++)
		gpu_of[i] = PCI_NO_INDEX;
	for (uint32_t i = 0; i < tree->n_funcs; i++)
		if (card_is_gpu(&tree->funcs[i], policy))
			claim(ret_map, i);
	return 0;
}

void card_map_done(struct card_map *map)
{
	free(map->gpu_of);
	free(map->roles);
	*map = (struct card_map){0};
}

const struct gpu_lease_ref *gpu_lease_of(const struct gpu_state *state, pci_addr address)
{
	for (uint32_t i = 0; i < state->n_leases; i++)
		if (state->leases[i].address == address)
			return &state->leases[i];
	return NULL;
}

/* Of a member of a group that is of no card. */
static enum proto_gpu_role role_in_group(const struct card_map *map, const struct pci_func *func)
{
	bool unused = func->driver[0] == '\0' ||
		      (func->vfio && gpu_lease_of(map->state, func->address)); /* bound along */

	if (is_harmless_bridge(func))
		return PROTO_ROLE_BRIDGE;
	/* Bridges stay, and switches of NVLinks have rules of their own. */
	if (unused && !func->critical && !is_bridge(func) &&
	    func->class_code >> 8 != PCI_CLASS_BRIDGE_OTHER &&
	    gpu_policy_has(map->policy->along, map->policy->n_along, func->address))
		return PROTO_ROLE_ALONG;
	return PROTO_ROLE_FOREIGN;
}

/* Gives the functions of @gpu's card their roles, and what spoils its slot. */
static void add_card(struct card_map *map, uint32_t gpu)
{
	const struct pci_tree *tree = map->tree;

	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		const struct pci_func *f = &tree->funcs[i];

		if (map->gpu_of[i] != gpu) {
			if (!is_virtual(&tree->funcs[gpu]) && same_slot(tree, i, gpu) &&
			    spoils_slot(f, map->policy))
				map->roles[i] = PROTO_ROLE_FOREIGN;
		} else if (card_is_gpu(f, map->policy)) {
			map->roles[i] = PROTO_ROLE_GPU;
		} else {
			map->roles[i] = f->critical ? PROTO_ROLE_FOREIGN : PROTO_ROLE_COMPANION;
		}
	}
}

/* Gives the members of @member's group their roles. Returns whether one of them is new. */
static bool add_group(struct card_map *map, uint32_t member)
{
	uint32_t group = map->tree->funcs[member].group;
	bool grown = false;

	for (uint32_t i = 0; i < map->tree->n_funcs && group != PROTO_NO_GROUP; i++) {
		const struct pci_func *f = &map->tree->funcs[i];

		if (f->group != group || map->roles[i] != CARD_NO_PART)
			continue;
		if (map->gpu_of[i] != PCI_NO_INDEX)
			add_card(map, map->gpu_of[i]);
		else
			map->roles[i] = (uint8_t)role_in_group(map, f);
		grown = true;
	}
	return grown;
}

void card_closure(struct card_map *map, uint32_t gpu)
{
	bool grown = true;

	memset(map->roles, CARD_NO_PART, map->tree->n_funcs);
	add_card(map, map->gpu_of[gpu]);
	while (grown) {
		grown = false;
		for (uint32_t i = 0; i < map->tree->n_funcs; i++)
			if (map->roles[i] != CARD_NO_PART && map->gpu_of[i] != PCI_NO_INDEX)
				grown |= add_group(map, i);
	}
}

static int find_near(const struct gpu_policy *policy, const struct gpu_state *state,
		     const pci_addr *gpus, uint32_t n, struct pci_tree *tree)
{
	_cleanup_(card_map_done) struct card_map map = {0};
	int r = card_map_make(tree, policy, state, &map);

	for (uint32_t i = 0; r == 0 && i < tree->n_funcs; i++) {
		const struct pci_func *f = &tree->funcs[i];

		if (!card_is_gpu(f, policy) || (n > 0 && !gpu_policy_has(gpus, n, f->address)))
			continue;
		card_closure(&map, i);
		for (uint32_t k = 0; k < tree->n_funcs; k++)
			tree->funcs[k].near |= map.roles[k] != CARD_NO_PART;
	}
	return r;
}

int gpu_survey(int sysfs_fd, const struct gpu_policy *policy, const struct gpu_state *state,
	       const pci_addr *gpus, uint32_t n, struct pci_tree *tree)
{
	int r;

	do {
		r = find_near(policy, state, gpus, n, tree);
		if (r == 0)
			r = pci_read_groups(sysfs_fd, tree);
	} while (r > 0);
	if (r == 0)
		pci_survey(sysfs_fd, tree);
	return r;
}
