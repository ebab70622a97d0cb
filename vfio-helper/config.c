/* SPDX-License-Identifier: Apache-2.0 */
/*
 * helper.conf and the accounts that it names.
 * Trust: runs as root before the sandbox; reads files that only root can write.
 */
#include "vfio-helper/helper.h"

#include <pwd.h>

static const char *const accel_words[] = {"auto", "kvm", "tcg", NULL};

#define KEY(member, kind, ...)                                                                     \
	{                                                                                          \
		.name = #member, .type = (kind), CONF_MEMBER(struct config, member), __VA_ARGS__   \
	}
static const struct conf_key keys[] = {
	KEY(socket, CONF_PATH),
	KEY(state_dir, CONF_PATH),
	KEY(run_dir, CONF_PATH),
	KEY(image_dir, CONF_PATH),
	KEY(agentd_user, CONF_NAME),
	KEY(vmmon_user, CONF_NAME),
	KEY(vm_user_prefix, CONF_NAME),
	KEY(qemu_binary, CONF_PATH),
	KEY(qemu_img_binary, CONF_PATH),
	KEY(passt_binary, CONF_PATH),
	KEY(cgroup, CONF_TEXT),
	KEY(dns, CONF_TEXT),
	KEY(accel, CONF_ENUM, .words = accel_words),
	KEY(kvm_trial_seconds, CONF_U32, .low = 1, .high = 60),
	KEY(max_vms, CONF_U32, .low = 1, .high = PROTO_MAX_VMS),
	KEY(max_cpus, CONF_U32, .low = 1, .high = PROTO_MAX_CPUS),
	KEY(max_memory_mib, CONF_MIB, .low = 128, .high = PROTO_MAX_MEMORY_MIB),
	KEY(max_total_memory_mib, CONF_MIB, .low = 128, .high = PROTO_MAX_MEMORY_MIB),
	KEY(max_disk_mib, CONF_MIB, .low = 1, .high = PROTO_MAX_DISK_MIB),
	KEY(port_low, CONF_U32, .low = 1024, .high = UINT16_MAX),
	KEY(port_high, CONF_U32, .low = 1024, .high = UINT16_MAX),
	KEY(require_isolation, CONF_BOOL),
};
#undef KEY

static const struct config defaults = {
	.socket = "/run/qudata/helper.sock",
	.state_dir = "/var/lib/qudata-helper",
	.run_dir = "/run/qudata/vm",
	.image_dir = "/var/lib/qudata-images",
	.agentd_user = "qudata",
	.vmmon_user = "qudata-mon",
	.vm_user_prefix = "qudata-vm",
	.qemu_binary = "/usr/bin/qemu-system-x86_64",
	.qemu_img_binary = "/usr/bin/qemu-img",
	.passt_binary = "/usr/bin/passt",
	.cgroup = "auto",
	.dns = "9.9.9.9",
	.accel = ACCEL_AUTO,
	.kvm_trial_seconds = 5,
	.max_vms = PROTO_MAX_VMS,
	.max_cpus = 64,
	.max_memory_mib = 256 * 1024,
	.max_total_memory_mib = 1024 * 1024,
	.max_disk_mib = 2 * 1024 * 1024,
	.port_low = 10000,
	.port_high = UINT16_MAX,
	.require_isolation = true,
};

int config_load(const char *path, struct config *ret_config, struct err *reterr)
{
	struct config *c = ret_config;
	int r;

	*c = defaults;
	/* An ordinary user may check a file that is still being written. */
	r = conf_load(path, keys, ARRAY_LEN(keys), geteuid() == 0, c, reterr);
	if (r < 0)
		return r;
	if (c->port_low > c->port_high)
		return err_set(reterr, -EINVAL, "%s: port_low is above port_high", path);
	if (c->max_memory_mib > c->max_total_memory_mib)
		return err_set(reterr, -EINVAL, "%s: max_memory_mib is above max_total_memory_mib",
			       path);
	if (c->cgroup[0] != '/' && !STR_EQ(c->cgroup, "auto") && !STR_EQ(c->cgroup, "none"))
		return err_set(reterr, -EINVAL, "%s: cgroup must be auto, none or an absolute path",
			       path);
	if (c->dns[strspn(c->dns, "0123456789.")] != '\0')
		return err_set(reterr, -EINVAL, "%s: dns must be an IPv4 address", path);
	if (strlen(c->vm_user_prefix) > PROTO_NAME_MAX - 2)
		return err_set(reterr, -EINVAL, "%s: vm_user_prefix is too long", path);
	return 0;
}

