/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI functions as sysfs shows them: all of them for what they are and where they hang, and those
 * that a judgement rests on for the rest.
 * Trust: runs as root in vfio-bind, and as anyone in vfio-explain; reads sysfs, or a made-up tree.
 */
#include "vfio-helper/pci/pci.h"

#include "vfio-helper/pci/sysfs.h"

#include <limits.h>
#include <linux/magic.h>
#include <net/if.h>
#include <sys/vfs.h>

#define DEVICES "bus/pci/devices"
#define GROUPS  "kernel/iommu_groups"

/* IORESOURCE_MEM_64 and IORESOURCE_PREFETCH of the kernel's ioport.h. */
#define RESOURCE_WIDE UINT64_C(0x102000)

/* ---- one function ---- */

static uint32_t read_u32(int dir_fd, const char *name, uint32_t fallback)
{
	char text[SYSFS_TEXT_SIZE];
	uint64_t value;

	if (sysfs_text(dir_fd, name, text) < 0 || sysfs_number(text, &value) < 0)
		return fallback;
	return value < UINT32_MAX ? (uint32_t)value : fallback;
}

/* The address that the last part of link @name says. */
static int link_address(int dir_fd, const char *name, pci_addr *ret_addr)
{
	char text[SYSFS_TEXT_SIZE];

	if (sysfs_link(dir_fd, name, text) < 0)
		return -ENOENT;
	return pci_addr_parse(sysfs_base(text), ret_addr);
}

int pci_parse_resource(const char *text, uint64_t ret_bars[static PCI_BARS], uint32_t *ret_wide)
{
	*ret_wide = 0;
	for (int i = 0; i < PCI_BARS; i++) {
		uint64_t n[3]; /* first and last address, flags */

		for (int k = 0; k < 3; k++) {
			char *end;

			if (text[0] != '0' || text[1] != 'x')
				return -EINVAL;
			n[k] = strtoull(text, &end, 16);
			if (*end != (k < 2 ? ' ' : '\n') && !(k == 2 && *end == '\0'))
				return -EINVAL;
			text = *end ? end + 1 : end;
		}
		ret_bars[i] = n[1] > n[0] ? n[1] - n[0] + 1 : 0;
		if (ret_bars[i] > 0 && (n[2] & RESOURCE_WIDE) == RESOURCE_WIDE)
			*ret_wide |= 1u << i;
	}
	return 0;
}

uint32_t pci_parse_resets(const char *text)
{
	static const char *const words[] = {
#define X(name, word) word,
		PROTO_RESET_LIST(X)
#undef X
	};
	uint32_t mask = 0;

	for (size_t len; *text != '\0'; text += len + (text[len] != '\0')) {
		len = strcspn(text, " \n");
		for (uint32_t i = 0; i < ARRAY_LEN(words); i++)
			if (strlen(words[i]) == len && memcmp(words[i], text, len) == 0)
				mask |= 1u << i;
	}
	return mask;
}

int pci_open(int sysfs_fd, pci_addr address)
{
	char path[sizeof(DEVICES) + PCI_TEXT_SIZE] = DEVICES "/";

	pci_addr_text(address, path + sizeof(DEVICES));
	return sysfs_open_dir(sysfs_fd, path);
}

int pci_read_ids(int dir_fd, struct pci_func *func)
{
	char text[SYSFS_TEXT_SIZE];
	unsigned int id[4], class[3];
	int end = 0;

	/* All in one text; each number is printed in full width. */
	if (sysfs_text(dir_fd, "modalias", text) < 0 ||
	    sscanf(text, "pci:v%8Xd%8Xsv%8Xsd%8Xbc%2Xsc%2Xi%2X%n", &id[0], &id[1], &id[2], &id[3],
		   &class[0], &class[1], &class[2], &end) != 7 ||
	    text[end] != '\0')
		return -ENOENT;
	for (size_t i = 0; i < ARRAY_LEN(id); i++)
		if (id[i] > UINT16_MAX)
			return -ENOENT;
	func->vendor = (uint16_t)id[0];
	func->device = (uint16_t)id[1];
	func->subvendor = (uint16_t)id[2];
	func->subdevice = (uint16_t)id[3];
	func->class_code = class[0] << 16 | class[1] << 8 | class[2];
	return 0;
}

uint32_t pci_read_group(int dir_fd)
{
	char text[SYSFS_TEXT_SIZE];
	uint64_t number;

	if (sysfs_link(dir_fd, "iommu_group", text) < 0 ||
	    sysfs_number(sysfs_base(text), &number) < 0 || number >= PROTO_NO_GROUP)
		return PROTO_NO_GROUP;
	return (uint32_t)number;
}

