/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The capability check of everything but programs and devices: processor, KVM, kernel, accounts,
 * sockets, images, disk space; and the report itself.
 *
 * Trust: runs as the operator, read only; reads proc, sysfs and files of the suite.
 */
#include "ctl/check.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pwd.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "ctl/text.h"
#include "proto/proto.h"

#define VM_SLOTS         16
#define CPUINFO_MAX      65536
#define FREE_WARN_FACTOR 5

/* ---- report ---- */

void check_add(struct check_report *report, enum check_level level, const char *id,
	       const char *remedy, const char *fmt, ...)
{
	struct check_result *results =
		reallocarray(report->results, report->n + 1, sizeof(*results));
	struct check_result result = {.level = level, .id = id};
	va_list ap;

	if (!results) {
		fputs("qudatactl: out of memory\n", stderr);
		exit(1);
	}
	va_start(ap, fmt);
	result.detail = text_vformat(fmt, ap);
	va_end(ap);
	if (remedy)
		result.remedy = text_format("%s", remedy);
	report->results = results;
	report->results[report->n++] = result;
}

void check_report_done(struct check_report *report)
{
	for (size_t i = 0; i < report->n; i++) {
		free(report->results[i].detail);
		free(report->results[i].remedy);
	}
	free(report->results);
	*report = (struct check_report){0};
}

size_t check_count(const struct check_report *report, enum check_level level)
{
	size_t n = 0;

	for (size_t i = 0; i < report->n; i++)
		n += report->results[i].level == level;
	return n;
}

const char *check_level_name(enum check_level level)
{
	static const char *const names[] = {"OK", "INFO", "WARN", "FAIL"};

	return names[level];
}

json_t *check_to_json(const struct check_report *report)
{
	json_t *list = json_array();

	for (size_t i = 0; i < report->n; i++) {
		const struct check_result *r = &report->results[i];
		/* Escaped, for jansson takes nothing but valid UTF-8. */
		_cleanup_free_ char *detail = text_safe(r->detail);

		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s?}", "check", r->id,
						      "level", check_level_name(r->level), "detail",
						      detail, "remedy", r->remedy));
	}
	return json_pack("{s:b, s:o}", "ok", check_count(report, CHECK_FAIL) == 0, "checks", list);
}

void check_print(const struct check_report *report, FILE *f, bool color)
{
	static const int colors[] = {32, 36, 33, 31};

	for (size_t i = 0; i < report->n; i++) {
		const struct check_result *r = &report->results[i];

		if (color)
			fprintf(f, "\033[%dm%-4s\033[0m  ", colors[r->level],
				check_level_name(r->level));
		else
			fprintf(f, "%-4s  ", check_level_name(r->level));
		fprintf(f, "%-11s ", r->id);
		text_put(f, r->detail, strlen(r->detail));
		if (r->remedy && r->level != CHECK_OK)
			fprintf(f, "; %s", r->remedy);
		fputc('\n', f);
	}
	fprintf(f, "\n%zu ok, %zu to know, %zu warnings, %zu failures\n",
		check_count(report, CHECK_OK), check_count(report, CHECK_INFO),
		check_count(report, CHECK_WARN), check_count(report, CHECK_FAIL));
}

/* ---- access below the root ---- */

static const char *relative(const char *path)
{
	while (*path == '/')
		path++;
	return *path ? path : ".";
}

