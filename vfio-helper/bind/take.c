/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leasing GPUs to a VM: from the request to the last function on the guest's driver, or back to
 * where it began.
 * Trust: runs as root; the request comes from the broker, which is believed in nothing but the name
 * of its VM.
 */
#include "vfio-helper/bind/act.h"

#include <time.h>

#define CHOOSE_WAIT_MS 10000
#define HELD_WAIT_MS   10000
#define UNDO_MS        80000 /* of the act's time, kept for the way back */

/* What a lease says of a GPU: the one in whose slot it is, or the first whose card it belongs to.
 */
static pci_addr gpu_of(const struct view *view, const struct bind_request *req, uint32_t func,
		       uint32_t *ret_role)
{
	pci_addr address = view->tree.funcs[func].address, found = 0;

	for (uint32_t i = 0; i < proto_gpus_count(req->gpus); i++) {
		uint32_t at = gpu_find(&view->list, &view->tree, req->gpus[i]);
		const struct gpu *gpu = &view->list.gpus[at];

		for (uint32_t p = 0; at != PCI_NO_INDEX && p < gpu->n_parts; p++) {
			if (gpu->parts[p].func != func)
				continue;
			if (found == 0 || pci_slot_of(req->gpus[i]) == pci_slot_of(address))
				found = req->gpus[i];
			*ret_role = gpu->parts[p].role;
		}
		if (req->gpus[i] == address)
			return address;
	}
	return found;
}

static struct lease_func describe(const struct view *view, const struct bind_request *req,
				  uint32_t func)
{
	const struct pci_func *p = &view->tree.funcs[func];
	struct lease_func f = {.address = p->address,
			       .class_code = p->class_code,
			       .group = p->group,
			       .adopted = p->vfio ? 1 : 0,
			       .vendor = p->vendor,
			       .device = p->device};

	f.gpu = gpu_of(view, req, func, &f.role);
	proto_text_set(f.driver, sizeof(f.driver), p->driver);
	return f;
}

/*
 * What is to be put back, read with the function's lock held: nobody hangs in a write to it then,
 * and the kernel shows the override.
 */
static int remember(const struct bind_env *env, struct lease_func *f, struct err *reterr)
{
	_cleanup_close_ int dirfd = func_open(env, f);
	char text[PCI_DRIVER_SIZE];

	if (dirfd < 0)
		return err_set(reterr, -EBUSY, "a function has just gone");
	/* Padded with NUL, as a record has to be. */
	override_read(dirfd, text);
	proto_text_set(f->override, sizeof(f->override), text);
	attr_read(dirfd, "d3cold_allowed", text, sizeof(text));
	proto_text_set(f->d3cold, sizeof(f->d3cold), text);
	attr_read(dirfd, "power/control", text, sizeof(text));
	proto_text_set(f->power, sizeof(f->power), text);
	return 0;
}

/* All that speaks against is somebody who has it open. */
static bool only_busy(const struct view *view, const struct bind_request *req)
{
	for (uint32_t i = 0; i < proto_gpus_count(req->gpus); i++) {
		uint32_t at = gpu_find(&view->list, &view->tree, req->gpus[i]);

		for (uint32_t n = 0; at != PCI_NO_INDEX && n < view->list.gpus[at].n_reasons; n++)
			if (view->list.gpus[at].reasons[n].reason != PROTO_GPU_BUSY)
				return false;
	}
	return true;
}

static enum proto_status refusal(int r, const struct view *view, const struct bind_request *req)
{
	switch (r) {
	case -ENODEV:
		return PROTO_NOT_FOUND;
	case -EPERM:
		return only_busy(view, req) ? PROTO_BUSY : PROTO_DENIED;
	case -EXDEV:
		return PROTO_DENIED;
	case -E2BIG:
		return PROTO_LIMIT;
	default:
		return PROTO_FAILED;
	}
}

/*
 * Reads, judges, chooses; what was chosen becomes the job's lease. Who holds it is looked for
 * later, with the locks held; but a refusal names every reason.
 */
static enum proto_status choose(struct job *job, const struct bind_request *req, struct view *view,
				struct err *why)
{
	uint32_t funcs[PROTO_MAX_DEVICES], n = 0, n_gpus = (uint32_t)proto_gpus_count(req->gpus);
	struct lease *l = &job->lease;
	int r = view_load(job->env, req->vm, req->gpus, n_gpus, view, why);

	if (r == 0)
		r = gpu_choose(&view->list, &view->tree, req->gpus, n_gpus, funcs, &n, why);
	if (r == -EPERM && view_holders(job->env, view, NULL) == 0)
		r = gpu_choose(&view->list, &view->tree, req->gpus, n_gpus, funcs, &n, why);
	if (r < 0)
		return refusal(r, view, req);
	*l = (struct lease){.phase = LEASE_TAKING, .n_funcs = n, .n_gpus = n_gpus};
	memcpy(l->gpus, req->gpus, sizeof(l->gpus));
	memcpy(l->vm, req->vm, sizeof(l->vm));
	for (uint32_t i = 0; i < n; i++)
		l->funcs[i] = describe(view, req, funcs[i]);
	return PROTO_OK;
}

/*
 * The second reading, with the locks held and the lease on record: is all that the judgement rested
 * on as it was, and does nobody hold what is to be taken?
 */
static int judge_again(const struct job *job, const struct bind_request *req, struct view *view,
		       struct err *why)
{
	uint32_t funcs[PROTO_MAX_DEVICES], n = 0;
	int r = pci_again(job->env->sysfs_fd, &view->tree, why);

