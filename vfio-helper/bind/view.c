/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine as it is now: PCI functions, our own records, who holds what, and the judgement.
 * Trust: runs as root; reads sysfs, /proc and the records.
 */
#include "vfio-helper/bind/act.h"

#include <time.h>

#define HELD_POLL_MS 200

void view_done(struct view *view)
{
	gpu_list_done(&view->list);
	gpu_state_done(&view->state);
	pci_tree_done(&view->tree);
}

int view_load(const struct bind_env *env, const char *except, struct view *ret_view,
	      struct err *reterr)
{
	struct view view = {0};
	int r = pci_scan(env->sysfs_fd, &view.tree, reterr);

	if (r < 0)
		return r;
	r = records_state(env->state_fd, except, &view.state);
	if (r == 0)
		r = gpu_find_holders(env->sysfs_fd, env->proc_fd, &view.tree, &view.state);
	if (r == 0)
		r = gpu_judge(&view.tree, &env->policy, &view.state, &view.list);
	if (r < 0) {
		view_done(&view);
		return err_errno(reterr, r, "cannot judge the GPUs");
	}
	*ret_view = view;
	return 0;
}

uint32_t view_holders(const struct view *view, pci_addr address, char *ret_text, size_t size)
{
	const struct gpu_state *s = &view->state;
	uint32_t n = 0;
	size_t used = 0;

	ret_text[0] = '\0';
	for (uint32_t i = 0; i < s->n_holders; i++) {
		if (view->tree.funcs[s->holders[i].func].address != address)
			continue;
		used += (size_t)snprintf(ret_text + used, size - used, "%s%s (pid %u)",
					 n == 0 ? "" : ", ", s->holders[i].program,
					 s->holders[i].pid);
		used = MIN_OF(used, size - 1);
		n++;
	}
	return n;
}

static int check_unheld(const struct job *job, bool by_guest, struct err *reterr)
{
	_cleanup_(view_done) struct view view = {0};
	char who[128], address[PCI_TEXT_SIZE];
	int r = view_load(job->env, "", &view, reterr);

	for (uint32_t i = 0; r == 0 && i < job->lease.n_funcs; i++) {
		const struct lease_func *f = &job->lease.funcs[i];
		uint32_t at = pci_find(&view.tree, f->address);

		if (at == PCI_NO_INDEX ||
		    (by_guest && !STR_EQ(view.tree.funcs[at].driver, func_guest_driver(f))))
			continue;
		pci_addr_text(f->address, address);
		if (view_holders(&view, f->address, who, sizeof(who)) > 0)
			r = err_set(reterr, -EBUSY, "%s is held by %s", address, who);
	}
	return r;
}

int wait_unheld(const struct job *job, bool by_guest, unsigned int wait_ms, struct err *reterr)
{
	const struct timespec pause = {.tv_nsec = HELD_POLL_MS * 1000000L};
	int r = check_unheld(job, by_guest, reterr);

	for (unsigned int waited = 0; r == -EBUSY && waited < wait_ms; waited += HELD_POLL_MS) {
		(void)nanosleep(&pause, NULL);
		r = check_unheld(job, by_guest, reterr);
	}
	return r;
}
