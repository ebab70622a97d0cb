/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image create: an image from Debian's packages, made by mkimage.
 *
 * Trust: runs as root; starts the mkimage that was installed with it, or that the operator names.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "common/fd.h"
#include "common/log.h"
#include "ctl/image/image.h"
#include "ctl/parse.h"
#include "ctl/text.h"
#include "proto/proto.h"

#define ARGS_MAX        24
#define SIZE_PLAIN_MIB  1024
#define SIZE_ENGINE_MIB 1536
#define SIZE_NVIDIA_MIB 8192
#define HOST_DRIVER     "/sys/module/nvidia/version"

struct create {
	const char *argv[ARGS_MAX + 1];
	size_t n;
	char size[16], output[PATH_MAX + 64], include[512], nvidia[64];
};

static void add(struct create *cr, const char *option, const char *value)
{
	if (cr->n + 2 > ARGS_MAX)
		return;
	cr->argv[cr->n++] = option;
	if (value)
		cr->argv[cr->n++] = value;
}

/* Words that mkimage takes; it checks them again. */
static bool is_plain(const char *s, const char *extra)
{
	return *s && s[strspn(s, extra)] == '\0';
}

#define LOWER "abcdefghijklmnopqrstuvwxyz0123456789"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

/* The version of NVIDIA's driver that is asked for, into cr->nvidia: "" for none. */
static enum ctl_exit driver_usage(struct ctl *c, struct create *cr)
{
	const char *text = ctl_value(c, OPT_NVIDIA);

	if (text && STR_EQ(text, "host")) {
		if (fd_read_file(AT_FDCWD, HOST_DRIVER, cr->nvidia, sizeof(cr->nvidia)) <= 0)
			return ctl_fail(c, CTL_FAILED,
					"this host has no NVIDIA driver loaded whose version could "
					"be taken: name one as 535, or any");
		cr->nvidia[strcspn(cr->nvidia, "\n")] = '\0';
	} else if (text) {
		(void)snprintf(cr->nvidia, sizeof(cr->nvidia), "%s", text);
	}
	return !text || is_plain(cr->nvidia, LOWER UPPER "+-.:~")
		       ? CTL_OK
		       : ctl_fail(c, CTL_USAGE, "--nvidia takes a version as 535, or any, or host");
}

static enum ctl_exit create_usage(struct ctl *c, struct create *cr)
{
	const char *suite = ctl_value(c, OPT_SUITE), *include = ctl_value(c, OPT_INCLUDE);
	const char *size = ctl_value(c, OPT_SIZE);
	uint32_t gib = 0, mib = SIZE_PLAIN_MIB;

	if (!parse_is_name(ctl_arg(c, 0)))
		return ctl_fail(c, CTL_USAGE,
				"%s is no name for an image: a-z, 0-9 and -, at most 32",
				ctl_arg(c, 0));
	if (suite && !is_plain(suite, LOWER "-"))
		return ctl_fail(c, CTL_USAGE, "--suite takes a name as bookworm");
	if (include && !is_plain(include, LOWER "+-.,"))
		return ctl_fail(c, CTL_USAGE, "--include takes names of packages, with commas");
	if (size && parse_u32(size, 1, PROTO_MAX_DISK_MIB / 1024, &gib) < 0)
		return ctl_fail(c, CTL_USAGE, "--size takes whole GiB, 1 to %u",
				PROTO_MAX_DISK_MIB / 1024);
	if (ctl_has(c, OPT_ENGINE))
		mib = SIZE_ENGINE_MIB;
	if (cr->nvidia[0] != '\0')
		mib = SIZE_NVIDIA_MIB;
	(void)snprintf(cr->size, sizeof(cr->size), "%u", size ? gib * 1024 : mib);
	(void)snprintf(cr->include, sizeof(cr->include), "%s%s%s",
		       ctl_has(c, OPT_ENGINE) ? "docker.io" : "",
		       ctl_has(c, OPT_ENGINE) && include ? "," : "", include ? include : "");
	add(cr, "mkimage", NULL);
	add(cr, "--name", "built");
	add(cr, "--size-mib", cr->size);
	if (suite)
		add(cr, "--suite", suite);
	if (cr->include[0] != '\0')
		add(cr, "--include", cr->include);
	if (cr->nvidia[0] != '\0')
		add(cr, "--nvidia", cr->nvidia);
	return CTL_OK;
}