ssize_t check_read(const struct check_env *env, const char *path, char *buf, size_t size)
{
	_cleanup_close_ int fd =
		openat(env->root_fd, relative(path), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	size_t len = 0;

	if (fd < 0)
		return -errno;
	while (len < size - 1) {
		ssize_t n = read(fd, buf + len, size - 1 - len);

		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	while (len > 0 && strchr(" \t\r\n", buf[len - 1]))
		len--;
	buf[len] = 0;
	return (ssize_t)len;
}

int check_exists(const struct check_env *env, const char *path)
{
	struct stat st;

	return fstatat(env->root_fd, relative(path), &st, 0) < 0 ? -errno : 0;
}

/* ---- processor and KVM ---- */

bool check_has_word(const char *line, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = strstr(line, word); p; p = strstr(p + 1, word)) {
		bool begins = p == line || p[-1] == ' ' || p[-1] == '\t';

		if (begins && (p[len] == ' ' || p[len] == 0))
			return true;
	}
	return false;
}

static void check_cpu(const struct check_env *env, struct check_report *report)
{
	_cleanup_free_ char *info = malloc(CPUINFO_MAX);
	char *flags;
	ssize_t n = info ? check_read(env, "proc/cpuinfo", info, CPUINFO_MAX) : -ENOMEM;

	if (n < 0) {
		check_add(report, CHECK_WARN, "cpu", NULL, "cannot read /proc/cpuinfo: %s",
			  strerror((int)-n));
		return;
	}
	flags = strstr(info, "\nflags");
	if (flags)
		flags[1 + strcspn(flags + 1, "\n")] = 0;
	if (flags && check_has_word(flags, "vmx"))
		check_add(report, CHECK_OK, "cpu", NULL, "the processor has Intel VT-x");
	else if (flags && check_has_word(flags, "svm"))
		check_add(report, CHECK_OK, "cpu", NULL, "the processor has AMD-V");
	else
		check_add(report, CHECK_WARN, "cpu",
			  "switch virtualization (VT-x, SVM) on in the firmware, or nested "
			  "virtualization in the outer hypervisor",
			  "no virtualization by the processor: instances are emulated in software, "
			  "slowly");
}

static void owner_text(const struct stat *st, char *buf, size_t size)
{
	const struct passwd *pw = getpwuid(st->st_uid);
	char user[40], group[40];
	const struct group *gr;

	snprintf(user, sizeof(user), "%u", st->st_uid);
	if (pw)
		snprintf(user, sizeof(user), "%s", pw->pw_name);
	gr = getgrgid(st->st_gid);
	snprintf(group, sizeof(group), "%u", st->st_gid);
	if (gr)
		snprintf(group, sizeof(group), "%s", gr->gr_name);
	snprintf(buf, size, "%s:%s %04o", user, group, st->st_mode & 07777);
}

static void check_kvm(const struct check_env *env, struct check_report *report)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;
	char owner[128];
	int version;

	if (fstatat(env->root_fd, "dev/kvm", &st, 0) < 0) {
		check_add(report, CHECK_WARN, "kvm", "modprobe kvm_intel or kvm_amd",
			  "/dev/kvm does not exist: software emulation only");
		return;
	}
	owner_text(&st, owner, sizeof(owner));
	fd = openat(env->root_fd, "dev/kvm", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && (errno == EACCES || errno == EPERM)) {
		check_add(report, CHECK_INFO, "kvm", NULL,
			  "/dev/kvm exists (%s); this user may not open it, root would tell more",
			  owner);
		return;
	}
	version = fd < 0 ? -1 : ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		check_add(report, CHECK_WARN, "kvm", "see the kernel's log for kvm",
			  "/dev/kvm (%s) does not answer like KVM: software emulation only", owner);
	else
		check_add(report, CHECK_OK, "kvm", NULL, "/dev/kvm (%s) opens, API version %d",
			  owner, version);
}

/* What the helper remembers of its trial, in words; "" when the record is not understood. */
static const char *remembered_accel(const char *record)
{
	const char *line = strncmp(record, "accel", 5) == 0 ? record : strstr(record, "\naccel");
	unsigned int choice;

	if (!line || sscanf(line, " accel = %2u", &choice) != 1)
		return "";
	if (choice == PROTO_ACCEL_KVM)
		return "KVM works: a guest showed life with it";
	return choice == PROTO_ACCEL_TCG ? "KVM does not work: no guest showed life with it" : "";
}

/* What the helper chose: only a guest's first sign of life proves that KVM is usable. */
static void check_accel(const struct check_env *env, struct check_report *report)
{
	static const char not_tried[] =
		"not tried yet: KVM is believed only after a guest has shown life with it";
	char path[512], text[512];
	ssize_t n;

	if (env->accel_choice) {
		enum check_level level = CHECK_INFO;

		if (STR_EQ(env->accel_choice, "kvm"))
			level = CHECK_OK;
		else if (STR_EQ(env->accel_choice, "tcg"))
			level = CHECK_WARN;
		check_add(report, level, "accel", "see the lines cpu and kvm",
			  "the helper's choice is %s%s%s", env->accel_choice,
			  env->accel_reason ? ": " : "",
			  env->accel_reason ? env->accel_reason : "");
		return;
	}
	snprintf(path, sizeof(path), "%s/accel", env->helper_dir);
	n = check_read(env, path, text, sizeof(text));
	if (n == -EACCES)
		check_add(report, CHECK_INFO, "accel", NULL,
			  "only root may read what the helper tried earlier");
	else if (n > 0 && *remembered_accel(text))
		check_add(report, CHECK_INFO, "accel", NULL, "tried earlier: %s",
			  remembered_accel(text));
	else
		check_add(report, CHECK_INFO, "accel", NULL, "%s", not_tried);
}

/* ---- kernel ---- */

