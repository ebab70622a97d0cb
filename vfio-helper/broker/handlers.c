/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One function per operation: policy first, then the act.
 * Trust: runs as qudata-helper; reads decoded requests of agentd and vmmon, either of which may be
 * hostile.
 */
#include "vfio-helper/broker/broker.h"

#include "common/fd.h"

#define PROTO_CTX struct broker
#define PROTO_SERVE_HELPER
#include "proto/dispatch.inc"

static int hello(struct broker *b, struct peer *peer, uint32_t version)
{
	if (version != PROTO_VERSION)
		return refuse(b, peer, "", PROTO_MISMATCH, "another protocol version");
	peer->conn.state = PROTO_ST_READY;
	return PROTO_OK;
}

int on_helper_hello(struct broker *b, struct peer *peer, const struct helper_hello_req *req,
		    struct helper_hello_rep *rep, _unused_ struct fdlist *fds)
{
	const struct spawn_setup *c = &b->setup.spawn;

	rep->version = PROTO_VERSION;
	rep->max_vms = c->max_vms;
	rep->max_cpus = c->max_cpus;
	rep->max_memory_mib = c->max_memory_mib;
	rep->max_disk_mib = c->max_disk_mib;
	rep->port_low = c->port_low;
	rep->port_high = c->port_high;
	memcpy(rep->boot_id, b->setup.boot_id, sizeof(rep->boot_id));
	return hello(b, peer, req->version);
}

int on_mon_hello(struct broker *b, struct peer *peer, const struct mon_hello_req *req,
		 struct mon_hello_rep *rep, _unused_ struct fdlist *fds)
{
	rep->version = PROTO_VERSION;
	return hello(b, peer, req->version);
}

int on_accel_status(struct broker *b, _unused_ struct peer *peer,
		    _unused_ const struct accel_status_req *req, struct accel_status_rep *rep,
		    _unused_ struct fdlist *fds)
{
	rep->accel = b->accel.rec.accel;
	rep->reason = b->accel.rec.reason;
	rep->sign_of_life_ms = b->accel.rec.sign_of_life_ms;
	return PROTO_OK;
}

/* The same request again, perhaps after a crash of the peer. */
static int prepare_again(struct broker *b, struct peer *peer, const struct vm *vm,
			 const struct vm_prepare_req *req, struct vm_prepare_rep *rep)
{
	if (vm->phase == VM_PREPARING)
		return PROTO_BUSY;
	if (!STR_EQ(vm->rec.image, req->image) ||
	    (req->disk_mib != 0 && req->disk_mib != vm->rec.disk_mib))
		return refuse(b, peer, req->vm, PROTO_CONFLICT, "prepared with other values");
	rep->disk_mib = vm->rec.disk_mib;
	return PROTO_OK;
}

int on_vm_prepare(struct broker *b, struct peer *peer, const struct vm_prepare_req *req,
		  struct vm_prepare_rep *rep, _unused_ struct fdlist *fds)
{
	struct vm *vm = vm_find(b, req->vm);
	_cleanup_close_ int conf = -EBADF;

	if (vm)
		return prepare_again(b, peer, vm, req, rep);
	if (req->disk_mib > b->setup.spawn.max_disk_mib)
		return refuse(b, peer, req->vm, PROTO_LIMIT, "disk over max_disk_mib");
	if (vmdir_is_vm(b->vms_fd, req->vm))
		return refuse(b, peer, req->vm, PROTO_CONFLICT,
			      "a damaged VM of that name is there");
	conf = image_open_conf(b->image_fd, req->image);
	if (conf < 0)
		return refuse(b, peer, req->vm, conf == -ENOENT ? PROTO_NOT_FOUND : PROTO_FAILED,
			      "image.conf of that image cannot be opened");
	vm = vm_free_slot(b, req->vm);
	if (!vm)
		return refuse(b, peer, req->vm, PROTO_LIMIT, "as many VMs as max_vms");
	vm->rec.disk_mib = req->disk_mib;
	memcpy(vm->rec.image, req->image, sizeof(vm->rec.image));
	vm->ticket = server_defer(peer);
	vm_prepare(b, vm, conf);
	return PROTO_DEFERRED;
}

