/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Carries out what reconcile.c decides: one request to another daemon at a time per instance.
 * Trust: runs inside agentd; reads decoded answers of vfio-helper and vmmon.
 */
#include "agentd/agentd.h"
#include "agentd/lastwords.h"
#include "agentd/reconcile.h"
#include "common/log.h"

#include <time.h>

#define SSH_PORT         22
#define LOCAL_STEPS_MAX  8 /* steps without waiting in one go; more would be a loop */
#define BACKOFF_FIRST_MS 250
#define BACKOFF_MAX_MS   30000
#define KILL_SETTLE_MS   250    /* from the hard stop's answer to asking whether it is gone */
#define GONE_SETTLE_MS   300    /* QMP closes a moment before the process ends */
#define END_WAIT_MS      10000  /* for the helper to tell how a VM ended */
#define KEYS_WAIT_MS     600000 /* vmmon gives up earlier, and an end of the VM ends it */
#define BIND_WAIT_MS     60000  /* for whoever is busy with a GPU to let go of it */

union step_request {
	struct vm_describe_req describe;
	struct vm_prepare_req prepare;
	struct vm_start_req start;
	struct vm_kill_req kill;
	struct vm_forget_req forget;
	struct gpu_bind_req bind;
	struct gpu_release_req release;
	struct guest_enrol_req enrol;
	struct guest_watch_req watch;
	struct guest_powerdown_req powerdown;
	struct guest_set_keys_req keys;
	struct container_set_req container;
	struct guest_discard_req discard;
	struct host_run_req host_run;
	struct host_stop_req host_stop;
	struct host_remove_req host_remove;
};

/* One step that another daemon takes. */
struct remote_step {
	uint32_t op_number; /* 0: the step is none of this kind */
	enum peer_id peer;
	uint32_t timeout_ms;
	bool fatal; /* refusals and failures end in the state error instead of a retry */
	/* Fills what the request holds besides the VM's name; may give a descriptor (owned). */
	int (*fill)(struct instance *inst, union step_request *req, int *ret_fd);
	/* Takes in the answer. */
	void (*done)(struct instance *inst, const void *rep);
};

/* Requests. */

static int fill_prepare(struct instance *inst, union step_request *req, int *ret_fd)
{
	(void)ret_fd;
	req->prepare.disk_mib = inst->disk_mib;
	return proto_name_set(req->prepare.image, inst->image);
}

static int fill_start(struct instance *inst, union step_request *req, int *ret_fd)
{
	(void)ret_fd;
	req->start.cpus = inst->cpus;
	req->start.memory_mib = inst->memory_mib;
	memcpy(req->start.ports, inst->ports, sizeof(req->start.ports));
	req->start.gpus = (uint32_t)proto_gpus_count(inst->gpus);
	return 0;
}

static int fill_bind(struct instance *inst, union step_request *req, int *ret_fd)
{
	(void)ret_fd;
	memcpy(req->bind.gpus, inst->gpus, sizeof(req->bind.gpus));
	return 0;
}

static int fill_kill(struct instance *inst, union step_request *req, int *ret_fd)
{
	(void)ret_fd;
	req->kill.generation = inst->seen.generation;
	return 0;
}

static int fill_watch(struct instance *inst, union step_request *req, int *ret_fd)
{
	(void)ret_fd;
	req->watch.generation = inst->seen.generation;
	req->watch.ssh_port = instance_host_port(inst, SSH_PORT);
	return 0;
}

static int fill_powerdown(struct instance *inst, union step_request *req, int *ret_fd)
{
	(void)ret_fd;
	req->powerdown.generation = inst->seen.generation;
	inst->seen.powerdown_ms = rpc_now_ms();
	return 0;
}

static int fill_keys(struct instance *inst, union step_request *req, int *ret_fd)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	int fd;

	(void)req;
	if (!f)
		return -ENOMEM;
	for (size_t i = 0; i < inst->n_keys; i++)
		(void)fprintf(f, "%s\n", inst->keys[i]);
	if (inst->n_keys == 0)
		(void)fputc('\n', f); /* an empty memfd is no list */
	if (fclose(f) != 0)
		return -ENOMEM;
	fd = fd_memfd_sealed("tenant-keys", text, size);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}

static int fill_wish(struct instance *inst, union step_request *req, int *ret_fd)
{
	char *text = instance_container_wish(inst);
	int fd = text ? fd_memfd_sealed("container-wish", text, strlen(text)) : -ENOMEM;

	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
	(void)req;
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}

static int fill_container(struct instance *inst, union step_request *req, int *ret_fd)
{
	req->container.generation = inst->seen.generation;
	return fill_wish(inst, req, ret_fd);
}

static int fill_host_stop(struct instance *inst, union step_request *req, int *ret_fd)
{
	(void)ret_fd;
	req->host_stop.grace_s = inst->agentd->config.stop_grace_s;
	return 0;
}

/* Answers. */

