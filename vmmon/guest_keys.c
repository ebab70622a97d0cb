/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue of one list in front of a guest's SSH session.
 * Trust: runs in vmmon; holds lists that were checked.
 */
#include "vmmon/guest_keys.h"

static void answer(struct guest_keys *k, struct keys_list *list, enum proto_status status)
{
	struct keys_list done = *list;

	*list = (struct keys_list){0}; /* first: a reply may lead to a new request */
	for (size_t i = 0; i < done.n_waiters; i++)
		k->reply(k->ctx, &done.waiters[i], status, done.n_keys);
	free(done.text);
}

static void on_done(void *arg, enum proto_status status);

/* Begins with the next list, if there is one and nothing runs. */
static void begin(struct guest_keys *k)
{
	if (k->job || !k->next.text)
		return;
	k->current = k->next;
	k->next = (struct keys_list){0};
	if (k->start(k->ctx, &k->current, on_done, k, &k->job) < 0) {
		k->job = NULL;
		answer(k, &k->current, PROTO_UNREACHABLE);
	}
}

static void on_done(void *arg, enum proto_status status)
{
	struct guest_keys *k = arg;

	ssh_job_free(TAKE_PTR(k->job));
	answer(k, &k->current, status);
	begin(k);
}

int guest_keys_set(struct guest_keys *k, char *text, size_t len, uint32_t n_keys,
		   const struct ticket *ticket)
{
	if (k->next.n_waiters == GUEST_KEYS_WAITERS) {
		free(text);
		return PROTO_BUSY;
	}
	free(k->next.text);
	k->next.text = text;
	k->next.len = len;
	k->next.n_keys = n_keys;
	k->next.waiters[k->next.n_waiters++] = *ticket;
	begin(k);
	return PROTO_DEFERRED;
}

void guest_keys_cancel(struct guest_keys *k, enum proto_status status)
{
	ssh_job_free(TAKE_PTR(k->job));
	answer(k, &k->current, status);
	answer(k, &k->next, status);
}
