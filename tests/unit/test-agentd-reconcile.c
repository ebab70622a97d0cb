/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decision table: named situations, and a walk over all of them for what must never happen.
 * Trust: test.
 */
#include "agentd/reconcile.h"

#include <setjmp.h>
#include <stdarg.h>
/* cmocka wants the two above first */
#include <cmocka.h>

#define GEN UINT64_C(7)
#define NOW UINT64_C(100000)

struct setup {
	struct run run;
	struct seen seen;
	struct situation s;
};

/* A guest that runs, is watched and ready; tests spoil one thing each. */
static void healthy(struct setup *t)
{
	memset(t, 0, sizeof(*t));
	t->run = (struct run){
		.goal = GOAL_RUN,
		.started_generation = GEN,
		.ready_generation = GEN,
		.prepared = true,
		.host_key = "ssh-ed25519 AAAA",
		.boot_id = "boot-1",
	};
	t->seen = (struct seen){
		.described = true,
		.vm = PROTO_VM_RUNNING,
		.generation = GEN,
		.watched = true,
		.guest = PROTO_GUEST_READY,
		.keys_wanted = 1,
		.boot_deadline_ms = NOW + 1000,
		.stop_deadline_ms = NOW + 1000,
		.end_deadline_ms = NOW + 1000,
	};
	t->s = (struct situation){.run = &t->run,
				  .seen = &t->seen,
				  .helper_up = true,
				  .vmmon_up = true,
				  .now_ms = NOW};
}

/* The same, but the VM has ended and that was accounted for. */
static void stopped(struct setup *t)
{
	healthy(t);
	t->run.started_generation = 0;
	t->run.ready_generation = 0;
	t->seen.vm = PROTO_VM_SEEDED;
	t->seen.exit_kind = PROTO_EXIT_CODE;
	t->seen.watched = false;
	t->seen.guest = PROTO_GUEST_UNWATCHED;
}

static void expect(const struct setup *t, enum step step, uint64_t wake_ms)
{
	struct decision d = reconcile(&t->s);

	if (d.step != step)
		fail_msg("decided \"%s\", wanted \"%s\"", step_text(d.step), step_text(step));
	assert_true(d.wake_ms == wake_ms);
}

#define NEVER UINT64_MAX

static void test_way_up(void **state)
{
	struct setup t;

	(void)state;
	healthy(&t);
	expect(&t, STEP_NONE, NEVER);
	t.s.helper_up = false;
	expect(&t, STEP_WAIT_HELPER, NEVER);
	t.s.helper_up = true;
	t.seen.described = false;
	expect(&t, STEP_DESCRIBE, NEVER);

	stopped(&t);
	t.run.prepared = false;
	t.run.host_key[0] = '\0';
	t.seen.vm = PROTO_VM_ABSENT;
	expect(&t, STEP_PREPARE, NEVER);
	t.seen.vm = PROTO_VM_PREPARED; /* made, but agentd died before it wrote that down */
	expect(&t, STEP_PREPARE, NEVER);
	t.run.prepared = true;
	expect(&t, STEP_ENROL, NEVER);
	t.s.vmmon_up = false;
	expect(&t, STEP_WAIT_VMMON, NEVER);
	t.s.vmmon_up = true;
	t.seen.vm = PROTO_VM_SEEDED; /* seeded, but the key's line was lost */
	expect(&t, STEP_ENROL, NEVER);
	(void)strcpy(t.run.host_key, "ssh-ed25519 AAAA");
	expect(&t, STEP_START, NEVER);
	t.seen.vm = PROTO_VM_STARTING;
	expect(&t, STEP_WAIT_START, NOW + 250);
	t.seen.vm = PROTO_VM_RUNNING;
	expect(&t, STEP_ADOPT, NEVER);
	t.run.started_generation = GEN;
	expect(&t, STEP_WATCH, NEVER);
	t.s.vmmon_up = false;
	expect(&t, STEP_WAIT_VMMON, NEVER);
	t.s.vmmon_up = true;
	t.seen.watched = true;
	t.seen.guest = PROTO_GUEST_BOOTING;
	expect(&t, STEP_WAIT_GUEST, NOW + 1000);
	t.seen.guest = PROTO_GUEST_READY;
	expect(&t, STEP_READY, NEVER);
	t.run.ready_generation = GEN;
	expect(&t, STEP_NONE, NEVER);
}

