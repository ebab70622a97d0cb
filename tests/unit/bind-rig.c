/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The made-up machine of test-bind.
 * Trust: runs in tests only.
 */
#include "tests/unit/bind-rig.h"

#include "common/fd.h"
#include "tests/unit/rig.h"
#include "vfio-helper/pci/sysfs.h"

#include <assert.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define FUNCS_MAX  64
#define POINTS_MAX 512
#define NODE_MAJOR 240 /* for local use: nobody else's */

/* Attributes that keep what is written to them. */
static const char *const kept[] = {"driver_override", "power/control", "d3cold_allowed"};

struct func {
	char address[PCI_TEXT_SIZE];
	char natural[PCI_DRIVER_SIZE]; /* the driver that finds it by its ids */
	char link[512], back[512];     /* targets of the two links */
	char group[16];
	char first[ARRAY_LEN(kept)][32];  /* as at the start */
	char values[ARRAY_LEN(kept)][32]; /* as last seen */
};

enum trouble trouble;
int trouble_at, n_points;
bool machine_full;
void (*machine_call)(void);
struct bind_env machine_env;
int64_t machine_ms;
static const char *names[POINTS_MAX];
static struct func funcs[FUNCS_MAX];
static int n_funcs;
static char root[64];
static pid_t services_pid;
static int counter;

const char *point_name(int n)
{
	return n >= 1 && n <= n_points ? names[n - 1] : "";
}

const char *machine_path(const char *format, ...)
{
	static char paths[8][512];
	static int next;
	char *path = paths[next++ % 8];
	int n = snprintf(path, 512, "%s/", root);
	va_list ap;

	va_start(ap, format);
	(void)vsnprintf(path + n, 512 - (size_t)n, format, ap);
	va_end(ap);
	return path;
}

void machine_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert(fd >= 0);
	assert(fd_write_all(fd, text, strlen(text)) == 0);
	(void)close(fd);
}

static void read_text(const char *path, char *text, size_t size)
{
	if (fd_read_file(AT_FDCWD, path, text, size) < 0)
		text[0] = '\0';
}

/* False when it is there already, or its directory has gone. */
static bool make_link(const char *target, const char *path)
{
	return symlink(target, path) == 0;
}

static void read_link(const char *path, char *text, size_t size)
{
	ssize_t n = readlink(path, text, size - 1);

	text[MAX_OF(n, 0)] = '\0';
}

static void read_base(const char *path, char *text, size_t size)
{
	char target[512];

	read_link(path, target, sizeof(target));
	(void)snprintf(text, size, "%s", sysfs_base(target));
}

const char *machine_driver(const char *address)
{
	static char driver[PCI_DRIVER_SIZE];

	read_base(machine_path("sys/bus/pci/devices/%s/driver", address), driver, sizeof(driver));
	return driver;
}

bool machine_has_nodes(void)
{
	return geteuid() == 0;
}

/* ---- the kernel ---- */

static struct func *find_func(const char *address)
{
	for (int i = 0; i < n_funcs; i++)
		if (STR_EQ(funcs[i].address, address))
			return &funcs[i];
	return NULL;
}

static bool group_in_use(const char *group)
{
	for (int i = 0; i < n_funcs; i++)
		if (STR_EQ(funcs[i].group, group) &&
		    STR_EQ(machine_driver(funcs[i].address), "vfio-pci"))
			return true;
	return false;
}

static void make_group_node(const char *group)
{
	char dev[32];

	if (!machine_has_nodes() || mkdir(machine_path("sys/class/vfio/%s", group), 0755) < 0)
		return;
	(void)snprintf(dev, sizeof(dev), "%d:%s\n", NODE_MAJOR, group);
	machine_write(machine_path("sys/class/vfio/%s/dev", group), dev);
	assert(mknod(machine_path("dev/vfio/%s", group), S_IFCHR | 0600,
		     makedev(NODE_MAJOR, (unsigned int)atoi(group))) == 0);
}

