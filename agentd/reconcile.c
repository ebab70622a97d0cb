/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decision table of an instance's life.
 * Trust: runs inside agentd; pure.
 *
 * Level-triggered: nothing depends on an event having been seen. After any crash of any daemon the
 * same answer comes out of what the record says and what the others say now.
 */
#include "agentd/reconcile.h"

#include <string.h>
#include <time.h>

#define POLL_MS 250 /* only while the helper is between two states and tells neither's end */

static struct decision decide(enum step step, uint64_t wake_ms)
{
	return (struct decision){.step = step, .wake_ms = wake_ms};
}

static struct decision now(enum step step)
{
	return decide(step, UINT64_MAX);
}

bool reconcile_wants_stop(const struct run *run)
{
	return run->goal != GOAL_RUN || run->restart == RESTART_STOPPING;
}

static struct decision decide_stopping(const struct situation *s)
{
	const struct seen *seen = s->seen;
	uint64_t deadline = seen->stop_deadline_ms;
	uint64_t again = seen->powerdown_ms + RECONCILE_PRESS_AGAIN_MS;

	if (s->now_ms >= deadline)
		return now(STEP_KILL);
	if (!s->vmmon_up)
		return decide(STEP_WAIT_VMMON, deadline);
	if (!seen->watched)
		return decide(STEP_WATCH, deadline);
	if (seen->powerdown_ms == 0 || s->now_ms >= again)
		return decide(STEP_POWERDOWN, deadline);
	return decide(STEP_WAIT_STOP, MIN_OF(deadline, again));
}

static bool keys_due(const struct situation *s)
{
	return s->run->had_keys && s->seen->keys_applied != s->seen->keys_wanted;
}

static struct decision decide_ready(const struct situation *s)
{
	bool first = s->run->ready_generation != s->seen->generation;

	/*
	 * "running" means that the tenant can log in: keys first, unless the guest refuses them or
	 * its disk holds them from an earlier boot; then they are only made sure of afterwards.
	 */
	if (keys_due(s) && !(first && (s->seen->keys_failed || s->run->keys_on_disk)))
		return now(s->seen->keys_asked ? STEP_WAIT_KEYS : STEP_KEYS);
	if (first || s->seen->resetting || s->run->fault == FAULT_BOOT ||
	    s->run->restart != RESTART_NONE)
		return now(STEP_READY);
	if (s->has_container && !s->seen->container_set)
		return now(STEP_CONTAINER);
	return now(STEP_NONE);
}

static struct decision decide_booting(const struct situation *s)
{
	if (s->seen->guest == PROTO_GUEST_STOPPING)
		return now(STEP_WAIT_STOP);
	if (s->run->ready_generation == s->seen->generation)
		return now(s->seen->resetting ? STEP_WAIT_GUEST : STEP_WAIT_WORD);
	if (s->run->fault != FAULT_NONE)
		return now(STEP_WAIT_GUEST);
	if (s->now_ms >= s->seen->boot_deadline_ms)
		return now(STEP_BOOT_TIMEOUT);
	return decide(STEP_WAIT_GUEST, s->seen->boot_deadline_ms);
}

static struct decision decide_alive(const struct situation *s)
{
	if (s->seen->vm == PROTO_VM_STARTING)
		return decide(STEP_WAIT_START, s->now_ms + POLL_MS);
	if (reconcile_wants_stop(s->run))
		return decide_stopping(s);
	if (s->run->started_generation != s->seen->generation)
		return now(STEP_ADOPT);
	if (!s->vmmon_up)
		return now(STEP_WAIT_VMMON);
	if (!s->seen->watched)
		return now(STEP_WATCH);
	if (s->seen->guest == PROTO_GUEST_READY)
		return decide_ready(s);
	return decide_booting(s);
}

static struct decision decide_delete(const struct situation *s)
{
	/* A lease outlives its VM's runs, and keeps the VM from being forgotten. */
	if ((s->has_gpus || s->seen->leased) && !s->seen->released)
		return now(STEP_RELEASE);
	if (s->seen->vm != PROTO_VM_ABSENT)
		return now(STEP_FORGET);
	if (s->seen->discarded) /* which ends what vmmon was at */
		return now(s->seen->keys_asked ? STEP_WAIT_KEYS : STEP_ERASE);
	return now(s->vmmon_up ? STEP_DISCARD : STEP_WAIT_VMMON);
}

/* While the helper is still cleaning up behind a VM it cannot say yet how it ended. */
static struct decision decide_ended(const struct situation *s)
{
	bool told = s->seen->exit_kind != PROTO_EXIT_NONE ||
		    s->run->started_generation != s->seen->generation;

