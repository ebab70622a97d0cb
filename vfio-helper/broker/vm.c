/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of VMs: made, launched, ended, found again after a restart.
 * Trust: runs as qudata-helper; decides from the broker's own records and the kernel's answers.
 */
#include "vfio-helper/broker/broker.h"

#include "common/fd.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#define PREPARE_DEADLINE_MS 30000
#define LAUNCH_DEADLINE_MS  10000
#define QEMU_FOLLOWS_MS     200
#define GATE_CHILDREN       2

enum proto_status failure(int r)
{
	if (r == -E2BIG)
		return PROTO_LIMIT;
	if (r == -ESTALE) /* check_base() */
		return PROTO_MISMATCH;
	return r == -ENOSPC || r == -EDQUOT ? PROTO_NO_SPACE : PROTO_FAILED;
}

static uint32_t slot_of(const struct broker *b, const struct vm *vm)
{
	return (uint32_t)(vm - b->vms);
}

static uid_t slot_uid(const struct broker *b, const struct vm *vm)
{
	return b->setup.spawn.users[slot_of(b, vm)].uid;
}

/*
 * Ends what runs as the VM's user, and that is all of the VM's and nobody else's. The ends of its
 * children are then seen by the event loop.
 */
static int vm_end_processes(struct broker *b, const struct vm *vm)
{
	return monitor_sweep(&b->monitor, slot_of(b, vm));
}

static void vm_reset(struct vm *vm)
{
	*vm = (struct vm){.qemu = CHILD_NONE,
			  .passt = CHILD_NONE,
			  .iommu_fd = -EBADF,
			  .gate = -EBADF,
			  .disk_fd = -EBADF,
			  .gate_watch.fd = -EBADF};
}

struct vm *vm_find(struct broker *b, const char *name)
{
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (b->vms[i].name[0] != '\0' && STR_EQ(b->vms[i].name, name))
			return &b->vms[i];
	return NULL;
}

struct vm *vm_free_slot(struct broker *b, const char *name)
{
	for (uint32_t i = 0; i < b->setup.spawn.max_vms; i++) {
		struct vm *vm = &b->vms[i];

		if (vm->name[0] != '\0')
			continue;
		vm_reset(vm);
		(void)proto_name_set(vm->name, name);
		vm->rec.slot = i;
		return vm;
	}
	return NULL;
}

bool vm_is_up(const struct vm *vm)
{
	return vm->phase == VM_LAUNCHING || vm->phase == VM_UP || vm->phase == VM_ENDING;
}

static void reply(struct broker *b, struct vm *vm, enum proto_status status, const void *rep)
{
	struct fdlist none = {0};

	server_reply(&b->server, &vm->ticket, status, rep, &none);
}

/* ---- preparing ---- */

static void log_end(const struct vm *vm, const char *program, const struct child_end *end)
{
	if (end->kind != PROTO_EXIT_CODE || end->code != 0)
		log_event(LOG_WARNING, "a VM's process ended abnormally", LOG_STR("VM", vm->name),
			  LOG_STR("PROGRAM", program), LOG_NUM("EXIT_KIND", end->kind),
			  LOG_NUM("EXIT_CODE", end->code), LOG_STR("STDERR", end->words));
}

static void prepare_end(struct broker *b, struct vm *vm, int r)
{
	const struct vm_prepare_rep rep = {.disk_mib = vm->rec.disk_mib};

	vm->disk_fd = safe_close(vm->disk_fd);
	vm->deadline_ms = 0;
	vm->phase = VM_IDLE;
	if (r == 0) {
		audit_event(b, LOG_NOTICE, "vm-prepare", LOG_STR("VM", vm->name),
			    LOG_STR("IMAGE", vm->rec.image), LOG_NUM("DISK_MIB", vm->rec.disk_mib),
			    LOG_NUM("SLOT", vm->rec.slot));
		reply(b, vm, PROTO_OK, &rep);
		return;
	}
	audit_event(b, LOG_ERR, "vm-prepare-failed", LOG_STR("VM", vm->name), LOG_ERRNO(r));
	(void)vmdir_forget(b, vm->name);
	reply(b, vm, r == -ERANGE ? PROTO_INVALID : failure(r), NULL);
	vm_reset(vm);
}