static void remove_group_node(const char *group)
{
	(void)unlink(machine_path("sys/class/vfio/%s/dev", group));
	(void)rmdir(machine_path("sys/class/vfio/%s", group));
	(void)unlink(machine_path("dev/vfio/%s", group));
}

static void set_value(struct func *f, size_t i, const char *value)
{
	if (value != f->values[i])
		(void)snprintf(f->values[i], sizeof(f->values[i]), "%s", value);
	machine_write(machine_path("sys/bus/pci/devices/%s/%s", f->address, kept[i]), value);
}

static void unbind(const char *driver, const char *address)
{
	struct func *f = find_func(address);

	if (!f || !STR_EQ(machine_driver(address), driver))
		return;
	(void)unlink(machine_path("sys/bus/pci/devices/%s/driver", address));
	(void)unlink(machine_path("sys/bus/pci/drivers/%s/%s", driver, address));
	if (STR_EQ(driver, "vfio-pci") && !group_in_use(f->group))
		remove_group_node(f->group);
}

static void bind_to(const char *driver, const char *address)
{
	struct func *f = find_func(address);
	const char *at = machine_path("sys/bus/pci/devices/%s/driver", address);
	const char *dir = machine_path("sys/bus/pci/drivers/%s", driver);
	char link[512];

	if (!f || machine_driver(address)[0] != '\0' || access(dir, F_OK) < 0)
		return;
	(void)snprintf(link, sizeof(link), "%s", STR_EQ(driver, f->natural) ? f->link : dir);
	if (!make_link(link, at))
		return;
	(void)snprintf(link, sizeof(link), "%s",
		       STR_EQ(driver, f->natural) ? f->back : "../../devices");
	(void)make_link(link, machine_path("sys/bus/pci/drivers/%s/%s", driver, address));
	if (STR_EQ(driver, "vfio-pci")) {
		make_group_node(f->group);
		set_value(f, 1, "auto\n"); /* as vfio-pci does it */
	}
}

static void probe(const char *address)
{
	struct func *f = find_func(address);
	char override[32];

	if (!f)
		return;
	read_text(machine_path("sys/bus/pci/devices/%s/driver_override", address), override,
		  sizeof(override));
	override[strcspn(override, "\n")] = '\0';
	if (override[0] == '\0' || STR_EQ(override, "(null)"))
		(void)snprintf(override, sizeof(override), "%s", f->natural);
	if (override[0] != '\0')
		bind_to(override, address);
}

/* What was written to a control file, which is empty afterwards. */
static bool take_written(const char *path, char text[static 64])
{
	struct stat st;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
		return false;
	read_text(path, text, 64);
	assert(truncate(path, 0) == 0);
	return true;
}

static void react_to_drivers(bool lie)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(machine_env.sysfs_fd, "bus/pci/drivers");
	char text[64], driver[64];
	const char *name;

	while ((name = sysfs_next(dir))) {
		(void)snprintf(driver, sizeof(driver), "%s", name);
		if (take_written(machine_path("sys/bus/pci/drivers/%s/unbind", driver), text) &&
		    !lie)
			unbind(driver, text);
	}
	if (take_written(machine_path("sys/bus/pci/drivers_probe"), text) && !lie)
		probe(text);
}

static void react_to_values(struct func *f)
{
	for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
		const char *path = machine_path("sys/bus/pci/devices/%s/%s", f->address, kept[i]);
		char text[32];

		if (access(path, F_OK) < 0)
			continue;
		read_text(path, text, sizeof(text));
		if (STR_EQ(text, f->values[i]))
			continue;
		if (text[0] == '\0') /* a write that failed: nothing has changed */
			set_value(f, i, f->values[i]);
		else if (STR_EQ(text, "\n"))
			set_value(f, i, "(null)\n");
		else if (!strchr(text, '\n'))
			set_value(f, i, strcat(text, "\n"));
	}
	(void)take_written(machine_path("sys/bus/pci/devices/%s/reset", f->address), (char[64]){0});
}