static void test_keys(void **state)
{
	struct setup t;

	(void)state;
	healthy(&t);
	t.run.had_keys = true;
	expect(&t, STEP_KEYS, NEVER);
	t.seen.keys_asked = true;
	expect(&t, STEP_WAIT_KEYS, NEVER);
	t.seen.keys_asked = false;
	t.seen.keys_applied = 1;
	expect(&t, STEP_NONE, NEVER);
	/* Keys come before "running"... */
	t.run.ready_generation = 0;
	t.seen.keys_applied = 0;
	expect(&t, STEP_KEYS, NEVER);
	/* ...unless the guest does not take them. */
	t.seen.keys_failed = true;
	expect(&t, STEP_READY, NEVER);
	t.run.ready_generation = GEN;
	expect(&t, STEP_KEYS, NEVER);
	/* ...or its disk holds them already: then they are made sure of after "running". */
	t.seen.keys_failed = false;
	t.run.keys_on_disk = true;
	t.run.ready_generation = 0;
	expect(&t, STEP_READY, NEVER);
	t.run.ready_generation = GEN;
	expect(&t, STEP_KEYS, NEVER);
	/* A guest that never had one is left alone. */
	t.run.had_keys = false;
	expect(&t, STEP_NONE, NEVER);
}

static void test_boot_timeout(void **state)
{
	struct setup t;

	(void)state;
	healthy(&t);
	t.run.ready_generation = 0;
	t.seen.guest = PROTO_GUEST_BOOTING;
	t.seen.boot_deadline_ms = NOW;
	expect(&t, STEP_BOOT_TIMEOUT, NEVER);
	t.run.fault = FAULT_BOOT; /* said once, left for inspection */
	expect(&t, STEP_WAIT_GUEST, NEVER);
	t.seen.guest = PROTO_GUEST_READY; /* late is better than never */
	expect(&t, STEP_READY, NEVER);
	t.run.ready_generation = GEN; /* even if that was written already */
	expect(&t, STEP_READY, NEVER);
	/* A guest that was ready and reboots has no deadline. */
	t.run.fault = FAULT_NONE;
	t.seen.guest = PROTO_GUEST_RESETTING;
	t.seen.resetting = true;
	expect(&t, STEP_WAIT_GUEST, NEVER);
	t.seen.guest = PROTO_GUEST_READY;
	expect(&t, STEP_READY, NEVER);
	t.seen.resetting = false;
	expect(&t, STEP_NONE, NEVER);
	t.seen.guest = PROTO_GUEST_CONNECTING; /* vmmon has restarted */
	expect(&t, STEP_WAIT_WORD, NEVER);
	t.seen.guest = PROTO_GUEST_STOPPING;
	expect(&t, STEP_WAIT_STOP, NEVER);
}

static void stop_as(struct setup *t, enum goal goal, enum restart restart)
{
	healthy(t);
	t->run.goal = goal;
	t->run.restart = restart;
	expect(t, STEP_POWERDOWN, NOW + 1000);
	t->seen.watched = false;
	expect(t, STEP_WATCH, NOW + 1000);
	t->s.vmmon_up = false;
	expect(t, STEP_WAIT_VMMON, NOW + 1000);
	t->s.vmmon_up = true;
	t->seen.watched = true;
	t->seen.powerdown_ms = NOW - 1;
	expect(t, STEP_WAIT_STOP, NOW + 1000);
	t->seen.stop_deadline_ms = NOW + 60000;
	expect(t, STEP_WAIT_STOP, NOW - 1 + RECONCILE_PRESS_AGAIN_MS);
	t->seen.powerdown_ms = NOW - RECONCILE_PRESS_AGAIN_MS;
	expect(t, STEP_POWERDOWN, NOW + 60000);
	t->seen.stop_deadline_ms = NOW;
	expect(t, STEP_KILL, NEVER);
	t->s.vmmon_up = false; /* the hard stop needs the helper only */
	expect(t, STEP_KILL, NEVER);
}

static void test_stop(void **state)
{
	struct setup t;

	(void)state;
	stop_as(&t, GOAL_STOP, RESTART_NONE);
	stop_as(&t, GOAL_DELETE, RESTART_NONE);
	stop_as(&t, GOAL_RUN, RESTART_STOPPING);
	stopped(&t);
	t.run.goal = GOAL_STOP;
	expect(&t, STEP_NONE, NEVER);
	t.run.started_generation = GEN;
	expect(&t, STEP_ENDED, NEVER);
}

