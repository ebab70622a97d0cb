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

static int judge(const struct bind_env *env, struct view *view, struct err *reterr)
{
	int r;

	gpu_list_done(&view->list);
	r = gpu_judge(&view->tree, &env->policy, &view->state, &view->list);
	return r < 0 ? err_errno(reterr, r, "cannot judge the GPUs") : 0;
}

int view_load(const struct bind_env *env, const char *except, const pci_addr *gpus, uint32_t n,
	      struct view *ret_view, struct err *reterr)
{
	_cleanup_(view_done) struct view view = {0};
	int r = pci_scan(env->sysfs_fd, &view.tree, reterr);

	if (r < 0)
		return r;
	r = records_state(env->state_fd, except, &view.state);
	if (r == 0)
		r = gpu_survey(env->sysfs_fd, &env->policy, &view.state, gpus, n, &view.tree);
	if (r < 0)
		return err_errno(reterr, r, "cannot read the GPUs");
	r = judge(env, &view, reterr);
	if (r == 0) {
		*ret_view = view;
		view = (struct view){0};
	}
	return r;
}

int view_holders(const struct bind_env *env, struct view *view, struct err *reterr)
{
	int r;

	view->state.n_holders = 0;
	r = gpu_find_holders(env->sysfs_fd, env->proc_fd, &view->tree, &view->state);
	return r < 0 ? err_errno(reterr, r, "cannot tell who holds the GPUs")
		     : judge(env, view, reterr);
}

static const char *driver_now(const struct bind_env *env, const struct lease_func *f,
			      char ret_driver[static PCI_DRIVER_SIZE + 1])
{
	_cleanup_close_ int dirfd = func_open(env, f);

	link_read(dirfd, "driver", ret_driver, PCI_DRIVER_SIZE + 1);
	return ret_driver;
}

int func_holders(const struct bind_env *env, const struct lease_func *funcs, uint32_t n,
		 bool by_guest, char *ret_text, size_t size)
{
	struct pci_func read[PROTO_MAX_DEVICES];
	const struct pci_tree tree = {.funcs = read, .n_funcs = n};
	_cleanup_(gpu_state_done) struct gpu_state state = {0};
	char driver[PCI_DRIVER_SIZE + 1], address[PCI_TEXT_SIZE];
	size_t used = 0;
	int r;

	for (uint32_t i = 0; i < n; i++) {
		bool vfio =
			STR_EQ(driver_now(env, &funcs[i], driver), func_guest_driver(&funcs[i]));

		read[i] = (struct pci_func){.address = funcs[i].address,
					    .class_code = funcs[i].class_code,
					    .group = funcs[i].group,
					    .vfio = vfio,
					    .near = vfio || !by_guest};
	}
	r = gpu_find_holders(env->sysfs_fd, env->proc_fd, &tree, &state);
	for (uint32_t i = 0; i < state.n_holders && used < size - 1; i++) {
		const struct gpu_holder *h = &state.holders[i];

		pci_addr_text(read[h->func].address, address);
		used += (size_t)snprintf(ret_text + used, size - used, "%s%s%s (pid %u)",
					 i == 0 ? address : ", ", i == 0 ? " is held by " : "",
					 h->program, h->pid);
		used = MIN_OF(used, size - 1);
	}
	return r < 0 ? r : state.n_holders > 0;
}

static int check_unheld(const struct job *job, bool by_guest, struct err *reterr)
{
	const struct lease *l = &job->lease;
	char who[160];
	int r = func_holders(job->env, l->funcs, l->n_funcs, by_guest, who, sizeof(who));

	if (r < 0)
		return err_errno(reterr, r, "cannot tell who holds the GPUs");
	return r > 0 ? err_set(reterr, -EBUSY, "%s", who) : 0;
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
