/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPUs of VMs: what is asked of vfio-bind, when, and what its answer means for the VM. Which GPU
 * may be taken is vfio-bind's to decide; here it is seen to that nothing is asked for a VM at the
 * wrong moment, and that no lease is forgotten.
 * Trust: runs as qudata-helper; reads decoded requests of agentd, which may be hostile, and
 * answers of vfio-bind.
 */
#include "vfio-helper/broker/broker.h"

#include "common/fd.h"

#define PROTO_CTX struct broker
#define PROTO_SERVE_HELPER
#include "proto/dispatch.inc"

static struct bind_request request(enum bind_act act, const char *vm)
{
	struct bind_request req = {.version = BIND_VERSION, .act = act};

	(void)proto_name_set(req.vm, vm);
	return req;
}

static void record(struct broker *b, const struct act *a, const struct bind_answer *answer,
		   const char *done, const char *failed)
{
	bool ok = answer->status == PROTO_OK;

	audit_event(b, ok ? LOG_NOTICE : LOG_ERR, ok ? done : failed, LOG_STR("VM", a->vm),
		    LOG_NUM("DONE", answer->done), LOG_NUM("LEFT", answer->left),
		    LOG_STR("STATUS", proto_status_name((enum proto_status)answer->status)),
		    LOG_STR("WHY", answer->why));
}

static void answer_request(struct broker *b, struct act *a, const struct bind_answer *answer,
			   const void *rep)
{
	struct fdlist none = {0};

	server_reply(&b->server, &a->ticket, (enum proto_status)answer->status, rep, &none);
}

/* ---- the list ---- */

static void on_listed(struct broker *b, struct act *a, const struct bind_answer *answer, int *fd)
{
	const struct gpu_list_rep rep = {.gpus = answer->done, .bytes = answer->list_bytes};
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	enum proto_status status = (enum proto_status)answer->status;
	ssize_t size = answer->list_bytes;

	if (status == PROTO_OK && size > 0)
		size = fd_memfd_check(*fd, PROTO_GPU_LIST_MAX);
	if (status == PROTO_OK && size == 0 && *fd < 0)
		*fd = fd_memfd_sealed("gpus", "", 0);
	if (status == PROTO_OK && (*fd < 0 || size != (ssize_t)answer->list_bytes))
		status = PROTO_FAILED;
	if (status == PROTO_OK)
		(void)fdlist_add(&fds, TAKE_FD(*fd));
	else
		log_event(LOG_WARNING, "the GPUs cannot be listed", LOG_STR("WHY", answer->why));
	server_reply(&b->server, &a->ticket, status, &rep, &fds);
}

int on_gpu_list(struct broker *b, struct peer *peer, _unused_ const struct gpu_list_req *req,
		_unused_ struct gpu_list_rep *rep, _unused_ struct fdlist *fds)
{
	const struct bind_request ask = {.version = BIND_VERSION, .act = BIND_LIST};
	const struct ticket ticket = server_defer(peer);
	enum proto_status status = act_start(b, &ask, &ticket, on_listed);

	return status == PROTO_OK ? PROTO_DEFERRED : (int)status;
}

/* ---- the lease: from GPU_BIND to GPU_RELEASE ---- */

/* Statuses by which vfio-bind says that it has taken nothing. */
static bool took_nothing(uint32_t status)
{
	return status == PROTO_INVALID || status == PROTO_NOT_FOUND || status == PROTO_CONFLICT ||
	       status == PROTO_LIMIT || status == PROTO_DENIED || status == PROTO_BUSY;
}

static void set_lease(struct broker *b, struct vm *vm, uint32_t leased, uint32_t gpus)
{
	vm->rec.leased = leased;
	vm->rec.gpus = gpus;
	(void)vm_save(b, vm);
}

static void on_taken(struct broker *b, struct act *a, const struct bind_answer *answer,
		     _unused_ int *fd)
{
	const struct gpu_bind_rep rep = {.functions = answer->done};
	struct vm *vm = vm_find(b, a->vm);

	record(b, a, answer, "gpu-bind", "gpu-bind-failed");
	if (vm && answer->status == PROTO_OK)
		set_lease(b, vm, 1, answer->n_gpus);
	else if (vm && vm->rec.gpus == 0 && took_nothing(answer->status))
		set_lease(b, vm, 0, 0);
	answer_request(b, a, answer, &rep);
}

int on_gpu_bind(struct broker *b, struct peer *peer, const struct gpu_bind_req *req,
		_unused_ struct gpu_bind_rep *rep, _unused_ struct fdlist *fds)
{
	struct bind_request ask = request(BIND_TAKE, req->vm);
	const struct ticket ticket = server_defer(peer);
	struct vm *vm = vm_find(b, req->vm);
	enum proto_status status;
	bool leased;

	if (!b->setup.gpus)
		return refuse(b, peer, req->vm, PROTO_DENIED, "no GPU may be rented out");
	if (!vm)
		return refuse(b, peer, req->vm, PROTO_NOT_FOUND, "not prepared");
	if (vm->phase != VM_IDLE || act_of_vm(b, vm->name))
		return PROTO_BUSY;
	/* First it is noted: no crash must leave a lease that its VM knows nothing of. */
	leased = vm->rec.leased != 0;
	vm->rec.leased = 1;
	if (!leased && vm_save(b, vm) < 0) {
		vm->rec.leased = 0;
		return PROTO_FAILED;
	}
	memcpy(ask.gpus, req->gpus, sizeof(ask.gpus));
	status = act_start(b, &ask, &ticket, on_taken);
	if (status == PROTO_OK)
		return PROTO_DEFERRED;
	if (!leased)
		set_lease(b, vm, 0, 0);
	return (int)status;
}

