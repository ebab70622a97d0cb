/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helper's side of its conversation with the spawner, and the children that come of it.
 * Trust: runs as root; reads the spawner's answers, and what children wrote to stderr as text.
 */
#include "vfio-helper/helper.h"

#include "common/fd.h"
#include "common/ipc.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static int ask(struct spawner *s, uint32_t op, const void *body, size_t len, const int *fds,
	       size_t n_fds, struct spawn_answer *ret_answer, struct fdlist *ret_fds)
{
	struct proto_header header = {.op = op, .request_id = ++s->asked, .len = (uint32_t)len};
	struct pollfd wait = {.fd = s->fd, .events = POLLIN};
	uint8_t buf[sizeof(header) + sizeof(*ret_answer)] = {0};
	ssize_t n = ipc_send(s->fd, &header, body, fds, n_fds);

	while (n == 0 && poll(&wait, 1, SPAWN_ANSWER_MAX) < 0 && errno == EINTR)
		;
	if (n == 0)
		n = ipc_recv_fds(s->fd, buf, sizeof(buf), ret_fds, 1);
	s->lost = n != (ssize_t)sizeof(buf);
	if (s->lost)
		return -EPIPE;
	memcpy(&header, buf, sizeof(header));
	/* An answer to something else is a late one: the two are out of step. */
	s->lost = header.request_id != s->asked;
	if (s->lost)
		return -EPIPE;
	memcpy(ret_answer, buf + sizeof(header), sizeof(*ret_answer));
	return 0;
}

/* The path of the program @name beside our own: whoever could put another there could replace us.
 */
static int beside_us(const char *name, char *path, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", path, size);
	char *slash = n > 0 && (size_t)n < size ? memrchr(path, '/', (size_t)n) : NULL;
	size_t room;

	if (!slash)
		return -ENAMETOOLONG;
	room = size - (size_t)(slash + 1 - path);
	return snprintf(slash + 1, room, "%s", name) < (int)room ? 0 : -ENAMETOOLONG;
}

/* Only the pair, and stderr for its own complaints; no socket of the service manager. */
_noreturn_ static void become_spawner(const char *path, int fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null_fd >= 0 && dup2(null_fd, STDIN_FILENO) >= 0 && dup2(null_fd, STDOUT_FILENO) >= 0 &&
	    dup2(fd, SPAWNER_FD) >= 0 && close_range(SPAWNER_FD + 1, ~0U, 0) == 0)
		(void)execl(path, path, NULL);
	log_event(LOG_ERR, "the spawner cannot be run", LOG_STR("PATH", path), LOG_ERRNO(-errno));
	_exit(126);
}

int spawner_start(struct spawn_setup *setup, struct spawner *ret_spawner, struct err *reterr)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	struct spawn_answer answer;
	char path[sizeof(setup->launch_binary)];
	int pair[2], r = beside_us("vfio-helper-spawn", path, sizeof(path));
	pid_t pid;

	if (r == 0)
		r = beside_us("vm-launch", setup->launch_binary, sizeof(setup->launch_binary));
	if (r < 0)
		return err_errno(reterr, r, "cannot find the spawner beside this program");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(reterr, -errno, "cannot make a socket pair");
	pid = fork();
	if (pid == 0)
		become_spawner(path, pair[1]);
	r = pid < 0 ? -errno : 0;
	(void)close(pair[1]);
	ret_spawner->fd = pair[0];
	setup->version = SPAWN_VERSION;
	if (r == 0)
		r = ask(ret_spawner, SPAWN_OP_SETUP, setup, sizeof(*setup), NULL, 0, &answer,
			&none);
	return r < 0 ? err_errno(reterr, r, "cannot start %s", path) : 0;
}

/* A place for complaints that cannot grow and survives whoever reads it. */
static int make_stderr(void)
{
	_cleanup_close_ int fd = memfd_create("stderr", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, STDERR_MAX) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
		return -errno;
	return TAKE_FD(fd);
}

int spawn_child(struct spawner *s, struct spawn_spec *spec, int fds[static FD_ROLES],
		struct child *ret_child)
{
	_cleanup_(fdlist_done) struct fdlist got = {0};
	_cleanup_close_ int stderr_fd = make_stderr();
	struct spawn_answer answer;
	int list[FD_ROLES];
	size_t n = 0;
	int r;

	if (stderr_fd < 0)
		return stderr_fd;
	spec->roles = FD_BIT(FD_STDERR);
	list[n++] = stderr_fd;
	for (size_t role = FD_CGROUP; role < FD_ROLES; role++)
		if (fds[role] >= 0) {
			spec->roles |= FD_BIT(role);
			list[n++] = fds[role];
		}
	r = ask(s, SPAWN_OP_START, spec, sizeof(*spec), list, n, &answer, &got);
	if (r < 0)
		return r;
	if (answer.result <= 0 || got.n != 1)
		return answer.result < 0 ? answer.result : -EBADMSG;
	*ret_child = (struct child){
		.pid = answer.result, .pidfd = fdlist_take(&got), .stderr_fd = TAKE_FD(stderr_fd)};
	return 0;
}

int spawn_sweep(struct spawner *s, uint32_t slot)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	const struct spawn_sweep req = {.slot = slot};
	struct spawn_answer answer;
	int r = ask(s, SPAWN_OP_SWEEP, &req, sizeof(req), NULL, 0, &answer, &none);

	return r < 0 ? r : answer.result;
}

static void last_words(const struct child *c, char *buf, size_t size)
{
	char text[STDERR_MAX + 1] = "";
	char *line;

	if (c->stderr_fd >= 0 && pread(c->stderr_fd, text, STDERR_MAX, 0) < 0)
		text[0] = '\0';
	for (size_t len = strlen(text); len > 0 && text[len - 1] == '\n'; len--)
		text[len - 1] = '\0';
	line = strrchr(text, '\n');
	(void)snprintf(buf, size, "%s", line ? line + 1 : text);
}

int child_watch(struct helper *h, struct child *c, watch_fn *fn, void *arg)
{
	return loop_watch(h, &c->watch, c->pidfd, fn, arg);
}

struct child_end child_collect(struct helper *h, struct child *c)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	const struct spawn_reap req = {.pid = c->pid};
	struct spawn_answer answer = {.exit_kind = PROTO_EXIT_UNKNOWN};
	struct child_end end;

	loop_unwatch(h, &c->watch);
	(void)ask(&h->spawner, SPAWN_OP_REAP, &req, sizeof(req), NULL, 0, &answer, &none);
	end.kind = answer.exit_kind;
	end.code = answer.exit_code;
	last_words(c, end.words, sizeof(end.words));
	(void)safe_close(c->pidfd);
	(void)safe_close(c->stderr_fd);
	*c = CHILD_NONE;
	return end;
}

void no_fds(int fds[static FD_ROLES])
{
	for (size_t i = 0; i < FD_ROLES; i++)
		fds[i] = -EBADF;
}

void close_roles(int fds[static FD_ROLES])
{
	for (size_t i = 0; i < FD_ROLES; i++)
		fds[i] = safe_close(fds[i]);
}

void child_kill(const struct child *c)
{
	if (c->pidfd >= 0)
		(void)syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
}