static void on_image_made(struct broker *b, void *arg)
{
	struct vm *vm = arg;
	struct child_end end = child_collect(b, &vm->qemu);
	int r = 0;

	if (end.kind != PROTO_EXIT_CODE || end.code != 0) {
		log_end(vm, "qemu-img", &end);
		r = strstr(end.words, "No space left") ? -ENOSPC : -EIO;
	}
	if (end.kind == PROTO_EXIT_CODE && end.code == LAUNCH_TOO_SMALL)
		r = -ERANGE;
	if (r == 0)
		r = vmdir_finish(b, vm, vm->disk_fd);
	prepare_end(b, vm, r);
}

void vm_prepare(struct broker *b, struct vm *vm, int image_conf)
{
	struct spawn_spec spec = {
		.program = PROGRAM_QEMU_IMG, .slot = slot_of(b, vm), .disk_mib = vm->rec.disk_mib};
	int fds[FD_ROLES], r = vm_end_processes(b, vm);

	if (r == 0)
		r = vmdir_create(b, vm, &vm->disk_fd);
	no_fds(fds);
	fds[FD_DISK] = vm->disk_fd;
	fds[FD_IMAGE] = image_conf;
	vm->phase = VM_PREPARING;
	memcpy(spec.vm, vm->name, sizeof(spec.vm));
	if (r == 0)
		r = monitor_start(&b->monitor, &spec, fds, NULL, &vm->qemu);
	if (r == 0)
		r = child_watch(b, &vm->qemu, on_image_made, vm);
	if (r < 0)
		prepare_end(b, vm, r);
	else
		vm->deadline_ms = loop_now_ms() + PREPARE_DEADLINE_MS;
}

/* ---- ending ---- */

int vm_save(struct broker *b, struct vm *vm)
{
	_cleanup_close_ int dir = vmdir_open(b->vms_fd, vm->name);
	int r = dir < 0 ? dir : record_save(dir, "record", &vm->rec, sizeof(vm->rec));

	if (r < 0)
		log_event(LOG_ERR, "a VM's record cannot be written", LOG_STR("VM", vm->name),
			  LOG_ERRNO(r));
	return r;
}

/* Both children are gone, and their user's devices are being taken back. */
static void vm_ended(struct broker *b, struct vm *vm)
{
	vm->was_up = vm->phase == VM_UP;
	loop_unwatch(b, &vm->gate_watch);
	vm->gate = safe_close(vm->gate);
	vm->iommu_fd = safe_close(vm->iommu_fd);
	vm->deadline_ms = 0;
	(void)vm_end_processes(b, vm); /* with the slot's cgroup */
	vm->phase = VM_REVOKING;
	if (vm->granted)
		gpu_revoke(b, vm);
	else
		vm_revoked(b, vm);
}

/* The VM may be started again. */
void vm_revoked(struct broker *b, struct vm *vm)
{
	struct vm_exited_ev event = {.generation = vm->rec.generation,
				     .exit_kind = vm->rec.exit_kind,
				     .exit_code = vm->rec.exit_code};
	bool was_up = vm->was_up;

	memcpy(event.vm, vm->name, sizeof(event.vm));
	(void)vmdir_remove(b->run_fd, vm->name);
	vm->phase = VM_IDLE;
	vm->killed = vm->was_up = vm->granted = false;
	vm->n_devices = 0;
	memset(&vm->run, 0, sizeof(vm->run));
	if (vm->ticket.serial != 0)
		reply(b, vm, vm->failure, NULL);
	if (!was_up)
		return;
	(void)vm_save(b, vm);
	audit_event(b, LOG_NOTICE, "vm-exit", LOG_STR("VM", vm->name),
		    LOG_NUM("GENERATION", vm->rec.generation),
		    LOG_NUM("EXIT_KIND", vm->rec.exit_kind),
		    LOG_NUM("EXIT_CODE", vm->rec.exit_code));
	server_event(&b->server, PROTO_AGENTD, OP_VM_EXITED, &event);
}

/* A launch that cannot be completed: the children go, then the request is answered. */
static void launch_fail(struct broker *b, struct vm *vm, int r, const char *why)
{
	audit_event(b, LOG_ERR, "vm-start-failed", LOG_STR("VM", vm->name), LOG_STR("WHY", why),
		    LOG_ERRNO(r));
	vm->failure = failure(r);
	vm->phase = VM_ENDING;
	vm->deadline_ms = 0;
	loop_unwatch(b, &vm->gate_watch);
	vm->gate = safe_close(vm->gate); /* at the gate they see the end and leave */
	(void)vm_end_processes(b, vm);
	if (vm->qemu.pidfd < 0 && vm->passt.pidfd < 0)
		vm_ended(b, vm);
}

