/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The acts of vfio-bind, and what they share.
 */
#pragma once

#include "vfio-helper/bind/bind.h"
#include "vfio-helper/bind/lease.h"
#include "vfio-helper/config.h"

/* Where everything is. Directories by descriptor, so that a made-up machine is handled as a real.
 */
struct bind_env {
	struct gpu_policy policy;
	struct gpu_keys keys;
	const struct account *users; /* of the slots */
	uint32_t max_vms;
	int sysfs_fd, proc_fd, dev_fd, state_fd;
	int services_fd;     /* to services_serve(), or -EBADF: no unit can be stopped */
	int lock_fd;         /* of the VM and of the choosing */
	int64_t deadline_ms; /* by CLOCK_MONOTONIC: what is not begun then, is not begun */
};

/* What an act works on. */
struct job {
	const struct bind_env *env;
	struct lease lease;
	int locks[PROTO_MAX_DEVICES]; /* of lease.funcs, owned; -EBADF: not locked */
	uint32_t lost;                /* functions quarantined by this act */
};

/* How long to wait for another act to end. */
#define LOCK_WAIT_MS 2000

/* ---- job.c ---- */

/* What to answer for a negative errno of what follows the choice. */
enum proto_status act_status(int r);

void job_init(struct job *job, const struct bind_env *env);
void job_done(struct job *job);
/* Locks every function of the lease; -EBUSY names the one that another act or a write has. */
int job_lock(struct job *job, unsigned int wait_ms, struct err *reterr);
/* Writes the lease down; @point is where tests may end the process. */
int job_save(const struct job *job, const char *point, struct err *reterr);
/*
 * Ends the lease: resets what the guest's driver has if @reset, gives each touched function back in
 * reverse order, then the console and the services. What fails is quarantined and told by @reterr
 * (the first), and the rest goes on. The record is removed last. -EIO when a record could not be
 * written: the lease stays then.
 */
int job_end(struct job *job, bool reset, struct err *reterr);
/* Quarantines a function of the lease: @r and @why are what went wrong. */
int job_lose(struct job *job, uint32_t index, int r, const struct err *why);

/* ---- the acts; each returns an enum proto_status and fills the rest of @ans and @why ---- */

enum proto_status act_list(const struct bind_env *env, struct bind_answer *ans, int *ret_fd,
			   struct err *why);
enum proto_status act_take(const struct bind_env *env, const struct bind_request *req,
			   struct bind_answer *ans, struct err *why);
enum proto_status act_grant(const struct bind_env *env, const struct bind_request *req,
			    struct bind_answer *ans, int *ret_iommu_fd, struct err *why);
enum proto_status act_revoke(const struct bind_env *env, const struct bind_request *req,
			     struct bind_answer *ans, struct err *why);
enum proto_status act_release(const struct bind_env *env, const struct bind_request *req,
			      struct bind_answer *ans, struct err *why);
enum proto_status act_recover(const struct bind_env *env, const struct bind_request *req,
			      struct bind_answer *ans, struct err *why);

/*
 * Does what @req says, which request_check() has passed. Where policy names no vendor, nothing is
 * listed, taken or lent (PROTO_DENIED); giving back, and repairs, are for ever.
 */
enum proto_status act_run(const struct bind_env *env, const struct bind_request *req,
			  struct bind_answer *ans, int *ret_fd, struct err *why);

/* 0, or -EPROTO, -EINVAL for a request that is not exactly as bind.h says. */
int request_check(const struct bind_request *req, uint32_t max_vms);

/* ---- view.c: the machine, read and judged ---- */

struct view {
	struct pci_tree tree;
	struct gpu_state state;
	struct gpu_list list;
};

/*
 * Reads and judges the @n GPUs of @gpus (0: all), as if nobody held them: that is view_holders().
 * @except: a VM whose lease is not to be seen, "" for none.
 */
int view_load(const struct bind_env *env, const char *except, const pci_addr *gpus, uint32_t n,
	      struct view *ret_view, struct err *reterr);
