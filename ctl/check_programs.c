/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The capability check of programs and firmware: QEMU, qemu-img, passt, OVMF.
 *
 * Trust: runs as the operator; runs programs found in PATH with --version and reads what they
 * print.
 */
#include <ctype.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "ctl/check.h"

#define RUN_TIMEOUT_MS     5000
#define QEMU_OLDEST        60000 /* 6.0 */
#define QEMU_STREAM_NETDEV 70200 /* 7.2 has -netdev stream, which connects QEMU to passt */

int check_parse_version(const char *text)
{
	for (const char *p = text; *p; p++) {
		int part[3] = {0};
		int n = 0;

		if (!isdigit((unsigned char)*p) ||
		    (p > text && (isalnum((unsigned char)p[-1]) || p[-1] == '.')))
			continue;
		while (n < 3 && isdigit((unsigned char)*p)) {
			for (; isdigit((unsigned char)*p); p++)
				part[n] = MIN_OF(part[n] * 10 + (*p - '0'), 9999);
			n++;
			if (*p != '.')
				break;
			p++;
		}
		if (n >= 2)
			return part[0] * 10000 + MIN_OF(part[1], 99) * 100 + MIN_OF(part[2], 99);
		if (*p == 0)
			break;
	}
	return -EINVAL;
}

/* Reads from @fd until its end, at most RUN_TIMEOUT_MS between two chunks. */
static int collect(int fd, char *buf, size_t size)
{
	size_t len = 0;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		char spill[512];
		bool full = len >= size - 1;
		ssize_t n;

		if (poll(&p, 1, RUN_TIMEOUT_MS) <= 0)
			return -ETIMEDOUT;
		n = read(fd, full ? spill : buf + len, full ? sizeof(spill) : size - 1 - len);
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += full ? 0 : (size_t)n;
	}
	buf[len] = 0;
	return 0;
}

static _noreturn_ void exec_program(int fd, const char *name, const char *arg, int out)
{
	char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", locale[] = "LC_ALL=C";
	char *const argv[] = {(char *)name, (char *)arg, NULL};
	char *const envp[] = {path, locale, NULL};
	int null = open("/dev/null", O_RDWR);

	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
	    dup2(out, STDERR_FILENO) < 0)
		_exit(126);
	(void)execveat(fd, "", argv, envp, AT_EMPTY_PATH);
	_exit(127);
}

int check_run_program(int fd, const char *name, const char *arg, char *buf, size_t size)
{
	_cleanup_close_ int in = -EBADF;
	_cleanup_close_ int out = -EBADF;
	int pipe_fds[2], status, r;
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return -errno;
	in = pipe_fds[0];
	out = pipe_fds[1];
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		exec_program(fd, name, arg, out);
	out = safe_close(out);
	r = collect(in, buf, size);
	if (r < 0)
		(void)kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	if (r < 0)
		return r;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int open_program(const struct check_env *env, const char *path)
{
	/* Not close-on-exec: the interpreter of a script opens it again through /proc. */
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	while (*path == '/')
		path++;
	fd = openat(env->root_fd, path, O_PATH);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & 0111))
		return -EACCES;
	return TAKE_FD(fd);
}

/* Finds @name in the environment's path, or takes it as a path; @ret_path is where it was. */
static int find_program(const struct check_env *env, const char *name, char *ret_path, size_t size)
{
	const char *dirs = env->path;

	if (strchr(name, '/')) {
		snprintf(ret_path, size, "%s", name);
		return open_program(env, name);
	}
	while (*dirs) {
		size_t len = strcspn(dirs, ":");
		int fd;

		snprintf(ret_path, size, "%.*s/%s", (int)len, dirs, name);
		fd = len > 0 ? open_program(env, ret_path) : -ENOENT;
		if (fd >= 0)
			return fd;
		dirs += len + (dirs[len] == ':');
	}
	return -ENOENT;
}

static void check_qemu(const struct check_env *env, struct check_report *report)
{
	char path[512], text[512];
	_cleanup_close_ int fd = find_program(env, env->qemu, path, sizeof(path));
	int version;

	if (fd < 0) {
		check_add(report, CHECK_FAIL, "qemu", "apt-get install qemu-system-x86",
			  "%s is not installed", env->qemu);
		return;
	}
	if (env->run(fd, "qemu", "--version", text, sizeof(text)) < 0 ||
	    (version = check_parse_version(text)) < 0) {
		check_add(report, CHECK_FAIL, "qemu", "reinstall it",
			  "%s does not tell its version", path);
		return;
	}
	if (version >= QEMU_STREAM_NETDEV)
		check_add(report, CHECK_OK, "qemu", NULL, "%s, version %d.%d.%d", path,
			  version / 10000, version / 100 % 100, version % 100);
	else
		check_add(report, CHECK_FAIL, "qemu", "install QEMU 7.2 or newer",
			  "%s, version %d.%d.%d: %s", path, version / 10000, version / 100 % 100,
			  version % 100,
			  version < QEMU_OLDEST ? "older than 6.0"
						: "has no stream network, which passt needs");
	check_qemu_faults(env, report, version);
	check_iommufd(env, report, version);
}

static void check_tool(const struct check_env *env, struct check_report *report, const char *name,
		       const char *remedy)
{
	char path[512], text[512];
	_cleanup_close_ int fd = find_program(env, name, path, sizeof(path));

	if (fd < 0)
		check_add(report, CHECK_FAIL, name, remedy, "not installed");
	else if (env->run(fd, name, "--version", text, sizeof(text)) < 0)
		check_add(report, CHECK_FAIL, name, "reinstall it", "%s does not run", path);
	else
		check_add(report, CHECK_OK, name, NULL, "%s, %.*s", path, (int)strcspn(text, "\n"),
			  text);
}

static void check_ovmf(const struct check_env *env, struct check_report *report)
{
	static const struct {
		const char *code, *vars;
	} pairs[] = {
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
		{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	};

	for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
		if (check_exists(env, pairs[i].code) < 0)
			continue;
		if (check_exists(env, pairs[i].vars) == 0)
			check_add(report, CHECK_OK, "ovmf", NULL, "%s", pairs[i].code);
		else
			check_add(report, CHECK_WARN, "ovmf", "reinstall ovmf",
				  "%s is there, %s is not: each VM needs variables of its own",
				  pairs[i].code, pairs[i].vars);
		return;
	}
	check_add(report, CHECK_WARN, "ovmf", "apt-get install ovmf",
		  "no UEFI firmware: only images with a kernel of their own can boot%s",
		  check_has_gpu(env) ? ", and no VM can place the large BARs of a GPU" : "");
}

void check_programs(const struct check_env *env, struct check_report *report)
{
	check_qemu(env, report);
	check_tool(env, report, "qemu-img", "apt-get install qemu-utils");
	check_tool(env, report, "passt", "apt-get install passt");
	check_ovmf(env, report);
}
