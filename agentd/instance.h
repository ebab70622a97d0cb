/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An instance: what was asked for, what is known of it, and what its stored record holds.
 * Trust: runs inside agentd; holds values that request.c and the protocol's codec have checked.
 */
#pragma once

#include "agentd/gpus_named.h"
#include "agentd/request.h"
#include "agentd/tunnels.h"
#include "common/base.h"
#include "common/err.h"
#include "proto/proto.h"

#include <jansson.h>
#include <sys/queue.h>

#define INSTANCE_ID_LEN   16
#define INSTANCE_KEYS_MAX 64
#define INSTANCE_MAX      PROTO_MAX_VMS
#define BOOT_ID_SIZE      40
#define HOST_KEY_SIZE     128
#define RUN_ERROR_MAX     1536

enum goal {
	GOAL_RUN = 1,
	GOAL_STOP,
	GOAL_DELETE,
};

enum restart {
	RESTART_NONE,
	RESTART_STOPPING, /* the old run has to end first */
	RESTART_STARTING, /* the new run is not ready yet */
};

enum fault {
	FAULT_NONE,
	FAULT_BOOT,  /* the guest is late; gone as soon as it reports */
	FAULT_FINAL, /* nothing more is tried until someone says so */
};

/*
 * What is to happen and how far it has come. Stored before it is acknowledged. A plain value, so
 * that a change which could not be stored is undone by assignment.
 */
struct run {
	enum goal goal;
	enum restart restart;
	enum fault fault;
	uint64_t
		started_generation; /* of the run in progress; 0: none that was not accounted for */
	uint64_t ready_generation;  /* the last one whose guest has reported */
	uint64_t container_generation; /* the last one whose container has run */
	bool prepared;                 /* the disk was made: its absence is a loss */
	bool had_keys;                 /* the guest may hold tenant keys */
	bool keys_on_disk;             /* the guest's disk holds the list as it is now */
	int64_t since_s;               /* Unix time of the last change of the status word */
	char boot_id[BOOT_ID_SIZE];    /* the host's, when the run started */
	char host_key[HOST_KEY_SIZE];  /* the guest's public key; "" before enrolment */
	char error[RUN_ERROR_MAX];     /* with a fault: what happened */
	char note[ERR_TEXT_MAX];       /* without: a remark, such as why it is paused */
};

/* The tenant's container, as vmmon tells. */
struct container_seen {
	enum proto_container_state state; /* NONE: not told yet */
	unsigned int percent, exit_code;
	char id[72], words[256];
	enum proto_login login; /* where the tenant's SSH goes */
	char login_key[128];    /* CONTAINER: the host key of its sshd; "": not known */
	char login_words[128];
};

/* What the other daemons have said. Not stored: asked anew after every reconnection. */
struct seen {
	bool described; /* the members up to @accel are current */
	enum proto_vm_state vm;
	uint64_t generation;
	enum proto_exit_kind exit_kind;
	uint32_t exit_code;
	enum proto_accel accel;
	bool watched; /* vmmon follows @generation and @guest is current */
	enum proto_guest_state guest;
	bool resetting;            /* the guest reboots itself and is not ready again */
	bool discarded;            /* vmmon has forgotten it (deletion) */
	bool keys_asked;           /* vmmon is at it, which may take minutes */
	bool keys_failed;          /* the last attempt to install the keys has failed */
	uint64_t keys_wanted;      /* number of the newest list of keys */
	uint64_t keys_applied;     /* number of the list that the guest has */
	uint64_t powerdown_ms;     /* monotonic; when the power button was pressed last, or 0 */
	uint64_t stop_deadline_ms; /* monotonic; 0: no stop is going on */
	uint64_t boot_deadline_ms; /* monotonic; 0: not set */
	uint64_t end_deadline_ms; /* monotonic; how long to wait for the helper's word on the end */
	enum proto_health health; /* with @watched */
	char health_words[128];   /* why not well; may be "" */
	bool container_set;  /* vmmon has the wish for the container, since it began to watch */
	enum goal host_told; /* with that: what vmmon is to make of a container on this host */
	struct container_seen container;
	bool enrolled; /* vmmon has answered GUEST_ENROL since the last look for the seed */
	bool leased;   /* the VM holds GPUs, as the description says */
	bool bound;    /* GPU_BIND has succeeded since the last run or loss of the helper */
	bool released; /* GPU_RELEASE has succeeded (deletion) */
	uint64_t bind_deadline_ms; /* monotonic; how long GPUs may be busy. 0: they were not */
};