static int find_account(const char *passwd, const char *name, struct account *ret_account,
			struct err *reterr)
{
	_cleanup_fclose_ FILE *f = fopen(passwd, "re");
	const struct passwd *pw;

	if (!f)
		return err_errno(reterr, -errno, "cannot read %s", passwd);
	/* Not getpwnam(): it would load name service modules into a root process. */
	while ((pw = fgetpwent(f)))
		if (STR_EQ(pw->pw_name, name)) {
			if (pw->pw_uid == 0 || pw->pw_gid == 0)
				return err_set(reterr, -EPERM, "user %s has the uid or gid of root",
					       name);
			*ret_account = (struct account){.uid = pw->pw_uid, .gid = pw->pw_gid};
			return 0;
		}
	return err_set(
		reterr, -ENOENT,
		"user %s is missing; `useradd --system --shell /usr/sbin/nologin %s` makes it",
		name, name);
}

/* One uid, one power: a VM's user is nobody else's, and the two peers differ. */
static int check_distinct(const struct config *config, const struct accounts *a, struct err *reterr)
{
	if (a->agentd.uid == a->vmmon.uid)
		return err_set(reterr, -EPERM, "%s and %s have the same uid", config->agentd_user,
			       config->vmmon_user);
	for (uint32_t i = 0; i < config->max_vms; i++) {
		bool taken = a->vm[i].uid == a->agentd.uid || a->vm[i].uid == a->vmmon.uid ||
			     a->vm[i].gid == a->agentd.gid || a->vm[i].gid == a->vmmon.gid;

		for (uint32_t j = 0; j < i; j++)
			taken |= a->vm[i].uid == a->vm[j].uid;
		if (taken)
			return err_set(reterr, -EPERM, "user %s%u shares its uid or gid",
				       config->vm_user_prefix, i);
	}
	return 0;
}

int accounts_load(const struct config *config, const char *passwd, struct accounts *ret_accounts,
		  struct err *reterr)
{
	struct accounts a = {0};
	char name[PROTO_NAME_SIZE + 16];
	int r = find_account(passwd, config->agentd_user, &a.agentd, reterr);

	if (r == 0)
		r = find_account(passwd, config->vmmon_user, &a.vmmon, reterr);
	for (uint32_t i = 0; r == 0 && i < config->max_vms; i++) {
		(void)snprintf(name, sizeof(name), "%s%u", config->vm_user_prefix, i);
		r = find_account(passwd, name, &a.vm[i], reterr);
	}
	if (r == 0)
		r = check_distinct(config, &a, reterr);
	if (r == 0)
		*ret_accounts = a;
	return r;
}

static int check_step(const char *path, mode_t type, bool last, struct err *reterr)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return err_errno(reterr, -errno, "cannot look at %s", path);
	if ((st.st_mode & S_IFMT) != (last ? type : S_IFDIR))
		return err_set(reterr, -EPERM, "%s is not of the kind it has to be (no links)",
			       path);
	/* In a sticky directory only root can replace what belongs to root. */
	if (st.st_uid != 0 ||
	    ((st.st_mode & (S_IWGRP | S_IWOTH)) && (last || !(st.st_mode & S_ISVTX))))
		return err_set(reterr, -EPERM,
			       "%s must belong to root and be writable by root only", path);
	return 0;
}

int config_check_trusted(const char *path, mode_t type, struct err *reterr)
{
	char part[DIR_TEXT_MAX * 4];

	for (const char *p = strchr(path + 1, '/');; p = strchr(p + 1, '/')) {
		int r;

		(void)snprintf(part, sizeof(part), "%.*s",
			       p ? (int)(p - path) : (int)sizeof(part) - 1, path);
		r = check_step(part, type, !p, reterr);
		if (r < 0 || !p)
			return r;
	}
}