	if (!told && s->now_ms < s->seen->end_deadline_ms)
		return decide(STEP_WAIT_END, s->now_ms + POLL_MS);
	return now(STEP_ENDED);
}

static struct decision decide_gone(const struct situation *s)
{
	const struct run *run = s->run;

	if (run->goal == GOAL_DELETE)
		return decide_delete(s);
	if (run->fault == FAULT_FINAL && run->goal == GOAL_RUN)
		return now(STEP_NONE);
	if (run->started_generation != 0 || run->restart == RESTART_STOPPING ||
	    run->fault == FAULT_BOOT)
		return decide_ended(s);
	if (run->goal == GOAL_STOP)
		return now(STEP_NONE);
	if (s->seen->vm == PROTO_VM_ABSENT && run->prepared)
		return now(STEP_LOST);
	if (!run->prepared)
		return now(STEP_PREPARE);
	/* vmmon has delivered the seed and the helper has none: a new one would be another guest.
	 */
	if (s->seen->enrolled && s->seen->vm == PROTO_VM_PREPARED)
		return now(STEP_LOST);
	if (run->host_key[0] == '\0' || s->seen->vm == PROTO_VM_PREPARED)
		return now(s->vmmon_up ? STEP_ENROL : STEP_WAIT_VMMON);
	/* Before each start, whatever was done before: asking again for the same costs nothing. */
	if (s->has_gpus && !s->seen->bound)
		return now(STEP_BIND);
	return now(STEP_START);
}

/* Has vmmon been told to bring the container on this host to @goal? */
static bool host_told(const struct situation *s, enum goal goal)
{
	return s->seen->container_set && s->seen->host_told == goal;
}

static struct decision decide_host_stop(const struct situation *s)
{
	const struct run *run = s->run;

	if (!host_told(s, GOAL_STOP))
		return now(STEP_HOST_STOP);
	if (s->seen->container.state != PROTO_CONTAINER_STOPPED)
		return now(STEP_WAIT_HOST_STOP);
	return now(run->started_generation != 0 || run->restart == RESTART_STOPPING
			   ? STEP_HOST_STOPPED
			   : STEP_NONE);
}

static struct decision decide_host_delete(const struct situation *s)
{
	if (!host_told(s, GOAL_DELETE))
		return now(STEP_HOST_REMOVE);
	if (s->seen->container.state != PROTO_CONTAINER_GONE)
		return now(STEP_WAIT_HOST_REMOVE);
	return now(s->seen->keys_asked ? STEP_WAIT_KEYS : STEP_ERASE);
}

/* A container on this host: vmmon does all there is to do, and tells how far it is. */
static struct decision decide_host(const struct situation *s)
{
	const struct run *run = s->run;
	enum proto_container_state state = s->seen->container.state;
	bool settled = state == PROTO_CONTAINER_RUNNING || state == PROTO_CONTAINER_EXITED ||
		       state == PROTO_CONTAINER_FAILED;

	if (!s->vmmon_up)
		return now(STEP_WAIT_VMMON);
	if (run->goal == GOAL_DELETE)
		return decide_host_delete(s);
	if (reconcile_wants_stop(run))
		return decide_host_stop(s);
	if (run->fault == FAULT_FINAL)
		return now(STEP_NONE);
	if (run->started_generation == 0)
		return now(STEP_HOST_BEGIN);
	if (!host_told(s, GOAL_RUN))
		return now(STEP_HOST_RUN);
	if (settled && run->restart != RESTART_NONE)
		return now(STEP_READY);
	if (keys_due(s))
		return now(s->seen->keys_asked ? STEP_WAIT_KEYS : STEP_KEYS);
	return now(STEP_NONE);
}

struct decision reconcile(const struct situation *s)
{
	if (s->on_host)
		return decide_host(s);
	if (!s->helper_up)
		return now(STEP_WAIT_HELPER);
	if (!s->seen->described)
		return now(STEP_DESCRIBE);
	if (s->seen->vm == PROTO_VM_RUNNING || s->seen->vm == PROTO_VM_STARTING)
		return decide_alive(s);
	return decide_gone(s);
}

/* The end of a run. */

static void describe_exit(const struct seen *seen, char *text, size_t size)
{
	switch (seen->exit_kind) {
	case PROTO_EXIT_CODE:
		(void)snprintf(text, size, "the VM ended by itself with exit code %u",
			       seen->exit_code);
		return;
	case PROTO_EXIT_SIGNAL:
		(void)snprintf(text, size, "the VM was killed by signal %u (%s)", seen->exit_code,
			       strsignal((int)seen->exit_code));
		return;
	case PROTO_EXIT_NONE:
	case PROTO_EXIT_UNKNOWN:
		break;
	}
	(void)snprintf(
		text, size,
		"the VM ended, and how is not known: vfio-helper was restarted since its start");
}