/* A proxy is how some hosts reach Debian's archive at all; nothing else of the operator's goes
 * along. */
static char **environment(void)
{
	static const char *const kept[] = {"http_proxy", "https_proxy", "no_proxy"};
	static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", locale[] = "LC_ALL=C";
	static char *envp[ARRAY_LEN(kept) + 3] = {path, locale};
	size_t n = 2;

	for (size_t i = 0; i < ARRAY_LEN(kept); i++)
		if (getenv(kept[i]))
			envp[n++] = text_format("%s=%s", kept[i], getenv(kept[i]));
	return envp;
}

/* mkimage's lines are the progress: they go to our standard error. */
_noreturn_ static void run_mkimage(const struct ctl *c, const char *program,
				   const struct create *cr, int lock_fd)
{
	int null = open("/dev/null", O_RDWR);

	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);
	/* It ends with us, and cleans up first; until it has, the lock is held by it, too. */
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
	    dup2(c->quiet ? null : STDERR_FILENO, STDOUT_FILENO) < 0 ||
	    fcntl(lock_fd, F_SETFD, 0) < 0)
		_exit(126);
	(void)execve(program, (char *const *)cr->argv, environment());
	(void)dprintf(STDERR_FILENO, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

static int make(struct ctl *c, const struct place *p, const struct create *cr)
{
	const char *program = ctl_value(c, OPT_MKIMAGE);
	bool told = false;
	int status;
	pid_t pid;

	(void)fflush(NULL);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		run_mkimage(c, program ? program : QUDATA_MKIMAGE, cr, p->lock_fd);
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
		if (interrupted() && !told)
			told = kill(pid, SIGTERM) == 0;
	}
	if (interrupted())
		return -EINTR;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

/* Takes what mkimage made as the staged image. */
static int take_built(struct staging *s)
{
	s->image_fd = safe_close(s->image_fd);
	if (unlinkat(s->fd, "image", AT_REMOVEDIR) < 0 ||
	    renameat(s->fd, "built", s->fd, "image") < 0)
		return -errno;
	s->image_fd = openat(s->fd, "image", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return s->image_fd < 0 ? -errno : 0;
}

enum ctl_exit cmd_image_create(struct ctl *c)
{
	_cleanup_place_ struct place p = PLACE_INIT;
	_cleanup_staging_ struct staging s = STAGING_INIT;
	const char *name = ctl_arg(c, 0);
	struct create cr = {0};
	struct err err = {0};
	enum ctl_exit code = driver_usage(c, &cr);
	int r;

	if (code == CTL_OK)
		code = create_usage(c, &cr);
	if (code == CTL_OK && geteuid() != 0)
		code = ctl_fail(c, CTL_DENIED,
				"run this as root: the files of a guest belong to its root");
	if (code == CTL_OK)
		code = place_open(c, /* write= */ true, &p);
	if (code == CTL_OK)
		code = publish_check(c, &p, name);
	if (code != CTL_OK)
		return code;
	r = staging_open(&p, &s);
	if (r == 0) {
		(void)snprintf(cr.output, sizeof(cr.output), "%s/%s", p.images_dir, s.name);
		add(&cr, "--output", cr.output);
		r = make(c, &p, &cr);
		(void)err_set(&err, r, "mkimage failed: its last lines say why");
	}
	if (r == 0)
		r = take_built(&s);
	return r < 0 ? image_fail(c, r, &err) : publish(c, &p, &s, name);
}