static void on_qemu_exit(struct broker *b, void *arg)
{
	struct vm *vm = arg;
	struct child_end end = child_collect(b, &vm->qemu);

	/* Of an adopted one nobody is told the status, but what we did ourselves we know. */
	if (vm->killed && end.kind == PROTO_EXIT_UNKNOWN)
		end = (struct child_end){.kind = PROTO_EXIT_SIGNAL, .code = SIGKILL};
	vm->rec.exit_kind = end.kind;
	vm->rec.exit_code = end.code;
	if (!vm->killed)
		log_end(vm, "qemu", &end);
	if (vm->passt.pidfd >= 0)
		(void)vm_end_processes(b, vm);
	if (vm->phase == VM_LAUNCHING && end.kind == PROTO_EXIT_CODE && end.code == LAUNCH_NO_ROOM)
		launch_fail(b, vm, -E2BIG, end.words);
	else if (vm->phase == VM_LAUNCHING)
		launch_fail(b, vm, -EIO, "QEMU ended before its start");
	else if (vm->passt.pidfd < 0)
		vm_ended(b, vm);
}

/*
 * QEMU cannot be given a new network, so a VM whose passt is gone is one that nobody can reach
 * again: it ends, which its owner is told, rather than run on unreachable.
 */
static void network_lost(struct broker *b, struct vm *vm)
{
	audit_event(b, LOG_ERR, "vm-network-lost", LOG_STR("VM", vm->name),
		    LOG_NUM("GENERATION", vm->rec.generation));
	(void)vm_end_processes(b, vm);
}

/* An ending QEMU closes its network before it is gone: it gets a moment to be that. */
static void on_passt_exit(struct broker *b, void *arg)
{
	struct vm *vm = arg;
	struct child_end end = child_collect(b, &vm->passt);

	if (vm->phase == VM_LAUNCHING)
		launch_fail(b, vm, -EIO, end.words);
	else if (vm->qemu.pidfd < 0)
		vm_ended(b, vm);
	else if (vm->phase == VM_UP && !vm->killed)
		vm->deadline_ms = loop_now_ms() + QEMU_FOLLOWS_MS;
	else
		(void)vm_end_processes(b, vm);
}

void vm_kill(struct broker *b, struct vm *vm)
{
	audit_event(b, LOG_NOTICE, "vm-kill", LOG_STR("VM", vm->name),
		    LOG_NUM("GENERATION", vm->rec.generation));
	vm->killed = true;
	(void)vm_end_processes(b, vm);
}

/* ---- launching ---- */

static int remember_running(struct broker *b, struct vm *vm)
{
	_cleanup_close_ int dir = vmdir_open(b->run_fd, vm->name);
	struct run_record *run = &vm->run;
	uid_t uid;
	int r;

	if (dir < 0)
		return dir;
	memcpy(run->boot_id, b->setup.boot_id, sizeof(run->boot_id));
	run->qemu_pid = (uint32_t)vm->qemu.pid;
	run->passt_pid = (uint32_t)vm->passt.pid;
	run->generation = vm->rec.generation;
	run->started_s = (uint32_t)time(NULL);
	r = process_identify(vm->qemu.pid, &run->qemu_start, &uid);
	if (r == 0 && uid == slot_uid(b, vm))
		r = process_identify(vm->passt.pid, &run->passt_start, &uid);
	if (r == 0 && uid != slot_uid(b, vm))
		r = -EPERM;
	return r < 0 ? r : record_save(dir, "running", run, sizeof(*run));
}

/* "10022:22 10080:80" for the audit log. */
static void ports_text(const struct proto_port *ports, char *text, size_t size)
{
	size_t n = proto_ports_count(ports), len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < n && len < size; i++)
		len += (size_t)snprintf(text + len, size - len, "%s%u:%u", i ? " " : "",
					ports[i].host, ports[i].guest);
}

/*
 * Both children are the VM's user now, so that an adoption will know them, and passt's process has
 * proved that the guest will not reach us: both may go.
 */
