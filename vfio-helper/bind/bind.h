/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-bind: the one program of the suite that writes to sysfs. vfio-helper execs it, as root, once
 * per act; it decides by itself from sysfs, helper.conf and its own records whether the act is
 * allowed, does it, answers, and ends. It is bounded in time: whatever may hang does so in a child
 * of its own.
 */
#pragma once

#include "proto/proto.h"
#include "vfio-helper/spec.h"

#define BIND_VERSION 1
/*
 * A SOCK_SEQPACKET socket; the broker holds the other end. One datagram comes in, one goes out,
 * each a struct proto_header (op: the act; kind: PROTO_REQUEST, PROTO_REPLY; status 0; request_id
 * is given back; len) and the struct, for ipc_send() and ipc_recv(). The program is started with
 * CHOWN (device nodes), SYS_PTRACE and DAC_READ_SEARCH (who holds them) and SETPCAP (to drop the
 * rest); what it starts besides, systemctl, needs full root or works not at all.
 */
#define BIND_FD      3
/* In gpu_state_dir, from the first act on; what it is for is in lease.h. */
#define BIND_LOCK    "lock"

enum bind_act {
	BIND_LIST = 1, /* describe all GPUs; a sealed memfd goes along with the answer */
	BIND_TAKE,     /* lease @gpus to @vm: journal, services, console, override, unbind, probe */
	BIND_GRANT,    /* give the device nodes of @vm's lease to the user of @slot */
	BIND_REVOKE,   /* take them back */
	BIND_RELEASE,  /* end @vm's lease: reset, check, host drivers, services */
	BIND_RECOVER,  /* finish or undo what was interrupted or quarantined; gpus[0] 0: all */
	BIND_ACT_MAX = BIND_RECOVER,
};

/* Every field is checked by vfio-bind; those that an act does not use are zero. */
struct bind_request {
	uint32_t version; /* BIND_VERSION */
	uint32_t act;     /* enum bind_act */
	uint32_t slot;    /* BIND_GRANT */
	uint32_t reserved;
	uint64_t gpus[PROTO_MAX_GPUS]; /* ascending, the rest zero; BIND_TAKE, BIND_RECOVER */
	char vm[PROTO_NAME_SIZE];      /* "" for BIND_LIST and BIND_RECOVER */
};

/*
 * The answer. BIND_GRANT's carries one descriptor of /dev/iommu when the devices are to be used by
 * iommufd. @why is one line for the log and the audit record; never shown to agentd.
 */
struct bind_answer {
	uint32_t status; /* enum proto_status */
	uint32_t done;   /* functions bound, granted, released; GPUs listed, recovered */
	uint32_t left;   /* functions quarantined; GPUs that could not be recovered */
	uint32_t n_gpus; /* of the lease: TAKE, GRANT */
	uint32_t n_devices;
	uint32_t list_bytes;                             /* BIND_LIST */
	struct launch_device devices[PROTO_MAX_DEVICES]; /* BIND_GRANT */
	char why[256];
};

/* The whole act ends by then, in ms: every step has its own deadline below that. */
#define BIND_DEADLINE_MS 180000