	if (r == 0)
		r = view_holders(job->env, view, why);
	if (r == 0)
		r = gpu_choose(&view->list, &view->tree, req->gpus, job->lease.n_gpus, funcs, &n,
			       why);
	return r == -EPERM && only_busy(view, req) ? -EBUSY : r;
}

static int bind_all(struct job *job, struct err *why)
{
	struct lease *l = &job->lease;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < l->n_funcs; i++) {
		l->funcs[i].step = STEP_TAKING;
		r = job_save(job, "function-recorded", why);
		if (r == 0)
			r = func_take(job, i, why);
		if (r == 0)
			l->funcs[i].step = STEP_BOUND;
		else if (r == -ETIMEDOUT) /* only what hangs is lost; the rest is undone */
			(void)job_lose(job, i, r, why);
	}
	return r;
}

static int take(struct job *job, const struct bind_request *req, struct view *view, struct err *why)
{
	int r = judge_again(job, req, view, why);

	if (r == 0)
		r = services_stop(job, view, why);
	/* Else nobody holds it. This may take long enough to mount a disk on a card's USB port. */
	if (r == 0 && job->lease.n_services > 0) {
		r = wait_unheld(job, false, HELD_WAIT_MS, why);
		if (r == 0)
			r = judge_again(job, req, view, why);
	}
	if (r == 0)
		r = console_release(job, view, why);
	if (r == 0)
		r = bind_all(job, why);
	if (r < 0)
		return r;
	job->lease.phase = LEASE_HELD;
	return job_save(job, "held", why);
}

/* Not after the host has booted anew: every function has the driver that it begins with then. */
static bool is_intact(const struct job *job)
{
	for (uint32_t i = 0; i < job->lease.n_funcs; i++) {
		const struct lease_func *f = &job->lease.funcs[i];
		_cleanup_close_ int dirfd = func_open(job->env, f);

		if (dirfd < 0 || !driver_is(dirfd, func_guest_driver(f)))
			return false;
	}
	return true;
}

/* The lease that the VM has already. Returns PROTO_STATUS_COUNT when there is none any more. */
static enum proto_status meet_earlier(struct job *job, const struct bind_request *req,
				      struct err *why)
{
	struct lease *l = &job->lease;
	int r = lease_load(job->env->state_fd, req->vm, l);

	if (r == -ENOENT)
		return PROTO_STATUS_COUNT;
	if (r < 0) {
		(void)err_errno(why, r, "the record of the VM's lease cannot be believed");
		return PROTO_FAILED;
	}
	if (l->phase == LEASE_HELD && memcmp(l->gpus, req->gpus, sizeof(l->gpus)) != 0)
		return PROTO_CONFLICT;
	if (l->phase == LEASE_HELD && is_intact(job))
		return PROTO_OK;
	/* It was interrupted: what is half done is undone, and the same is begun anew. */
	r = job_lock(job, LOCK_WAIT_MS, why);
	if (r == 0)
		r = wait_unheld(job, true, 0, why);
	if (r == 0)
		r = job_end(job, l->phase != LEASE_TAKING, why);
	job_done(job);
	return r < 0 ? act_status(r) : PROTO_STATUS_COUNT;
}

static enum proto_status begin(struct job *job, const struct bind_request *req, struct view *view,
			       struct err *why)
{
	enum proto_status status;
	int r;

	if (!driver_exists(job->env, "vfio-pci")) {
		(void)err_set(why, -ENODEV, "vfio-pci is not there; `modprobe vfio-pci` loads it");
		return PROTO_DENIED;
	}
	r = lock_choosing(job->env->lock_fd, CHOOSE_WAIT_MS);
	if (r < 0)
		return act_status(err_errno(why, r, "GPUs are being chosen"));
	status = choose(job, req, view, why);
	if (status != PROTO_OK)
		return status;
	job->lease.since_s = (int64_t)time(NULL);
	r = job_lock(job, 0, why);
	for (uint32_t i = 0; r == 0 && i < job->lease.n_funcs; i++)
		r = remember(job->env, &job->lease.funcs[i], why);
	if (r == 0)
		r = job_save(job, "take-recorded", why);
	if (r == 0 && fsync(job->env->state_fd) < 0)
		r = err_errno(why, -errno, "cannot write the lease's record");
	(void)unlock_choosing(job->env->lock_fd);
	return r < 0 ? act_status(r) : PROTO_OK;
}

enum proto_status act_take(const struct bind_env *env, const struct bind_request *req,
			   struct bind_answer *ans, struct err *why)
{
	struct bind_env forth = *env;
	_cleanup_(view_done) struct view view = {0};
	_cleanup_(job_done) struct job job;
	enum proto_status status;
	struct err undo = {0};
	int r;

	job_init(&job, env);
	forth.deadline_ms -= UNDO_MS;
	r = lock_vm(env->lock_fd, req->vm, LOCK_WAIT_MS);
	if (r < 0)
		return act_status(err_errno(why, r, "another act on this VM's lease"));
	status = meet_earlier(&job, req, why);
	if (status == PROTO_STATUS_COUNT)
		status = begin(&job, req, &view, why);
	else if (status == PROTO_OK) /* again, for a request that was repeated */
		ans->done = job.lease.n_funcs;
	ans->n_gpus = job.lease.n_gpus;
	if (status != PROTO_OK || ans->done > 0)
		return status;
	job.env = &forth;
	r = take(&job, req, &view, why);
	job.env = env;
	ans->done = r == 0 ? job.lease.n_funcs : 0;
	if (r < 0 && job_end(&job, false, &undo) < 0) {
		*why = undo;
		r = -EIO; /* the lease stays, whatever the matter was before */
	}
	ans->left = job.lost;
	return r < 0 ? act_status(r) : PROTO_OK;
}