static void done_describe(struct instance *inst, const void *body)
{
	const struct vm_describe_rep *rep = body;
	struct seen *seen = &inst->seen;

	if (seen->generation != rep->generation || rep->state != PROTO_VM_RUNNING)
		seen->watched = false;
	seen->described = true;
	seen->vm = (enum proto_vm_state)rep->state;
	seen->generation = rep->generation;
	seen->exit_kind = (enum proto_exit_kind)rep->exit_kind;
	seen->exit_code = rep->exit_code;
	seen->accel = (enum proto_accel)rep->accel;
	seen->leased = rep->gpus > 0;
}

/* Stores a changed run; a disk that is full is tried again like any trouble. */
static bool store_run(struct instance *inst, const struct run *next);

static void done_prepare(struct instance *inst, const void *body)
{
	const struct vm_prepare_rep *rep = body;
	struct run next = inst->run;

	next.prepared = true;
	inst->disk_mib = rep->disk_mib;
	(void)store_run(inst, &next);
	inst->seen.described = false;
}

static void done_enrol(struct instance *inst, const void *body)
{
	const struct guest_enrol_rep *rep = body;
	struct run next = inst->run;

	_Static_assert(sizeof(next.host_key) == sizeof(rep->host_key), "host keys differ in size");
	memcpy(next.host_key, rep->host_key, sizeof(next.host_key));
	(void)store_run(inst, &next);
	inst->seen.enrolled = true;
	inst->seen.described = false;
}

static void done_start(struct instance *inst, const void *body)
{
	const struct vm_start_rep *rep = body;
	struct seen *seen = &inst->seen;

	seen->vm = PROTO_VM_RUNNING;
	seen->generation = rep->generation;
	seen->accel = (enum proto_accel)rep->accel;
	seen->watched = false;
}

static void guest_is(struct instance *inst, enum proto_guest_state state)
{
	struct seen *seen = &inst->seen;

	if (state == PROTO_GUEST_READY && seen->guest != PROTO_GUEST_READY) {
		seen->keys_applied = 0; /* it has booted: what it holds now is not known */
		seen->keys_failed = false;
	}
	if (state == PROTO_GUEST_RESETTING) {
		seen->resetting = true;
		seen->container.state = PROTO_CONTAINER_WAITING;
	}
	seen->guest = state;
	if (state == PROTO_GUEST_GONE || state == PROTO_GUEST_UNWATCHED) {
		seen->watched = false;
		seen->described = false;
		inst->retry_ms = rpc_now_ms() + GONE_SETTLE_MS;
	}
	agentd_changed(inst->agentd, inst);
}

static void done_watch(struct instance *inst, const void *body)
{
	const struct guest_watch_rep *rep = body;

	inst->seen.watched = true;
	inst->seen.container_set = false;
	if (inst->container_ssh != 0) /* vmmon may have begun anew: the container's list is its */
		inst->seen.keys_applied = 0;
	inst->seen.health = (enum proto_health)rep->health;
	inst->seen.health_words[0] = '\0';
	guest_is(inst, (enum proto_guest_state)rep->state);
}

static void done_kill(struct instance *inst, const void *body)
{
	(void)body;
	inst->seen.described = false;
	inst->retry_ms = rpc_now_ms() + KILL_SETTLE_MS; /* VM_EXITED ends the wait earlier */
}

static void done_keys(struct instance *inst, const void *body)
{
	struct run next = inst->run;

	(void)body;
	inst->seen.keys_failed = false;
	if (inst->seen.keys_applied == inst->seen.keys_wanted && !next.keys_on_disk) {
		next.keys_on_disk = true;
		(void)store_run(inst, &next);
	}
	log_event(LOG_INFO, "SSH keys installed", LOG_STR("INSTANCE", inst->id),
		  LOG_NUM("KEYS", inst->n_keys));
	agentd_changed(inst->agentd, inst);
}

static void done_container(struct instance *inst, const void *body)
{
	(void)body; /* how it goes on, events tell */
	inst->seen.container_set = true;
}

/*
 * Takes in what vmmon says of the container. When vmmon begins anew and finds its way to one that
 * runs, nothing has changed yet: then it says false.
 */
static bool container_is(struct instance *inst, enum proto_container_state state)
{
	struct container_seen *seen = &inst->seen.container;

	if (seen->state == PROTO_CONTAINER_NONE &&
	    (state == PROTO_CONTAINER_WAITING || state == PROTO_CONTAINER_STARTING) &&
	    instance_container_state(inst) == PROTO_CONTAINER_RUNNING)
		return false;
	if (seen->state != state)
		seen->words[0] = '\0';
	seen->state = state;
	return true;
}

static void host_told(struct instance *inst, enum goal goal, uint32_t state)
{
	inst->seen.container_set = true;
	inst->seen.host_told = goal;
	(void)container_is(inst, (enum proto_container_state)state);
	agentd_changed(inst->agentd, inst);
}

static void done_host_run(struct instance *inst, const void *body)
{
	const struct host_run_rep *rep = body;

	host_told(inst, GOAL_RUN, rep->state);
}

static void done_host_stop(struct instance *inst, const void *body)
{
	const struct host_stop_rep *rep = body;

	host_told(inst, GOAL_STOP, rep->state);
}

static void done_host_remove(struct instance *inst, const void *body)
{
	const struct host_remove_rep *rep = body;

	host_told(inst, GOAL_DELETE, rep->state);
}