static void on_gate(struct broker *b, void *arg)
{
	struct vm *vm = arg;
	struct vm_start_rep rep = {.generation = vm->rec.generation, .accel = vm->run.accel};
	char byte = 0, ports[256];
	bool came = read(vm->gate, &byte, 1) == 1 && byte == 'I';
	int r;

	if (came && ++vm->at_gate < GATE_CHILDREN)
		return;
	loop_unwatch(b, &vm->gate_watch);
	if (!came)
		return; /* one did not get here: on_passt_exit() or on_qemu_exit() will say why */
	r = remember_running(b, vm);
	if (r == 0)
		r = fd_write_all(vm->gate, "GG", 2);
	if (r < 0) {
		launch_fail(b, vm, r, "the start could not be recorded");
		return;
	}
	vm->gate = safe_close(vm->gate);
	vm->deadline_ms = 0;
	vm->phase = VM_UP;
	ports_text(vm->run.ports, ports, sizeof(ports));
	audit_event(b, LOG_NOTICE, "vm-start", LOG_STR("VM", vm->name),
		    LOG_NUM("GENERATION", vm->rec.generation), LOG_NUM("CPUS", vm->run.cpus),
		    LOG_NUM("MEMORY_MIB", vm->run.memory_mib),
		    LOG_STR("ACCEL", vm->run.accel == PROTO_ACCEL_KVM ? "kvm" : "tcg"),
		    LOG_STR("PORTS", ports), LOG_NUM("PID", vm->qemu.pid),
		    LOG_NUM("UID", slot_uid(b, vm)));
	reply(b, vm, PROTO_OK, &rep);
}

/* Refuses a base that is not the one which the VM's disk was begun on. */
static int check_base(int dir, const struct vm *vm, int base_fd, struct err *reterr)
{
	struct base_record was, is = {0};
	struct stat st;
	int r;

	if (fstat(base_fd, &st) < 0)
		return err_errno(reterr, -errno, "image %s", vm->rec.image);
	is.size = (uint64_t)st.st_size;
	is.modified_s = st.st_mtime;
	r = vm->rec.generation == 0 ? -ENOENT : record_load(dir, "base", &was, sizeof(was));
	if (r == -ENOENT) /* its first start */
		r = record_save(dir, "base", &is, sizeof(is));
	else if (r == 0 && (was.size != is.size || was.modified_s != is.modified_s))
		return err_set(reterr, -ESTALE,
			       "image %s was replaced or changed since the VM first started; put "
			       "back the one that it was",
			       vm->rec.image);
	return r < 0 ? err_errno(reterr, r, "record of the base image") : 0;
}

/* All that QEMU is to hold, into @fds; the generation is used up before anything starts. */
static int gather(struct broker *b, struct vm *vm, int fds[static FD_ROLES], struct err *reterr)
{
	_cleanup_close_ int dir = vmdir_open(b->vms_fd, vm->name);
	int r = image_open(b->image_fd, vm->rec.image, fds, reterr);

	if (r < 0)
		return r;
	if (dir < 0)
		return err_errno(reterr, dir, "VM directory");
	r = check_base(dir, vm, fds[FD_BASE], reterr);
	if (r < 0)
		return r;
	fds[FD_DISK] = vmdir_open_file(dir, "disk.qcow2", O_RDWR, geteuid());
	fds[FD_SEED] = vmdir_open_file(dir, "seed.img", O_RDONLY, geteuid());
	if (fds[FD_DISK] < 0 || fds[FD_SEED] < 0)
		return err_set(reterr, -EIO, "the VM's disks cannot be opened");
	vm->rec.generation++;
	vm->rec.exit_kind = PROTO_EXIT_UNKNOWN; /* what is true should we die from here on */
	vm->rec.exit_code = 0;
	r = record_save(dir, "record", &vm->rec, sizeof(vm->rec));
	if (r < 0)
		return err_errno(reterr, r, "VM record");
	fds[FD_IOMMU] = TAKE_FD(vm->iommu_fd);
	if (vm->n_devices > 0 || fds[FD_KERNEL] < 0) {
		fds[FD_VARS] = vmdir_open_vars(dir);
		if (fds[FD_VARS] < 0)
			return err_errno(reterr, fds[FD_VARS], "firmware variables");
	}
	return vmdir_run(b, vm, fds, reterr);
}

static int connect_pair(int type, int *ret_a, int *ret_b)
{
	int pair[2];

	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	*ret_a = pair[0];
	*ret_b = pair[1];
	return 0;
}

