/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vfio-broker, which has no privilege and hears the peers, may ask of vfio-helper, which is
 * root, over the socket pair between them: six fixed requests, each checked anew by the receiver.
 */
#pragma once

#include "vfio-helper/config.h"
#include "vfio-helper/spec.h"

/* Where vfio-broker finds what it was started with. */
enum broker_fd {
	BROKER_FD_PAIR = 3, /* SOCK_SEQPACKET to vfio-helper; its end is our end */
	BROKER_FD_SETUP,    /* sealed memfd with a struct broker_setup */
	BROKER_FD_LISTEN,   /* the listening socket */
	BROKER_FD_VMS,      /* directory of the VMs; it holds the lock of this state directory */
	BROKER_FD_RUN,      /* directory of running VMs */
	BROKER_FD_IMAGES,   /* directory of the base images; root's */
	BROKER_FD_ACCEL,    /* file of the remembered trial of KVM */
	BROKER_FD_END,
};

enum pair_op {
	PAIR_READY = 1, /* no body; the broker serves */
	PAIR_START,     /* struct spawn_spec, one descriptor per role; a pidfd comes back */
	PAIR_REAP,      /* struct pair_reap */
	PAIR_SWEEP,     /* struct pair_sweep; answered when it is done */
	PAIR_BIND,      /* no body; stderr, the socket for BIND_FD; a pidfd comes back */
	PAIR_AUDIT,     /* struct pair_audit */
};
#define PAIR_ANSWER_MAX_MS 10000 /* nothing of it takes long, but a disk may */
#define PAIR_MAX_CHILDREN  128   /* that run or were not reaped */

/* What the broker has to know of the configuration. */
struct broker_setup {
	struct spawn_setup spawn;
	struct account agentd, vmmon; /* the two peers */
	uint32_t max_total_memory_mib;
	uint32_t accel;   /* enum accel_choice */
	uint32_t bind_ms; /* until a vfio-bind is given up */
	bool gpus;        /* policy lets some be rented out; giving back needs none */
	char run_dir[DIR_TEXT_MAX];
	char boot_id[40];
};

struct pair_reap {
	int32_t pid;
};

/* Ends every process of a slot's user, and removes the slot's cgroup. */
struct pair_sweep {
	uint32_t slot;
};

/*
 * A record for the audit log. @text holds EVENT, KEY, VALUE, KEY, VALUE..., each with its NUL; the
 * number in the log and the hash are the receiver's.
 */
#define AUDIT_TEXT_MAX   1008
#define AUDIT_FIELDS_MAX 16
struct pair_audit {
	uint32_t level; /* of syslog(3) */
	uint32_t len;   /* bytes of text */
	char text[AUDIT_TEXT_MAX];
};

struct pair_answer {
	int32_t result;                /* pid, 0, or a negative errno */
	uint32_t exit_kind, exit_code; /* PAIR_REAP */
	uint32_t limited;              /* PAIR_START of QEMU: all limits of its cgroup hold */
};