static void done_bind(struct instance *inst, const void *body)
{
	const struct gpu_bind_rep *rep = body;

	inst->seen.bound = true;
	inst->seen.bind_deadline_ms = 0;
	log_event(LOG_NOTICE, "GPUs taken from the host", LOG_STR("INSTANCE", inst->id),
		  LOG_NUM("GPUS", proto_gpus_count(inst->gpus)),
		  LOG_NUM("FUNCTIONS", rep->functions));
}

/* What did not come back well is kept from rent by vfio-helper; the instance ends all the same. */
static void done_release(struct instance *inst, const void *body)
{
	const struct gpu_release_rep *rep = body;

	inst->seen.released = true;
	log_event(rep->quarantined > 0 ? LOG_ERR : LOG_NOTICE,
		  rep->quarantined > 0 ? "GPUs did not come back well; see `qudatactl gpus`"
				       : "GPUs given back to the host",
		  LOG_STR("INSTANCE", inst->id), LOG_NUM("FUNCTIONS", rep->released),
		  LOG_NUM("QUARANTINED", rep->quarantined));
}

static void done_forget(struct instance *inst, const void *body)
{
	(void)body;
	inst->seen.described = false;
}

static void done_discard(struct instance *inst, const void *body)
{
	(void)body;
	inst->seen.discarded = true;
}

static void done_nothing(struct instance *inst, const void *body)
{
	(void)inst;
	(void)body;
}

static const struct remote_step remotes[STEP_COUNT] = {
	[STEP_DESCRIBE] = {OP_VM_DESCRIBE, PEER_HELPER, 10000, false, NULL, done_describe},
	[STEP_PREPARE] = {OP_VM_PREPARE, PEER_HELPER, 120000, true, fill_prepare, done_prepare},
	[STEP_ENROL] = {OP_GUEST_ENROL, PEER_VMMON, 60000, true, NULL, done_enrol},
	[STEP_BIND] = {OP_GPU_BIND, PEER_HELPER, GPU_ACT_TIMEOUT_MS, true, fill_bind, done_bind},
	[STEP_RELEASE] = {OP_GPU_RELEASE, PEER_HELPER, GPU_ACT_TIMEOUT_MS, false, NULL,
			  done_release},
	[STEP_START] = {OP_VM_START, PEER_HELPER, 120000, true, fill_start, done_start},
	[STEP_WATCH] = {OP_GUEST_WATCH, PEER_VMMON, 10000, false, fill_watch, done_watch},
	[STEP_KEYS] = {OP_GUEST_SET_KEYS, PEER_VMMON, KEYS_WAIT_MS, false, fill_keys, done_keys},
	[STEP_CONTAINER] = {OP_CONTAINER_SET, PEER_VMMON, 10000, false, fill_container,
			    done_container},
	[STEP_POWERDOWN] = {OP_GUEST_POWERDOWN, PEER_VMMON, 5000, false, fill_powerdown,
			    done_nothing},
	[STEP_KILL] = {OP_VM_KILL, PEER_HELPER, 10000, false, fill_kill, done_kill},
	[STEP_FORGET] = {OP_VM_FORGET, PEER_HELPER, 60000, false, NULL, done_forget},
	[STEP_DISCARD] = {OP_GUEST_DISCARD, PEER_VMMON, 10000, false, NULL, done_discard},
	[STEP_HOST_RUN] = {OP_HOST_RUN, PEER_VMMON, 10000, true, fill_wish, done_host_run},
	[STEP_HOST_STOP] = {OP_HOST_STOP, PEER_VMMON, 10000, false, fill_host_stop, done_host_stop},
	[STEP_HOST_REMOVE] = {OP_HOST_REMOVE, PEER_VMMON, 10000, false, NULL, done_host_remove},
};

/* Trouble. */

static void back_off(struct instance *inst)
{
	uint64_t in_ms = BACKOFF_FIRST_MS, now_ms = rpc_now_ms();

	for (unsigned int i = 0; i < inst->failures && in_ms < BACKOFF_MAX_MS; i++)
		in_ms *= 2;
	inst->failures++;
	inst->retry_ms = now_ms + MIN_OF(in_ms, BACKOFF_MAX_MS);
	/* Trouble with a soft stop does not put off the hard one. */
	if (inst->seen.stop_deadline_ms > now_ms)
		inst->retry_ms = MIN_OF(inst->retry_ms, inst->seen.stop_deadline_ms);
}

static void trouble(struct instance *inst, const char *what)
{
	back_off(inst);
	if (STR_EQ(inst->trouble, what))
		return;
	(void)snprintf(inst->trouble, sizeof(inst->trouble), "%s", what);
	log_event(LOG_WARNING, "instance step failed, will be tried again",
		  LOG_STR("INSTANCE", inst->id), LOG_STR("STEP", inst->doing),
		  LOG_STR("REASON", what));
	agentd_changed(inst->agentd, inst);
}

static bool store_run(struct instance *inst, const struct run *next)
{
	int r = agentd_commit(inst->agentd, inst, next);

	if (r == 0)
		return true;
	trouble(inst, "the record cannot be written");
	return false;
}

