/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives vfio-bind by hand: starts it, sends it one request, prints its answer as key=value lines.
 *
 *   bind-client PROGRAM CONFIG list
 *   bind-client PROGRAM CONFIG take VM GPU...       GPU: 0000:01:00.0, ascending
 *   bind-client PROGRAM CONFIG grant VM SLOT
 *   bind-client PROGRAM CONFIG revoke|release VM
 *   bind-client PROGRAM CONFIG recover [GPU]
 *
 * `ms` is how long the program ran, from its fork to its end. Exits with 0 when the status is OK, 1
 * when it is another, 3 when no answer came. Trust: runs in tests, as root.
 */
#include "common/fd.h"
#include "common/ipc.h"
#include "vfio-helper/bind/bind.h"
#include "vfio-helper/pci/pci.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <time.h>

static const char *const acts[] = {
	[BIND_LIST] = "list",     [BIND_TAKE] = "take",       [BIND_GRANT] = "grant",
	[BIND_REVOKE] = "revoke", [BIND_RELEASE] = "release", [BIND_RECOVER] = "recover"};

_noreturn_ static void usage(void)
{
	(void)fputs("usage: bind-client PROGRAM CONFIG list | take VM GPU... | grant VM SLOT |\n"
		    "       revoke VM | release VM | recover [GPU]\n",
		    stderr);
	exit(2);
}

static int parse(int argc, char *argv[], struct bind_request *req)
{
	int next = 4, n = 0;

	*req = (struct bind_request){.version = BIND_VERSION};
	for (uint32_t i = BIND_LIST; i <= BIND_ACT_MAX; i++)
		if (argc > 3 && STR_EQ(argv[3], acts[i]))
			req->act = i;
	if (req->act == 0)
		return -EINVAL;
	if (req->act != BIND_LIST && req->act != BIND_RECOVER) {
		/* What is no name is sent all the same: it is for vfio-bind to refuse. */
		if (next == argc)
			return -EINVAL;
		(void)snprintf(req->vm, sizeof(req->vm), "%s", argv[next++]);
	}
	if (req->act == BIND_GRANT && next < argc)
		req->slot = (uint32_t)strtoul(argv[next++], NULL, 10);
	for (; next < argc; next++)
		if (n == PROTO_MAX_GPUS || pci_addr_parse(argv[next], &req->gpus[n++]) < 0)
			return -EINVAL;
	return 0;
}

static void print_list(int fd, uint32_t bytes)
{
	_cleanup_free_ uint8_t *list = malloc(bytes + 1);
	const struct proto_conn conn = {
		.self = PROTO_AGENTD, .peer = PROTO_HELPER, .state = PROTO_ST_READY};

	if (!list || pread(fd, list, bytes, 0) != (ssize_t)bytes)
		return;
	for (uint32_t at = 0; at < bytes;) {
		const struct proto_op *op;
		struct proto_header header;
		union proto_body body;
		size_t len;

		memcpy(&header, list + at, sizeof(header));
		len = sizeof(header) + header.len;
		if (proto_decode_answer(&conn, list + at, len, 0, &op, &header, &body) < 0) {
			(void)printf("record=bad\n");
			return;
		}
		(void)printf("record=%s\n", op->name);
		at += (uint32_t)len;
	}
}

static double now_ms(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void print(const struct bind_answer *a, int fd)
{
	char address[PCI_TEXT_SIZE];

	(void)printf("status=%s\ndone=%u\nleft=%u\ngpus=%u\nfd=%s\nwhy=%s\n",
		     proto_status_name(a->status), a->done, a->left, a->n_gpus,
		     fd >= 0 ? "yes" : "no", a->why);
	for (uint32_t i = 0; i < a->n_devices && i < PROTO_MAX_DEVICES; i++) {
		const struct launch_device *d = &a->devices[i];

		pci_addr_text(d->address, address);
		(void)printf("device=%s card=%u function=%u flags=%u node=%u cdev=%u window=%llu "
			     "largest=%llu\n",
			     address, d->card, d->function, d->flags, d->node, d->cdev,
			     (unsigned long long)d->window_bytes,
			     (unsigned long long)d->largest_bar);
	}
	if (fd >= 0 && a->list_bytes > 0)
		print_list(fd, a->list_bytes);
}

int main(int argc, char *argv[])
{
	uint8_t buf[sizeof(struct proto_header) + sizeof(struct bind_answer)];
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	struct proto_header header = {.kind = PROTO_REQUEST, .request_id = 1};
	struct bind_request req;
	struct bind_answer answer;
	struct pollfd wait = {.events = POLLIN};
	int pair[2], status;
	double begun_ms;
	pid_t pid;

	if (argc < 4 || parse(argc, argv, &req) < 0)
		usage();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return 3;
	begun_ms = now_ms();
	pid = fork();
	if (pid == 0) {
		char *const args[] = {argv[1], (char[]){"--config"}, argv[2], NULL};

		(void)dup2(fcntl(pair[1], F_DUPFD_CLOEXEC, 10), BIND_FD);
		(void)execv(argv[1], args);
		_exit(127);
	}
	(void)close(pair[1]);
	header.op = req.act;
	header.len = sizeof(req);
	wait.fd = pair[0];
	if (ipc_send(pair[0], &header, &req, NULL, 0) < 0 ||
	    poll(&wait, 1, BIND_DEADLINE_MS) != 1 ||
	    ipc_recv_fds(pair[0], buf, sizeof(buf), &fds, 1) != (ssize_t)sizeof(buf)) {
		(void)waitpid(pid, &status, 0);
		(void)printf("answer=none\nexit=%d\nsignal=%d\n",
			     WIFEXITED(status) ? WEXITSTATUS(status) : -1,
			     WIFSIGNALED(status) ? WTERMSIG(status) : 0);
		return 3;
	}
	(void)waitpid(pid, &status, 0);
	(void)printf("ms=%.1f\n", now_ms() - begun_ms);
	memcpy(&answer, buf + sizeof(header), sizeof(answer));
	print(&answer, fds.n > 0 ? fds.fds[0] : -EBADF);
	return answer.status == PROTO_OK ? 0 : 1;
}