static void read_resets(int dir_fd, struct pci_func *func)
{
	char text[SYSFS_TEXT_SIZE];

	if (sysfs_text(dir_fd, "reset_method", text) >= 0)
		func->resets = pci_parse_resets(text);
	else if (faccessat(dir_fd, "reset", F_OK, 0) == 0)
		func->resets = 1u << PROTO_RESET_DEVICE_SPECIFIC; /* before 5.15: no word for it */
}

void pci_read_more(int dir_fd, struct pci_func *func)
{
	char text[SYSFS_TEXT_SIZE];

	func->revision = (uint8_t)read_u32(dir_fd, "revision", 0);
	func->node = read_u32(dir_fd, "numa_node", PROTO_NO_NODE); /* there is no -1 */
	if (sysfs_text(dir_fd, "resource", text) < 0 ||
	    pci_parse_resource(text, func->bars, &func->wide) < 0) {
		memset(func->bars, 0, sizeof(func->bars));
		func->wide = 0;
	}
	read_resets(dir_fd, func);
}

/* What it is and what hangs where. -ENOENT when it has vanished, or does not say what it is. */
static int read_func(int devices_fd, const char *name, struct pci_func *f)
{
	_cleanup_close_ int fd = sysfs_open_dir(devices_fd, name);
	char text[SYSFS_TEXT_SIZE], *slash;

	if (fd < 0 || pci_read_ids(fd, f) < 0)
		return -ENOENT;
	f->group = pci_read_group(fd);
	if (sysfs_link(fd, "driver", text) >= 0)
		proto_text_set(f->driver, sizeof(f->driver), sysfs_base(text));
	if (link_address(fd, "physfn", &f->owner) < 0)
		f->owner = PCI_NO_ADDRESS;
	/* ../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0 */
	f->above = PCI_NO_ADDRESS;
	if (sysfs_link(devices_fd, name, text) >= 0 && (slash = strrchr(text, '/'))) {
		*slash = '\0';
		(void)pci_addr_parse(sysfs_base(text), &f->above);
	}
	return 0;
}

/* ---- all functions ---- */

static int compare_funcs(const void *a, const void *b)
{
	const struct pci_func *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int read_funcs(int devices_fd, struct pci_tree *tree, struct err *reterr)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(devices_fd, ".");
	const char *name;

	while ((name = sysfs_next(dir))) {
		struct pci_func func = {.node = PROTO_NO_NODE}, *grown;

		if (pci_addr_parse(name, &func.address) < 0 ||
		    read_func(devices_fd, name, &func) < 0)
			continue;
		if (tree->n_funcs == PCI_MAX_FUNCS)
			return err_set(reterr, -E2BIG, "more than %d PCI functions", PCI_MAX_FUNCS);
		grown = reallocarray(tree->funcs, tree->n_funcs + 1, sizeof(func));
		if (!grown)
			return err_set(reterr, -ENOMEM, "out of memory");
		tree->funcs = grown;
		tree->funcs[tree->n_funcs++] = func;
	}
	if (tree->n_funcs > 0)
		qsort(tree->funcs, tree->n_funcs, sizeof(*tree->funcs), compare_funcs);
	return 0;
}

/* Bridges above, and the physical functions of virtual ones. */
static void relate_funcs(struct pci_tree *tree)
{
	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		struct pci_func *f = &tree->funcs[i];

		f->parent = pci_find(tree, f->above);
		f->physfn = pci_find(tree, f->owner);
	}
}

int pci_scan(int sysfs_fd, struct pci_tree *ret_tree, struct err *reterr)
{
	_cleanup_close_ int devices_fd = sysfs_open_dir(sysfs_fd, DEVICES);
	_cleanup_(pci_tree_done) struct pci_tree tree = {0};
	int r;

	if (devices_fd < 0)
		return err_errno(reterr, devices_fd, "cannot read %s of sysfs", DEVICES);
	r = read_funcs(devices_fd, &tree, reterr);
	if (r < 0)
		return r;
	relate_funcs(&tree);
	*ret_tree = tree;
	tree = (struct pci_tree){0};
	return 0;
}

/* ---- groups ---- */