static void on_released(struct broker *b, struct act *a, const struct bind_answer *answer,
			_unused_ int *fd)
{
	const struct gpu_release_rep rep = {.released = answer->done, .quarantined = answer->left};
	struct vm *vm = vm_find(b, a->vm);

	record(b, a, answer, "gpu-release", "gpu-release-failed");
	if (vm && answer->status == PROTO_OK)
		set_lease(b, vm, 0, 0);
	answer_request(b, a, answer, &rep);
}

/* A VM that is damaged, or was removed by hand, is not known here; its lease can still be ended. */
int on_gpu_release(struct broker *b, struct peer *peer, const struct gpu_release_req *req,
		   _unused_ struct gpu_release_rep *rep, _unused_ struct fdlist *fds)
{
	const struct bind_request ask = request(BIND_RELEASE, req->vm);
	const struct ticket ticket = server_defer(peer);
	const struct vm *vm = vm_find(b, req->vm);
	enum proto_status status;

	if (vm && !vm->rec.leased)
		return PROTO_OK; /* nothing is leased, nothing released */
	if ((vm && vm->phase != VM_IDLE) || act_of_vm(b, req->vm))
		return PROTO_BUSY;
	status = act_start(b, &ask, &ticket, on_released);
	return status == PROTO_OK ? PROTO_DEFERRED : (int)status;
}

/* ---- repair ---- */

static void on_recovered(struct broker *b, struct act *a, const struct bind_answer *answer,
			 _unused_ int *fd)
{
	const struct gpu_recover_rep rep = {.recovered = answer->done, .left = answer->left};

	if (a->ticket.serial != 0 || answer->done > 0 || answer->left > 0)
		record(b, a, answer, "gpu-recover", "gpu-recover-failed");
	answer_request(b, a, answer, &rep);
}

int on_gpu_recover(struct broker *b, struct peer *peer, const struct gpu_recover_req *req,
		   _unused_ struct gpu_recover_rep *rep, _unused_ struct fdlist *fds)
{
	const struct bind_request ask = {
		.version = BIND_VERSION, .act = BIND_RECOVER, .gpus[0] = req->gpu};
	const struct ticket ticket = server_defer(peer);
	enum proto_status status = act_start(b, &ask, &ticket, on_recovered);

	return status == PROTO_OK ? PROTO_DEFERRED : (int)status;
}

/* The pass of the start, once no VM that had ended holds devices any more. */
static void recover_when_revoked(struct broker *b)
{
	const struct bind_request ask = {.version = BIND_VERSION, .act = BIND_RECOVER};

	if (!b->recover)
		return;
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (b->vms[i].name[0] != '\0' && b->vms[i].phase == VM_REVOKING)
			return;
	b->recover = false;
	(void)act_start(b, &ask, NULL, on_recovered);
}

static bool leases_any(const struct broker *b)
{
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (b->vms[i].name[0] != '\0' && b->vms[i].rec.leased)
			return true;
	return false;
}

/* A host that never rented GPUs out starts nothing as root for them. */
void gpu_recover_all(struct broker *b)
{
	b->recover = b->setup.gpus || leases_any(b);
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (b->vms[i].name[0] != '\0' && b->vms[i].phase == VM_REVOKING)
			gpu_revoke(b, &b->vms[i]);
	recover_when_revoked(b);
}

/* ---- a VM's run: from VM_START to its end ---- */

static void on_granted(struct broker *b, struct act *a, const struct bind_answer *answer, int *fd)
{
	struct vm *vm = vm_find(b, a->vm);

	record(b, a, answer, "gpu-grant", "gpu-grant-failed");
	if (!vm || vm->phase != VM_WAIT_GPUS)
		return;
	if (answer->status != PROTO_OK || answer->n_devices == 0 ||
	    answer->n_gpus != vm->rec.gpus) {
		vm_start_failed(b, vm,
				answer->status != PROTO_OK ? (enum proto_status)answer->status
							   : PROTO_FAILED);
		return;
	}
	vm->n_devices = answer->n_devices;
	memcpy(vm->devices, answer->devices, sizeof(vm->devices));
	vm->iommu_fd = TAKE_FD(*fd);
	vm_wait_accel(b, vm);
}

void gpu_grant(struct broker *b, struct vm *vm)
{
	struct bind_request ask = request(BIND_GRANT, vm->name);
	enum proto_status status;

	ask.slot = vm->rec.slot;
	vm->phase = VM_WAIT_GPUS;
	vm->granted = true;
	status = act_start(b, &ask, NULL, on_granted);
	if (status != PROTO_OK)
		vm_start_failed(b, vm, status);
}

static void on_revoked(struct broker *b, struct act *a, const struct bind_answer *answer,
		       _unused_ int *fd)
{
	struct vm *vm = vm_find(b, a->vm);

	record(b, a, answer, "gpu-revoke", "gpu-revoke-failed");
	if (vm && vm->phase == VM_REVOKING)
		vm_revoked(b, vm);
	recover_when_revoked(b);
}

void gpu_revoke(struct broker *b, struct vm *vm)
{
	const struct bind_request ask = request(BIND_REVOKE, vm->name);
	enum proto_status status = act_start(b, &ask, NULL, on_revoked);

	if (status == PROTO_OK)
		return;
	audit_event(b, LOG_ERR, "gpu-revoke-failed", LOG_STR("VM", vm->name),
		    LOG_STR("STATUS", proto_status_name(status)));
	vm_revoked(b, vm);
}

void gpu_revoke_lost(struct broker *b, const char *name)
{
	const struct bind_request ask = request(BIND_REVOKE, name);

	if (act_start(b, &ask, NULL, on_revoked) != PROTO_OK)
		audit_event(b, LOG_ERR, "gpu-revoke-failed", LOG_STR("VM", name));
}
