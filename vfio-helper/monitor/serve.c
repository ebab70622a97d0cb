/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vfio-broker may ask for, one request at a time. Each is checked as if a stranger had sent
 * it: a broker that was taken over gets the same programs, as the same users, and nothing else.
 * Trust: runs as root with CAP_SETUID, CAP_SETGID, CAP_SETPCAP and what vfio-bind is given; reads
 * from vfio-broker, which parses peers' messages.
 */
#include "vfio-helper/monitor/monitor.h"

#include "common/ipc.h"
#include "common/notify.h"
#include "common/priv.h"

#include <poll.h>
#include <sys/wait.h>

#define BROKER_ENDS_MS 3000

struct request {
	const void *body;
	size_t len;
	struct fdlist fds;
};

static int start(struct monitor *m, const struct request *q, struct pair_answer *answer,
		 int *ret_pidfd)
{
	struct launch launch = {.setup = m->config.setup};
	_cleanup_close_ int cgroup = -EBADF;

	if (q->len != sizeof(launch.spec))
		return -EBADMSG;
	memcpy(&launch.spec, q->body, sizeof(launch.spec));
	if (spec_check(&launch.spec, &m->config.setup) < 0 ||
	    (size_t)__builtin_popcount(launch.spec.roles) != q->fds.n)
		return -EBADMSG;
	if (m->n_children >= PAIR_MAX_CHILDREN)
		return -EAGAIN;
	cgroup = cgroup_enter(m->cgroup_fd, &launch.spec, &answer->limited);
	return child_launch(&launch, &q->fds, cgroup, ret_pidfd);
}

static bool is_seqpacket(int fd)
{
	int domain = 0, type = 0;
	socklen_t len = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX)
		return false;
	len = sizeof(int);
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

/* What is asked of vfio-bind it reads, and judges, itself. */
static int bind_act(struct monitor *m, const struct request *q, int *ret_pidfd)
{
	if (q->len != 0 || q->fds.n != 2 || !is_seqpacket(q->fds.fds[1]))
		return -EBADMSG;
	if (!m->binds)
		return -EPERM;
	if (m->n_children >= PAIR_MAX_CHILDREN)
		return -EAGAIN;
	return child_bind(m->bind_binary, m->config_path, q->fds.fds[0], q->fds.fds[1], ret_pidfd);
}

/*
 * A slot's user has no process but those of its one VM. Before the slot serves another, or the same
 * again, whatever a lost or taken-over one has left behind is ended: it would share the uid.
 */
static int sweep(struct monitor *m, const struct request *q)
{
	struct pair_sweep body;
	int r;

	if (q->len != sizeof(body))
		return -EBADMSG;
	memcpy(&body, q->body, sizeof(body));
	if (body.slot >= m->config.setup.max_vms)
		return -EBADMSG;
	r = child_sweep(&m->config.setup.users[body.slot]);
	cgroup_remove(m->cgroup_fd, body.slot);
	return r;
}

static int reap(struct monitor *m, const struct request *q, struct pair_answer *answer)
{
	struct pair_reap body;
	siginfo_t info = {0};

	if (q->len != sizeof(body))
		return -EBADMSG;
	memcpy(&body, q->body, sizeof(body));
	answer->exit_kind = PROTO_EXIT_UNKNOWN;
	if (body.pid <= 0 || body.pid == m->broker_pid ||
	    waitid(P_PID, (id_t)body.pid, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0)
		return 0;
	m->n_children--;
	answer->exit_kind = info.si_code == CLD_EXITED ? PROTO_EXIT_CODE : PROTO_EXIT_SIGNAL;
	answer->exit_code = (uint32_t)info.si_status & 255;
	return 0;
}

static int ready(struct monitor *m, const struct request *q)
{
	if (q->len != 0 || m->ready)
		return -EBADMSG;
	m->ready = true;
	notify_ready("serving");
	return 0;
}

static int act(struct monitor *m, uint32_t op, const struct request *q, struct pair_answer *answer,
	       int *ret_pidfd)
{
	if (q->fds.n != 0 && op != PAIR_START && op != PAIR_BIND)
		return -EBADMSG;
	switch (op) {
	case PAIR_READY:
		return ready(m, q);
	case PAIR_START:
		return start(m, q, answer, ret_pidfd);
	case PAIR_REAP:
		return reap(m, q, answer);
	case PAIR_SWEEP:
		return sweep(m, q);
	case PAIR_BIND:
		return bind_act(m, q, ret_pidfd);
	case PAIR_AUDIT:
		return audit_take(&m->audit, q->body, q->len);
	default:
		return -EBADMSG;
	}
}

/* The first, the second, the fourth and so on: a flood of them must not push out other words. */
static void note_refused(struct monitor *m, uint32_t op)
{
	uint64_t n = ++m->n_refused;

	if ((n & (n - 1)) == 0)
		log_event(LOG_CRIT, "the broker asks for what it may not", LOG_NUM("OP", op),
			  LOG_NUM("COUNT", n));
}

static void request_done(struct request *q)
{
	fdlist_done(&q->fds);
}

/* Returns 0 to go on. Nonsense is refused, and said: the broker's own code sends none. */
static int serve_one(struct monitor *m)
{
	_cleanup_(request_done) struct request q = {0};
	_cleanup_close_ int pidfd = -EBADF;
	_Alignas(8) uint8_t buf[PROTO_MSG_MAX];
	struct pair_answer answer = {0};
	struct proto_header header;
	ssize_t n = ipc_recv_fds(m->pair_fd, buf, sizeof(buf), &q.fds, FD_ROLES);

	if (n == -EAGAIN)
		return 0;
	if (n < (ssize_t)sizeof(header))
		return -EPIPE;
	memcpy(&header, buf, sizeof(header));
	q.body = buf + sizeof(header);
	q.len = (size_t)n - sizeof(header);
	answer.result = act(m, header.op, &q, &answer, &pidfd);
	if (answer.result == -EBADMSG)
		note_refused(m, header.op);
	if (pidfd >= 0)
		m->n_children++;
	header.len = sizeof(answer);
	return ipc_send(m->pair_fd, &header, &answer, &pidfd, pidfd >= 0 ? 1 : 0);
}

int monitor_serve(struct monitor *m)
{
	struct pollfd wait[] = {{.fd = m->pair_fd, .events = POLLIN},
				{.fd = m->signal_fd, .events = POLLIN}};
	int r = 0;

	stage_assert_running();
	while (r == 0) {
		if (poll(wait, ARRAY_LEN(wait), -1) < 0 && errno != EINTR)
			return -errno;
		if (wait[1].revents != 0)
			return 0;
		if (wait[0].revents != 0)
			r = serve_one(m);
	}
	return r;
}

void monitor_done(struct monitor *m)
{
	struct pollfd wait = {.fd = m->broker_pidfd, .events = POLLIN};

	/* It ends when it sees this end closed; should it not, it does so with us (die_with()). */
	m->pair_fd = safe_close(m->pair_fd);
	if (m->broker_pidfd >= 0)
		(void)poll(&wait, 1, BROKER_ENDS_MS);
	m->broker_pidfd = safe_close(m->broker_pidfd);
	audit_done(&m->audit);
}
