/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vfio-bind remembers: one record per lease, one per function that did not come back well, and
 * the locks that keep two acts apart. Everything is in gpu_state_dir, which is root's.
 *
 *   lease-<vm>            struct lease; written before the first write to sysfs, removed last
 *   quarantine-<address>  struct quarantine
 *   damaged-<vm>          a lease's record that could not be believed, kept for a person
 *   lock                  empty; byte ranges of it are the locks
 */
#pragma once

#include "vfio-helper/pci/pci.h"

#define LEASE_SERVICES 8
#define LEASE_SERVICE  64

enum lease_phase {
	LEASE_TAKING = 1, /* to be undone after a crash */
	LEASE_HELD,
	LEASE_RELEASING, /* to be finished after a crash */
	LEASE_PHASE_MAX = LEASE_RELEASING,
};

/* How far a function has come. Written before what it says is begun. */
enum lease_step {
	STEP_UNTOUCHED,
	STEP_TAKING,
	STEP_BOUND,
	STEP_BACK,
	STEP_LOST, /* quarantined: nobody touches it */
	STEP_MAX = STEP_LOST,
};

/* A function as it was before, which is what it has to become again. */
struct lease_func {
	uint64_t address;
	uint64_t gpu; /* the GPU of its card */
	uint32_t class_code, group;
	uint32_t step; /* enum lease_step */
	uint32_t role; /* enum proto_gpu_role */
	uint16_t vendor, device;
	uint32_t adopted;               /* 1: @driver is VFIO's, and stays */
	char driver[PCI_DRIVER_SIZE];   /* "": had none */
	char override[PCI_DRIVER_SIZE]; /* "": had none */
	char d3cold[8];                 /* "0", "1"; "": has no such attribute */
	char power[8];                  /* "on", "auto"; the same */
};

struct lease {
	uint32_t phase; /* enum lease_phase */
	uint32_t n_funcs, n_gpus, n_services;
	uint32_t consoles;     /* mask of virtual terminals' drivers taken off the framebuffer */
	uint32_t framebuffers; /* mask of platform framebuffers that were unbound */
	int64_t since_s;
	uint64_t gpus[PROTO_MAX_GPUS];                /* as asked for */
	char vm[PROTO_NAME_SIZE];                     /* whose it is */
	char services[LEASE_SERVICES][LEASE_SERVICE]; /* stopped, in that order */
	struct lease_func funcs[PROTO_MAX_DEVICES];   /* ascending */
};

struct quarantine {
	int64_t since_s;
	struct lease_func func;
	char why[PCI_WHAT_SIZE];
};

/* ---- records ---- */

/* 0, -ENOENT, -EBADMSG for one that is not to be believed, another errno. */
int lease_load(int state_fd, const char *vm, struct lease *ret_lease);
/*
 * Either the old record or the new one is there after a crash. When the machine loses power it may
 * be the old one, which says less of what is then as at its start anyway; the first record needs an
 * fsync of @state_fd besides.
 */
int lease_save(int state_fd, const struct lease *lease);
int lease_remove(int state_fd, const char *vm);
int quarantine_load(int state_fd, pci_addr address, struct quarantine *ret_q);
/* Replaces an earlier one. @func is what RECOVER goes by. */
int quarantine_save(int state_fd, const struct lease_func *func, const char *why);
int quarantine_remove(int state_fd, pci_addr address);

/* Calls @fn with what follows @prefix in each record's name, in no order, until it returns < 0. */
int records_each(int state_fd, const char *prefix, int (*fn)(void *arg, const char *rest),
		 void *arg);

/* Fills the leases and quarantines of @ret_state; @except is left out ("": none). */
int records_state(int state_fd, const char *except, struct gpu_state *ret_state);

/* Is @name one that a driver can have? Nothing is said about there being one. */
bool driver_name_ok(const char *name);

/* ---- locks: held by the open file, so that a child may inherit exactly one ---- */

/* Opens the file of locks anew: one descriptor per lock or per set that is let go together. */
int lock_open(int state_fd);
/* Waits up to @wait_ms for the choosing of devices, for a VM's lease, for a function. -EBUSY. */
int lock_choosing(int fd, unsigned int wait_ms);
int lock_vm(int fd, const char *vm, unsigned int wait_ms);
int lock_function(int fd, pci_addr address, unsigned int wait_ms);
int unlock_choosing(int fd);
/* Has an act the VM's lease locked now? */
bool vm_is_locked(int fd, const char *vm);

/*
 * Named places between two steps. Nothing happens there unless a test has set the hook, which kills
 * the process at one of them.
 */
extern void (*bind_point_hook)(const char *name);
void bind_point(const char *name);