struct agentd;
struct http_request;

struct instance {
	TAILQ_ENTRY(instance) link;
	struct agentd *agentd; /* borrowed */
	char id[PROTO_NAME_SIZE];
	/* Constant after creation, stored: */
	char name[REQUEST_NAME_MAX + 1];
	char image[PROTO_NAME_SIZE];         /* the VM's base image */
	uint32_t cpus, memory_mib, disk_mib; /* disk 0: as the image asks */
	struct proto_port ports[PROTO_MAX_PORTS];
	struct port_tunnel tunnels[PROTO_MAX_PORTS]; /* of the same ports; may change */
	uint64_t gpus[PROTO_MAX_GPUS];               /* PCI addresses, ascending, the rest zero */
	int64_t created_s;
	uint16_t container_ssh; /* as in struct create_request */
	bool bare;              /* made through /instances */
	json_t *tenant;         /* owned; see struct create_request; secret */
	/* Stored: */
	struct run run;
	char *keys[INSTANCE_KEYS_MAX]; /* owned lines */
	size_t n_keys;
	bool on_host; /* its container is on this host, without a VM */
	char host_gpus[PROTO_MAX_GPUS]
		      [GPU_NAME_SIZE]; /* the GPUs that it gets then; "" ends them */
	/* Not stored: */
	bool tunnels_told; /* frp-supervisor knows the tunnels as they are now */
	bool quarantined;  /* its file could not be read; only deletion is possible */
	struct seen seen;
	bool in_flight;             /* one request to another daemon is not answered yet */
	unsigned int failures;      /* in a row, of transient kind */
	unsigned int crashes;       /* runs in a row that ended before they were ready */
	uint64_t retry_ms;          /* monotonic; nothing is done before. 0: no wait */
	uint64_t wake_ms;           /* monotonic; when to look again. UINT64_MAX: never */
	const char *doing;          /* constant; the step in progress, for people */
	char trouble[ERR_TEXT_MAX]; /* the last transient failure, "" after success */
	const char *status;         /* constant; the word that was published last */
	char *view;                 /* owned; cached JSON, NULL when stale */
};

TAILQ_HEAD(instance_list, instance);

/* A new instance with a random id and nothing else; NULL when out of memory. */
struct instance *instance_new(struct agentd *a);

/* Frees it; NULL is fine. It must not be in a list. */
void instance_free(struct instance *inst);

/* Is @id made of 16 lowercase hexadecimal digits? */
bool instance_id_valid(const char *id);

/* Host port of guest port @guest, 0 when there is none. */
uint16_t instance_host_port(const struct instance *inst, uint16_t guest);

/*
 * The number under which clients know port @i, 0 for one that they do not. With an sshd in the
 * container there are two ports for SSH, and 22 is the one by which the tenant logs in. On this
 * host there is no VM to log in to, so the other leads nowhere.
 */
uint16_t instance_shown_port(const struct instance *inst, size_t i);

/* How many of this host's GPUs it gets, as a container on the host. */
size_t instance_n_host_gpus(const struct instance *inst);

/* Does it run a container, or is it a bare VM? */
bool instance_has_container(const struct instance *inst);

/* The best that is known of its container: never NONE when there is to be one. */
enum proto_container_state instance_container_state(const struct instance *inst);

/* The container's wish for vmmon, as JSON (secret; the caller wipes and frees). NULL: no memory. */
char *instance_container_wish(const struct instance *inst);

/*
 * What an order of a client makes of @run. Returns 0 (also when there is nothing to do), or -EPERM
 * when the order makes no sense now, with the reason in @reterr. @alive: its VM runs.
 */
int instance_order(struct run *run, enum request_action action, bool alive, struct err *reterr);

/* Does its VM exist as a process, as far as is known? */
bool instance_alive(const struct instance *inst);

/*
 * Adds or removes a public key in its one form. Returns 1 when the list has changed, 0 when not,
 * -E2BIG when it is full, -ENOMEM.
 */
int instance_key_add(struct instance *inst, const char *line);
int instance_key_remove(struct instance *inst, const char *line);
