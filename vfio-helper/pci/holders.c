/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which processes have device nodes of GPUs, and of what may be a card's companion, open.
 * Trust: runs as root in vfio-bind, and as anyone in vfio-explain; reads sysfs and other processes'
 * entries in procfs, whose names are anyone's to choose.
 */
#include "vfio-helper/pci/pci.h"

#include "vfio-helper/pci/sysfs.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* usb1/1-2/1-2:1.0/0003:046D:C31C.0001/input/input5/event3 is the deepest. */
#define DEPTH_MAX    10
#define NVIDIA_MAJOR 195

struct node {
	uint32_t major, minor; /* of a character device */
	uint32_t func;
};

struct nodes {
	struct node *list; /* owned */
	uint32_t n;
	int error;
};

static void nodes_done(struct nodes *nodes)
{
	free(nodes->list);
}

static void add_node(struct nodes *nodes, uint32_t major, uint32_t minor, uint32_t func)
{
	struct node *grown = reallocarray(nodes->list, nodes->n + 1, sizeof(*grown));

	if (!grown) {
		nodes->error = -ENOMEM;
		return;
	}
	nodes->list = grown;
	grown[nodes->n++] = (struct node){.major = major, .minor = minor, .func = func};
}

static void add_dev(struct nodes *nodes, int dir_fd, uint32_t func)
{
	char text[SYSFS_TEXT_SIZE];
	uint64_t major, minor;
	char *colon;

	if (sysfs_text(dir_fd, "dev", text) < 0 || !(colon = strchr(text, ':')))
		return;
	*colon = '\0';
	if (sysfs_number(text, &major) == 0 && sysfs_number(colon + 1, &minor) == 0)
		add_node(nodes, (uint32_t)major, (uint32_t)minor, func);
}

/* Everything below the function's directory that has a node, but not other functions' directories.
 */
static void add_below(struct nodes *nodes, int dir_fd, uint32_t func, int depth)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(dir_fd, ".");
	const char *name;
	pci_addr addr;

	add_dev(nodes, dir_fd, func);
	while (depth < DEPTH_MAX && (name = sysfs_next(dir))) {
		_cleanup_close_ int fd = -EBADF;

		/* Numbers of block devices are other numbers; who has one is critical anyway. */
		if (STR_EQ(name, "block") || pci_addr_parse(name, &addr) == 0)
			continue;
		fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			add_below(nodes, fd, func, depth + 1);
	}
}

/* /dev/nvidiaN has no entry in sysfs; the driver tells N in procfs. */
static void add_nvidia(struct nodes *nodes, int proc_fd, const char *address, uint32_t func)
{
	static const char key[] = "Device Minor:";
	char path[64 + PCI_TEXT_SIZE], text[SYSFS_TEXT_SIZE];
	const char *found;
	uint64_t minor;

	(void)snprintf(path, sizeof(path), "driver/nvidia/gpus/%s/information", address);
	if (sysfs_text(proc_fd, path, text) < 0 || !(found = strstr(text, key)))
		return;
	found += sizeof(key) - 1;
	found += strspn(found, " \t");
	text[found - text + (ptrdiff_t)strcspn(found, " \t\n")] = '\0';
	if (sysfs_number(found, &minor) == 0)
		add_node(nodes, NVIDIA_MAJOR, (uint32_t)minor, func);
}

static void add_vfio_group(struct nodes *nodes, int sysfs_fd, uint32_t group, uint32_t func)
{
	_cleanup_close_ int fd = -EBADF;
	char path[64];

	(void)snprintf(path, sizeof(path), "class/vfio/%u", group);
	fd = sysfs_open_dir(sysfs_fd, path);
	add_dev(nodes, fd, func);
}

static void find_nodes(int sysfs_fd, int proc_fd, const struct pci_tree *tree, struct nodes *nodes)
{
	for (uint32_t i = 0; i < tree->n_funcs; i++) {
		const struct pci_func *f = &tree->funcs[i];
		char address[PCI_TEXT_SIZE];
		_cleanup_close_ int fd = -EBADF;

		if (!f->near || !pci_is_card_class(f))
			continue;
		pci_addr_text(f->address, address);
		fd = pci_open(sysfs_fd, f->address);
		add_below(nodes, fd, i, 0);
		add_nvidia(nodes, proc_fd, address, i);
		if (f->vfio && f->group != PROTO_NO_GROUP)
			add_vfio_group(nodes, sysfs_fd, f->group, i);
	}
}

