/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a card may be rented: every reason against it, in the order of the verdicts. Pure.
 * Trust: runs as root in vfio-bind, and as anyone in vfio-explain; works on what was read before.
 */
#include "vfio-helper/pci/pci.h"

#include <stdarg.h>
#include <time.h>

/* What a judgement works on. */
struct court {
	const struct pci_tree *tree;
	const struct gpu_policy *policy;
	const struct gpu_state *state;
	struct card_map map; /* owned */
	struct gpu *gpu;     /* borrowed: the one that is judged */
	int error;
};

static void court_done(struct court *court)
{
	card_map_done(&court->map);
}

/* @func NULL: a stranger is the reason, and the text its name. */
static void _printf_(4, 5) against(struct court *c, enum proto_gpu_reason reason,
				   const struct pci_func *func, const char *format, ...)
{
	struct gpu *gpu = c->gpu;
	struct gpu_reason *grown = reallocarray(gpu->reasons, gpu->n_reasons + 1, sizeof(*grown));
	size_t used = 0;
	va_list ap;

	if (!grown) {
		c->error = -ENOMEM;
		return;
	}
	gpu->reasons = grown;
	grown += gpu->n_reasons++;
	*grown = (struct gpu_reason){
		.reason = reason, .address = func ? func->address : 0, .stranger = !func};
	/* In the protocol the number 0 is no function, but the first host bridge has it. */
	if (func && func->address == 0)
		used = (size_t)snprintf(grown->what, sizeof(grown->what), "0000:00:00.0: ");
	va_start(ap, format);
	(void)vsnprintf(grown->what + used, sizeof(grown->what) - used, format, ap);
	va_end(ap);
}

/* One rule, asked of every part of the GPU that is judged. */
typedef void (*rule_fn)(struct court *c, const struct gpu_part *part, const struct pci_func *func);

/* Is it of one of the cards, even if critical? */
static bool of_card(const struct court *c, const struct gpu_part *part)
{
	return c->map.gpu_of[part->func] != PCI_NO_INDEX;
}

static void rule_iommu(struct court *c, const struct gpu_part *part, const struct pci_func *func)
{
	if (of_card(c, part) && func->group == PROTO_NO_GROUP)
		against(c, PROTO_GPU_NO_IOMMU, func, "%s", "");
}

/* The graphics of a server's management controller: a console for people who are far away. */
static bool is_bmc_vga(const struct pci_func *func)
{
	static const struct {
		uint16_t vendor, device; /* 0: all of its VGA devices */
	} known[] = {
		{0x1a03, 0},      /* ASPEED */
		{0x102b, 0},      /* Matrox G200 in iDRAC, iLO, Pilot and others */
		{0x19e5, 0},      /* Huawei iBMC */
		{0x18ca, 0},      /* XGI */
		{0x126f, 0},      /* Silicon Motion */
		{0x1002, 0x515e}, /* ES1000 */
		{0x1002, 0x5969}, /* ES1000 */
	};

	if (func->class_code >> 8 != PCI_CLASS_VGA)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (known[i].vendor == func->vendor &&
		    (known[i].device == 0 || known[i].device == func->device))
			return true;
	return false;
}

static void rule_display(struct court *c, const struct gpu_part *part, const struct pci_func *func)
{
	if (part->role != PROTO_ROLE_GPU)
		return;
	if (is_bmc_vga(func))
		against(c, PROTO_GPU_BOOT_DISPLAY, func, "a management controller's display");
	else if (c->policy->allow_boot_display)
		return;
	else if (func->boot_vga)
		against(c, PROTO_GPU_BOOT_DISPLAY, func, "the firmware's display (boot_vga)");
	else if (func->display)
		against(c, PROTO_GPU_BOOT_DISPLAY, func, "a display or the console is on it");
}

static void rule_virtual(struct court *c, const struct gpu_part *part, const struct pci_func *func)
{
	if (!of_card(c, part))
		return;
	if (func->physfn != PCI_NO_INDEX && !c->policy->allow_virtual_functions)
		against(c, PROTO_GPU_VIRTUALISED, func, "a virtual function");
	else if (func->n_vfs > 0)
		against(c, PROTO_GPU_VIRTUALISED, func, "virtual functions enabled: %u",
			func->n_vfs);
	else if (func->n_mdevs > 0)
		against(c, PROTO_GPU_VIRTUALISED, func, "mediated devices: %u", func->n_mdevs);
}