static void test_ended(void **state)
{
	struct setup t;

	(void)state;
	stopped(&t);
	t.run.started_generation = GEN;
	expect(&t, STEP_ENDED, NEVER);
	t.seen.exit_kind = PROTO_EXIT_NONE; /* the helper still cleans up */
	expect(&t, STEP_WAIT_END, NOW + 250);
	t.seen.end_deadline_ms = NOW;
	expect(&t, STEP_ENDED, NEVER);
	t.seen.end_deadline_ms = NOW + 1000;
	t.seen.generation = GEN - 1; /* its word is about another run */
	expect(&t, STEP_ENDED, NEVER);
	t.seen.vm = PROTO_VM_ABSENT;
	expect(&t, STEP_ENDED, NEVER);

	stopped(&t);
	t.run.restart = RESTART_STOPPING; /* ordered, and the VM ended before it was begun */
	t.seen.generation = 0;
	expect(&t, STEP_ENDED, NEVER);
}

static void test_faults_and_losses(void **state)
{
	struct setup t;

	(void)state;
	stopped(&t);
	t.run.fault = FAULT_FINAL;
	expect(&t, STEP_NONE, NEVER);
	t.run.fault = FAULT_NONE;
	t.seen.vm = PROTO_VM_ABSENT;
	expect(&t, STEP_LOST, NEVER); /* never a new, empty disk in place of the tenant's */
	t.seen.vm = PROTO_VM_PREPARED;
	t.seen.enrolled = true;
	expect(&t, STEP_LOST, NEVER);
}

static void test_delete(void **state)
{
	struct setup t;

	(void)state;
	stopped(&t);
	t.run.goal = GOAL_DELETE;
	t.run.fault = FAULT_FINAL;
	t.run.started_generation = GEN;
	expect(&t, STEP_FORGET, NEVER);
	t.seen.vm = PROTO_VM_ABSENT;
	expect(&t, STEP_DISCARD, NEVER);
	t.s.vmmon_up = false;
	expect(&t, STEP_WAIT_VMMON, NEVER);
	t.s.vmmon_up = true;
	t.seen.discarded = true;
	expect(&t, STEP_ERASE, NEVER);
}

/* GPUs are leased last before a start, and given back before the disk goes. */
static void test_gpus(void **state)
{
	struct setup t;

	(void)state;
	stopped(&t);
	t.s.has_gpus = true;
	t.run.host_key[0] = '\0';
	expect(&t, STEP_ENROL, NEVER);
	(void)strcpy(t.run.host_key, "ssh-ed25519 AAAA");
	expect(&t, STEP_BIND, NEVER);
	t.seen.leased = true; /* by an earlier start: the set may have been another */
	expect(&t, STEP_BIND, NEVER);
	t.seen.bound = true;
	expect(&t, STEP_START, NEVER);
	t.run.goal = GOAL_STOP; /* the lease stays */
	expect(&t, STEP_NONE, NEVER);
	t.run.goal = GOAL_DELETE;
	expect(&t, STEP_RELEASE, NEVER);
	t.seen.released = true;
	expect(&t, STEP_FORGET, NEVER);
	t.seen.released = false;
	t.seen.vm = PROTO_VM_ABSENT; /* whatever has become of the directory */
	expect(&t, STEP_RELEASE, NEVER);
	t.s.has_gpus = false; /* a record that could not be read, of a VM with a lease */
	expect(&t, STEP_RELEASE, NEVER);
	t.seen.leased = false;
	expect(&t, STEP_DISCARD, NEVER);
	/* While the VM runs nothing is taken or given. */
	healthy(&t);
	t.s.has_gpus = true;
	expect(&t, STEP_NONE, NEVER);
	t.run.goal = GOAL_DELETE;
	t.seen.stop_deadline_ms = NOW;
	expect(&t, STEP_KILL, NEVER);
}

static void test_container(void **state)
{
	struct setup t;

	(void)state;
	healthy(&t);
	t.s.has_container = true;
	expect(&t, STEP_CONTAINER, NEVER);
	t.seen.container_set = true;
	expect(&t, STEP_NONE, NEVER);
	/* The keys and the note that the guest is ready come first. */
	t.seen.container_set = false;
	t.run.ready_generation = 0;
	expect(&t, STEP_READY, NEVER);
	t.run.ready_generation = GEN;
	t.s.vmmon_up = false;
	expect(&t, STEP_WAIT_VMMON, NEVER);
}

