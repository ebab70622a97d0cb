/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frpc's Landlock domain.
 * Trust: runs in frp-spawn's child, just before it becomes frpc.
 */
#include "frp-supervisor/spawner/spawn.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/syscall.h>

/* Newer than the headers that this is built with may be. */
#define ABI_NETWORK     4
#define ABI_SCOPES      6
#define NET_BIND_TCP    (UINT64_C(1) << 0)
#define SCOPE_ALL       (UINT64_C(3)) /* abstract sockets, signals */
#define RULE_NET_PORT   2
#define FS_EXECUTE      (UINT64_C(1) << 0)
#define FS_READ_FILE    (UINT64_C(1) << 2)
#define FS_READ_DIR     (UINT64_C(1) << 3)
#define FS_ALL_OF_FIRST ((UINT64_C(1) << 13) - 1)
#define FS_REFER        (UINT64_C(1) << 13) /* ABI 2 */
#define FS_TRUNCATE     (UINT64_C(1) << 14) /* ABI 3 */
#define FS_IOCTL_DEV    (UINT64_C(1) << 15) /* ABI 5 */

struct ruleset_attr {
	uint64_t fs, net, scoped;
};

struct net_rule {
	uint64_t allowed, port;
};

static struct ruleset_attr attr_for(int abi, size_t *ret_size)
{
	struct ruleset_attr attr = {.fs = FS_ALL_OF_FIRST};

	if (abi >= 2)
		attr.fs |= FS_REFER;
	if (abi >= 3)
		attr.fs |= FS_TRUNCATE;
	if (abi >= 5)
		attr.fs |= FS_IOCTL_DEV;
	if (abi >= ABI_NETWORK)
		attr.net = NET_BIND_TCP;
	if (abi >= ABI_SCOPES)
		attr.scoped = SCOPE_ALL;
	*ret_size = abi >= ABI_SCOPES ? 24 : abi >= ABI_NETWORK ? 16 : 8;
	return attr;
}

static int allow_path(int ruleset, const char *path, uint64_t access)
{
	_cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
	struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};

	if (fd < 0)
		return errno == ENOENT || errno == EACCES ? 0 : -errno;
	return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0
		       ? -errno
		       : 0;
}

static int allow_paths(int ruleset, const struct confinement *c)
{
	const struct {
		const char *path;
		uint64_t access;
	} paths[] = {
		{c->frpc, FS_EXECUTE | FS_READ_FILE},
		{c->run_dir, FS_READ_FILE | FS_READ_DIR},
		{c->ca_file, FS_READ_FILE},
		/* names, time zones, and where Debian's resolv.conf may point */
		{"/etc", FS_READ_FILE | FS_READ_DIR},
		{"/run/systemd/resolve", FS_READ_FILE | FS_READ_DIR},
		{"/usr/share/zoneinfo", FS_READ_FILE | FS_READ_DIR},
		{"/usr/share/ca-certificates", FS_READ_FILE | FS_READ_DIR},
		{"/proc/sys/net/core/somaxconn", FS_READ_FILE},
	};
	int r = 0;

	for (size_t i = 0; i < ARRAY_LEN(paths) && r == 0; i++)
		r = allow_path(ruleset, paths[i].path, paths[i].access);
	return r;
}

int confine(const struct confinement *c)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	const struct net_rule port = {NET_BIND_TCP, c->admin_port};
	_cleanup_close_ int ruleset = -EBADF;
	struct ruleset_attr attr;
	size_t size;
	int r;

	if (abi <= 0)
		return 0;
	attr = attr_for((int)abi, &size);
	ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, size, 0);
	if (ruleset < 0)
		return -errno;
	r = allow_paths(ruleset, c);
	if (r == 0 && abi >= ABI_NETWORK && c->admin_port != 0 &&
	    syscall(SYS_landlock_add_rule, ruleset, RULE_NET_PORT, &port, 0) < 0)
		r = -errno;
	if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		r = -errno;
	return r;
}