static void check_userns(const struct check_env *env, struct check_report *report)
{
	char text[32];

	if (check_read(env, "proc/sys/kernel/unprivileged_userns_clone", text, sizeof(text)) > 0 &&
	    STR_EQ(text, "0")) {
		check_add(report, CHECK_FAIL, "userns", "sysctl kernel.unprivileged_userns_clone=1",
			  "user namespaces are switched off, passt confines itself with them");
		return;
	}
	if (check_read(env, "proc/sys/user/max_user_namespaces", text, sizeof(text)) <= 0) {
		check_add(report, CHECK_FAIL, "userns", "use a kernel with CONFIG_USER_NS",
			  "the kernel has no user namespaces, passt confines itself with them");
		return;
	}
	if (STR_EQ(text, "0")) {
		check_add(report, CHECK_FAIL, "userns", "sysctl user.max_user_namespaces=16384",
			  "no user namespace may be made, passt confines itself with them");
		return;
	}
	if (check_read(env, "proc/sys/kernel/apparmor_restrict_unprivileged_userns", text,
		       sizeof(text)) > 0 &&
	    STR_EQ(text, "1"))
		check_add(report, CHECK_WARN, "userns", "install passt with its AppArmor profile",
			  "AppArmor restricts user namespaces to programs with a profile");
	else
		check_add(report, CHECK_OK, "userns", NULL, "unprivileged user namespaces");
}

static void check_cgroup(const struct check_env *env, struct check_report *report)
{
	static const char remedy[] = "boot with systemd.unified_cgroup_hierarchy=1";
	static const char *const wanted[] = {"cpu", "memory", "pids"};
	char text[512], missing[64] = "";

	if (check_read(env, "sys/fs/cgroup/cgroup.controllers", text, sizeof(text)) < 0) {
		check_add(report, CHECK_WARN, "cgroup", remedy,
			  "no pure cgroup v2: an instance's memory and processes are not limited");
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
		size_t len = strlen(missing);

		if (!check_has_word(text, wanted[i]))
			snprintf(missing + len, sizeof(missing) - len, " %s", wanted[i]);
	}
	if (*missing)
		check_add(report, CHECK_WARN, "cgroup",
			  "see cgroup_disable= on the kernel's "
			  "command line",
			  "cgroup v2 lacks the controllers%s", missing);
	else
		check_add(report, CHECK_OK, "cgroup", NULL, "v2 with cpu, memory and pids");
}

static void check_systemd(const struct check_env *env, struct check_report *report)
{
	if (check_exists(env, "run/systemd/system") == 0)
		check_add(report, CHECK_OK, "systemd", NULL, "is the service manager");
	else
		check_add(report, CHECK_INFO, "systemd", NULL,
			  "not the service manager here; the daemons can be run in the foreground");
}

/* ---- the suite's own ---- */

static void check_users(const struct check_env *env, struct check_report *report)
{
	static const char *const users[] = {"qudata", "qudata-helper", "qudata-mon", "qudata-frp"};
	char missing[160] = "", name[24];
	size_t slots = 0;

	for (size_t i = 0; i < ARRAY_LEN(users); i++) {
		size_t len = strlen(missing);

		if (!env->user_exists(users[i]))
			snprintf(missing + len, sizeof(missing) - len, " %s", users[i]);
	}
	for (unsigned int i = 0; i < VM_SLOTS; i++) {
		snprintf(name, sizeof(name), "qudata-vm%u", i);
		slots += env->user_exists(name);
	}
	if (slots == 0)
		snprintf(missing + strlen(missing), sizeof(missing) - strlen(missing),
			 " qudata-vm0 to qudata-vm%d", VM_SLOTS - 1);
	if (*missing)
		check_add(report, CHECK_WARN, "users",
			  "run systemd-sysusers, or packaging/quickstart",
			  "accounts are missing:%s", missing);
	else
		check_add(report, CHECK_OK, "users", NULL,
			  "the daemons' accounts, and %zu for "
			  "instances",
			  slots);
}

static void check_socket(const struct check_env *env, struct check_report *report, const char *name,
			 const char *unit)
{
	char path[64], owner[128], remedy[128];
	struct stat st;

	snprintf(path, sizeof(path), "run/qudata/%s", name);
	snprintf(remedy, sizeof(remedy), "systemctl start %s, or packaging/quickstart --keep",
		 unit);
	if (fstatat(env->root_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == EACCES)
			check_add(report, CHECK_INFO, "socket", NULL,
				  "/%s: this user may not look at it", path);
		else
			check_add(report, CHECK_WARN, "socket", remedy, "/%s: %s", path,
				  errno == ENOENT ? "does not exist" : strerror(errno));
		return;
	}
	owner_text(&st, owner, sizeof(owner));
	if (!S_ISSOCK(st.st_mode))
		check_add(report, CHECK_FAIL, "socket", "remove it and restart the daemon",
			  "/%s (%s) is not a socket", path, owner);
	else if (st.st_mode & 0007)
		check_add(report, CHECK_FAIL, "socket", "chmod o= it, and find out who opened it",
			  "/%s (%s) is open to every user", path, owner);
	else
		check_add(report, CHECK_OK, "socket", NULL, "/%s (%s)", path, owner);
}

