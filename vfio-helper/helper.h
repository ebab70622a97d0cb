/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folder's one shared header: what the helper knows, and who may call what. Everything has a
 * fixed size; nothing is allocated after the start.
 */
#pragma once

#include "common/audit.h"
#include "common/err.h"
#include "common/log.h"
#include "common/server.h"
#include "proto/proto.h"
#include "vfio-helper/config.h"
#include "vfio-helper/spec.h"

#include <limits.h>
#include <sys/stat.h>

#define STDERR_MAX 8192 /* bytes that are kept of a child's complaints */

/* ---- records of the helper's own: record.c. No padding: they are files as they are ---- */

/* What a VM is: vms/<vm>/record. Without this file the directory is an unfinished one. */
struct vm_record {
	char image[PROTO_NAME_SIZE];
	uint32_t slot;
	uint32_t disk_mib;
	uint32_t generation; /* of the latest start; 0: never started */
	uint32_t exit_kind;
	uint32_t exit_code;
};

/* What runs: <run_dir>/<vm>/running, from just before QEMU's exec to its end. */
struct run_record {
	char boot_id[40];
	uint64_t qemu_start; /* field 22 of /proc/<pid>/stat: tells a recycled pid */
	uint64_t passt_start;
	uint32_t qemu_pid, passt_pid;
	uint32_t generation, accel, cpus, memory_mib, started_s, limited;
	struct proto_port ports[PROTO_MAX_PORTS];
};

struct accel_record {
	char basis[192]; /* what the result is valid for: kernel and QEMU of the host */
	uint32_t accel, reason, sign_of_life_ms;
};

/* Writes @size bytes of @body, or reads exactly that many back; -EBADMSG when they are damaged. */
int record_save(int dirfd, const char *name, const void *body, size_t size);
int record_load(int dirfd, const char *name, void *ret_body, size_t size);
/* Field 22 of /proc/<pid>/stat, and the real uid that all four of its ids must equal. */
int process_identify(pid_t pid, uint64_t *ret_start, uid_t *ret_uid);

/* ---- named base images: image.c ---- */

/* Opens image.conf of image @name below @image_dir. -ENOENT when there is no such image. */
int image_open_conf(int image_dir, const char *name);
/* Opens all that image @name has into @fds, which stay the caller's whatever is returned. */
int image_open(int image_dir, const char *name, int fds[static FD_ROLES], struct err *reterr);
/* Opens the kernel of the first image (in directory order) that has one; -ENOENT: none has. */
int image_find_kernel(int image_dir);

/* ---- event loop: loop.c ---- */

struct helper;
typedef void watch_fn(struct helper *h, void *arg);
struct watch {
	int fd; /* borrowed; -EBADF: not watched */
	watch_fn *fn;
	void *arg;
};

int loop_watch(struct helper *h, struct watch *w, int fd, watch_fn *fn, void *arg);
void loop_unwatch(struct helper *h, struct watch *w);
/* Runs until h->stop. Returns 0, or -EPIPE when the spawner is lost. */
int loop_run(struct helper *h);
uint64_t loop_now_ms(void);

/* ---- the spawner's other side: spawn.c ---- */

struct spawner {
	int fd;         /* owned; SEQPACKET to the child process */
	uint32_t asked; /* number of the latest question; its answer repeats it */
	bool lost;      /* it is gone or out of step */
};

struct child {
	pid_t pid;     /* 0: none. Never used to signal: only the pidfd is */
	int pidfd;     /* owned */
	int stderr_fd; /* owned memfd, -EBADF for adopted ones */
	struct watch watch;
};

/* How a child ended. PROTO_EXIT_UNKNOWN for one that the spawner did not fork. */
struct child_end {
	uint32_t kind, code;
	char words[200]; /* the last line that it wrote to stderr */
};

#define CHILD_NONE ((struct child){.pidfd = -EBADF, .stderr_fd = -EBADF, .watch.fd = -EBADF})

/*
 * Starts the program that forks all others and gives it @setup, whose version and launch_binary are
 * set here. To be called in STAGE_OPEN, before any state is open.
 */
int spawner_start(struct spawn_setup *setup, struct spawner *ret_spawner, struct err *reterr);
/*
 * Starts a program. @fds is indexed by role, -EBADF where there is none, and stays the caller's;
 * FD_STDERR is made here. Waits for the spawner's answer (it only forks); without one
 * s->lost is set and the helper has to end.
 */
int spawn_child(struct spawner *s, struct spawn_spec *spec, int fds[static FD_ROLES],
		struct child *ret_child);
/* Ends whatever runs as the user of @slot, whose VM does not run. */
int spawn_sweep(struct spawner *s, uint32_t slot);
/* Calls @fn when the child has ended; child_collect() is then to be called. */
int child_watch(struct helper *h, struct child *c, watch_fn *fn, void *arg);
struct child_end child_collect(struct helper *h, struct child *c);
/* Sets every role to -EBADF. */
void no_fds(int fds[static FD_ROLES]);
/* Closes what is open. */
void close_roles(int fds[static FD_ROLES]);
void child_kill(const struct child *c);

/* ---- VMs: vm.c (life), vmdir.c (files), handlers.c (requests) ---- */

enum vm_phase {
	VM_IDLE,
	VM_PREPARING,  /* qemu-img runs */
	VM_WAIT_ACCEL, /* the accelerator is being tried */
	VM_LAUNCHING,  /* children wait at the gate */
	VM_UP,
	VM_ENDING, /* a launch failed and its children are on their way out */
};