int on_vm_seed(struct broker *b, struct peer *peer, const struct vm_seed_req *req,
	       _unused_ struct vm_seed_rep *rep, struct fdlist *fds)
{
	_cleanup_close_foreign_ int memfd = fdlist_take(fds);
	struct vm *vm = vm_find(b, req->vm);
	ssize_t size = fd_memfd_check(memfd, PROTO_SEED_MAX);
	bool again = vm && vm->seeded;
	int r;

	if (!vm)
		return refuse(b, peer, req->vm, PROTO_NOT_FOUND, "not prepared");
	if (vm->phase == VM_PREPARING)
		return PROTO_BUSY;
	if (size < 0)
		return refuse(b, peer, req->vm, PROTO_INVALID, "seed is no sealed memfd in bounds");
	r = vmdir_seed(b, vm, memfd, (size_t)size);
	if (r == -EEXIST)
		return refuse(b, peer, req->vm, PROTO_CONFLICT, "another seed is there");
	if (r < 0) {
		audit_event(b, LOG_ERR, "vm-seed-failed", LOG_STR("VM", vm->name), LOG_ERRNO(r));
		return (int)failure(r);
	}
	vm->seeded = true;
	if (!again)
		audit_event(b, LOG_NOTICE, "vm-seed", LOG_STR("VM", vm->name),
			    LOG_NUM("BYTES", size));
	return PROTO_OK;
}

/* Does another VM that runs, or is about to, hold one of these host ports? */
static bool ports_taken(const struct broker *b, const struct vm *self,
			const struct proto_port *ports)
{
	size_t n = proto_ports_count(ports);

	for (size_t v = 0; v < PROTO_MAX_VMS; v++) {
		const struct vm *vm = &b->vms[v];

		for (size_t i = 0; vm != self && i < n; i++)
			for (size_t j = 0; j < proto_ports_count(vm->run.ports); j++)
				if (vm->run.ports[j].host == ports[i].host)
					return true;
	}
	return false;
}

static int may_start(struct broker *b, struct peer *peer, const struct vm *vm,
		     const struct vm_start_req *req)
{
	const struct spawn_setup *c = &b->setup.spawn;
	uint64_t total = req->memory_mib;

	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		total += b->vms[i].run.memory_mib;
	if (req->gpus != 0 && req->gpus != vm->rec.gpus)
		return refuse(b, peer, req->vm, PROTO_INVALID, "not that many GPUs leased");
	if (!vm->seeded)
		return refuse(b, peer, req->vm, PROTO_INVALID, "no seed yet");
	if (req->cpus > c->max_cpus)
		return refuse(b, peer, req->vm, PROTO_LIMIT, "cpus over max_cpus");
	if (req->memory_mib > c->max_memory_mib)
		return refuse(b, peer, req->vm, PROTO_LIMIT, "memory over max_memory_mib");
	if (total > b->setup.max_total_memory_mib)
		return refuse(b, peer, req->vm, PROTO_LIMIT, "memory over max_total_memory_mib");
	for (size_t i = 0; i < proto_ports_count(req->ports); i++)
		if (req->ports[i].host < c->port_low || req->ports[i].host > c->port_high)
			return refuse(b, peer, req->vm, PROTO_DENIED, "host port out of range");
	if (ports_taken(b, vm, req->ports))
		return refuse(b, peer, req->vm, PROTO_CONFLICT, "host port of another VM");
	return PROTO_OK;
}

int on_vm_start(struct broker *b, struct peer *peer, const struct vm_start_req *req,
		_unused_ struct vm_start_rep *rep, _unused_ struct fdlist *fds)
{
	struct vm *vm = vm_find(b, req->vm);
	int r;

	if (!vm)
		return refuse(b, peer, req->vm, PROTO_NOT_FOUND, "not prepared");
	if (vm->phase != VM_IDLE || act_of_vm(b, vm->name))
		return vm->phase == VM_UP ? PROTO_ALREADY : PROTO_BUSY;
	r = may_start(b, peer, vm, req);
	if (r != PROTO_OK)
		return r;
	vm->ticket = server_defer(peer);
	vm->run.cpus = req->cpus;
	vm->run.memory_mib = req->memory_mib;
	memcpy(vm->run.ports, req->ports, sizeof(vm->run.ports));
	if (req->gpus > 0)
		gpu_grant(b, vm);
	else
		vm_wait_accel(b, vm);
	return PROTO_DEFERRED;
}