/* passt gets the gate, its end of the network and nothing else of what QEMU gets. */
static int start_children(struct broker *b, struct vm *vm, struct spawn_spec *spec,
			  int fds[static FD_ROLES])
{
	_cleanup_close_ int passt_end = -EBADF;
	int passt_fds[FD_ROLES];
	int r = connect_pair(SOCK_STREAM, &fds[FD_NET], &passt_end);

	if (r == 0)
		r = connect_pair(SOCK_STREAM, &fds[FD_GATE], &vm->gate);
	if (r < 0)
		return r;
	no_fds(passt_fds);
	passt_fds[FD_GATE] = fds[FD_GATE];
	passt_fds[FD_NET] = passt_end;
	spec->program = PROGRAM_QEMU;
	r = monitor_start(&b->monitor, spec, fds, &vm->run.limited, &vm->qemu);
	if (r == 0)
		r = child_watch(b, &vm->qemu, on_qemu_exit, vm);
	if (r < 0)
		return r;
	spec->program = PROGRAM_PASST;
	spec->n_devices = 0;
	memset(spec->devices, 0, sizeof(spec->devices));
	r = monitor_start(&b->monitor, spec, passt_fds, NULL, &vm->passt);
	if (r == 0)
		r = child_watch(b, &vm->passt, on_passt_exit, vm);
	if (r == 0)
		r = loop_watch(b, &vm->gate_watch, vm->gate, on_gate, vm);
	return r;
}

void vm_wait_accel(struct broker *b, struct vm *vm)
{
	vm->phase = VM_WAIT_ACCEL;
	if (accel_ready(b))
		vm_launch(b, vm);
}

void vm_start_failed(struct broker *b, struct vm *vm, enum proto_status status)
{
	vm->failure = status;
	vm_ended(b, vm);
}

void vm_launch(struct broker *b, struct vm *vm)
{
	struct spawn_spec spec = {.slot = slot_of(b, vm),
				  .cpus = vm->run.cpus,
				  .memory_mib = vm->run.memory_mib,
				  .disk_mib = vm->rec.disk_mib,
				  .n_devices = vm->n_devices};
	enum proto_accel accel = (enum proto_accel)b->accel.rec.accel;
	struct err err = {.text = "a process could not be started"};
	int fds[FD_ROLES], r;

	no_fds(fds);
	vm->phase = VM_LAUNCHING;
	vm->at_gate = 0;
	vm->run.accel = accel == PROTO_ACCEL_KVM ? PROTO_ACCEL_KVM : PROTO_ACCEL_TCG;
	spec.accel = vm->run.accel;
	memcpy(spec.vm, vm->name, sizeof(spec.vm));
	memcpy(spec.ports, vm->run.ports, sizeof(spec.ports));
	memcpy(spec.devices, vm->devices, vm->n_devices * sizeof(*spec.devices));
	r = vm_end_processes(b, vm);
	if (r == 0)
		r = gather(b, vm, fds, &err);
	if (r == 0)
		r = start_children(b, vm, &spec, fds);
	close_roles(fds);
	if (r < 0)
		launch_fail(b, vm, r, err.text);
	else
		vm->deadline_ms = loop_now_ms() + LAUNCH_DEADLINE_MS;
}

void vm_expire(struct broker *b, uint64_t now_ms)
{
	for (size_t i = 0; i < PROTO_MAX_VMS; i++) {
		struct vm *vm = &b->vms[i];

		if (vm->deadline_ms == 0 || now_ms < vm->deadline_ms)
			continue;
		vm->deadline_ms = 0;
		if (vm->phase == VM_PREPARING)
			(void)vm_end_processes(b, vm); /* on_image_made() goes on from there */
		else if (vm->phase == VM_LAUNCHING)
			launch_fail(b, vm, -ETIMEDOUT, "the children did not get to the gate");
		else if (vm->phase == VM_UP)
			network_lost(b, vm);
	}
}

/* ---- finding again ---- */

/* Takes hold of a recorded process if it is still the same one and runs as the slot's user. */
static int adopt_child(uint32_t pid, uint64_t start, uid_t uid, struct child *ret_child)
{
	_cleanup_close_ int pidfd = -EBADF;
	uint64_t now;
	uid_t now_uid;
	int r;

	if (pid == 0 || pid > INT_MAX)
		return -ESRCH;
	/* First the pidfd, then the questions: what they say is then about the one we hold. */
	pidfd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
	if (pidfd < 0)
		return -errno;
	r = process_identify((pid_t)pid, &now, &now_uid);
	if (r < 0)
		return r;
	if (now != start || now_uid != uid)
		return -ESRCH;
	*ret_child =
		(struct child){.pid = (pid_t)pid, .pidfd = TAKE_FD(pidfd), .stderr_fd = -EBADF};
	return 0;
}