static void fail(struct instance *inst, enum step step, const char *why)
{
	struct run next = inst->run;

	next.fault = FAULT_FINAL;
	next.restart = RESTART_NONE;
	(void)snprintf(next.error, sizeof(next.error), "%s failed: %.440s", step_text(step), why);
	log_event(LOG_ERR, "instance step failed", LOG_STR("INSTANCE", inst->id),
		  LOG_STR("STEP", step_text(step)), LOG_STR("REASON", why));
	(void)store_run(inst, &next);
}

/* Is this outcome one that trying again will not change? */
static bool is_final(const struct remote_step *remote, enum proto_status status)
{
	switch (status) {
	case PROTO_MISMATCH:
	case PROTO_INVALID:
	case PROTO_NOT_FOUND:
	case PROTO_CONFLICT:
	case PROTO_LIMIT:
	case PROTO_DENIED:
	case PROTO_NO_SPACE:
	case PROTO_FAILED:
		return remote->fatal;
	case PROTO_OK:
	case PROTO_ALREADY:
	case PROTO_BUSY:
	case PROTO_UNREACHABLE:
	case PROTO_TIMEOUT:
	case PROTO_STATUS_COUNT:
		break;
	}
	return false;
}

static const char *refusal_text(const struct instance *inst, enum step step,
				enum proto_status status, char *buf, size_t size)
{
	if (step == STEP_PREPARE && status == PROTO_NOT_FOUND)
		(void)snprintf(buf, size, "there is no base image %s on this host", inst->image);
	else if (step == STEP_PREPARE && status == PROTO_NO_SPACE)
		(void)snprintf(buf, size, "no space is left for a disk of %u MiB", inst->disk_mib);
	else if (step == STEP_PREPARE && status == PROTO_INVALID)
		(void)snprintf(buf, size, "a disk of %u MiB does not suit the image %s",
			       inst->disk_mib, inst->image);
	else if (step == STEP_START && status == PROTO_CONFLICT)
		(void)snprintf(buf, size, "a host port is used by another VM");
	else if (step == STEP_START && status == PROTO_MISMATCH)
		(void)snprintf(buf, size,
			       "the base image %s was replaced or changed since the VM first "
			       "started; put back the one that it was",
			       inst->image);
	else if (step == STEP_START && status == PROTO_LIMIT)
		(void)snprintf(buf, size, "this host has no room for %u CPUs and %u MiB%s",
			       inst->cpus, inst->memory_mib,
			       inst->gpus[0]
				       ? ", or for the GPUs' BARs in the guest's address space"
				       : "");
	else if (step == STEP_HOST_RUN && status == PROTO_DENIED)
		(void)snprintf(buf, size,
			       "this host does not allow its image's registry "
			       "(engine_registries in vmmon.conf)");
	else if (step == STEP_HOST_RUN && status == PROTO_CONFLICT)
		(void)snprintf(buf, size, "another instance has one of its GPUs");
	else if (status == PROTO_DENIED)
		(void)snprintf(buf, size, "%s; vfio-helper's audit log says which rule",
			       proto_status_text(status));
	else
		(void)snprintf(buf, size, "%s", proto_status_text(status));
	return buf;
}

/* GPUs that were not to be had: is it worth waiting? @reasons: what speaks against them, or "". */
static void bind_refused(struct instance *inst, enum proto_status status, const char *reasons)
{
	struct seen *seen = &inst->seen;
	_cleanup_free_ char *why = NULL;
	uint64_t now_ms = rpc_now_ms();
	bool late;

	if (seen->bind_deadline_ms == 0)
		seen->bind_deadline_ms = now_ms + BIND_WAIT_MS;
	late = now_ms >= seen->bind_deadline_ms;
	if (asprintf(&why, "%s%s%s", *reasons ? reasons : proto_status_text(status),
		     late ? "; given up after waiting for " : "", late ? "a minute" : "") < 0) {
		why = NULL;
		trouble(inst, "out of memory");
		return;
	}
	if (!is_final(&remotes[STEP_BIND], status) && !late) {
		trouble(inst, why);
		inst->retry_ms = MIN_OF(inst->retry_ms, seen->bind_deadline_ms);
		return;
	}
	seen->bind_deadline_ms = 0;
	fail(inst, STEP_BIND, why);
}

struct bind_call {
	struct instance *inst; /* borrowed, as in struct step_call */
	enum proto_status status;
};

static void on_bind_reasons(void *arg, enum proto_status status, const void *rep,
			    struct fdlist *fds)
{
	struct bind_call call = *(struct bind_call *)arg;
	_cleanup_(gpus_done) struct gpus host = {0};
	_cleanup_free_ char *reasons = NULL;

	free(arg);
	call.inst->in_flight = false;
	if (status == PROTO_OK && gpus_receive(rep, fds, &host, NULL) == 0)
		reasons = gpus_explain(&host, call.inst->gpus, call.inst->id);
	bind_refused(call.inst, call.status, reasons ? reasons : "");
	agentd_kick(call.inst->agentd);
}