static void check_sockets(const struct check_env *env, struct check_report *report)
{
	static const char *const sockets[][2] = {
		{"helper.sock", "qudata-helper.socket"},
		{"vmmon.sock", "qudata-vmmon.socket"},
		{"frp.sock", "qudata-frp.socket"},
		{"ctl.sock", "qudata-ctl.socket"},
	};

	for (size_t i = 0; i < ARRAY_LEN(sockets); i++)
		check_socket(env, report, sockets[i][0], sockets[i][1]);
	if (env->agent_answers)
		check_add(report, CHECK_OK, "agent", NULL, "answers");
	else
		check_add(report, CHECK_INFO, "agent", NULL,
			  "does not answer; the check goes on without it");
}

static void check_images(const struct check_env *env, struct check_report *report)
{
	static const char remedy[] = "make one: qudatactl image create debian-12";
	int fd =
		openat(env->root_fd, relative(env->images_dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	char names[1024] = "";
	size_t n = 0;

	if (!dir) {
		check_add(report, CHECK_WARN, "images", remedy, "%s: %s", env->images_dir,
			  strerror(errno));
		(void)safe_close(fd);
		return;
	}
	for (struct dirent *d = readdir(dir); d; d = readdir(dir)) {
		char disk[NAME_MAX + 16];
		size_t len = strlen(names);
		struct stat st;

		snprintf(disk, sizeof(disk), "%s/disk.img", d->d_name);
		if (d->d_name[0] == '.' || fstatat(fd, disk, &st, 0) < 0 || !S_ISREG(st.st_mode))
			continue;
		snprintf(names + len, sizeof(names) - len, "%s%.64s (%" PRId64 " MiB)",
			 n ? ", " : "", d->d_name, (int64_t)st.st_blocks / 2048);
		n++;
	}
	(void)closedir(dir);
	if (n > 0)
		check_add(report, CHECK_OK, "images", NULL, "%s", names);
	else
		check_add(report, CHECK_WARN, "images", remedy, "no base image in %s",
			  env->images_dir);
}

static void check_disk(const struct check_env *env, struct check_report *report)
{
	_cleanup_close_ int fd = -EBADF;
	char path[512], text[TEXT_AGE_MAX];
	struct statvfs fs;
	uint64_t free_mib;
	enum check_level level = CHECK_OK;

	/* Before the installation the directory does not exist: the nearest one above it does. */
	snprintf(path, sizeof(path), "%s", relative(env->helper_dir));
	fd = openat(env->root_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	while (fd < 0 && !STR_EQ(path, ".")) {
		char *slash = strrchr(path, '/');

		if (slash)
			*slash = 0;
		else
			snprintf(path, sizeof(path), ".");
		fd = openat(env->root_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0 || fstatvfs(fd, &fs) < 0) {
		check_add(report, CHECK_WARN, "disk", NULL, "cannot tell how much is free: %s",
			  strerror(errno));
		return;
	}
	free_mib = (uint64_t)fs.f_bavail * fs.f_frsize / (1024 * 1024);
	text_mib((int64_t)free_mib, text);
	if (free_mib < env->min_free_mib)
		level = CHECK_FAIL;
	else if (free_mib < FREE_WARN_FACTOR * env->min_free_mib)
		level = CHECK_WARN;
	check_add(report, level, "disk", "disks are thin, but they grow: make room",
		  "%s free for instances' disks in %s", text, env->helper_dir);
}

void check_all(const struct check_env *env, struct check_report *ret_report)
{
	*ret_report = (struct check_report){0};
	check_cpu(env, ret_report);
	check_kvm(env, ret_report);
	check_accel(env, ret_report);
	check_programs(env, ret_report);
	check_pci(env, ret_report);
	check_gpu_data(env, ret_report);
	check_kernel_faults(env, ret_report);
	check_images(env, ret_report);
	check_disk(env, ret_report);
	check_userns(env, ret_report);
	check_cgroup(env, ret_report);
	check_systemd(env, ret_report);
	check_users(env, ret_report);
	check_sockets(env, ret_report);
	check_engine(env, ret_report);
}

static bool user_exists(const char *name)
{
	return getpwnam(name) != NULL;
}

static const char *setting(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value && *value ? value : otherwise;
}

void check_env_real(struct check_env *ret_env)
{
	*ret_env = (struct check_env){
		.root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC),
		.path = setting("PATH", "/usr/bin:/bin"),
		.qemu = setting("QUDATA_QEMU_BINARY", "qemu-system-x86_64"),
		.images_dir = setting("QUDATA_IMAGE_DIR", "/var/lib/qudata-images"),
		.helper_dir = "/var/lib/qudata-helper",
		.min_free_mib = 2048,
		.user_exists = user_exists,
		.run = check_run_program,
	};
}
