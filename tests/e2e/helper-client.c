/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of vfio-helper for tests: one connection, the operations given as arguments, one line of
 * result each.
 *   helper-client SOCKET agentd|vmmon OPERATION [ARGUMENT...] [, OPERATION ...]
 * Trust: test code; run as the user whose role it plays.
 */
#include "common/fd.h"
#include "common/rpc.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>

#define TIMEOUT_MS 40000

struct client {
	struct rpc rpc;
	const struct proto_op *op; /* being called */
	enum proto_status status;
	bool done, closed, exited;
	struct vm_exited_ev exit_event;
	union proto_body rep;
};

static void on_event(void *ctx, uint32_t op_number, const void *body)
{
	struct client *c = ctx;

	if (op_number != OP_VM_EXITED)
		return;
	memcpy(&c->exit_event, body, sizeof(c->exit_event));
	c->exited = true;
}

static void on_close(void *ctx)
{
	((struct client *)ctx)->closed = true;
}

static void on_reply(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct client *c = arg;

	(void)fds;
	c->status = status;
	c->done = true;
	memset(&c->rep, 0, sizeof(c->rep));
	if (rep)
		memcpy(&c->rep, rep, c->op->rep_size);
}

static void pump(struct client *c, const bool *until)
{
	uint64_t end = rpc_now_ms() + TIMEOUT_MS;

	while (!*until && !c->closed && rpc_now_ms() < end) {
		struct pollfd p = {.fd = rpc_fd(&c->rpc), .events = POLLIN};

		if (poll(&p, 1, 100) > 0)
			rpc_receive(&c->rpc);
		rpc_expire(&c->rpc);
	}
}

static int call(struct client *c, uint32_t op, const void *req, int fd)
{
	int r;

	c->done = false;
	c->op = proto_find(op);
	r = rpc_call(&c->rpc, op, req, fd, TIMEOUT_MS, on_reply, c);
	if (r < 0) {
		(void)printf("%s not sent: %s\n", c->op->name, strerror(-r));
		return r;
	}
	pump(c, &c->done);
	(void)printf("%s %s", c->op->name, c->done ? proto_status_name(c->status) : "unanswered");
	return 0;
}

static void set_name(char field[static PROTO_NAME_SIZE], const char *name)
{
	if (!name || proto_name_set(field, name) < 0) {
		(void)fprintf(stderr, "no NAME: %s\n", name ? name : "");
		exit(2);
	}
}

static int seed_fd(const char *path)
{
	static char data[PROTO_SEED_MAX + 1];
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, data, sizeof(data));

	return n <= 0 ? -EBADF : fd_memfd_sealed("seed", data, (size_t)n);
}

static void do_prepare(struct client *c, char **args)
{
	struct vm_prepare_req req = {.disk_mib = (uint32_t)atoi(args[2])};
	const struct vm_prepare_rep *rep = (const void *)&c->rep;

	set_name(req.vm, args[0]);
	set_name(req.image, args[1]);
	if (call(c, OP_VM_PREPARE, &req, -1) == 0)
		(void)printf(" disk_mib=%u\n", rep->disk_mib);
}

static void do_seed(struct client *c, char **args)
{
	struct vm_seed_req req = {0};
	_cleanup_close_ int fd = seed_fd(args[1]);

	set_name(req.vm, args[0]);
	if (call(c, OP_VM_SEED, &req, fd) == 0)
		(void)printf("\n");
}

static void do_start(struct client *c, char **args)
{
	struct vm_start_req req = {.cpus = (uint32_t)atoi(args[1]),
				   .memory_mib = (uint32_t)atoi(args[2])};
	const struct vm_start_rep *rep = (const void *)&c->rep;

	set_name(req.vm, args[0]);
	for (size_t i = 0; i < PROTO_MAX_PORTS && args[3 + i] && !STR_EQ(args[3 + i], ","); i++)
		if (sscanf(args[3 + i], "%hu:%hu", &req.ports[i].host, &req.ports[i].guest) != 2)
			exit(2);
	if (call(c, OP_VM_START, &req, -1) == 0)
		(void)printf(" generation=%" PRIu64 " accel=%u\n", rep->generation, rep->accel);
}