/* Asks what speaks against the GPUs, before anything is said about the failure. */
static void bind_failed(struct instance *inst, enum proto_status status)
{
	const struct gpu_list_req req = {0};
	struct bind_call *call = calloc(1, sizeof(*call));
	int r = call ? 0 : -ENOMEM;

	if (r == 0) {
		*call = (struct bind_call){inst, status};
		r = agentd_call(inst->agentd, PEER_HELPER, OP_GPU_LIST, &req, /* fd= */ -EBADF,
				GPU_LIST_TIMEOUT_MS, on_bind_reasons, call);
	}
	if (r == 0) {
		inst->in_flight = true;
		return;
	}
	free(call);
	bind_refused(inst, status, "");
}

/* A step did not succeed. */
static void step_failed(struct instance *inst, enum step step, enum proto_status status)
{
	const struct remote_step *remote = &remotes[step];
	char why[160];

	if (status == PROTO_UNREACHABLE && !peers_up(inst->agentd->peers, remote->peer))
		return; /* the peer went away: it is asked anew when it is back */
	/* Whatever went wrong, the next decision is made from what is, not from what was. */
	inst->seen.described = false;
	if (step == STEP_KEYS)
		inst->seen.keys_failed = true;
	if (step == STEP_START)
		inst->seen.bound = false;
	if (step == STEP_FORGET)
		inst->seen.released = false; /* a lease may be what is in the way */
	if (step == STEP_POWERDOWN)
		return; /* it is pressed again, and the hard stop is near */
	if (step == STEP_BIND) {
		bind_failed(inst, status);
		return;
	}
	if (is_final(remote, status))
		fail(inst, step, refusal_text(inst, step, status, why, sizeof(why)));
	else
		trouble(inst, proto_status_text(status));
}

/* The state that a step was to bring about is there already: as good as done. */
static bool is_done(enum step step, enum proto_status status)
{
	if (status == PROTO_ALREADY)
		return step != STEP_ENROL && step != STEP_WATCH && step != STEP_DESCRIBE;
	return status == PROTO_NOT_FOUND && (step == STEP_FORGET || step == STEP_DISCARD ||
					     step == STEP_KILL || step == STEP_RELEASE);
}

static void step_succeeded(struct instance *inst, enum step step, const void *rep)
{
	/* These two succeed in the middle of a loop of failures, too. */
	if (step != STEP_DESCRIBE && step != STEP_WATCH) {
		inst->failures = 0;
		inst->trouble[0] = '\0';
	}
	if (rep)
		remotes[step].done(inst, rep);
	else if (step == STEP_DISCARD)
		inst->seen.discarded = true;
	else if (step == STEP_RELEASE)
		inst->seen.released = true;
	else if (step == STEP_BIND)
		inst->seen.bound = true;
	else
		inst->seen.described = false;
	if (step == STEP_PREPARE && !rep) {
		struct run next = inst->run;

		next.prepared = true;
		(void)store_run(inst, &next);
	}
}

_Static_assert(offsetof(struct vm_describe_req, vm) == 0 &&
		       offsetof(struct vm_prepare_req, vm) == 0 &&
		       offsetof(struct vm_start_req, vm) == 0 &&
		       offsetof(struct vm_forget_req, vm) == 0 &&
		       offsetof(struct gpu_bind_req, vm) == 0 &&
		       offsetof(struct gpu_release_req, vm) == 0 &&
		       offsetof(struct guest_enrol_req, vm) == 0 &&
		       offsetof(struct guest_set_keys_req, vm) == 0 &&
		       offsetof(struct guest_discard_req, vm) == 0 &&
		       offsetof(struct host_run_req, vm) == 0 &&
		       offsetof(struct host_stop_req, vm) == 0 &&
		       offsetof(struct host_remove_req, vm) == 0,
	       "start_remote() names the VM at the wrong place");

struct step_call {
	struct instance *inst; /* borrowed: it is not freed while a call is in flight */
	enum step step;
	uint64_t keys;       /* number of the list that was sent */
	uint64_t generation; /* of the VM that it was sent to */
};

/* The keys do not hold up other steps: a guest that stalls must not put off its own end. */
static bool *flight_of(struct instance *inst, enum step step)
{
	return step == STEP_KEYS ? &inst->seen.keys_asked : &inst->in_flight;
}

/* An answer about keys when the run that they were for is to end, or has ended. */
static bool is_stale(const struct step_call *call)
{
	const struct instance *inst = call->inst;

	return call->step == STEP_KEYS &&
	       (inst->seen.generation != call->generation || reconcile_wants_stop(&inst->run));
}

static void on_step_reply(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct step_call call = *(struct step_call *)arg;
	struct instance *inst = call.inst;

	(void)fds;
	free(arg);
	*flight_of(inst, call.step) = false;
	if (is_stale(&call)) {
		log_event(LOG_INFO, "keys came too late", LOG_STR("INSTANCE", inst->id));
	} else if (status == PROTO_OK || is_done(call.step, status)) {
		if (call.step == STEP_KEYS)
			inst->seen.keys_applied = call.keys;
		step_succeeded(inst, call.step, rep);
	} else {
		step_failed(inst, call.step, status);
	}
	agentd_kick(inst->agentd);
}