/* The walk. */

static bool acts_on_helper(enum step step)
{
	return step == STEP_DESCRIBE || step == STEP_PREPARE || step == STEP_START ||
	       step == STEP_KILL || step == STEP_FORGET || step == STEP_BIND ||
	       step == STEP_RELEASE;
}

static bool acts_on_vmmon(enum step step)
{
	return step == STEP_ENROL || step == STEP_WATCH || step == STEP_KEYS ||
	       step == STEP_CONTAINER || step == STEP_POWERDOWN || step == STEP_DISCARD;
}

static void check_invariants(const struct setup *t, struct decision d)
{
	const struct run *run = &t->run;
	const struct seen *seen = &t->seen;
	bool alive = seen->vm == PROTO_VM_RUNNING || seen->vm == PROTO_VM_STARTING;

	assert_true(d.step < STEP_COUNT);
	if (!t->s.helper_up)
		assert_int_equal(d.step, STEP_WAIT_HELPER);
	if (acts_on_helper(d.step))
		assert_true(t->s.helper_up);
	if (acts_on_vmmon(d.step))
		assert_true(t->s.vmmon_up);
	/* Nothing is decided from what is not known. */
	if (t->s.helper_up && !seen->described)
		assert_int_equal(d.step, STEP_DESCRIBE);
	if (d.step == STEP_START || d.step == STEP_PREPARE || d.step == STEP_ENROL ||
	    d.step == STEP_BIND) {
		assert_false(alive);
		assert_int_equal(run->goal, GOAL_RUN);
		assert_int_not_equal(run->fault, FAULT_FINAL);
	}
	if (d.step == STEP_KILL || d.step == STEP_POWERDOWN) {
		assert_true(alive);
		assert_true(reconcile_wants_stop(run));
	}
	/* Disks are removed, and records forgotten, for deletion only. */
	if (d.step == STEP_FORGET || d.step == STEP_DISCARD || d.step == STEP_ERASE ||
	    d.step == STEP_RELEASE) {
		assert_int_equal(run->goal, GOAL_DELETE);
		assert_false(alive);
	}
	if (d.step == STEP_ERASE)
		assert_true(seen->vm == PROTO_VM_ABSENT && seen->discarded && !seen->keys_asked);
	if (d.step == STEP_KEYS)
		assert_false(seen->keys_asked);
	if (d.step == STEP_PREPARE)
		assert_false(run->prepared);
	/* The guest has to be ready, and is told once. */
	if (d.step == STEP_CONTAINER)
		assert_true(alive && t->s.has_container && !seen->container_set &&
			    seen->guest == PROTO_GUEST_READY && !reconcile_wants_stop(run));
	/* No start without its GPUs, and no end that leaves some behind. */
	if (d.step == STEP_START)
		assert_true(!t->s.has_gpus || seen->bound);
	if (d.step == STEP_FORGET || d.step == STEP_ERASE)
		assert_true((!t->s.has_gpus && !seen->leased) || seen->released);
	if (d.wake_ms != NEVER)
		assert_true(d.wake_ms > t->s.now_ms || d.step == STEP_WATCH ||
			    d.step == STEP_POWERDOWN);
}

/* Every combination of the values that the table distinguishes. */
static void test_walk(void **state)
{
	unsigned long n = 0;

	(void)state;
	for (unsigned int bits = 0; bits < 1u << 20; bits++)
		for (int goal = GOAL_RUN; goal <= GOAL_DELETE; goal++)
			for (int vm = 0; vm <= PROTO_VM_MAX; vm++)
				for (int fault = 0; fault <= FAULT_FINAL; fault++) {
					struct setup t;

					healthy(&t);
					t.run.goal = (enum goal)goal;
					t.run.fault = (enum fault)fault;
					t.seen.vm = (enum proto_vm_state)vm;
					t.s.helper_up = bits & 1;
					t.s.vmmon_up = bits & 2;
					t.seen.described = bits & 4;
					t.run.prepared = bits & 8;
					t.run.host_key[0] = bits & 16 ? 's' : '\0';
					t.run.started_generation = bits & 32 ? GEN : 0;
					t.run.ready_generation = bits & 64 ? GEN : 0;
					t.run.restart = (enum restart)((bits >> 7 & 3) % 3);
					t.seen.watched = bits & 512;
					t.seen.guest = bits & 1024 ? PROTO_GUEST_READY
								   : PROTO_GUEST_BOOTING;
					t.run.had_keys = bits & 2048;
					t.seen.discarded = bits & 4096;
					t.seen.exit_kind =
						bits & 8192 ? PROTO_EXIT_CODE : PROTO_EXIT_NONE;
					if (bits & 16384)
						t.s.now_ms = NOW + 5000; /* all deadlines */
					t.s.has_gpus = bits & 1 << 15;
					t.seen.bound = t.seen.leased = bits & 1 << 16;
					t.seen.released = bits & 1 << 17;
					t.s.has_container = bits & 1 << 18;
					t.seen.keys_asked = bits & 1 << 19;
					check_invariants(&t, reconcile(&t.s));
					n++;
				}
	assert_true(n > 1000000);
}

