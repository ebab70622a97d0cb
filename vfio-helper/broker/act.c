/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Acts of vfio-bind: each is a process of its own, which is waited for by the event loop only. One
 * that does not answer in time is given up, which concerns nobody but whoever asked.
 * Trust: runs as qudata-helper; reads one answer of vfio-bind, which is root.
 */
#include "vfio-helper/broker/broker.h"

#include "common/fd.h"
#include "common/ipc.h"

#include <sys/socket.h>

/* Acts that concern no VM leave room for one of each VM. */
#define ACT_MAX_OTHERS (ACT_MAX - PROTO_MAX_VMS)

static struct act *free_act(struct broker *b, const char *vm)
{
	size_t limit = vm[0] != '\0' ? ACT_MAX : ACT_MAX_OTHERS, used = 0;
	struct act *found = NULL;

	for (size_t i = 0; i < ACT_MAX; i++) {
		used += b->acts[i].used ? 1 : 0;
		if (!b->acts[i].used)
			found = &b->acts[i];
	}
	return used < limit ? found : NULL;
}

bool act_of_vm(const struct broker *b, const char *vm)
{
	for (size_t i = 0; i < ACT_MAX; i++)
		if (b->acts[i].used && !b->acts[i].given_up && STR_EQ(b->acts[i].vm, vm))
			return true;
	return false;
}

/* Tells whoever asked. What remains is to wait for the process's end. */
static void finish(struct broker *b, struct act *a, const struct bind_answer *answer, int *fd)
{
	act_fn *done = a->done;

	loop_unwatch(b, &a->watch);
	a->fd = safe_close(a->fd);
	a->deadline_ms = 0;
	a->given_up = true;
	a->done = NULL;
	if (done)
		done(b, a, answer, fd);
}

static void fail(struct broker *b, struct act *a, enum proto_status status, const char *why)
{
	struct bind_answer answer = {.status = status};
	int none = -EBADF;

	(void)snprintf(answer.why, sizeof(answer.why), "%s", why);
	finish(b, a, &answer, &none);
}

/* 0, or -EBADMSG when it is not what bind.h says. */
static int take_answer(const struct act *a, const uint8_t *buf, size_t len,
		       struct bind_answer *ret_answer)
{
	struct proto_header header;

	if (len != sizeof(header) + sizeof(*ret_answer))
		return -EBADMSG;
	memcpy(&header, buf, sizeof(header));
	memcpy(ret_answer, buf + sizeof(header), sizeof(*ret_answer));
	ret_answer->why[sizeof(ret_answer->why) - 1] = '\0';
	if (header.op != (uint32_t)a->kind || header.kind != PROTO_REPLY ||
	    ret_answer->status >= PROTO_STATUS_COUNT || ret_answer->n_devices > PROTO_MAX_DEVICES ||
	    ret_answer->n_gpus > PROTO_MAX_GPUS)
		return -EBADMSG;
	return 0;
}

static void on_answer(struct broker *b, void *arg)
{
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	struct act *a = arg;
	struct bind_answer answer;
	uint8_t buf[PROTO_MSG_MAX];
	ssize_t n = ipc_recv(a->fd, buf, sizeof(buf), &fds);
	int fd;

	if (n == -EAGAIN)
		return;
	if (n <= 0 || take_answer(a, buf, (size_t)n, &answer) < 0) {
		fail(b, a, PROTO_FAILED, "vfio-bind gave no answer");
		return;
	}
	fd = fdlist_take(&fds);
	finish(b, a, &answer, &fd);
	(void)safe_close(fd);
}

static void on_end(struct broker *b, void *arg)
{
	struct act *a = arg;
	struct child_end end;

	if (a->done)
		on_answer(b, a);
	end = child_collect(b, &a->child);
	if (end.words[0] != '\0')
		log_event(LOG_WARNING, "vfio-bind has complained", LOG_STR("VM", a->vm),
			  LOG_STR("STDERR", end.words));
	if (a->done)
		fail(b, a, PROTO_FAILED, "vfio-bind gave no answer");
	*a = (struct act){0};
}

static int ask(struct broker *b, struct act *a, const struct bind_request *req)
{
	const struct proto_header header = {
		.op = req->act, .kind = PROTO_REQUEST, .request_id = 1, .len = sizeof(*req)};
	_cleanup_close_ int theirs = -EBADF;
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	a->fd = pair[0];
	theirs = pair[1];
	r = ipc_send(a->fd, &header, req, NULL, 0);
	if (r == 0)
		r = monitor_bind(&b->monitor, theirs, &a->child);
	if (r == 0)
		r = child_watch(b, &a->child, on_end, a);
	if (r == 0)
		r = loop_watch(b, &a->watch, a->fd, on_answer, a);
	return r;
}

/* What ends leases, and repairs, is asked for whatever policy has become: nothing else gives back.
 */
static bool is_for_rent(const struct bind_request *req)
{
	return req->act == BIND_LIST || req->act == BIND_TAKE || req->act == BIND_GRANT;
}

enum proto_status act_start(struct broker *b, const struct bind_request *req,
			    const struct ticket *ticket, act_fn *done)
{
	struct act *a = free_act(b, req->vm);
	int r;

	if (!b->setup.gpus && is_for_rent(req))
		return PROTO_DENIED;
	if (!a)
		return PROTO_BUSY;
	*a = (struct act){.used = true,
			  .kind = (enum bind_act)req->act,
			  .done = done,
			  .deadline_ms = loop_now_ms() + b->setup.bind_ms,
			  .fd = -EBADF,
			  .watch.fd = -EBADF,
			  .child = CHILD_NONE};
	memcpy(a->vm, req->vm, sizeof(a->vm));
	if (ticket)
		a->ticket = *ticket;
	r = ask(b, a, req);
	if (r == 0)
		return PROTO_OK;
	log_event(LOG_ERR, "vfio-bind cannot be started", LOG_ERRNO(r));
	a->done = NULL;
	if (a->child.pidfd >= 0 && a->child.watch.fd >= 0) { /* it runs; on_end() will come */
		a->given_up = true;
		a->deadline_ms = 0;
	} else {
		(void)safe_close(a->fd);
		*a = (struct act){0};
	}
	return PROTO_FAILED;
}

void act_expire(struct broker *b, uint64_t now_ms)
{
	for (size_t i = 0; i < ACT_MAX; i++) {
		struct act *a = &b->acts[i];

		if (a->deadline_ms == 0 || now_ms < a->deadline_ms)
			continue;
		log_event(LOG_ERR, "a vfio-bind is given up, and left to itself",
			  LOG_STR("VM", a->vm), LOG_NUM("ACT", a->kind),
			  LOG_NUM("PID", a->child.pid));
		fail(b, a, PROTO_TIMEOUT, "vfio-bind did not answer in time");
	}
}