static void start_remote(struct instance *inst, enum step step)
{
	const struct remote_step *remote = &remotes[step];
	struct step_call *call = calloc(1, sizeof(*call));
	union step_request req;
	_cleanup_close_ int fd = -EBADF;
	int r;

	memset(&req, 0, sizeof(req));
	r = call ? 0 : -ENOMEM;
	if (r == 0 && remote->fill)
		r = remote->fill(inst, &req, &fd);
	if (r == 0) {
		/* Every request names its VM, and all but four begin with it. */
		char *name = step == STEP_KILL        ? req.kill.vm
			     : step == STEP_CONTAINER ? req.container.vm
			     : step == STEP_WATCH     ? req.watch.vm
			     : step == STEP_POWERDOWN ? req.powerdown.vm
						      : req.describe.vm;

		*call = (struct step_call){inst, step, inst->seen.keys_wanted,
					   inst->seen.generation};
		r = proto_name_set(name, inst->id);
	}
	if (r == 0)
		r = agentd_call(inst->agentd, remote->peer, remote->op_number, &req, fd,
				remote->timeout_ms, on_step_reply, call);
	if (r != 0) {
		free(call);
		trouble(inst, log_errno_text(r));
		return;
	}
	*flight_of(inst, step) = true;
}

/* Steps that are taken here. */

static int64_t host_booted_s(void)
{
	struct timespec up;

	(void)clock_gettime(CLOCK_BOOTTIME, &up);
	return (int64_t)time(NULL) - up.tv_sec;
}

static void forget_run(struct seen *seen)
{
	seen->bound = false;
	seen->watched = false;
	seen->guest = PROTO_GUEST_UNWATCHED;
	seen->resetting = false;
	seen->health = PROTO_HEALTH_UNKNOWN;
	seen->container_set = false;
	seen->container = (struct container_seen){0};
	seen->keys_failed = false;
	seen->keys_applied = 0;
	seen->powerdown_ms = 0;
	seen->stop_deadline_ms = 0;
	seen->boot_deadline_ms = 0;
}

/* With what the guest's console said last, where that explains a boot that failed. */
static void add_words(struct run *run, const char *words)
{
	size_t len = strlen(run->error);

	if (words[0] != '\0' && run->fault != FAULT_NONE)
		(void)snprintf(run->error + len, sizeof(run->error) - len,
			       "; the console said last: %s", words);
}

static void account_for_end(struct instance *inst, const char *words)
{
	const struct agentd *a = inst->agentd;
	struct run next = inst->run;

	reconcile_ended(&next, &inst->seen, peers_limits(a->peers)->boot_id, host_booted_s(),
			(enum on_end)a->config.on_host_reboot, (enum on_end)a->config.on_exit);
	log_event(LOG_NOTICE, "VM ended", LOG_STR("INSTANCE", inst->id),
		  LOG_NUM("EXIT_KIND", inst->seen.exit_kind),
		  LOG_NUM("EXIT_CODE", inst->seen.exit_code));
	add_words(&next, words);
	forget_run(&inst->seen);
	if (!store_run(inst, &next))
		return;
	/* A VM that dies again and again is started ever more slowly. */
	if (next.goal == GOAL_RUN && next.fault == FAULT_NONE && next.note[0] != '\0') {
		inst->failures = inst->crashes++;
		back_off(inst);
	}
}

static void take_ended(struct instance *inst)
{
	const struct run *run = &inst->run;
	bool was_ready = run->ready_generation == run->started_generation;

	if (run->goal == GOAL_RUN && run->restart != RESTART_STOPPING &&
	    run->started_generation != 0 && !was_ready)
		lastwords_ask(inst, run->started_generation, account_for_end);
	else
		account_for_end(inst, "");
}

static void take_ready(struct instance *inst)
{
	struct run next = inst->run;

	next.ready_generation = inst->seen.generation;
	next.restart = RESTART_NONE;
	next.fault = FAULT_NONE;
	next.error[0] = '\0';
	next.note[0] = '\0';
	inst->seen.resetting = false;
	inst->crashes = 0;
	if (!inst->seen.keys_failed) {
		inst->failures = 0;
		inst->trouble[0] = '\0';
	}
	(void)store_run(inst, &next);
}

static void call_late(struct instance *inst, const char *words)
{
	const struct agentd_config *config = &inst->agentd->config;
	uint32_t factor = inst->seen.accel == PROTO_ACCEL_TCG ? config->tcg_factor : 1;
	struct run next = inst->run;

	if (reconcile_wants_stop(&next) || inst->seen.guest == PROTO_GUEST_READY)
		return; /* somebody has decided otherwise meanwhile, or it has come after all */
	next.fault = FAULT_BOOT;
	next.restart = RESTART_NONE;
	(void)snprintf(next.error, sizeof(next.error),
		       "the guest did not become ready within %u s; see `qudatactl logs %s`",
		       config->boot_timeout_s * factor, inst->id);
	add_words(&next, words);
	(void)store_run(inst, &next);
}

static void take_boot_timeout(struct instance *inst)
{
	lastwords_ask(inst, inst->seen.generation, call_late);
}