static void react_to_console(void)
{
	static const char fb[] = "sys/bus/platform/drivers/efi-framebuffer";
	char text[64];

	read_text(machine_path("sys/class/vtconsole/vtcon1/bind"), text, sizeof(text));
	if (STR_EQ(text, "0") || STR_EQ(text, "1"))
		machine_write(machine_path("sys/class/vtconsole/vtcon1/bind"), strcat(text, "\n"));
	if (take_written(machine_path("%s/unbind", fb), text))
		(void)unlink(machine_path("%s/%s", fb, text));
	if (take_written(machine_path("%s/bind", fb), text))
		(void)make_link("../../devices", machine_path("%s/%s", fb, text));
}

/* Of this process and of the child that writes for it. */
static void let_writes_fail(bool fail)
{
	char pids[256], *rest = pids, *word;
	struct rlimit limit;

	assert(getrlimit(RLIMIT_FSIZE, &limit) == 0);
	limit.rlim_cur = fail ? 0 : limit.rlim_max;
	assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	assert(fd_read_file(AT_FDCWD, "/proc/thread-self/children", pids, sizeof(pids)) >= 0);
	while ((word = strsep(&rest, " ")))
		if (word[0] != '\0')
			(void)prlimit(atoi(word), RLIMIT_FSIZE, &limit, NULL);
}

static void react(bool lie)
{
	let_writes_fail(false);
	react_to_drivers(lie);
	for (int i = 0; i < n_funcs; i++)
		react_to_values(&funcs[i]);
	react_to_console();
}

static void pass_point(const char *name)
{
	bool here;

	assert(n_points < POINTS_MAX);
	names[n_points++] = name;
	here = n_points == trouble_at;
	react(trouble == TROUBLE_LIE && here);
	if (!here)
		return;
	if (trouble == TROUBLE_KILL)
		(void)raise(SIGKILL);
	if (trouble == TROUBLE_FAIL)
		let_writes_fail(true);
	if (trouble == TROUBLE_CALL)
		machine_call();
}

static void at_point(const char *name)
{
	pass_point(name);
	if (machine_full)
		let_writes_fail(true);
}

void machine_quiet(void)
{
	trouble = TROUBLE_NONE;
	trouble_at = n_points = 0;
	machine_full = false;
	react(false);
}

void machine_boot(void)
{
	for (int i = 0; i < n_funcs; i++) {
		struct func *f = &funcs[i];

		unbind("vfio-pci", f->address);
		for (size_t k = 0; k < ARRAY_LEN(kept); k++)
			set_value(f, k, f->first[k]);
		probe(f->address);
	}
}

/* ---- the machine ---- */

static void run_fake_sysfs(const char *board)
{
	const char *file = machine_path("board"), *dir = machine_path("sys");
	int status;
	pid_t pid;

	machine_write(file, board);
	pid = fork();
	if (pid == 0) {
		(void)execlp("python3", "python3", FAKE_SYSFS, file, dir, NULL);
		_exit(127);
	}
	assert(waitpid(pid, &status, 0) == pid && status == 0);
}

static void learn_func(const char *address)
{
	struct func *f = &funcs[n_funcs++];
	const char *dir = machine_path("sys/bus/pci/devices/%s", address);
	char path[600];

	assert(n_funcs < FUNCS_MAX);
	*f = (struct func){0};
	(void)snprintf(f->address, sizeof(f->address), "%s", address);
	(void)snprintf(f->natural, sizeof(f->natural), "%s", machine_driver(address));
	(void)snprintf(path, sizeof(path), "%s/driver", dir);
	read_link(path, f->link, sizeof(f->link));
	read_link(machine_path("sys/bus/pci/drivers/%s/%s", f->natural, address), f->back,
		  sizeof(f->back));
	(void)snprintf(path, sizeof(path), "%s/iommu_group", dir);
	read_base(path, f->group, sizeof(f->group));
	for (size_t i = 0; i < ARRAY_LEN(kept); i++)
		read_text(machine_path("sys/bus/pci/devices/%s/%s", address, kept[i]), f->values[i],
			  sizeof(f->values[i]));
	memcpy(f->first, f->values, sizeof(f->first));
	if (STR_EQ(f->natural, "vfio-pci"))
		make_group_node(f->group);
}