/* Finds who holds what, and judges again. */
int view_holders(const struct bind_env *env, struct view *view, struct err *reterr);
void view_done(struct view *view);
/*
 * Waits until nobody holds a function of the lease; -EBUSY names who still does. @by_guest: only
 * holders of functions that have the guest's driver are looked for.
 */
int wait_unheld(const struct job *job, bool by_guest, unsigned int wait_ms, struct err *reterr);
/*
 * 1 when somebody holds one of the @n functions, "0000:01:00.0 is held by nvidia-smi (pid 7), ..."
 * then; 0 when nobody does; a negative errno. @by_guest as above.
 */
int func_holders(const struct bind_env *env, const struct lease_func *funcs, uint32_t n,
		 bool by_guest, char *ret_text, size_t size);

/* ---- write.c: one function, one attribute ---- */

int64_t now_ms(void);
/* Directory of the function, while vendor and device are those of @func; -ENODEV. */
int func_open(const struct bind_env *env, const struct lease_func *func);
/* Text of an attribute without its newline; "" when it is absent or cannot be read. */
void attr_read(int dirfd, const char *name, char *ret_text, size_t size);
/* driver_override, "" for none. Hangs while another process hangs in a write to the device. */
void override_read(int dirfd, char ret_text[static PCI_DRIVER_SIZE]);
/* Last part of where a link leads; "" without one. */
void link_read(int dirfd, const char *name, char *ret_text, size_t size);
bool driver_exists(const struct bind_env *env, const char *driver);
/* The driver that gives the function to guests: vfio-pci, or the variant that was there before. */
const char *func_guest_driver(const struct lease_func *func);
/* Does @dirfd's function have exactly that driver ("": none)? The link is all that is believed. */
bool driver_is(int dirfd, const char *driver);

/*
 * A child that writes, one attribute after the other, and that nobody has to wait for when a write
 * hangs. @lock_fd stays open in it, so that the lock is held for as long as that lasts.
 */
struct writer {
	const struct bind_env *env;
	int fd;    /* to it; -EBADF: it hangs */
	int pidfd; /* of it */
};

/* For writes below @dirfd and below /sys. End it in any case. */
int writer_start(const struct bind_env *env, int dirfd, int lock_fd, struct writer *ret_writer);
/* Waits until it has let go of the lock, unless it hangs. */
void writer_end(struct writer *w);
/*
 * Writes @text to @name below the writer's @dirfd, or below /sys. -ETIMEDOUT after
 * gpu_write_seconds or at the act's end, and that is the end of the writer; -ECANCELED when it was
 * not begun, because that has come.
 */
int writer_write(struct writer *w, bool of_func, const char *name, const char *text);

/* ---- func.c: a function to its guest's driver and back ---- */

int func_take(const struct job *job, uint32_t index, struct err *reterr);
/* Reset, and is the function sane after it? */
int func_reset(const struct job *job, uint32_t index, struct err *reterr);
/* Back to what it was, whatever it is now. */
int func_return(const struct job *job, uint32_t index, struct err *reterr);
/* Lets the kernel find a driver for a function that has none. */
int func_probe(const struct job *job, uint32_t index, struct err *reterr);

/* ---- console.c, services.c ---- */

/* Takes the framebuffer off the virtual terminals if one of the lease's functions drives it. */
int console_release(struct job *job, const struct view *view, struct err *reterr);
void console_take_back(struct job *job);

/* The other half: runs systemctl for the units of @policy until @fd is closed. */
_noreturn_ void services_serve(int fd, const struct gpu_policy *policy, const char *systemctl);
/* Stops the units that hold a function of the lease and that policy lets us stop. */
int services_stop(struct job *job, const struct view *view, struct err *reterr);
void services_start(struct job *job);

/* ---- nodes.c ---- */

/* Gives the lease's device nodes back to root; what is not there is nobody's. */
int nodes_revoke(const struct job *job, struct err *reterr);
/* Is there a node for the function's group, and of the right kind? */
int node_check(const struct bind_env *env, uint32_t group, struct err *reterr);