static void take_adopt(struct instance *inst)
{
	struct run next = inst->run;

	next.started_generation = inst->seen.generation;
	next.ready_generation = 0;
	(void)snprintf(next.boot_id, sizeof(next.boot_id), "%s",
		       peers_limits(inst->agentd->peers)->boot_id);
	(void)store_run(inst, &next);
}

static void take_host_begin(struct instance *inst)
{
	struct run next = inst->run;

	next.started_generation = PROTO_HOST_GENERATION;
	(void)store_run(inst, &next);
}

static void take_host_stopped(struct instance *inst)
{
	struct run next = inst->run;

	next.started_generation = next.container_generation = 0;
	if (next.restart == RESTART_STOPPING)
		next.restart = RESTART_STARTING;
	(void)store_run(inst, &next);
}

static void take_lost(struct instance *inst)
{
	fail(inst, STEP_LOST, "the VM's disk or seed is no longer on this host");
}

/* Steps that are taken here; STEP_ERASE is not among them, as it ends the instance. */
static void (*const locals[STEP_COUNT])(struct instance *inst) = {
	[STEP_ADOPT] = take_adopt,
	[STEP_READY] = take_ready,
	[STEP_BOOT_TIMEOUT] = take_boot_timeout,
	[STEP_ENDED] = take_ended,
	[STEP_LOST] = take_lost,
	[STEP_HOST_BEGIN] = take_host_begin,
	[STEP_HOST_STOPPED] = take_host_stopped,
};

/* The last step: says whether the instance is gone now. */
static bool take_erase(struct instance *inst)
{
	int r = agentd_erase(inst->agentd, inst);

	if (r < 0)
		trouble(inst, log_errno_text(r));
	return r == 0;
}

/* The pass. */

static void set_deadlines(struct instance *inst, uint64_t now_ms)
{
	const struct agentd_config *config = &inst->agentd->config;
	struct seen *seen = &inst->seen;
	bool runs = seen->described && seen->vm == PROTO_VM_RUNNING;
	uint32_t factor = seen->accel == PROTO_ACCEL_TCG ? config->tcg_factor : 1;
	uint32_t grace =
		inst->run.goal == GOAL_DELETE ? config->delete_grace_s : config->stop_grace_s;

	if (!runs) {
		if (seen->described && seen->end_deadline_ms == 0)
			seen->end_deadline_ms = now_ms + END_WAIT_MS;
		return;
	}
	seen->end_deadline_ms = 0;
	if (!reconcile_wants_stop(&inst->run))
		seen->stop_deadline_ms = 0;
	else if (seen->stop_deadline_ms == 0 || inst->run.goal == GOAL_DELETE)
		seen->stop_deadline_ms =
			MIN_OF(seen->stop_deadline_ms ? seen->stop_deadline_ms : UINT64_MAX,
			       now_ms + (uint64_t)grace * MSEC_PER_SEC);
	if (seen->boot_deadline_ms == 0)
		seen->boot_deadline_ms =
			now_ms + (uint64_t)config->boot_timeout_s * factor * MSEC_PER_SEC;
}

static void set_doing(struct instance *inst, enum step step)
{
	const char *doing = step_text(step);

	if (inst->doing == doing)
		return;
	inst->doing = doing;
	inst->trouble[0] = '\0'; /* it was the step's before */
	agentd_changed(inst->agentd, inst);
}

static struct decision decide(struct instance *inst, uint64_t now_ms)
{
	const struct agentd *a = inst->agentd;
	const struct situation s = {
		.run = &inst->run,
		.seen = &inst->seen,
		.has_gpus = proto_gpus_count(inst->gpus) > 0,
		.has_container = instance_has_container(inst),
		.on_host = inst->on_host,
		.helper_up = peers_up(a->peers, PEER_HELPER),
		.vmmon_up = peers_up(a->peers, PEER_VMMON),
		.now_ms = now_ms,
	};

	set_deadlines(inst, now_ms);
	return reconcile(&s);
}

/* Takes the instance as far as it can go now. Says whether it is still there. */
static bool drive(struct instance *inst)
{
	for (int i = 0; i < LOCAL_STEPS_MAX && !inst->in_flight; i++) {
		uint64_t now_ms = rpc_now_ms();
		struct decision d = decide(inst, now_ms);
		bool remote = remotes[d.step].op_number != 0;

		inst->wake_ms = d.wake_ms;
		/* Looking and noting are not worth telling; what follows from them is. */
		if (d.step != STEP_DESCRIBE && !locals[d.step])
			set_doing(inst, d.step);
		if (!remote && !locals[d.step] && d.step != STEP_ERASE) {
			if (d.step == STEP_WAIT_START || d.step == STEP_WAIT_END)
				inst->seen.described = false; /* look again when woken */
			return true;
		}
		if (now_ms < inst->retry_ms) {
			inst->wake_ms = MIN_OF(inst->wake_ms, inst->retry_ms);
			return true;
		}
		if (d.step == STEP_ERASE && take_erase(inst))
			return false;
		if (remote)
			start_remote(inst, d.step);
		else if (locals[d.step])
			locals[d.step](inst);
	}
	if (!inst->in_flight) /* more steps than one pass may take: the others first */
		agentd_kick(inst->agentd);
	return true;
}