int on_vm_kill(struct broker *b, struct peer *peer, const struct vm_kill_req *req,
	       _unused_ struct vm_kill_rep *rep, _unused_ struct fdlist *fds)
{
	struct vm *vm = vm_find(b, req->vm);

	if (!vm || req->generation > vm->rec.generation)
		return refuse(b, peer, req->vm, PROTO_NOT_FOUND, "no such generation");
	if (req->generation < vm->rec.generation || vm->phase == VM_IDLE ||
	    vm->phase == VM_REVOKING)
		return PROTO_ALREADY;
	if (vm->phase != VM_UP)
		return PROTO_BUSY;
	vm_kill(b, vm);
	return PROTO_OK;
}

static uint32_t wire_state(const struct vm *vm)
{
	switch (vm->phase) {
	case VM_PREPARING:
		return PROTO_VM_ABSENT;
	case VM_WAIT_GPUS:
	case VM_WAIT_ACCEL:
	case VM_LAUNCHING:
		return PROTO_VM_STARTING;
	case VM_UP:
		return PROTO_VM_RUNNING;
	case VM_REVOKING: /* its end was not told yet */
		if (vm->was_up)
			return PROTO_VM_RUNNING;
		break;
	case VM_IDLE:
	case VM_ENDING:
		break;
	}
	return vm->seeded ? PROTO_VM_SEEDED : PROTO_VM_PREPARED;
}

void vm_describe(const struct vm *vm, struct vm_describe_rep *rep)
{
	rep->state = wire_state(vm);
	rep->generation = vm->rec.generation;
	rep->disk_mib = vm->rec.disk_mib;
	rep->started_s = vm->run.started_s;
	rep->accel = vm->run.accel;
	rep->cpus = vm->run.cpus;
	rep->memory_mib = vm->run.memory_mib;
	rep->limited = vm->run.limited;
	rep->gpus = vm->rec.gpus;
	memcpy(rep->ports, vm->run.ports, sizeof(rep->ports));
	if (vm->phase == VM_IDLE) {
		rep->exit_kind = vm->rec.exit_kind;
		rep->exit_code = vm->rec.exit_code;
	}
}

int on_vm_describe(struct broker *b, _unused_ struct peer *peer, const struct vm_describe_req *req,
		   struct vm_describe_rep *rep, _unused_ struct fdlist *fds)
{
	const struct vm *vm = vm_find(b, req->vm);

	if (vm) /* else all is zero: PROTO_VM_ABSENT */
		vm_describe(vm, rep);
	return PROTO_OK;
}

int on_vm_list(struct broker *b, _unused_ struct peer *peer, _unused_ const struct vm_list_req *req,
	       struct vm_list_rep *rep, _unused_ struct fdlist *fds)
{
	size_t n = 0;

	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (b->vms[i].name[0] != '\0' && b->vms[i].phase != VM_PREPARING)
			memcpy(rep->vms[n++], b->vms[i].name, PROTO_NAME_SIZE);
	return PROTO_OK;
}

int on_vm_forget(struct broker *b, _unused_ struct peer *peer, const struct vm_forget_req *req,
		 _unused_ struct vm_forget_rep *rep, _unused_ struct fdlist *fds)
{
	struct vm *vm = vm_find(b, req->vm);
	int r;

	if (!vm && !vmdir_is_vm(b->vms_fd, req->vm))
		return PROTO_OK;
	if (!vm) /* damaged, so that it was not loaded */
		return vmdir_forget(b, req->vm) == 0 ? PROTO_OK : PROTO_FAILED;
	if (vm->phase != VM_IDLE || vm->rec.leased || act_of_vm(b, vm->name))
		return PROTO_BUSY;
	r = vmdir_forget(b, vm->name);
	if (r < 0) {
		audit_event(b, LOG_ERR, "vm-forget-failed", LOG_STR("VM", vm->name), LOG_ERRNO(r));
		return PROTO_FAILED;
	}
	audit_event(b, LOG_NOTICE, "vm-forget", LOG_STR("VM", vm->name));
	memset(vm->name, 0, sizeof(vm->name));
	return PROTO_OK;
}

int on_vm_subscribe(_unused_ struct broker *b, struct peer *peer,
		    _unused_ const struct vm_subscribe_req *req,
		    _unused_ struct vm_subscribe_rep *rep, _unused_ struct fdlist *fds)
{
	peer->subscribed = true;
	return PROTO_OK;
}