static int add_stranger(struct pci_tree *tree, uint32_t group, const char *name)
{
	struct pci_stranger *grown;

	if (tree->n_strangers == PCI_MAX_FUNCS)
		return -E2BIG;
	grown = reallocarray(tree->strangers, tree->n_strangers + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	tree->strangers = grown;
	grown += tree->n_strangers++;
	*grown = (struct pci_stranger){.group = group};
	proto_text_set(grown->name, sizeof(grown->name), name);
	return 0;
}

/* Returns 1 when a function has been found that does not tell its group itself. */
static int read_members(int group_fd, uint32_t group, struct pci_tree *tree)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(group_fd, "devices");
	const char *name;
	pci_addr addr;
	int r = 0, found = 0;

	while (r == 0 && (name = sysfs_next(dir))) {
		uint32_t i = pci_addr_parse(name, &addr) < 0 ? PCI_NO_INDEX : pci_find(tree, addr);

		if (i != PCI_NO_INDEX && tree->funcs[i].group == PROTO_NO_GROUP) {
			tree->funcs[i].group = group;
			tree->funcs[i].listed = true;
			found = 1;
		} else if (i == PCI_NO_INDEX || tree->funcs[i].group != group) {
			/* Unknown, or of another group in the same breath: not told apart. */
			r = add_stranger(tree, group, name);
		}
	}
	return r < 0 ? r : found;
}

static int read_group(int groups_fd, const char *name, uint32_t group, struct pci_tree *tree)
{
	_cleanup_close_ int fd = sysfs_open_dir(groups_fd, name);
	char kind[SYSFS_TEXT_SIZE];

	if (fd < 0)
		return 0;
	if (sysfs_text(fd, "name", kind) < 0 || !STR_EQ(kind, "vfio-noiommu"))
		return read_members(fd, group, tree);
	/* VFIO makes such a group for a device without an IOMMU, when told to. */
	for (uint32_t i = 0; i < tree->n_funcs; i++)
		if (tree->funcs[i].group == group)
			tree->funcs[i].group = PROTO_NO_GROUP;
	return 0;
}

/* Is the group that of a function that counts, or does one that counts tell of none? */
static bool group_counts(const struct pci_tree *tree, uint64_t group)
{
	for (uint32_t i = 0; i < tree->n_funcs; i++)
		if (tree->funcs[i].near &&
		    (tree->funcs[i].group == group || tree->funcs[i].group == PROTO_NO_GROUP))
			return true;
	return false;
}

int pci_read_groups(int sysfs_fd, struct pci_tree *tree)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(sysfs_fd, GROUPS);
	const char *name;
	uint64_t group;
	int r = 0, found = 0;

	tree->n_strangers = 0;
	while (r >= 0 && (name = sysfs_next(dir))) {
		if (sysfs_number(name, &group) < 0 || group >= PROTO_NO_GROUP ||
		    !group_counts(tree, group))
			continue;
		r = read_group(dirfd(dir), name, (uint32_t)group, tree);
		found |= r > 0;
	}
	return r < 0 ? r : found;
}

/* ---- what the rules ask about those that count ---- */

static void read_vfio(int dir_fd, struct pci_func *func)
{
	char text[SYSFS_TEXT_SIZE];

	/* The kernel makes vfio-dev for whatever registers with VFIO (6.1 and newer); the drivers
	 * of its own tree all say so in their names. */
	func->vfio = func->driver[0] != '\0' &&
		     (strstr(func->driver, "vfio") || faccessat(dir_fd, "vfio-dev", F_OK, 0) == 0);
	/*
	 * Of nothing else: the kernel shows driver_override under the device's lock, which an
	 * unbind that hangs keeps. It has taken the link away before, so here is none.
	 */
	func->overridden = func->vfio && sysfs_text(dir_fd, "driver_override", text) >= 0 &&
			   STR_EQ(text, func->driver);
}

/* "card0-HDMI-A-1" below drm/card0: connected, and showing something? */
static bool connector_active(int card_fd, const char *name)
{
	_cleanup_close_ int fd = sysfs_open_dir(card_fd, name);
	char status[SYSFS_TEXT_SIZE], enabled[SYSFS_TEXT_SIZE];

	return sysfs_text(fd, "status", status) >= 0 && sysfs_text(fd, "enabled", enabled) >= 0 &&
	       STR_EQ(status, "connected") && STR_EQ(enabled, "enabled");
}

static bool shows_picture(int dir_fd)
{
	_cleanup_closedir_ DIR *drm = sysfs_list(dir_fd, "drm");
	const char *card, *connector;

	while ((card = sysfs_next(drm))) {
		_cleanup_closedir_ DIR *dir = sysfs_list(dirfd(drm), card);

		while ((connector = sysfs_next(dir)))
			if (strncmp(connector, card, strlen(card)) == 0 &&
			    connector_active(dirfd(dir), connector))
				return true;
	}
	return faccessat(dir_fd, "graphics/fb0", F_OK, 0) == 0;
}