static void rule_viable(struct court *c, const struct gpu_part *part, const struct pci_func *func)
{
	if (part->role != PROTO_ROLE_FOREIGN && !(part->role == PROTO_ROLE_GPU && func->critical))
		return;
	if (func->critical)
		against(c, PROTO_GPU_NOT_VIABLE, func, "a disk or network of the host is on it");
	else if (func->driver[0] != '\0')
		against(c, PROTO_GPU_NOT_VIABLE, func, "not of the card; driver %s", func->driver);
	else
		against(c, PROTO_GPU_NOT_VIABLE, func, "not of the card; no driver");
}

/* Members of the card's groups that are no PCI functions. */
static void rule_strangers(struct court *c)
{
	for (uint32_t i = 0; i < c->tree->n_strangers; i++) {
		const struct pci_stranger *s = &c->tree->strangers[i];
		bool met = false;

		for (uint32_t k = 0; k < c->gpu->n_parts; k++)
			met |= of_card(c, &c->gpu->parts[k]) &&
			       c->tree->funcs[c->gpu->parts[k].func].group == s->group;
		if (met)
			against(c, PROTO_GPU_NOT_VIABLE, NULL, "%s", s->name);
	}
}

static const struct gpu_quarantine_ref *quarantine_of(const struct gpu_state *state,
						      pci_addr address)
{
	for (uint32_t i = 0; i < state->n_quarantines; i++)
		if (state->quarantines[i].address == address)
			return &state->quarantines[i];
	return NULL;
}

static bool is_held(const struct gpu_state *state, uint32_t func)
{
	for (uint32_t i = 0; i < state->n_holders; i++)
		if (state->holders[i].func == func)
			return true;
	return false;
}

/* Is it on a VFIO driver for someone else than a VM of ours? */
static bool is_vfio_of_others(const struct court *c, uint32_t index)
{
	const struct pci_func *func = &c->tree->funcs[index];

	/* What we have leased or could not give back is on a VFIO driver by our own doing. */
	if (!func->vfio || gpu_lease_of(c->state, func->address) ||
	    quarantine_of(c->state, func->address))
		return false;
	return !c->policy->adopt_vfio || func->overridden || is_held(c->state, index);
}

static void rule_reserved(struct court *c, const struct gpu_part *part, const struct pci_func *func)
{
	if (part->role == PROTO_ROLE_GPU &&
	    gpu_policy_has(c->policy->never, c->policy->n_never, func->address))
		against(c, PROTO_GPU_RESERVED, func, "helper.conf");
	else if (of_card(c, part) &&
		 (STR_EQ(func->driver, "pci-stub") || STR_EQ(func->driver, "pciback") ||
		  is_vfio_of_others(c, part->func)))
		against(c, PROTO_GPU_RESERVED, func, "driver %s", func->driver);
}

static void rule_busy(struct court *c, const struct gpu_part *part, const struct pci_func *func)
{
	const struct gpu_lease_ref *lease = gpu_lease_of(c->state, func->address);

	if (lease) { /* whoever has it open now is the VM */
		/* An interrupted one is to be recovered, which rule_half() says. */
		if (part->role == PROTO_ROLE_GPU && lease->complete)
			against(c, PROTO_GPU_BUSY, func, "leased to VM %s", lease->vm);
		return;
	}
	if (of_card(c, part) && STR_EQ(func->driver, "nouveau") && !c->policy->allow_nouveau)
		against(c, PROTO_GPU_BUSY, func, "driver nouveau, which policy may not stop");
	for (uint32_t i = 0; i < c->state->n_holders; i++) {
		const struct gpu_holder *h = &c->state->holders[i];

		if (h->func == part->func && !gpu_policy_may_stop(c->policy, h->service))
			against(c, PROTO_GPU_BUSY, func, "%s (%u) has %s open", h->program, h->pid,
				h->node);
	}
}

static void rule_quarantine(struct court *c, const struct gpu_part *part,
			    const struct pci_func *func)
{
	const struct gpu_quarantine_ref *q = quarantine_of(c->state, func->address);
	char since[24] = "?", address[PCI_TEXT_SIZE];
	struct tm tm;
	time_t at;

	if (!q || part->role == PROTO_ROLE_FOREIGN || part->role == PROTO_ROLE_BRIDGE)
		return;
	at = (time_t)q->since_s;
	if (gmtime_r(&at, &tm))
		(void)strftime(since, sizeof(since), "%Y-%m-%dT%H:%MZ", &tm);
	pci_addr_text(q->address, address);
	/* The command is what helps: a long reason is cut, not that. */
	against(c, PROTO_GPU_QUARANTINED, func,
		"%.40s; since %s; to clear it: qudatactl gpus recover %s", q->why, since, address);
}