static void do_describe(struct client *c, char **args)
{
	struct vm_describe_req req = {0};
	const struct vm_describe_rep *rep = (const void *)&c->rep;

	set_name(req.vm, args[0]);
	if (call(c, OP_VM_DESCRIBE, &req, -1) == 0)
		(void)printf(" state=%u generation=%" PRIu64
			     " exit_kind=%u exit_code=%u disk_mib=%u memory_mib=%u ports=%zu\n",
			     rep->state, rep->generation, rep->exit_kind, rep->exit_code,
			     rep->disk_mib, rep->memory_mib, proto_ports_count(rep->ports));
}

static void do_kill(struct client *c, char **args)
{
	struct vm_kill_req req = {.generation = strtoull(args[1], NULL, 10)};

	set_name(req.vm, args[0]);
	if (call(c, OP_VM_KILL, &req, -1) == 0)
		(void)printf("\n");
}

static void do_forget(struct client *c, char **args)
{
	struct vm_forget_req req = {0};

	set_name(req.vm, args[0]);
	if (call(c, OP_VM_FORGET, &req, -1) == 0)
		(void)printf("\n");
}

static void do_list(struct client *c, char **args)
{
	const struct vm_list_req req = {0};
	const struct vm_list_rep *rep = (const void *)&c->rep;

	(void)args;
	if (call(c, OP_VM_LIST, &req, -1) < 0)
		return;
	for (size_t i = 0; i < PROTO_MAX_VMS && rep->vms[i][0]; i++)
		(void)printf(" %s", rep->vms[i]);
	(void)printf("\n");
}

static void do_accel(struct client *c, char **args)
{
	const struct accel_status_req req = {0};
	const struct accel_status_rep *rep = (const void *)&c->rep;

	(void)args;
	if (call(c, OP_ACCEL_STATUS, &req, -1) == 0)
		(void)printf(" accel=%u reason=%u\n", rep->accel, rep->reason);
}

static void do_subscribe(struct client *c, char **args)
{
	const struct vm_subscribe_req req = {0};

	(void)args;
	if (call(c, OP_VM_SUBSCRIBE, &req, -1) == 0)
		(void)printf("\n");
}

static void do_wait_exit(struct client *c, char **args)
{
	(void)args;
	pump(c, &c->exited);
	(void)printf("EXITED %s generation=%" PRIu64 " exit_kind=%u exit_code=%u\n",
		     c->exited ? c->exit_event.vm : "nothing", c->exit_event.generation,
		     c->exit_event.exit_kind, c->exit_event.exit_code);
	c->exited = false;
}

static const struct {
	const char *word;
	int n_args;
	void (*run)(struct client *c, char **args);
} operations[] = {
	{"prepare", 3, do_prepare}, {"seed", 2, do_seed},           {"start", 3, do_start},
	{"kill", 2, do_kill},       {"describe", 1, do_describe},   {"forget", 1, do_forget},
	{"list", 0, do_list},       {"subscribe", 0, do_subscribe}, {"wait-exit", 0, do_wait_exit},
	{"accel", 0, do_accel},
};

static int run_words(struct client *c, char **words)
{
	while (*words) {
		size_t i = 0;
		int n = 0;

		while (i < ARRAY_LEN(operations) && !STR_EQ(operations[i].word, *words))
			i++;
		for (words++; words[n] && !STR_EQ(words[n], ",");)
			n++;
		if (i == ARRAY_LEN(operations) || n < operations[i].n_args)
			return 2;
		operations[i].run(c, words);
		(void)fflush(stdout);
		words += n + (words[n] ? 1 : 0);
	}
	return c->closed ? 3 : 0;
}

int main(int argc, char *argv[])
{
	static struct client c;
	bool mon = argc > 3 && STR_EQ(argv[2], "vmmon");
	const struct helper_hello_req hello = {.version = PROTO_VERSION};
	const struct rpc_config config = {.self = mon ? PROTO_VMMON : PROTO_AGENTD,
					  .peer = PROTO_HELPER,
					  .ctx = &c,
					  .on_event = on_event,
					  .on_close = on_close};

	if (argc < 4)
		return 2;
	rpc_init(&c.rpc, &config);
	if (rpc_connect(&c.rpc, argv[1]) < 0 ||
	    call(&c, mon ? OP_MON_HELLO : OP_HELPER_HELLO, &hello, -1) < 0)
		return 1;
	(void)printf("\n");
	return run_words(&c, argv + 3);
}
