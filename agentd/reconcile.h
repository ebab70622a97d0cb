/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What to do next for an instance: a pure function of what is wanted and what is known.
 * Trust: runs inside agentd; pure.
 */
#pragma once

#include "agentd/config.h"
#include "agentd/instance.h"

#define RECONCILE_PRESS_AGAIN_MS 5000 /* a guest that was still booting has missed the button */

enum step {
	STEP_NONE,         /* it is as it should be */
	STEP_WAIT_HELPER,  /* vfio-helper is not connected */
	STEP_WAIT_VMMON,   /* vmmon is not connected */
	STEP_WAIT_GUEST,   /* the guest boots */
	STEP_WAIT_WORD,    /* the guest was ready; vmmon, restarted, has not heard so yet */
	STEP_WAIT_KEYS,    /* vmmon installs the keys, or gives it up */
	STEP_WAIT_STOP,    /* the guest shuts down */
	STEP_WAIT_START,   /* a start that someone asked for earlier is not answered yet */
	STEP_WAIT_END,     /* the helper cleans up after the VM */
	STEP_DESCRIBE,     /* ask what is */
	STEP_PREPARE,      /* make the disk */
	STEP_ENROL,        /* make keys and seed */
	STEP_BIND,         /* lease the GPUs */
	STEP_START,        /* start the VM */
	STEP_ADOPT,        /* record the generation that runs */
	STEP_WATCH,        /* have its guest followed */
	STEP_KEYS,         /* install the tenant's keys */
	STEP_CONTAINER,    /* say which container the guest is to run */
	STEP_READY,        /* record that the guest has reported */
	STEP_BOOT_TIMEOUT, /* record that it has not */
	STEP_POWERDOWN,    /* press the power button */
	STEP_KILL,         /* the hard stop */
	STEP_ENDED,        /* account for the end of a run */
	STEP_LOST,         /* the disk or the seed has vanished */
	STEP_RELEASE,      /* give the GPUs back */
	STEP_FORGET,       /* remove the disk */
	STEP_DISCARD,      /* remove keys and seed */
	STEP_ERASE,        /* remove the record */
	STEP_HOST_BEGIN,   /* record that the container on this host is started */
	STEP_HOST_RUN,     /* have it run */
	STEP_HOST_STOP,    /* have it stopped */
	STEP_HOST_STOPPED, /* record that it is */
	STEP_HOST_REMOVE,  /* have it removed with its data */
	STEP_WAIT_HOST_STOP,
	STEP_WAIT_HOST_REMOVE,
	STEP_COUNT,
};

struct situation {
	const struct run *run;
	const struct seen *seen;
	bool has_gpus; /* the instance was promised some */
	bool has_container;
	bool on_host; /* the container is on this host, without a VM */
	bool helper_up, vmmon_up;
	uint64_t now_ms; /* monotonic */
};

struct decision {
	enum step step;
	uint64_t wake_ms; /* when to ask again if nothing happens; UINT64_MAX: never */
};

struct decision reconcile(const struct situation *s);

/* Is the run in progress to be ended? */
bool reconcile_wants_stop(const struct run *run);

/*
 * Accounts in @run for a run whose VM is gone. @boot_id is the host's now ("" when unknown),
 * @booted_s the Unix time of its boot.
 */
void reconcile_ended(struct run *run, const struct seen *seen, const char *boot_id,
		     int64_t booted_s, enum on_end on_host_reboot, enum on_end on_exit);

/* Words for people, such as "making the disk". Never NULL. */
const char *step_text(enum step step);