void drive_all(struct agentd *a)
{
	struct instance *inst, *following;
	uint64_t next = UINT64_MAX, now_ms, in_ms;
	struct timeval tv;

	for (inst = TAILQ_FIRST(&a->instances); inst; inst = following) {
		following = TAILQ_NEXT(inst, link);
		if ((!inst->quarantined || inst->run.goal == GOAL_DELETE) && drive(inst))
			next = MIN_OF(next, inst->wake_ms);
	}
	next = MIN_OF(next, waiters_check(a));
	tunnels_drive(a);
	if (a->tunnels.retry_ms > rpc_now_ms())
		next = MIN_OF(next, a->tunnels.retry_ms);
	if (next == UINT64_MAX) {
		(void)evtimer_del(a->timer);
		return;
	}
	now_ms = rpc_now_ms();
	in_ms = next > now_ms ? next - now_ms : 0;
	tv = (struct timeval){
		.tv_sec = (time_t)(in_ms / MSEC_PER_SEC),
		.tv_usec = (suseconds_t)(in_ms % MSEC_PER_SEC * 1000),
	};
	(void)evtimer_add(a->timer, &tv);
}

void drive_peer_changed(void *ctx, enum peer_id id, bool up)
{
	struct agentd *a = ctx;
	struct instance *inst;

	if (id == PEER_FRP)
		tunnels_peer_changed(a);
	TAILQ_FOREACH(inst, &a->instances, link)
	{
		if (id == PEER_HELPER) {
			inst->seen.described = false;
			inst->seen.bound = false;
			inst->seen.released = false;
		}
		if (id == PEER_VMMON) {
			inst->seen.watched = false;
			inst->seen.container_set = false;
			/* Which container it is stays known. */
			inst->seen.container.state = PROTO_CONTAINER_NONE;
			inst->seen.container.words[0] = '\0';
			inst->seen.powerdown_ms = 0;
			if (inst->on_host) { /* the list was its, and what it knew of the sshd */
				inst->seen.keys_applied = 0;
				inst->seen.container.login = PROTO_LOGIN_NONE;
			}
		}
		if (up)
			inst->retry_ms = 0;
		agentd_changed(a, inst);
	}
	agentd_kick(a);
}

static void on_vm_exited(struct agentd *a, const struct vm_exited_ev *ev)
{
	struct instance *inst = agentd_find(a, ev->vm);

	if (!inst)
		return;
	inst->seen.described = false;
	inst->retry_ms = 0;
	agentd_kick(a);
}

static void on_guest_state(struct agentd *a, const struct guest_state_ev *ev)
{
	struct instance *inst = agentd_find(a, ev->vm);

	if (!inst || !inst->seen.watched || inst->seen.generation != ev->generation)
		return;
	guest_is(inst, (enum proto_guest_state)ev->state);
}

static void on_container_state(struct agentd *a, const struct container_state_ev *ev)
{
	struct instance *inst = agentd_find(a, ev->vm);
	enum proto_container_state state = (enum proto_container_state)ev->state;
	struct container_seen *seen;
	bool mine = inst &&
		    (inst->on_host ? ev->generation == PROTO_HOST_GENERATION
				   : inst->seen.watched && inst->seen.generation == ev->generation);

	if (!mine || !container_is(inst, state))
		return;
	seen = &inst->seen.container;
	seen->percent = ev->percent;
	seen->exit_code = ev->exit_code;
	seen->login = (enum proto_login)ev->login;
	memcpy(seen->login_key, ev->login_key, sizeof(seen->login_key));
	memcpy(seen->login_words, ev->login_words, sizeof(seen->login_words));
	memcpy(seen->id, ev->id, sizeof(seen->id));
	memcpy(seen->words, ev->words, sizeof(seen->words));
	if (state == PROTO_CONTAINER_RUNNING && inst->run.container_generation != ev->generation) {
		struct run next = inst->run;

		next.container_generation = ev->generation;
		(void)store_run(inst, &next);
	}
	agentd_changed(a, inst);
}

static void on_guest_health(struct agentd *a, const struct guest_health_ev *ev)
{
	struct instance *inst = agentd_find(a, ev->vm);

	if (!inst || !inst->seen.watched || inst->seen.generation != ev->generation)
		return;
	inst->seen.health = (enum proto_health)ev->health;
	memcpy(inst->seen.health_words, ev->words, sizeof(inst->seen.health_words));
	agentd_changed(a, inst);
}

void drive_peer_event(void *ctx, enum peer_id id, uint32_t op_number, const void *body)
{
	if (id == PEER_HELPER && op_number == OP_VM_EXITED)
		on_vm_exited(ctx, body);
	else if (id == PEER_VMMON && op_number == OP_GUEST_STATE)
		on_guest_state(ctx, body);
	else if (id == PEER_VMMON && op_number == OP_GUEST_HEALTH)
		on_guest_health(ctx, body);
	else if (id == PEER_VMMON && op_number == OP_CONTAINER_STATE)
		on_container_state(ctx, body);
	else if (id == PEER_FRP)
		tunnels_event(ctx, op_number, body);
}