/* How runs end. */

static void end(struct setup *t, enum proto_exit_kind kind, uint32_t code, const char *boot_id,
		enum on_end on_reboot, enum on_end on_exit)
{
	t->seen.exit_kind = kind;
	t->seen.exit_code = code;
	reconcile_ended(&t->run, &t->seen, boot_id, 1700000000, on_reboot, on_exit);
	assert_int_equal(t->run.started_generation, 0);
	assert_int_equal(t->run.ready_generation, 0);
}

static void test_end_as_ordered(void **state)
{
	struct setup t;

	(void)state;
	healthy(&t);
	t.run.goal = GOAL_STOP;
	end(&t, PROTO_EXIT_SIGNAL, 9, "boot-1", ON_END_REPORT, ON_END_RESTART);
	assert_int_equal(t.run.goal, GOAL_STOP);
	assert_int_equal(t.run.fault, FAULT_NONE);

	healthy(&t);
	t.run.restart = RESTART_STOPPING;
	end(&t, PROTO_EXIT_SIGNAL, 9, "boot-2", ON_END_REPORT, ON_END_REPORT);
	assert_int_equal(t.run.goal, GOAL_RUN);
	assert_int_equal(t.run.restart, RESTART_STARTING);
	assert_int_equal(t.run.fault, FAULT_NONE);
}

static void test_end_by_guest(void **state)
{
	struct setup t;

	(void)state;
	healthy(&t);
	end(&t, PROTO_EXIT_CODE, 0, "boot-1", ON_END_RESTART, ON_END_RESTART);
	assert_int_equal(t.run.goal, GOAL_STOP);
	assert_int_equal(t.run.fault, FAULT_NONE);
	assert_non_null(strstr(t.run.note, "powered itself off"));
}

static void test_end_by_accident(void **state)
{
	struct setup t;

	(void)state;
	healthy(&t);
	end(&t, PROTO_EXIT_SIGNAL, 9, "boot-1", ON_END_RESTART, ON_END_REPORT);
	assert_int_equal(t.run.fault, FAULT_FINAL);
	assert_non_null(strstr(t.run.error, "signal 9"));
	assert_int_equal(t.run.goal, GOAL_RUN);

	healthy(&t);
	end(&t, PROTO_EXIT_CODE, 1, "boot-1", ON_END_REPORT, ON_END_RESTART);
	assert_int_equal(t.run.fault, FAULT_NONE);
	assert_int_equal(t.run.restart, RESTART_STARTING);
	assert_non_null(strstr(t.run.note, "exit code 1"));

	healthy(&t);
	t.run.fault = FAULT_BOOT;
	end(&t, PROTO_EXIT_UNKNOWN, 0, "", ON_END_REPORT, ON_END_REPORT);
	assert_int_equal(t.run.fault, FAULT_FINAL);
	assert_non_null(strstr(t.run.error, "not known"));
}

static void test_end_by_host_reboot(void **state)
{
	struct setup t;

	(void)state;
	healthy(&t);
	end(&t, PROTO_EXIT_UNKNOWN, 0, "boot-2", ON_END_REPORT, ON_END_RESTART);
	assert_int_equal(t.run.fault, FAULT_FINAL);
	assert_string_equal(t.run.error,
			    "the host rebooted at 2023-11-14 22:13:20 UTC; start it again");

	healthy(&t);
	end(&t, PROTO_EXIT_UNKNOWN, 0, "boot-2", ON_END_RESTART, ON_END_REPORT);
	assert_int_equal(t.run.fault, FAULT_NONE);
	assert_int_equal(t.run.goal, GOAL_RUN);
	assert_non_null(strstr(t.run.note, "rebooted"));
}

