/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The broker's side of its conversation with vfio-helper, and the children that come of it.
 * Trust: runs as qudata-helper; reads vfio-helper's answers, and what children wrote to stderr as
 * text.
 */
#include "vfio-helper/broker/broker.h"

#include "common/fd.h"
#include "common/ipc.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

/*
 * At once: what a vfio-helper that has gone could not do is no failure of a request, and who asked
 * for it asks the next one. No answer may say otherwise.
 */
_noreturn_ static void end_with_monitor(void)
{
	log_event(LOG_WARNING, "vfio-helper has gone or does not answer; ending with it");
	_exit(1);
}

/* The answer's result. */
static int ask(struct monitor *m, uint32_t op, const void *body, size_t len, const int *fds,
	       size_t n_fds, struct pair_answer *ret_answer, struct fdlist *ret_fds)
{
	struct proto_header header = {.op = op, .request_id = ++m->asked, .len = (uint32_t)len};
	struct pollfd wait = {.fd = m->fd, .events = POLLIN};
	uint8_t buf[sizeof(header) + sizeof(*ret_answer)] = {0};
	ssize_t n = ipc_send(m->fd, &header, body, fds, n_fds);

	while (n == 0 && poll(&wait, 1, PAIR_ANSWER_MAX_MS) < 0 && errno == EINTR)
		;
	if (n == 0)
		n = ipc_recv_fds(m->fd, buf, sizeof(buf), ret_fds, 1);
	if (n != (ssize_t)sizeof(buf))
		end_with_monitor();
	memcpy(&header, buf, sizeof(header));
	/* An answer to something else is a late one. */
	if (header.request_id != m->asked)
		end_with_monitor();
	memcpy(ret_answer, buf + sizeof(header), sizeof(*ret_answer));
	return ret_answer->result;
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

int monitor_ready(struct monitor *m)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	struct pair_answer answer;

	return ask(m, PAIR_READY, NULL, 0, NULL, 0, &answer, &none);
}

/* Asks for a child with @fds, of which the first is its stderr. */
static int ask_child(struct monitor *m, uint32_t op, const void *body, size_t len, int *fds,
		     size_t n_fds, uint32_t *ret_limited, struct child *ret_child)
{
	_cleanup_(fdlist_done) struct fdlist got = {0};
	_cleanup_close_ int stderr_fd = make_stderr();
	struct pair_answer answer;
	int r;

	if (stderr_fd < 0)
		return stderr_fd;
	fds[0] = stderr_fd;
	r = ask(m, op, body, len, fds, n_fds, &answer, &got);
	if (r <= 0 || got.n != 1)
		return r < 0 ? r : -EBADMSG;
	if (ret_limited)
		*ret_limited = answer.limited;
	*ret_child = (struct child){
		.pid = r, .pidfd = fdlist_take(&got), .stderr_fd = TAKE_FD(stderr_fd)};
	return 0;
}

int monitor_start(struct monitor *m, struct spawn_spec *spec, int fds[static FD_ROLES],
		  uint32_t *ret_limited, struct child *ret_child)
{
	int list[FD_ROLES];
	size_t n = 1;

	spec->roles = FD_BIT(FD_STDERR);
	for (size_t role = FD_STDERR + 1; role < FD_ROLES; role++)
		if (fds[role] >= 0) {
			spec->roles |= FD_BIT(role);
			list[n++] = fds[role];
		}
	return ask_child(m, PAIR_START, spec, sizeof(*spec), list, n, ret_limited, ret_child);
}

int monitor_bind(struct monitor *m, int socket_fd, struct child *ret_child)
{
	int list[] = {-EBADF, socket_fd};

	return ask_child(m, PAIR_BIND, NULL, 0, list, ARRAY_LEN(list), NULL, ret_child);
}

int monitor_sweep(struct monitor *m, uint32_t slot)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	const struct pair_sweep req = {.slot = slot};
	struct pair_answer answer;

	return ask(m, PAIR_SWEEP, &req, sizeof(req), NULL, 0, &answer, &none);
}

int monitor_audit(struct monitor *m, const struct pair_audit *record)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	struct pair_answer answer;

	return ask(m, PAIR_AUDIT, record, sizeof(*record), NULL, 0, &answer, &none);
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

int child_watch(struct broker *b, struct child *c, watch_fn *fn, void *arg)
{
	return loop_watch(b, &c->watch, c->pidfd, fn, arg);
}

struct child_end child_collect(struct broker *b, struct child *c)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	const struct pair_reap req = {.pid = c->pid};
	struct pair_answer answer;
	struct child_end end;

	loop_unwatch(b, &c->watch);
	(void)ask(&b->monitor, PAIR_REAP, &req, sizeof(req), NULL, 0, &answer, &none);
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
