/* SPDX-License-Identifier: Apache-2.0 */
/*
 * helper.conf and the accounts that it names.
 * Trust: runs as root before the sandbox; reads files that only root can write.
 */
#include "vfio-helper/config.h"

#include "common/conf.h"

#include <pwd.h>

static const char *const accel_words[] = {"auto", "kvm", "tcg", NULL};
static const char *const tristate_words[] = {"auto", "yes", "no", NULL};

#define KEY(member, kind, value, ...)                                                              \
	{                                                                                          \
		.name = #member, .type = (kind), .initial = (value),                               \
		CONF_MEMBER(struct config, member), __VA_ARGS__                                    \
	}
#define SETUP(member, kind, value, ...)                                                            \
	{                                                                                          \
		.name = #member, .type = (kind), .initial = (value),                               \
		CONF_MEMBER(struct config, setup.member), __VA_ARGS__                              \
	}
#define GPU(member, kind, value, ...)                                                              \
	{                                                                                          \
		.name = "gpu_" #member, .type = (kind), .initial = (value),                        \
		CONF_MEMBER(struct config, gpu.member), __VA_ARGS__                                \
	}
static const struct conf_key keys[] = {
	KEY(socket, CONF_PATH, "/run/qudata/helper.sock"),
	KEY(state_dir, CONF_PATH, "/var/lib/qudata-helper"),
	KEY(run_dir, CONF_PATH, "/run/qudata/vm"),
	KEY(image_dir, CONF_PATH, "/var/lib/qudata-images"),
	KEY(agentd_user, CONF_NAME, "qudata"),
	KEY(vmmon_user, CONF_NAME, "qudata-mon"),
	KEY(helper_user, CONF_NAME, "qudata-helper"),
	KEY(vm_user_prefix, CONF_NAME, "qudata-vm"),
	SETUP(qemu_binary, CONF_PATH, "/usr/bin/qemu-system-x86_64"),
	SETUP(qemu_img_binary, CONF_PATH, "/usr/bin/qemu-img"),
	SETUP(passt_binary, CONF_PATH, "/usr/bin/passt"),
	SETUP(firmware, CONF_TEXT, "auto"),
	SETUP(firmware_vars, CONF_PATH, NULL),
	KEY(cgroup, CONF_TEXT, "auto"),
	SETUP(dns, CONF_TEXT, "9.9.9.9"),
	KEY(accel, CONF_ENUM, "auto", .words = accel_words),
	SETUP(kvm_trial_seconds, CONF_U32, "5", .low = 1, .high = 60),
	SETUP(max_vms, CONF_U32, "16", .low = 1, .high = PROTO_MAX_VMS),
	SETUP(max_cpus, CONF_U32, "64", .low = 1, .high = PROTO_MAX_CPUS),
	SETUP(max_memory_mib, CONF_MIB, "256G", .low = 128, .high = PROTO_MAX_MEMORY_MIB),
	KEY(max_total_memory_mib, CONF_MIB, "1T", .low = 128, .high = PROTO_MAX_MEMORY_MIB),
	SETUP(max_disk_mib, CONF_MIB, "2T", .low = 1, .high = PROTO_MAX_DISK_MIB),
	SETUP(port_low, CONF_U32, "10000", .low = 1024, .high = UINT16_MAX),
	SETUP(port_high, CONF_U32, "32767", .low = 1024, .high = UINT16_MAX),
	SETUP(require_isolation, CONF_BOOL, "yes"),
	GPU(state_dir, CONF_PATH, "/var/lib/qudata-gpu"),
	GPU(vendors, CONF_LIST, "10de"),
	GPU(accelerators, CONF_LIST, ""),
	GPU(along, CONF_LIST, ""),
	GPU(never, CONF_LIST, ""),
	GPU(services, CONF_LIST,
	    "nvidia-persistenced.service,nvidia-fabricmanager.service,nvidia-powerd.service,"
	    "nvidia-dcgm.service,dcgm.service"),
	GPU(allow_boot_display, CONF_BOOL, "no"),
	GPU(allow_virtual_functions, CONF_BOOL, "no"),
	GPU(allow_nouveau, CONF_BOOL, "no"),
	GPU(adopt_vfio, CONF_BOOL, "no"),
	GPU(hide_vm, CONF_BOOL, "no"),
	GPU(rom, CONF_ENUM, "auto", .words = tristate_words),
	GPU(iommufd, CONF_ENUM, "auto", .words = tristate_words),
	GPU(write_seconds, CONF_U32, "30", .low = 1, .high = 120),
};
#undef GPU
#undef SETUP
#undef KEY