static void describe_reboot(int64_t booted_s, char *text, size_t size)
{
	time_t t = (time_t)booted_s;
	struct tm tm = {0};

	(void)gmtime_r(&t, &tm);
	(void)snprintf(text, size, "the host rebooted at ");
	(void)strftime(text + strlen(text), size - strlen(text), "%Y-%m-%d %H:%M:%S UTC", &tm);
}

/* By policy: try again with a remark, or stop and say what happened. */
static void ended_badly(struct run *run, enum on_end policy, const char *what)
{
	if (policy == ON_END_RESTART) {
		(void)snprintf(run->note, sizeof(run->note), "%.180s; it is started again", what);
		run->restart = RESTART_STARTING;
		return;
	}
	run->fault = FAULT_FINAL;
	run->restart = RESTART_NONE;
	(void)snprintf(run->error, sizeof(run->error), "%.180s; start it again", what);
}

void reconcile_ended(struct run *run, const struct seen *seen, const char *boot_id,
		     int64_t booted_s, enum on_end on_host_reboot, enum on_end on_exit)
{
	bool rebooted =
		boot_id[0] != '\0' && run->boot_id[0] != '\0' && !STR_EQ(boot_id, run->boot_id);
	char what[192];

	run->started_generation = 0;
	run->ready_generation = 0;
	if (run->fault == FAULT_BOOT) {
		run->fault = FAULT_NONE;
		run->error[0] = '\0';
	}
	if (run->goal != GOAL_RUN)
		return;
	if (run->restart == RESTART_STOPPING) {
		run->restart = RESTART_STARTING;
		return;
	}
	if (rebooted) {
		describe_reboot(booted_s, what, sizeof(what));
		ended_badly(run, on_host_reboot, what);
		return;
	}
	if (seen->exit_kind == PROTO_EXIT_CODE && seen->exit_code == 0) {
		run->goal = GOAL_STOP;
		run->restart = RESTART_NONE;
		(void)snprintf(run->note, sizeof(run->note), "the guest powered itself off");
		return;
	}
	describe_exit(seen, what, sizeof(what));
	ended_badly(run, on_exit, what);
}

const char *step_text(enum step step)
{
	static const char *const texts[STEP_COUNT] = {
		[STEP_NONE] = "",
		[STEP_WAIT_HELPER] = "waiting for vfio-helper",
		[STEP_WAIT_VMMON] = "waiting for vmmon",
		[STEP_WAIT_GUEST] = "the guest is booting",
		[STEP_WAIT_WORD] = "waiting for the guest to report again",
		[STEP_WAIT_KEYS] = "installing the SSH keys",
		[STEP_WAIT_STOP] = "the guest is shutting down",
		[STEP_WAIT_START] = "starting the VM",
		[STEP_WAIT_END] = "cleaning up after the VM",
		[STEP_DESCRIBE] = "looking at the VM",
		[STEP_PREPARE] = "making the disk",
		[STEP_ENROL] = "making the host key and the seed",
		[STEP_BIND] = "taking the GPUs from the host",
		[STEP_START] = "starting the VM",
		[STEP_ADOPT] = "adopting the VM",
		[STEP_WATCH] = "connecting to the VM",
		[STEP_KEYS] = "installing the SSH keys",
		[STEP_CONTAINER] = "handing the container's description to the guest",
		[STEP_READY] = "ready",
		[STEP_BOOT_TIMEOUT] = "the guest is late",
		[STEP_POWERDOWN] = "pressing the power button",
		[STEP_KILL] = "killing the VM",
		[STEP_ENDED] = "accounting for the VM's end",
		[STEP_LOST] = "looking for the disk",
		[STEP_RELEASE] = "giving the GPUs back to the host",
		[STEP_FORGET] = "removing the disk",
		[STEP_DISCARD] = "removing the keys",
		[STEP_ERASE] = "removing the record",
		[STEP_HOST_BEGIN] = "starting the container",
		[STEP_HOST_RUN] = "handing the container's description to vmmon",
		[STEP_HOST_STOP] = "stopping the container",
		[STEP_HOST_STOPPED] = "accounting for the container's end",
		[STEP_HOST_REMOVE] = "removing the container and its data",
		[STEP_WAIT_HOST_STOP] = "stopping the container",
		[STEP_WAIT_HOST_REMOVE] = "removing the container and its data",
	};

	return step < STEP_COUNT ? texts[step] : "";
}