/* A container on this host: vmmon is told the goal, and told again when it may not know. */
static void test_on_host(void **state)
{
	struct setup t;

	(void)state;
	memset(&t, 0, sizeof(t));
	t.run.goal = GOAL_RUN;
	t.s = (struct situation){.run = &t.run, .seen = &t.seen, .has_container = true};
	t.s.on_host = true;
	expect(&t, STEP_WAIT_VMMON, NEVER);
	t.s.vmmon_up = true; /* vfio-helper is not needed for anything */
	expect(&t, STEP_HOST_BEGIN, NEVER);
	t.run.started_generation = PROTO_HOST_GENERATION;
	expect(&t, STEP_HOST_RUN, NEVER);
	t.seen.container_set = true;
	t.seen.host_told = GOAL_RUN;
	expect(&t, STEP_NONE, NEVER);
	t.run.had_keys = true;
	t.seen.keys_wanted = 2;
	expect(&t, STEP_KEYS, NEVER); /* vmmon keeps them for a container that is yet to come */
	t.seen.keys_asked = true;
	expect(&t, STEP_WAIT_KEYS, NEVER);
	t.seen.keys_asked = false;
	t.seen.keys_applied = 2;
	expect(&t, STEP_NONE, NEVER);
	t.run.restart = RESTART_STARTING;
	t.seen.container.state = PROTO_CONTAINER_PULLING;
	expect(&t, STEP_NONE, NEVER);
	t.seen.container.state = PROTO_CONTAINER_RUNNING;
	expect(&t, STEP_READY, NEVER);
	t.run.restart = RESTART_NONE;
	t.seen.container_set = false; /* vmmon is another one now */
	expect(&t, STEP_HOST_RUN, NEVER);

	t.seen.container_set = true;
	t.run.goal = GOAL_STOP;
	expect(&t, STEP_HOST_STOP, NEVER);
	t.seen.host_told = GOAL_STOP;
	expect(&t, STEP_WAIT_HOST_STOP, NEVER);
	t.seen.container.state = PROTO_CONTAINER_FAILED; /* vmmon goes on trying */
	expect(&t, STEP_WAIT_HOST_STOP, NEVER);
	t.seen.container.state = PROTO_CONTAINER_STOPPED;
	expect(&t, STEP_HOST_STOPPED, NEVER);
	t.run.started_generation = 0;
	expect(&t, STEP_NONE, NEVER);

	t.run.goal = GOAL_RUN; /* a restart, which began with a stop */
	t.run.restart = RESTART_STOPPING;
	expect(&t, STEP_HOST_STOPPED, NEVER);
	t.run.restart = RESTART_STARTING;
	expect(&t, STEP_HOST_BEGIN, NEVER);
	t.run.fault = FAULT_FINAL;
	expect(&t, STEP_NONE, NEVER);

	t.run.goal = GOAL_DELETE;
	expect(&t, STEP_HOST_REMOVE, NEVER);
	t.seen.host_told = GOAL_DELETE;
	expect(&t, STEP_WAIT_HOST_REMOVE, NEVER);
	t.seen.container.state = PROTO_CONTAINER_GONE;
	t.seen.keys_asked = true; /* the answer is on its way */
	expect(&t, STEP_WAIT_KEYS, NEVER);
	t.seen.keys_asked = false;
	expect(&t, STEP_ERASE, NEVER);
	t.seen.container_set = false; /* what is gone was said by a vmmon that is gone, too */
	expect(&t, STEP_HOST_REMOVE, NEVER);
}

static void test_texts(void **state)
{
	(void)state;
	for (int step = 0; step < STEP_COUNT; step++)
		assert_true(step == STEP_NONE || step_text((enum step)step)[0] != '\0');
	assert_string_equal(step_text(STEP_COUNT), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_way_up),          cmocka_unit_test(test_keys),
		cmocka_unit_test(test_boot_timeout),    cmocka_unit_test(test_stop),
		cmocka_unit_test(test_ended),           cmocka_unit_test(test_faults_and_losses),
		cmocka_unit_test(test_delete),          cmocka_unit_test(test_gpus),
		cmocka_unit_test(test_container),       cmocka_unit_test(test_walk),
		cmocka_unit_test(test_end_as_ordered),  cmocka_unit_test(test_end_by_guest),
		cmocka_unit_test(test_end_by_accident), cmocka_unit_test(test_end_by_host_reboot),
		cmocka_unit_test(test_on_host),         cmocka_unit_test(test_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