int config_load(const char *path, struct config *ret_config, struct err *reterr)
{
	struct config *c = ret_config;
	int r;

	*c = (struct config){0};
	/* An ordinary user may check a file that is still being written. */
	r = path ? conf_load(path, keys, ARRAY_LEN(keys), geteuid() == 0, c, reterr) : 0;
	for (size_t i = 0; !path && r == 0 && i < ARRAY_LEN(keys); i++)
		if (keys[i].initial)
			r = conf_set(&keys[i], keys[i].initial, c, reterr);
	if (r < 0)
		return r;
	if (c->setup.port_low > c->setup.port_high)
		return err_set(reterr, -EINVAL, "%s: port_low is above port_high", path);
	if (c->setup.max_memory_mib > c->max_total_memory_mib)
		return err_set(reterr, -EINVAL, "%s: max_memory_mib is above max_total_memory_mib",
			       path);
	if (c->cgroup[0] != '/' && !STR_EQ(c->cgroup, "auto") && !STR_EQ(c->cgroup, "none"))
		return err_set(reterr, -EINVAL, "%s: cgroup must be auto, none or an absolute path",
			       path);
	if (c->setup.dns[strspn(c->setup.dns, "0123456789.")] != '\0')
		return err_set(reterr, -EINVAL, "%s: dns must be an IPv4 address", path);
	if (c->setup.firmware[0] != '/' && !STR_EQ(c->setup.firmware, "auto") &&
	    !STR_EQ(c->setup.firmware, "none"))
		return err_set(reterr, -EINVAL, "%s: firmware must be auto, none or a path", path);
	if ((c->setup.firmware[0] == '/') != (c->setup.firmware_vars[0] != '\0'))
		return err_set(reterr, -EINVAL,
			       "%s: a firmware's path and firmware_vars go together", path);
	if (strlen(c->vm_user_prefix) > PROTO_NAME_MAX - 2)
		return err_set(reterr, -EINVAL, "%s: vm_user_prefix is too long", path);
	return 0;
}

struct wanted {
	char name[PROTO_NAME_SIZE + 16];
	struct account *account; /* borrowed; uid 0: not found yet */
};

static int take_account(const struct passwd *pw, const struct wanted *w, struct err *reterr)
{
	if (!STR_EQ(pw->pw_name, w->name) || w->account->uid != 0)
		return 0;
	if (pw->pw_uid == 0 || pw->pw_gid == 0)
		return err_set(reterr, -EPERM, "user %s has the uid or gid of root", w->name);
	*w->account = (struct account){.uid = pw->pw_uid, .gid = pw->pw_gid};
	return 0;
}

static int find_accounts(const char *passwd, const struct wanted *wanted, size_t n,
			 struct err *reterr)
{
	_cleanup_fclose_ FILE *f = fopen(passwd, "re");
	const struct passwd *pw;
	int r = 0;

	if (!f)
		return err_errno(reterr, -errno, "cannot read %s", passwd);
	/* Not getpwnam(): it would load name service modules into a root process. */
	while (r == 0 && (pw = fgetpwent(f)))
		for (size_t i = 0; r == 0 && i < n; i++)
			r = take_account(pw, &wanted[i], reterr);
	for (size_t i = 0; r == 0 && i < n; i++)
		if (wanted[i].account->uid == 0)
			r = err_set(reterr, -ENOENT,
				    "user %s is missing; `useradd --system --shell "
				    "/usr/sbin/nologin %s` makes it",
				    wanted[i].name, wanted[i].name);
	return r;
}

static bool same_ids(const struct account *a, const struct account *b)
{
	return a->uid == b->uid || a->gid == b->gid;
}

/* One uid, one power: a VM's user is nobody else's, and the peers and the broker differ. */
static int check_distinct(const struct config *c, struct err *reterr)
{
	const struct account *users = c->setup.users;

	if (c->agentd.uid == c->vmmon.uid)
		return err_set(reterr, -EPERM, "%s and %s have the same uid", c->agentd_user,
			       c->vmmon_user);
	if (same_ids(&c->helper, &c->agentd) || same_ids(&c->helper, &c->vmmon))
		return err_set(reterr, -EPERM, "user %s shares its uid or gid", c->helper_user);
	for (uint32_t i = 0; i < c->setup.max_vms; i++) {
		bool taken = same_ids(&users[i], &c->agentd) || same_ids(&users[i], &c->vmmon) ||
			     same_ids(&users[i], &c->helper);

		for (uint32_t j = 0; j < i; j++)
			taken |= users[i].uid == users[j].uid;
		if (taken)
			return err_set(reterr, -EPERM, "user %s%u shares its uid or gid",
				       c->vm_user_prefix, i);
	}
	return 0;
}

int accounts_load(struct config *config, const char *passwd, struct err *reterr)
{
	const char *const names[] = {config->agentd_user, config->vmmon_user, config->helper_user};
	struct account *const accounts[] = {&config->agentd, &config->vmmon, &config->helper};
	struct wanted wanted[ARRAY_LEN(names) + PROTO_MAX_VMS];
	size_t n = 0;
	int r;

	for (; n < ARRAY_LEN(names); n++) {
		(void)snprintf(wanted[n].name, sizeof(wanted[n].name), "%s", names[n]);
		wanted[n].account = accounts[n];
	}
	for (uint32_t i = 0; i < config->setup.max_vms; i++, n++) {
		(void)snprintf(wanted[n].name, sizeof(wanted[n].name), "%s%u",
			       config->vm_user_prefix, i);
		wanted[n].account = &config->setup.users[i];
	}
	for (size_t i = 0; i < n; i++)
		*wanted[i].account = (struct account){0};
	r = find_accounts(passwd, wanted, n, reterr);
	return r < 0 ? r : check_distinct(config, reterr);
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
