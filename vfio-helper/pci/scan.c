/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI functions and IOMMU groups of a machine, read from sysfs. Whatever cannot be read counts
 * as absent; a member of a group that cannot be told counts as a stranger, which keeps the group's
 * GPUs from being rented.
 * Trust: runs as root in vfio-bind, and as anyone for --explain; reads sysfs, or a made-up tree.
 */
#include "vfio-helper/pci/pci.h"

#include "vfio-helper/pci/sysfs.h"

#include <linux/magic.h>
#include <net/if.h>
#include <sys/vfs.h>

#define DEVICES "bus/pci/devices"
#define GROUPS  "kernel/iommu_groups"

/* IORESOURCE_MEM_64 and IORESOURCE_PREFETCH of the kernel's ioport.h. */
#define RESOURCE_WIDE UINT64_C(0x102000)

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

static void read_resets(int dir_fd, struct pci_func *func)
{
	char text[SYSFS_TEXT_SIZE];

	if (sysfs_text(dir_fd, "reset_method", text) >= 0)
		func->resets = pci_parse_resets(text);
	else if (faccessat(dir_fd, "reset", F_OK, 0) == 0)
		func->resets = 1u << PROTO_RESET_DEVICE_SPECIFIC; /* before 5.15: no word for it */
}

static void read_driver(int dir_fd, struct pci_func *func)
{
	char text[SYSFS_TEXT_SIZE];

	if (sysfs_link(dir_fd, "driver", text) < 0)
		return;
	proto_text_set(func->driver, sizeof(func->driver), sysfs_base(text));
	/* The kernel makes vfio-dev for whatever registers with VFIO (6.1 and newer); the drivers
	 * of its own tree all say so in their names. */
	func->vfio = strstr(func->driver, "vfio") || faccessat(dir_fd, "vfio-dev", F_OK, 0) == 0;
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
			if (connector_active(dirfd(dir), connector))
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
	uint32_t n_vfs = 0;
	struct statfs fs;
	const char *name;

	while ((name = sysfs_next(dir))) {
		func->n_mdevs += is_uuid(name);
		n_vfs += strncmp(name, "virtfn", 6) == 0;
	}
	/*
	 * The kernel shows sriov_numvfs under the device's lock, too; and it makes the links, which
	 * a made-up tree may lack.
	 */
	if (fstatfs(dir_fd, &fs) == 0 && fs.f_type != SYSFS_MAGIC)
		n_vfs = MAX_OF(read_u32(dir_fd, "sriov_numvfs", 0), n_vfs);
	func->n_vfs = n_vfs;
}

/* -ENOENT when it has vanished, or does not say what it is. */
static int read_func(int devices_fd, const char *name, struct pci_func *ret_func)
{
	_cleanup_close_ int fd = sysfs_open_dir(devices_fd, name);
	struct pci_func *f = ret_func;
	char text[SYSFS_TEXT_SIZE];
	uint64_t number;
	uint32_t ids[3];

	if (fd < 0)
		return -ENOENT;
	ids[0] = read_u32(fd, "vendor", UINT32_MAX);
	ids[1] = read_u32(fd, "device", UINT32_MAX);
	ids[2] = read_u32(fd, "class", UINT32_MAX);
	if (ids[0] > UINT16_MAX || ids[1] > UINT16_MAX || ids[2] > 0xffffff)
		return -ENOENT;
	*f = (struct pci_func){.address = f->address,
			       .vendor = (uint16_t)ids[0],
			       .device = (uint16_t)ids[1],
			       .class_code = ids[2],
			       .subvendor = (uint16_t)read_u32(fd, "subsystem_vendor", 0),
			       .subdevice = (uint16_t)read_u32(fd, "subsystem_device", 0),
			       .revision = (uint8_t)read_u32(fd, "revision", 0),
			       .group = PROTO_NO_GROUP,
			       .node = read_u32(fd, "numa_node", PROTO_NO_NODE), /* no -1 */
			       .parent = PCI_NO_INDEX,
			       .physfn = PCI_NO_INDEX,
			       .boot_vga = read_u32(fd, "boot_vga", 0) != 0};
	if (sysfs_link(fd, "iommu_group", text) >= 0 &&
	    sysfs_number(sysfs_base(text), &number) == 0 && number < PROTO_NO_GROUP)
		f->group = (uint32_t)number;
	if (sysfs_text(fd, "resource", text) < 0 ||
	    pci_parse_resource(text, f->bars, &f->wide) < 0) {
		memset(f->bars, 0, sizeof(f->bars));
		f->wide = 0;
	}
	read_resets(fd, f);
	read_driver(fd, f);
	count_children(fd, f);
	f->display = shows_picture(fd);
	return 0;
}

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
		struct pci_func func = {0}, *grown;

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
static void relate_funcs(int devices_fd, struct pci_tree *tree)
{
	char name[PCI_TEXT_SIZE], text[SYSFS_TEXT_SIZE];
	pci_addr above;

	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		struct pci_func *f = &tree->funcs[i];
		_cleanup_close_ int fd = -EBADF;
		char *slash;

		pci_addr_text(f->address, name);
		fd = sysfs_open_dir(devices_fd, name);
		if (link_address(fd, "physfn", &above) == 0)
			f->physfn = pci_find(tree, above);
		if (f->physfn != PCI_NO_INDEX)
			tree->funcs[f->physfn].n_vfs += tree->funcs[f->physfn].n_vfs == 0;
		/* ../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0 */
		if (sysfs_link(devices_fd, name, text) < 0 || !(slash = strrchr(text, '/')))
			continue;
		*slash = '\0';
		if (pci_addr_parse(sysfs_base(text), &above) == 0)
			f->parent = pci_find(tree, above);
	}
}

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