static int open_dir(const char *name)
{
	int fd = open(machine_path("%s", name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert(fd >= 0);
	return fd;
}

/* Writes down what it is told, and ends the process of a unit that is stopped. */
static void make_systemctl(void)
{
	char script[1024];

	(void)snprintf(script, sizeof(script),
		       "#!/bin/sh\n[ \"$1\" = --no-ask-password ] && [ \"$3\" = -- ] || exit 9\n"
		       "echo \"$2 $4\" >>%s/systemctl.log\n"
		       "[ \"$2\" = start ] || rm -rf %s/proc/[0-9]*\n"
		       "[ ! -e %s/systemctl.fail ]\n",
		       root, root, root);
	machine_write(machine_path("systemctl"), script);
	assert(chmod(machine_path("systemctl"), 0755) == 0);
}

static void start_services(void)
{
	static char path[128];
	int pair[2];

	(void)snprintf(path, sizeof(path), "%s", machine_path("systemctl"));
	assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	services_pid = fork();
	if (services_pid == 0)
		services_serve(pair[1], &machine_env.policy, path);
	(void)close(pair[1]);
	machine_env.services_fd = pair[0];
}

void machine_make(const char *board)
{
	static struct account users[PROTO_MAX_VMS];
	static const char *const dirs[] = {"state", "dev", "dev/vfio", "proc"};
	struct bind_env *env = &machine_env;
	struct config config;
	struct err err;
	const char *name;

	(void)signal(SIGXFSZ, SIG_IGN);
	(void)snprintf(root, sizeof(root), "%s/m%d", rig_dir(), counter++);
	assert(mkdir(root, 0755) == 0);
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		assert(mkdir(machine_path("%s", dirs[i]), 0700) == 0);
	run_fake_sysfs(board);
	make_systemctl();
	assert(config_load(NULL, &config, &err) == 0);
	*env = (struct bind_env){.keys = config.gpu, .users = users, .max_vms = PROTO_MAX_VMS};
	machine_ms = BIND_DEADLINE_MS;
	env->keys.write_seconds = 5;
	assert(gpu_policy_parse(&env->keys, &env->policy, &err) == 0);
	users[0] = (struct account){1001, 1002};
	env->sysfs_fd = open_dir("sys");
	env->proc_fd = open_dir("proc");
	env->dev_fd = open_dir("dev");
	env->state_fd = open_dir("state");
	if (machine_has_nodes())
		assert(mknod(machine_path("dev/vfio/vfio"), S_IFCHR | 0666, makedev(10, 196)) == 0);
	n_funcs = 0;
	{
		_cleanup_closedir_ DIR *dir = sysfs_list(env->sysfs_fd, "bus/pci/devices");

		while ((name = sysfs_next(dir)))
			learn_func(name);
	}
	start_services();
	bind_point_hook = at_point;
	machine_quiet();
}

void machine_done(void)
{
	struct bind_env *env = &machine_env;

	(void)safe_close(env->services_fd);
	(void)waitpid(services_pid, NULL, 0);
	(void)safe_close(env->sysfs_fd);
	(void)safe_close(env->proc_fd);
	(void)safe_close(env->dev_fd);
	(void)safe_close(env->state_fd);
	bind_point_hook = NULL;
}

/* ---- looking at it ---- */

static char *lines[8192];
static size_t n_lines;

static int add_line(const char *path, const struct stat *st, int kind, struct FTW *where)
{
	char text[2048] = "", line[3072];

	(void)where;
	if (kind == FTW_SL)
		read_link(path, text, sizeof(text));
	else if (S_ISREG(st->st_mode))
		read_text(path, text, sizeof(text));
	(void)snprintf(line, sizeof(line), "%s %o %u %s\n", path, st->st_mode, st->st_uid, text);
	assert(n_lines < ARRAY_LEN(lines));
	lines[n_lines++] = strdup(line);
	return 0;
}

static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

char *machine_snapshot(void)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	n_lines = 0;
	assert(f && nftw(machine_path("sys"), add_line, 16, FTW_PHYS) == 0 &&
	       nftw(machine_path("dev"), add_line, 16, FTW_PHYS) == 0);
	qsort(lines, n_lines, sizeof(lines[0]), compare_lines);
	for (size_t i = 0; i < n_lines; i++) {
		(void)fputs(lines[i], f);
		free(lines[i]);
	}
	(void)fclose(f);
	return text;
}

const char *machine_records(void)
{
	static char text[1024];
	char *found[32];
	_cleanup_closedir_ DIR *dir = sysfs_list(machine_env.state_fd, ".");
	const char *name;
	size_t n = 0;

	while ((name = sysfs_next(dir)))
		if (!STR_EQ(name, "lock") && n < ARRAY_LEN(found))
			found[n++] = strdup(name);
	qsort(found, n, sizeof(found[0]), compare_lines);
	text[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		(void)strcat(strcat(text, found[i]), " ");
		free(found[i]);
	}
	return text;
}

const char *machine_systemctl(void)
{
	static char text[1024];

	read_text(machine_path("systemctl.log"), text, sizeof(text));
	return text;
}

void machine_hold(unsigned int pid, const char *program, const char *unit, const char *address)
{
	const char *node = machine_path("dev/nvidia%u", pid);
	char text[160];

	/* As a node of the function's own: sysfs says its number. */
	if (mknod(node, S_IFCHR | 0600, makedev(NODE_MAJOR + 1, pid)) == 0) {
		(void)mkdir(machine_path("sys/bus/pci/devices/%s/drm", address), 0755);
		(void)mkdir(machine_path("sys/bus/pci/devices/%s/drm/card%u", address, pid), 0755);
		(void)snprintf(text, sizeof(text), "%d:%u\n", NODE_MAJOR + 1, pid);
		machine_write(machine_path("sys/bus/pci/devices/%s/drm/card%u/dev", address, pid),
			      text);
	}
	assert(mkdir(machine_path("proc/%u", pid), 0755) == 0);
	assert(mkdir(machine_path("proc/%u/fd", pid), 0755) == 0);
	assert(symlink(node, machine_path("proc/%u/fd/5", pid)) == 0);
	(void)snprintf(text, sizeof(text), "%s\n", program);
	machine_write(machine_path("proc/%u/comm", pid), text);
	(void)snprintf(text, sizeof(text), "0::/system.slice/%s\n", unit);
	machine_write(machine_path("proc/%u/cgroup", pid), text);
}

enum proto_status machine_act(enum bind_act act, const char *vm, const char *const gpus[],
			      struct bind_answer *ret_ans, int *ret_fd)
{
	struct bind_request req = {.version = BIND_VERSION, .act = act};
	struct bind_answer ans = {0};
	struct err why = {0};
	int fd = -EBADF;

	(void)snprintf(req.vm, sizeof(req.vm), "%s", vm ? vm : "");
	for (size_t i = 0; gpus && gpus[i]; i++)
		assert(pci_addr_parse(gpus[i], &req.gpus[i]) == 0);
	assert(request_check(&req, PROTO_MAX_VMS) == 0);
	machine_env.deadline_ms = now_ms() + machine_ms;
	machine_env.lock_fd = lock_open(machine_env.state_fd);
	ans.status = act_run(&machine_env, &req, &ans, &fd, &why);
	machine_env.lock_fd = safe_close(machine_env.lock_fd);
	proto_text_set(ans.why, sizeof(ans.why), why.text);
	if (ret_fd)
		*ret_fd = fd;
	else
		(void)safe_close(fd);
	if (ret_ans)
		*ret_ans = ans;
	return ans.status;
}