static bool is_uuid(const char *name)
{
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

	if (strlen(name) != sizeof(form) - 1)
		return false;
	for (size_t i = 0; name[i] != '\0'; i++)
		if (form[i] == '-' ? name[i] != '-' : !strchr("0123456789abcdef", name[i]))
			return false;
	return true;
}

/* What the names of its directory tell: mediated devices and virtual functions. */
static void count_children(int dir_fd, struct pci_func *func)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(dir_fd, ".");
	struct statfs fs;
	const char *name;

	func->n_vfs = func->n_mdevs = 0;
	while ((name = sysfs_next(dir))) {
		func->n_mdevs += is_uuid(name);
		func->n_vfs += strncmp(name, "virtfn", 6) == 0;
	}
	/*
	 * The kernel shows sriov_numvfs under the device's lock, too; and it makes the links, which
	 * a made-up tree may lack.
	 */
	if (fstatfs(dir_fd, &fs) == 0 && fs.f_type != SYSFS_MAGIC)
		func->n_vfs = MAX_OF(read_u32(dir_fd, "sriov_numvfs", 0), func->n_vfs);
}

/*
 * Has a disk a medium, is an interface up, or part of a bridge or bond? Every disk with a medium
 * counts, mounted or not: nothing keeps it from being mounted, or from being a part of a pool or
 * stack that is, between this look and the bind.
 */
static bool is_in_use(int class_fd, const char *name, bool disk)
{
	_cleanup_close_ int fd = sysfs_open_dir(class_fd, name);
	char text[SYSFS_TEXT_SIZE];

	if (disk)
		return read_u32(fd, "size", 1) != 0;
	return (read_u32(fd, "flags", 0) & IFF_UP) != 0 ||
	       (sysfs_text(fd, "operstate", text) >= 0 && STR_EQ(text, "up")) ||
	       sysfs_link(fd, "master", text) >= 0;
}

/* The next function that counts and that the rest of a link's target passes through. */
static struct pci_func *next_on_path(struct pci_tree *tree, char **rest)
{
	const char *part;
	pci_addr addr;

	while ((part = strsep(rest, "/"))) {
		uint32_t i = pci_addr_parse(part, &addr) < 0 ? PCI_NO_INDEX : pci_find(tree, addr);

		if (i != PCI_NO_INDEX && tree->funcs[i].near)
			return &tree->funcs[i];
	}
	return NULL;
}

/* Disks and network interfaces by what they hang on. */
static void read_critical(int sysfs_fd, const char *class, bool disks, struct pci_tree *tree)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(sysfs_fd, class);
	const char *name;

	while ((name = sysfs_next(dir))) {
		char text[SYSFS_TEXT_SIZE], path[NAME_MAX + 8], *rest = text;
		struct pci_func *f;
		bool in_use = false;

		(void)snprintf(path, sizeof(path), "%s/device", name);
		if (sysfs_link(dirfd(dir), name, text) < 0)
			(void)sysfs_link(dirfd(dir), path, text);
		while ((f = next_on_path(tree, &rest)) &&
		       (in_use = in_use || is_in_use(dirfd(dir), name, disks)))
			f->critical = true;
	}
}

bool pci_is_card_class(const struct pci_func *func)
{
	uint32_t class = func->class_code >> 8;

	return class >> 8 == PCI_CLASS_VGA >> 8 || class == PCI_CLASS_ACCELERATOR ||
	       class == PCI_CLASS_AUDIO || class == PCI_CLASS_USB ||
	       class == PCI_CLASS_SERIAL_OTHER;
}

void pci_survey(int sysfs_fd, struct pci_tree *tree)
{
	char text[SYSFS_TEXT_SIZE], *rest = text;
	struct pci_func *f;

	for (f = tree->funcs; f < tree->funcs + tree->n_funcs; f++) {
		_cleanup_close_ int fd = f->near ? pci_open(sysfs_fd, f->address) : -EBADF;

		if (!f->near)
			continue;
		read_vfio(fd, f);
		if (!pci_is_card_class(f))
			continue;
		f->boot_vga = read_u32(fd, "boot_vga", 0) != 0;
		f->display = shows_picture(fd);
		count_children(fd, f);
	}
	for (f = tree->funcs; f < tree->funcs + tree->n_funcs; f++)
		if (f->physfn != PCI_NO_INDEX && tree->funcs[f->physfn].n_vfs == 0)
			tree->funcs[f->physfn].n_vfs = 1;
	read_critical(sysfs_fd, "class/block", true, tree);
	read_critical(sysfs_fd, "class/net", false, tree);
	if (sysfs_link(sysfs_fd, "class/graphics/fb0", text) >= 0)
		while ((f = next_on_path(tree, &rest)))
			f->display = true;
}