static bool ends_in(const char *text, const char *end)
{
	size_t len = strlen(text), end_len = strlen(end);

	return len > end_len && STR_EQ(text + len - end_len, end);
}

/*
 * The unit of a cgroup's path below the system's slice, with nothing but slices before it:
 * "system-x.slice/x@1.service/…". Below a scope, a container names what it likes.
 */
static void first_service(char *path, char *ret_service, size_t size)
{
	char *rest, *part = strtok_r(path, "/", &rest);

	while (part && ends_in(part, ".slice"))
		part = strtok_r(NULL, "/", &rest);
	if (part && ends_in(part, ".service") && strlen(part) < size)
		memcpy(ret_service, part, strlen(part) + 1);
}

/*
 * The system's unit that a process is in: "0::/system.slice/dcgm.service". Only at the beginning of
 * the path: what comes later in it, a user can name.
 */
static void read_service(int pid_fd, char *ret_service, size_t size)
{
	static const char slice[] = "/system.slice/";
	char text[SYSFS_TEXT_SIZE];
	char *rest, *line;

	ret_service[0] = '\0';
	if (sysfs_text(pid_fd, "cgroup", text) < 0)
		return;
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *path = strchr(line, ':');

		path = path ? strchr(path + 1, ':') : NULL;
		if (!path || strncmp(path + 1, slice, sizeof(slice) - 1) != 0)
			continue;
		first_service(path + sizeof(slice), ret_service, size);
		return;
	}
}

static int add_holder(struct gpu_state *state, uint32_t func, uint32_t pid, int fds_fd,
		      const char *node)
{
	_cleanup_close_ int pid_fd = sysfs_open_dir(fds_fd, "..");
	struct gpu_holder *grown;
	char comm[SYSFS_TEXT_SIZE];

	for (uint32_t i = 0; i < state->n_holders; i++)
		if (state->holders[i].func == func && state->holders[i].pid == pid)
			return 0;
	grown = reallocarray(state->holders, state->n_holders + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	state->holders = grown;
	grown += state->n_holders++;
	*grown = (struct gpu_holder){.func = func, .pid = pid};
	if (sysfs_text(pid_fd, "comm", comm) >= 0)
		proto_text_set(grown->program, sizeof(grown->program), comm);
	proto_text_set(grown->node, sizeof(grown->node), node);
	read_service(pid_fd, grown->service, sizeof(grown->service));
	return 0;
}

static int look_into(int proc_fd, const char *pid_text, const struct nodes *nodes,
		     struct gpu_state *state)
{
	char path[NAME_MAX + 4], target[SYSFS_TEXT_SIZE];
	_cleanup_closedir_ DIR *dir = NULL;
	const char *name;
	uint64_t pid;
	int r = sysfs_number(pid_text, &pid);

	(void)snprintf(path, sizeof(path), "%s/fd", pid_text);
	dir = sysfs_list(proc_fd, path);
	while (r == 0 && (name = sysfs_next(dir))) {
		struct statx st;

		/* Without asking a server: a descriptor may be of a network filesystem that hangs.
		 */
		if (statx(dirfd(dir), name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &st) <
			    0 ||
		    !S_ISCHR(st.stx_mode))
			continue;
		for (uint32_t i = 0; r == 0 && i < nodes->n; i++) {
			if (nodes->list[i].major != st.stx_rdev_major ||
			    nodes->list[i].minor != st.stx_rdev_minor)
				continue;
			(void)sysfs_link(dirfd(dir), name, target);
			r = add_holder(state, nodes->list[i].func, (uint32_t)pid, dirfd(dir),
				       target);
		}
	}
	return r;
}

int gpu_find_holders(int sysfs_fd, int proc_fd, const struct pci_tree *tree,
		     struct gpu_state *state)
{
	_cleanup_(nodes_done) struct nodes nodes = {0};
	_cleanup_closedir_ DIR *dir = NULL;
	const char *name;
	int r;

	find_nodes(sysfs_fd, proc_fd, tree, &nodes);
	r = nodes.error;
	if (nodes.n > 0) /* else nobody can hold one */
		dir = sysfs_list(proc_fd, ".");
	while (r == 0 && (name = sysfs_next(dir)))
		if (name[0] >= '1' && name[0] <= '9')
			r = look_into(proc_fd, name, &nodes, state);
	return r;
}

void gpu_state_done(struct gpu_state *state)
{
	free(state->holders);
	free(state->leases);
	free(state->quarantines);
	*state = (struct gpu_state){0};
}