static int read_members(int group_fd, uint32_t group, struct pci_tree *tree)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(group_fd, "devices");
	const char *name;
	pci_addr addr;
	int r = 0;

	while (r == 0 && (name = sysfs_next(dir))) {
		uint32_t i = pci_addr_parse(name, &addr) < 0 ? PCI_NO_INDEX : pci_find(tree, addr);

		if (i != PCI_NO_INDEX && tree->funcs[i].group == PROTO_NO_GROUP)
			tree->funcs[i].group = group;
		/* Unknown, or of another group in the same breath: either way not told apart. */
		else if (i == PCI_NO_INDEX || tree->funcs[i].group != group)
			r = add_stranger(tree, group, name);
	}
	return r;
}

static int read_groups(int sysfs_fd, struct pci_tree *tree)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(sysfs_fd, GROUPS);
	char kind[SYSFS_TEXT_SIZE];
	const char *name;
	uint64_t group;
	int r = 0;

	while (r == 0 && (name = sysfs_next(dir))) {
		_cleanup_close_ int fd = sysfs_open_dir(dirfd(dir), name);

		if (fd < 0 || sysfs_number(name, &group) < 0 || group >= PROTO_NO_GROUP)
			continue;
		/* VFIO makes such a group for a device without an IOMMU, when told to. */
		if (sysfs_text(fd, "name", kind) >= 0 && STR_EQ(kind, "vfio-noiommu")) {
			for (uint32_t i = 0; i < tree->n_funcs; i++)
				if (tree->funcs[i].group == group)
					tree->funcs[i].group = PROTO_NO_GROUP;
			continue;
		}
		r = read_members(fd, (uint32_t)group, tree);
	}
	return r;
}

/* Is an interface up, or part of a bridge or bond? */
static bool net_configured(int dir_fd)
{
	char text[SYSFS_TEXT_SIZE];

	return (read_u32(dir_fd, "flags", 0) & IFF_UP) != 0 ||
	       (sysfs_text(dir_fd, "operstate", text) >= 0 && STR_EQ(text, "up")) ||
	       sysfs_link(dir_fd, "master", text) >= 0;
}

/* Marks every function that @path, a link's target, passes through. */
static void mark_path(struct pci_tree *tree, char *path, bool console)
{
	char *rest, *part = strtok_r(path, "/", &rest);
	pci_addr addr;

	for (; part; part = strtok_r(NULL, "/", &rest)) {
		uint32_t i = pci_addr_parse(part, &addr) < 0 ? PCI_NO_INDEX : pci_find(tree, addr);

		if (i == PCI_NO_INDEX)
			continue;
		if (console)
			tree->funcs[i].display = true;
		else
			tree->funcs[i].critical = true;
	}
}

/*
 * Disks and network interfaces by what they hang on. Every disk with a medium counts, mounted or
 * not: nothing keeps it from being mounted, or from being a part of a pool or stack that is,
 * between this look and the bind.
 */
static void read_critical(int sysfs_fd, const char *class, bool disks, struct pci_tree *tree)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(sysfs_fd, class);
	char text[SYSFS_TEXT_SIZE];
	const char *name;

	while ((name = sysfs_next(dir))) {
		_cleanup_close_ int fd = sysfs_open_dir(dirfd(dir), name);

		if (disks ? read_u32(fd, "size", 1) == 0 : !net_configured(fd))
			continue;
		if (sysfs_link(dirfd(dir), name, text) >= 0 || sysfs_link(fd, "device", text) >= 0)
			mark_path(tree, text, false);
	}
}

int pci_scan(int sysfs_fd, struct pci_tree *ret_tree, struct err *reterr)
{
	_cleanup_close_ int devices_fd = sysfs_open_dir(sysfs_fd, DEVICES);
	_cleanup_(pci_tree_done) struct pci_tree tree = {0};
	char text[SYSFS_TEXT_SIZE];
	int r;

	if (devices_fd < 0)
		return err_errno(reterr, devices_fd, "cannot read %s of sysfs", DEVICES);
	r = read_funcs(devices_fd, &tree, reterr);
	if (r < 0)
		return r;
	relate_funcs(devices_fd, &tree);
	r = read_groups(sysfs_fd, &tree);
	if (r < 0)
		return err_errno(reterr, r, "cannot read %s of sysfs", GROUPS);
	read_critical(sysfs_fd, "class/block", true, &tree);
	read_critical(sysfs_fd, "class/net", false, &tree);
	if (sysfs_link(sysfs_fd, "class/graphics/fb0", text) >= 0)
		mark_path(&tree, text, true);
	*ret_tree = tree;
	tree = (struct pci_tree){0};
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
