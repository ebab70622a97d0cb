/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Round trips to the running vfio-helper against a bare SOCK_SEQPACKET ping-pong of the same sizes,
 * in alternating rounds of the same minute. Run as agentd's user: bench-helper SOCKET [ROUNDS
 * [PER-ROUND]] Prints the median microseconds of both and their ratio.
 */
#include "common/base.h"
#include "common/ipc.h"
#include "common/rpc.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define ROUNDS_MAX 101

static double now_us(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Where the two sides run decides more than what they do: client on CPU 0, both servers on CPU 1.
 */
static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned int)cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

/* The bare peer: the same bytes in and out, no decoding, no event loop. */
static _noreturn_ void echo(int fd)
{
	static const uint8_t reply[sizeof(struct proto_header) + sizeof(struct vm_describe_rep)];
	uint8_t buf[PROTO_MSG_MAX];

	while (recv(fd, buf, sizeof(buf), 0) > 0)
		if (send(fd, reply, sizeof(reply), MSG_NOSIGNAL) < 0)
			break;
	_exit(0);
}

static void count_reply(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	(void)rep;
	(void)fds;
	*(int *)arg = status == PROTO_OK ? 1 : -1;
}

static void helper_call(struct rpc *rpc, uint32_t op, const void *req)
{
	struct pollfd p = {.fd = rpc_fd(rpc), .events = POLLIN};
	int done = 0;

	if (rpc_call(rpc, op, req, -1, 5000, count_reply, &done) < 0)
		done = -1;
	while (done == 0) {
		(void)poll(&p, 1, 5000);
		rpc_receive(rpc);
	}
	if (done < 0) {
		(void)fputs("the helper refused a call\n", stderr);
		exit(1);
	}
}

static double round_helper(struct rpc *rpc, int n)
{
	struct vm_describe_req req = {0};
	double begun = now_us();

	(void)proto_name_set(req.vm, "no-such-vm");
	for (int i = 0; i < n; i++)
		helper_call(rpc, OP_VM_DESCRIBE, &req);
	return (now_us() - begun) / n;
}

static double round_bare(int fd, int n)
{
	uint8_t buf[PROTO_MSG_MAX] = {0};
	struct pollfd p = {.fd = fd, .events = POLLIN};
	double begun = now_us();

	for (int i = 0; i < n; i++) {
		if (send(fd, buf, sizeof(struct proto_header) + sizeof(struct vm_describe_req), 0) <
		    0)
			exit(1);
		(void)poll(&p, 1, 5000);
		if (recv(fd, buf, sizeof(buf), 0) <= 0)
			exit(1);
	}
	return (now_us() - begun) / n;
}

int main(int argc, char *argv[])
{
	const struct rpc_config config = {.self = PROTO_AGENTD, .peer = PROTO_HELPER};
	int rounds = argc > 2 ? MIN_OF(atoi(argv[2]), ROUNDS_MAX) : 21;
	int n = argc > 3 ? atoi(argv[3]) : 2000;
	struct helper_hello_req hello = {.version = PROTO_VERSION};
	double helper[ROUNDS_MAX], bare[ROUNDS_MAX];
	struct rpc rpc;
	int pair[2];
	pid_t child;

	rpc_init(&rpc, &config);
	if (argc < 2 || rounds < 1 || n < 1 || rpc_connect(&rpc, argv[1]) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		(void)fputs("usage: bench-helper SOCKET [ROUNDS [PER-ROUND]] as agentd's user\n",
			    stderr);
		return 2;
	}
	child = fork();
	if (child == 0) {
		(void)close(pair[0]);
		pin(1);
		echo(pair[1]);
	}
	(void)close(pair[1]);
	pin(0);
	helper_call(&rpc, OP_HELPER_HELLO, &hello);
	for (int i = 0; i < rounds; i++) {
		bare[i] = round_bare(pair[0], n);
		helper[i] = round_helper(&rpc, n);
	}
	qsort(helper, (size_t)rounds, sizeof(double), by_value);
	qsort(bare, (size_t)rounds, sizeof(double), by_value);
	(void)printf("helper round trip %.2f us, bare ping-pong %.2f us, ratio %.2f (median of %d "
		     "rounds of %d)\n",
		     helper[rounds / 2], bare[rounds / 2], helper[rounds / 2] / bare[rounds / 2],
		     rounds, n);
	(void)kill(child, SIGKILL);
	(void)waitpid(child, NULL, 0);
	return 0;
}