/* ---- once more ---- */

static bool is_same(const struct pci_func *a, const struct pci_func *b)
{
	return a->vendor == b->vendor && a->device == b->device && a->class_code == b->class_code &&
	       a->group == b->group && a->above == b->above && a->owner == b->owner &&
	       a->vfio == b->vfio && a->overridden == b->overridden && a->boot_vga == b->boot_vga &&
	       a->display == b->display && a->critical == b->critical && a->n_mdevs == b->n_mdevs &&
	       a->n_vfs == b->n_vfs && STR_EQ(a->driver, b->driver);
}

/* Those of @tree that count, read anew. -ENOENT when one has gone. */
static int read_near(int sysfs_fd, const struct pci_tree *tree, struct pci_tree *ret_tree)
{
	_cleanup_close_ int devices_fd = sysfs_open_dir(sysfs_fd, DEVICES);
	char name[PCI_TEXT_SIZE];

	ret_tree->funcs = calloc(tree->n_funcs + 1, sizeof(*tree->funcs));
	if (!ret_tree->funcs)
		return -ENOMEM;
	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		const struct pci_func *old = &tree->funcs[i];
		struct pci_func *f = &ret_tree->funcs[ret_tree->n_funcs];

		if (!old->near)
			continue;
		*f = (struct pci_func){.address = old->address, .near = true};
		pci_addr_text(f->address, name);
		if (read_func(devices_fd, name, f) < 0)
			return -ENOENT;
		if (old->listed)
			f->group = old->group;
		ret_tree->n_funcs++;
	}
	relate_funcs(ret_tree);
	return 0;
}

/* Does one that counts hang on the bridge at @addr, or is it in this slot? */
static bool is_beside(const struct pci_tree *tree, pci_addr addr)
{
	uint32_t bridge = pci_find(tree, addr);

	for (const struct pci_func *f = tree->funcs; f < tree->funcs + tree->n_funcs; f++)
		if (f->near && (pci_slot_of(f->address) == pci_slot_of(addr) ||
				(bridge != PCI_NO_INDEX && pci_is_behind(tree, f, bridge))))
			return true;
	return false;
}

/*
 * Has a function come to the slot of one that counts, or to a bridge above it? The slot may be the
 * host's then, and the card's own switch the board's.
 */
static bool card_has_grown(int sysfs_fd, const struct pci_tree *tree)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(sysfs_fd, DEVICES);
	const char *name, *part;
	pci_addr addr;

	while ((name = sysfs_next(dir))) {
		char text[SYSFS_TEXT_SIZE] = "", *rest = text;

		if (pci_addr_parse(name, &addr) < 0 || pci_find(tree, addr) != PCI_NO_INDEX)
			continue;
		(void)sysfs_link(dirfd(dir), name, text);
		for (part = name; part; part = strsep(&rest, "/"))
			if (pci_addr_parse(part, &addr) == 0 && is_beside(tree, addr))
				return true;
	}
	return false;
}

int pci_again(int sysfs_fd, const struct pci_tree *tree, struct err *reterr)
{
	_cleanup_(pci_tree_done) struct pci_tree now = {0};
	char address[PCI_TEXT_SIZE];
	int r = read_near(sysfs_fd, tree, &now);

	if (r == 0)
		r = pci_read_groups(sysfs_fd, &now);
	if (r < 0)
		return r == -ENOMEM ? err_set(reterr, r, "out of memory")
				    : err_set(reterr, -EBUSY, "a function has just gone");
	pci_survey(sysfs_fd, &now);
	for (const struct pci_func *f = now.funcs; f < now.funcs + now.n_funcs; f++) {
		if (is_same(&tree->funcs[pci_find(tree, f->address)], f))
			continue;
		pci_addr_text(f->address, address);
		return err_set(reterr, -EBUSY, "%s changed while it was read%s", address,
			       f->critical ? ": a disk or network is on it" : "");
	}
	if (now.n_strangers > 0 || card_has_grown(sysfs_fd, tree))
		return err_set(reterr, -EBUSY, "a group, slot or switch changed while it was read");
	return 0;
}

void pci_tree_done(struct pci_tree *tree)
{
	free(tree->funcs);
	free(tree->strangers);
	*tree = (struct pci_tree){0};
}

uint32_t pci_find(const struct pci_tree *tree, pci_addr address)
{
	const struct pci_func key = {.address = address}, *found = NULL;

	if (tree->n_funcs > 0)
		found = bsearch(&key, tree->funcs, tree->n_funcs, sizeof(key), compare_funcs);
	return found ? (uint32_t)(found - tree->funcs) : PCI_NO_INDEX;
}
