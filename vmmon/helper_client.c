/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Client of vfio-helper.
 * Trust: runs in vmmon; reads answers of a process of higher trust.
 */
#include "vmmon/helper_client.h"

#include "common/log.h"

#define TIMEOUT_MS 10000

static void arm_deadline(struct helper_client *h)
{
	uint64_t next = rpc_next_deadline_ms(&h->rpc), now = rpc_now_ms();
	uint64_t wait = next > now ? next - now : 0;
	const struct timeval tv = {.tv_sec = (time_t)(wait / MSEC_PER_SEC),
				   .tv_usec = (suseconds_t)(wait % MSEC_PER_SEC * 1000)};

	if (next == UINT64_MAX)
		(void)event_del(h->deadline);
	else
		(void)event_add(h->deadline, &tv);
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct helper_client *h = arg;

	(void)fd;
	(void)what;
	rpc_receive(&h->rpc);
	arm_deadline(h);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct helper_client *h = arg;

	(void)fd;
	(void)what;
	rpc_expire(&h->rpc);
	arm_deadline(h);
}

static void on_close(void *ctx)
{
	struct helper_client *h = ctx;

	if (h->readable)
		event_free(h->readable);
	h->readable = NULL;
}

static void on_hello(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	(void)arg;
	(void)rep;
	(void)fds;
	if (status != PROTO_OK)
		log_event(LOG_ERR, "vfio-helper refused the greeting",
			  LOG_STR("STATUS", proto_status_name(status)));
}

/* Requests are handled in their order, so what follows need not wait for the greeting's answer. */
static int ensure_connected(struct helper_client *h)
{
	const struct mon_hello_req hello = {.version = PROTO_VERSION};
	int r;

	if (rpc_fd(&h->rpc) >= 0)
		return 0;
	r = rpc_connect(&h->rpc, h->path);
	if (r < 0)
		return r;
	h->readable = event_new(h->base, rpc_fd(&h->rpc), EV_READ | EV_PERSIST, on_readable, h);
	if (!h->readable || event_add(h->readable, NULL) < 0)
		r = -ENOMEM;
	if (r == 0)
		r = rpc_call(&h->rpc, OP_MON_HELLO, &hello, -1, TIMEOUT_MS, on_hello, h);
	if (r < 0)
		rpc_close(&h->rpc);
	return r;
}

int helper_client_init(struct helper_client *h, struct event_base *base, const char *path)
{
	const struct rpc_config config = {
		.self = PROTO_VMMON,
		.peer = PROTO_HELPER,
		.ctx = h,
		.on_close = on_close,
	};

	*h = (struct helper_client){.base = base, .path = path};
	rpc_init(&h->rpc, &config);
	h->deadline = event_new(base, -1, 0, on_deadline, h);
	return h->deadline ? 0 : -ENOMEM;
}

void helper_client_done(struct helper_client *h)
{
	if (!h->deadline)
		return;
	rpc_close(&h->rpc);
	event_free(h->deadline);
	h->deadline = NULL;
}

int helper_client_send_seed(struct helper_client *h, const char *vm, int seed_fd, rpc_reply_fn *fn,
			    void *arg)
{
	struct vm_seed_req req = {0};
	int r = proto_name_set(req.vm, vm);

	if (r == 0)
		r = ensure_connected(h);
	if (r == 0)
		r = rpc_call(&h->rpc, OP_VM_SEED, &req, seed_fd, TIMEOUT_MS, fn, arg);
	arm_deadline(h);
	return r;
}