/* Whether some of the card's functions are VFIO's and others not, or a bind was not finished. */
static void rule_half(struct court *c, const struct gpu_part *part, const struct pci_func *func)
{
	uint32_t n_vfio = 0, n_others = 0;
	bool unfinished = false;

	if (part->role != PROTO_ROLE_GPU)
		return;
	for (uint32_t i = 0; i < c->tree->n_funcs; i++) {
		const struct gpu_lease_ref *lease;

		if (c->map.gpu_of[i] != c->map.gpu_of[part->func])
			continue;
		lease = gpu_lease_of(c->state, c->tree->funcs[i].address);
		unfinished |= lease && !lease->complete;
		n_vfio += c->tree->funcs[i].vfio;
		n_others += !c->tree->funcs[i].vfio;
	}
	if (unfinished)
		against(c, PROTO_GPU_HALF_BOUND, func, "an interrupted bind or release");
	else if (n_vfio > 0 && n_others > 0)
		against(c, PROTO_GPU_HALF_BOUND, func, "%u of its %u functions are on VFIO", n_vfio,
			n_vfio + n_others);
}

static void ask_all(struct court *c, rule_fn rule)
{
	for (uint32_t i = 0; i < c->gpu->n_parts; i++)
		rule(c, &c->gpu->parts[i], &c->tree->funcs[c->gpu->parts[i].func]);
}

static int find_parts(struct court *c)
{
	struct gpu_part *parts = calloc(c->tree->n_funcs, sizeof(*parts));
	uint32_t n = 0;

	if (!parts)
		return -ENOMEM;
	card_closure(&c->map, c->gpu->func);
	for (uint32_t i = 0; i < c->tree->n_funcs; i++)
		if (c->map.roles[i] != CARD_NO_PART)
			parts[n++] = (struct gpu_part){.func = i, .role = c->map.roles[i]};
	c->gpu->parts = parts;
	c->gpu->n_parts = n;
	return 0;
}

static int judge(struct court *c)
{
	int r = find_parts(c);

	if (r < 0)
		return r;
	ask_all(c, rule_iommu);
	ask_all(c, rule_display);
	ask_all(c, rule_virtual);
	ask_all(c, rule_viable);
	rule_strangers(c);
	ask_all(c, rule_reserved);
	ask_all(c, rule_busy);
	ask_all(c, rule_quarantine);
	ask_all(c, rule_half);
	c->gpu->verdict = c->gpu->n_reasons > 0 ? c->gpu->reasons[0].reason : PROTO_GPU_RENTABLE;
	return c->error;
}

int gpu_judge(const struct pci_tree *tree, const struct gpu_policy *policy,
	      const struct gpu_state *state, struct gpu_list *ret_list)
{
	_cleanup_(gpu_list_done) struct gpu_list list = {0};
	_cleanup_(court_done) struct court c = {.tree = tree, .policy = policy, .state = state};

	int r = card_map_make(tree, policy, state, &c.map);

	if (r < 0)
		return r;
	list.gpus = calloc(tree->n_funcs + 1, sizeof(*list.gpus));
	if (!list.gpus)
		return -ENOMEM;
	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		if (!tree->funcs[i].near || !card_is_gpu(&tree->funcs[i], policy))
			continue;
		c.gpu = &list.gpus[list.n++];
		c.gpu->func = i;
		r = judge(&c);
		if (r < 0)
			return r;
	}
	*ret_list = list;
	list = (struct gpu_list){0};
	return 0;
}

void gpu_list_done(struct gpu_list *list)
{
	for (uint32_t i = 0; i < list->n; i++) {
		free(list->gpus[i].parts);
		free(list->gpus[i].reasons);
	}
	free(list->gpus);
	*list = (struct gpu_list){0};
}

uint32_t gpu_find(const struct gpu_list *list, const struct pci_tree *tree, pci_addr address)
{
	for (uint32_t i = 0; i < list->n; i++)
		if (tree->funcs[list->gpus[i].func].address == address)
			return i;
	return PCI_NO_INDEX;
}

bool gpu_part_is_bound(const struct gpu_part *part)
{
	return part->role == PROTO_ROLE_GPU || part->role == PROTO_ROLE_COMPANION ||
	       part->role == PROTO_ROLE_ALONG;
}
