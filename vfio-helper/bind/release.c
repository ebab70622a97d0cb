/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ending leases: because the VM is gone, or because something was interrupted.
 * Trust: runs as root; the broker only says which VM or which GPU.
 */
#include "vfio-helper/bind/act.h"

#define CLOSED_WAIT_MS 5000 /* a process that has just been killed closes its files late */

enum proto_status act_release(const struct bind_env *env, const struct bind_request *req,
			      struct bind_answer *ans, struct err *why)
{
	_cleanup_(job_done) struct job job;
	bool reset;
	int r;

	job_init(&job, env);
	r = lock_vm(env->lock_fd, req->vm, LOCK_WAIT_MS);
	if (r < 0)
		return act_status(err_errno(why, r, "another act on this VM's lease"));
	r = lease_load(env->state_fd, req->vm, &job.lease);
	if (r == -ENOENT) /* released before */
		return PROTO_OK;
	if (r < 0)
		return act_status(err_errno(why, r, "the lease's record cannot be believed"));
	r = job_lock(&job, LOCK_WAIT_MS, why);
	if (r == 0)
		r = wait_unheld(&job, true, CLOSED_WAIT_MS, why);
	if (r < 0)
		return act_status(r);
	reset = job.lease.phase != LEASE_TAKING;
	if (job.lease.phase == LEASE_HELD) {
		job.lease.phase = LEASE_RELEASING;
		r = job_save(&job, "release-recorded", why);
	}
	if (r == 0)
		r = nodes_revoke(&job, why);
	if (r == 0)
		r = job_end(&job, reset, why);
	ans->left = job.lost;
	ans->done = r == 0 ? job.lease.n_funcs - job.lost : 0;
	return act_status(r);
}

struct sweep {
	const struct bind_env *env;
	pci_addr gpu; /* 0: all */
	struct bind_answer *ans;
	struct err *why;
};

static bool sweep_wants(const struct sweep *s, const struct lease *l)
{
	for (uint32_t i = 0; i < l->n_funcs; i++)
		if (s->gpu == 0 || l->funcs[i].gpu == s->gpu || l->funcs[i].address == s->gpu)
			return true;
	return false;
}

/* What no act is at work on and is neither held nor ended was interrupted. */
static int recover_lease(const struct sweep *s, const char *vm, int lock_fd)
{
	_cleanup_(job_done) struct job job;
	int r;

	job_init(&job, s->env);
	if (lock_vm(lock_fd, vm, 0) < 0)
		return 0;
	r = lease_load(s->env->state_fd, vm, &job.lease);
	if (r == -EBADMSG) {
		char old[64], new[64];

		(void)snprintf(old, sizeof(old), "lease-%.*s", PROTO_NAME_MAX, vm);
		(void)snprintf(new, sizeof(new), "damaged-%.*s", PROTO_NAME_MAX, vm);
		(void)renameat(s->env->state_fd, old, s->env->state_fd, new);
		s->ans->left += s->gpu == 0; /* else whose it is is not known */
		return err_set(s->why, 0, "the record of %.32s's lease is damaged: put aside", vm);
	}
	if (r < 0 || job.lease.phase == LEASE_HELD || !sweep_wants(s, &job.lease))
		return 0;
	r = job_lock(&job, LOCK_WAIT_MS, s->why);
	if (r == 0)
		r = job_end(&job, job.lease.phase == LEASE_RELEASING, s->why);
	if (r < 0 || job.lost > 0)
		s->ans->left += job.lease.n_gpus;
	else
		s->ans->done += job.lease.n_gpus;
	return 0;
}

static int recover_lease_named(void *arg, const char *vm)
{
	const struct sweep *s = arg;
	char name[PROTO_NAME_SIZE] = {0};
	_cleanup_close_ int lock_fd = lock_open(s->env->state_fd);

	return proto_name_set(name, vm) < 0 || lock_fd < 0 ? 0 : recover_lease(s, name, lock_fd);
}

/* A lease of one function, never written down, for what belongs to none. */
static int adopt_func(const struct sweep *s, const struct lease_func *f, struct job *job)
{
	job_init(job, s->env);
	job->lease.n_funcs = 1;
	job->lease.funcs[0] = *f;
	return job_lock(job, LOCK_WAIT_MS, s->why);
}

static int bring_back(const struct job *job, struct err *why)
{
	int r = wait_unheld(job, true, 0, why);

	if (r == 0)
		r = func_reset(job, 0, why);
	return r < 0 ? r : func_return(job, 0, why);
}