struct vm {
	char name[PROTO_NAME_SIZE]; /* empty: free slot. The index is the slot, hence the user */
	enum vm_phase phase;
	bool seeded;
	bool killed; /* by VM_KILL; its end is no accident */
	struct vm_record rec;
	struct run_record run;    /* valid in VM_LAUNCHING and VM_UP */
	struct ticket ticket;     /* of the request being worked on */
	uint64_t deadline_ms;     /* 0: none */
	struct child qemu, passt; /* qemu is qemu-img in VM_PREPARING */
	int gate;                 /* owned; our end */
	uint32_t at_gate;         /* children that have come there, as the VM's user */
	int disk_fd;              /* owned; the new overlay in VM_PREPARING */
	struct watch gate_watch;
};

struct accel {
	struct accel_record rec; /* rec.accel is PROTO_ACCEL_UNDECIDED until decided */
	uint64_t started_ms;
	struct child child; /* vm-launch with a trial; it keeps its own deadline */
};

struct bucket {
	uint64_t tokens, last_ms, suppressed;
};

struct helper {
	struct config config;
	struct spawner spawner;
	struct server server;
	struct audit_chain chain;
	struct bucket refusals;
	struct accel accel;
	struct vm vms[PROTO_MAX_VMS];
	int epoll_fd, listen_fd, signal_fd;               /* owned */
	int state_fd, vms_fd, run_fd, image_fd, audit_fd; /* owned */
	int cgroup_fd;                                    /* owned; -EBADF: no cgroups */
	struct watch listen_watch, signal_watch, spawner_watch;
	struct watch peer_watches[SERVER_MAX_PEERS];
	char boot_id[40];
	bool stop;
};

/* Opens all that is outside, from the configuration (STAGE_OPEN). */
int helper_open(struct helper *h, struct err *reterr);
/* Registers everything with the event loop and adopts what runs (STAGE_RUN). */
int helper_begin(struct helper *h, struct err *reterr);
void helper_done(struct helper *h);

struct vm *vm_find(struct helper *h, const char *name);
/* What VM_DESCRIBE says of it. */
void vm_describe(const struct vm *vm, struct vm_describe_rep *rep);
struct vm *vm_free_slot(struct helper *h, const char *name);
/* Reads the directories at start-up, removes unfinished ones, adopts running VMs. */
int vm_load_all(struct helper *h, struct err *reterr);
/* Makes the disk of a VM with image, size and ticket set; the ticket is answered later. */
void vm_prepare(struct helper *h, struct vm *vm, int image_conf);
/* Starts the children of a VM in VM_WAIT_ACCEL; answers the ticket when it fails. */
void vm_launch(struct helper *h, struct vm *vm);
void vm_expire(struct helper *h, uint64_t now_ms);
void vm_kill(struct helper *h, struct vm *vm);
bool vm_is_up(const struct vm *vm);
/* Of an act that went wrong by @r: PROTO_NO_SPACE or PROTO_FAILED. */
enum proto_status failure(int r);

/* Every path below is relative to a directory that only root can change. */
int vmdir_open(int parent_fd, const char *name);
int vmdir_create(struct helper *h, struct vm *vm, int *ret_disk_fd);
/* Takes the finished disk back from its user; sets its size in vm->rec, which is then written. */
int vmdir_finish(struct helper *h, struct vm *vm, int disk_fd);
int vmdir_remove(int parent_fd, const char *name);
/* Is there a finished VM of that name, whether it could be loaded or not? */
bool vmdir_is_vm(int parent_fd, const char *name);
bool vmdir_has(int dirfd, const char *file);
int vmdir_open_file(int dirfd, const char *file, int flags);
/* Stores a seed: 0, or -EEXIST when another one is there. */
int vmdir_seed(struct helper *h, const struct vm *vm, int memfd, size_t size);
/* Makes the run directory and its three listening sockets. */
int vmdir_run(struct helper *h, const struct vm *vm, int fds[static FD_ROLES], struct err *reterr);
int for_each_name(int dirfd, int (*fn)(void *arg, const char *name), void *arg);

/* ---- accelerator: accel.c ---- */

/* Decides without a trial where that is possible. */
void accel_load(struct helper *h);
/* Makes sure that a decision is under way; true when there is one already. */
bool accel_ready(struct helper *h);
/* The group that may open /dev/kvm, 0 when none is needed; -ENOENT, -EACCES. */
int accel_kvm_group(gid_t *ret_gid);

/* ---- cgroups: cgroup.c ---- */

int cgroup_open(const struct config *config, int *ret_fd, struct err *reterr);
/* A fresh cgroup for the VM; sets vm->run.limited when all limits hold. -EBADF: no cgroups. */
int cgroup_make(const struct helper *h, struct vm *vm);
void cgroup_kill(const struct helper *h, const struct vm *vm);
void cgroup_remove(const struct helper *h, const struct vm *vm);

/* ---- audit: journal.c ---- */

int audit_open(struct helper *h, struct err *reterr);
void audit_record(struct helper *h, int level, const char *event, const struct log_field *fields,
		  size_t n);
#define audit_event(h, level, event, ...)                                                          \
	audit_record((h), (level), (event), (const struct log_field[]){{0}, ##__VA_ARGS__},        \
		     ARRAY_LEN(((const struct log_field[]){{0}, ##__VA_ARGS__})))
/* Records a refused request, rate-limited, and returns @status. */
int refuse(struct helper *h, const struct peer *peer, const char *vm, enum proto_status status,
	   const char *why);
/* The server's callback. */
void on_refused(void *ctx, const struct peer *peer, enum server_refusal why, int detail);

/* ---- dispatch.c ---- */
void dispatch_init(struct helper *h);