/* Are the values of its records such that they could be told? */
static bool plausible(const struct vm *vm)
{
	struct vm_describe_rep rep = {0};

	vm_describe(vm, &rep);
	return proto_find(OP_VM_DESCRIBE)->check_rep(&rep) == 0;
}

static int adopt(struct broker *b, struct vm *vm)
{
	_cleanup_close_ int dir = vmdir_open(b->run_fd, vm->name);
	uid_t uid = slot_uid(b, vm);
	int r = dir < 0 ? dir : record_load(dir, "running", &vm->run, sizeof(vm->run));

	if (r < 0)
		return r;
	if (!plausible(vm))
		return -EBADMSG;
	if (!STR_EQ(vm->run.boot_id, b->setup.boot_id) || vm->run.generation != vm->rec.generation)
		return -ESRCH;
	/* passt first: should QEMU be gone, passt has to go, too. */
	(void)adopt_child(vm->run.passt_pid, vm->run.passt_start, uid, &vm->passt);
	r = adopt_child(vm->run.qemu_pid, vm->run.qemu_start, uid, &vm->qemu);
	if (r < 0 && vm->passt.pidfd < 0)
		return r;
	vm->phase = VM_UP;
	if (vm->qemu.pidfd >= 0)
		r = child_watch(b, &vm->qemu, on_qemu_exit, vm);
	if (vm->passt.pidfd >= 0)
		r = child_watch(b, &vm->passt, on_passt_exit, vm);
	/* One without the other is of no use; its end is then seen as any other. */
	if (vm->qemu.pidfd < 0 || vm->passt.pidfd < 0)
		(void)vm_end_processes(b, vm);
	vm->granted = vm->rec.leased;
	audit_event(b, LOG_NOTICE, "vm-adopt", LOG_STR("VM", vm->name),
		    LOG_NUM("GENERATION", vm->rec.generation), LOG_NUM("PID", vm->run.qemu_pid));
	return r;
}

/* Its disk stays where it is, for a person to look at; the other VMs go on. */
static void left_out(struct broker *b, const char *name)
{
	audit_event(b, LOG_ERR, "vm-damaged", LOG_STR("VM", name),
		    LOG_STR("WHY", "its record is damaged, or max_vms was lowered below its slot"));
	gpu_revoke_lost(b, name);
}

static int load_one(void *arg, const char *name)
{
	struct broker *b = arg;
	_cleanup_close_ int dir = vmdir_open(b->vms_fd, name);
	struct vm_record rec = {0};
	struct vm *vm;
	int r;

	if (dir < 0) {
		log_event(LOG_WARNING, "no VM's directory", LOG_STR("NAME", name), LOG_ERRNO(dir));
		return 0;
	}
	r = record_load(dir, "record", &rec, sizeof(rec));
	if (r == -ENOENT) /* a crash came before the end of making or removing it */
		return vmdir_remove(b->vms_fd, name);
	if (r < 0 || rec.slot >= b->setup.spawn.max_vms || !proto_name_ok(rec.image) ||
	    b->vms[rec.slot].name[0] != '\0') {
		left_out(b, name);
		return 0;
	}
	vm = &b->vms[rec.slot];
	(void)proto_name_set(vm->name, name);
	vm->rec = rec;
	vm->seeded = vmdir_has(dir, "seed.img");
	if (!plausible(vm)) {
		left_out(b, name);
		vm_reset(vm);
		return 0;
	}
	r = adopt(b, vm);
	if (r < 0) {
		if (r != -ENOENT)
			audit_event(b, LOG_WARNING, "vm-gone", LOG_STR("VM", name),
				    LOG_NUM("GENERATION", rec.generation), LOG_ERRNO(r));
		(void)vmdir_remove(b->run_fd, name);
		memset(&vm->run, 0, sizeof(vm->run));
		vm->phase = vm->rec.leased ? VM_REVOKING : VM_IDLE;
	}
	return 0;
}

int vm_load_all(struct broker *b, struct err *reterr)
{
	int r;

	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		vm_reset(&b->vms[i]);
	r = for_each_name(b->vms_fd, load_one, b);
	if (r < 0)
		return err_errno(reterr, r, "cannot read the VMs' directories");
	/* Who runs as a slot's user now was not adopted: a VM whose record was lost, say. */
	for (uint32_t i = 0; i < b->setup.spawn.max_vms && r == 0; i++)
		if (!vm_is_up(&b->vms[i]))
			r = monitor_sweep(&b->monitor, i);
	return r < 0 ? err_errno(reterr, r, "cannot end what runs as the VMs' users") : 0;
}