static int recover_quarantine(void *arg, const char *text)
{
	const struct sweep *s = arg;
	_cleanup_(job_done) struct job job;
	struct lease_func by_name = {0};
	struct quarantine q;
	struct err why = {0};
	int r, state_fd = s->env->state_fd;

	if (pci_addr_parse(text, &by_name.address) < 0)
		return 0;
	r = adopt_func(s, &by_name, &job);
	if (r == 0)
		r = quarantine_load(state_fd, by_name.address, &q);
	/* Nothing is known of it then: sysfs judges it, once somebody has asked for it. */
	if (r == -EBADMSG && pci_slot_of(s->gpu) == pci_slot_of(by_name.address))
		return quarantine_remove(state_fd, by_name.address);
	if (r == -ENOENT ||
	    (r == 0 && s->gpu != 0 && q.func.gpu != s->gpu && q.func.address != s->gpu))
		return 0;
	if (r == 0) {
		job.lease.funcs[0] = q.func;
		r = bring_back(&job, &why);
		if (r < 0 && r != -EBUSY)
			(void)quarantine_save(state_fd, &q.func, why.text);
	}
	if (r == 0)
		r = quarantine_remove(state_fd, by_name.address);
	if (r < 0 && s->why->text[0] == '\0')
		*s->why = why;
	*(r < 0 ? &s->ans->left : &s->ans->done) += 1;
	return 0;
}

/*
 * A function that somebody has put on VFIO's driver, or half of the way there, and that no record
 * of ours knows: back to its driver, or to whichever the kernel finds for it.
 */
static int recover_loose(const struct sweep *s, const struct pci_func *p)
{
	struct lease_func f = {.address = p->address, .vendor = p->vendor, .device = p->device};
	_cleanup_(job_done) struct job job;
	char override[PCI_DRIVER_SIZE] = "";
	_cleanup_close_ int dirfd = func_open(s->env, &f);
	int r;

	if (!p->vfio) /* only the override was set */
		proto_text_set(f.driver, sizeof(f.driver), p->driver);
	r = adopt_func(s, &f, &job);
	if (r == 0)
		override_read(dirfd, override);
	if (r == 0 && !STR_EQ(override, "vfio-pci"))
		return 0;
	if (r == 0)
		r = wait_unheld(&job, true, 0, s->why);
	if (r == 0)
		r = func_return(&job, 0, s->why);
	if (r == 0 && f.driver[0] == '\0')
		r = func_probe(&job, 0, s->why);
	*(r < 0 ? &s->ans->left : &s->ans->done) += 1;
	return 0;
}

static bool is_known(const struct gpu_state *state, pci_addr address)
{
	for (uint32_t i = 0; i < state->n_quarantines; i++)
		if (state->quarantines[i].address == address)
			return true;
	return gpu_lease_of(state, address);
}

/* Whoever has put such a card on VFIO's driver has it for something else. */
static bool is_never(const struct bind_env *env, const struct view *view, uint32_t at)
{
	const struct gpu *gpu = &view->list.gpus[at];

	for (uint32_t i = 0; i < gpu->n_parts; i++)
		if (gpu->parts[i].role == PROTO_ROLE_GPU &&
		    gpu_policy_has(env->policy.never, env->policy.n_never,
				   view->tree.funcs[gpu->parts[i].func].address))
			return true;
	return false;
}

static int recover_loose_of(const struct sweep *s)
{
	_cleanup_(view_done) struct view view = {0};
	uint32_t at;
	int r = view_load(s->env, "", &s->gpu, 1, &view, s->why);

	if (r < 0)
		return r;
	at = gpu_find(&view.list, &view.tree, s->gpu);
	if (at == PCI_NO_INDEX) /* a record may have known it nevertheless */
		return s->ans->done + s->ans->left > 0 ? 0
						       : err_set(s->why, -ENOENT, "no such GPU");
	if (is_never(s->env, &view, at))
		return err_set(s->why, -EPERM, "helper.conf: it is not for rent");
	for (uint32_t i = 0; r == 0 && i < view.list.gpus[at].n_parts; i++) {
		const struct gpu_part *part = &view.list.gpus[at].parts[i];
		const struct pci_func *p = &view.tree.funcs[part->func];

		if (gpu_part_is_bound(part) && !is_known(&view.state, p->address))
			r = recover_loose(s, p);
	}
	return r;
}

enum proto_status act_recover(const struct bind_env *env, const struct bind_request *req,
			      struct bind_answer *ans, struct err *why)
{
	struct sweep s = {env, req->gpus[0], ans, why};
	int r = records_each(env->state_fd, "lease-", recover_lease_named, &s);

	if (r == 0)
		r = records_each(env->state_fd, "quarantine-", recover_quarantine, &s);
	if (r == 0 && s.gpu != 0)
		r = recover_loose_of(&s);
	return act_status(r);
}
