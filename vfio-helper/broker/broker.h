/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folder's one shared header: what the broker knows, and who may call what. Everything has a
 * fixed size; nothing is allocated after the start.
 */
#pragma once

#include "common/err.h"
#include "common/log.h"
#include "common/server.h"
#include "proto/proto.h"
#include "vfio-helper/bind/bind.h"
#include "vfio-helper/broker/record.h"
#include "vfio-helper/pair.h"

#include <limits.h>
#include <sys/stat.h>

#define STDERR_MAX 8192 /* bytes that are kept of a child's complaints */

/* ---- named base images: image.c ---- */

/* Opens image.conf of image @name below @image_dir. -ENOENT when there is no such image. */
int image_open_conf(int image_dir, const char *name);
/* Opens all that image @name has into @fds, which stay the caller's whatever is returned. */
int image_open(int image_dir, const char *name, int fds[static FD_ROLES], struct err *reterr);
/* Opens the kernel of the first image (in directory order) that has one; -ENOENT: none has. */
int image_find_kernel(int image_dir);

/* ---- event loop: loop.c ---- */

struct broker;
typedef void watch_fn(struct broker *b, void *arg);
struct watch {
	int fd; /* borrowed; -EBADF: not watched */
	watch_fn *fn;
	void *arg;
};

int loop_watch(struct broker *b, struct watch *w, int fd, watch_fn *fn, void *arg);
void loop_unwatch(struct broker *b, struct watch *w);
/* Runs until vfio-helper is lost. */
int loop_run(struct broker *b);
uint64_t loop_now_ms(void);

/* ---- what is asked of vfio-helper: monitor.c ---- */

struct monitor {
	int fd;         /* owned; SEQPACKET to vfio-helper */
	uint32_t asked; /* number of the latest question; its answer repeats it */
	bool lost;      /* its end was seen while nothing was asked of it */
};

struct child {
	pid_t pid;     /* 0: none. Never used to signal */
	int pidfd;     /* owned */
	int stderr_fd; /* owned memfd, -EBADF for adopted ones */
	struct watch watch;
};

/* How a child ended. PROTO_EXIT_UNKNOWN for one that this vfio-helper did not fork. */
struct child_end {
	uint32_t kind, code;
	char words[200]; /* the last line that it wrote to stderr */
};

#define CHILD_NONE ((struct child){.pidfd = -EBADF, .stderr_fd = -EBADF, .watch.fd = -EBADF})

/* Each waits for the answer, which takes no longer than a fork or a write; without one the broker
 * ends and has answered nobody. */
int monitor_ready(struct monitor *m);
/*
 * Starts a program. @fds is indexed by role, -EBADF where there is none, and stays the caller's;
 * FD_STDERR is made here. @ret_limited (may be NULL): its cgroup has all limits.
 */
int monitor_start(struct monitor *m, struct spawn_spec *spec, int fds[static FD_ROLES],
		  uint32_t *ret_limited, struct child *ret_child);
/* Starts vfio-bind with @socket_fd, which stays the caller's. */
int monitor_bind(struct monitor *m, int socket_fd, struct child *ret_child);
/* Ends whatever runs as the user of @slot, and removes its cgroup. */
int monitor_sweep(struct monitor *m, uint32_t slot);
int monitor_audit(struct monitor *m, const struct pair_audit *record);
/* Calls @fn when the child has ended; child_collect() is then to be called. */
int child_watch(struct broker *b, struct child *c, watch_fn *fn, void *arg);
struct child_end child_collect(struct broker *b, struct child *c);
/* Sets every role to -EBADF. */
void no_fds(int fds[static FD_ROLES]);
/* Closes what is open. */
void close_roles(int fds[static FD_ROLES]);

/* ---- acts of vfio-bind: act.c ---- */

#define ACT_MAX 24 /* at a time, with those that were given up and still run */

struct act;
/* @answer is always there; its status is PROTO_TIMEOUT, _BUSY or _FAILED when vfio-bind gave none.
 * @fd: what came along, which may be taken; -EBADF: nothing. */
typedef void act_fn(struct broker *b, struct act *a, const struct bind_answer *answer, int *fd);

struct act {
	bool used;
	bool given_up; /* answered for; only its end is waited for */
	enum bind_act kind;
	char vm[PROTO_NAME_SIZE];
	struct ticket ticket; /* of the request behind it */
	act_fn *done;         /* NULL once it was called */
	uint64_t deadline_ms;
	int fd; /* owned; our end of its socket */
	struct watch watch;
	struct child child;
};

/*
 * Starts an act; @done is called once, from the loop, unless this fails: PROTO_OK, _DENIED (no GPU
 * may be rented out on this machine), _BUSY (too many acts), _FAILED.
 */
enum proto_status act_start(struct broker *b, const struct bind_request *req,
			    const struct ticket *ticket, act_fn *done);
/* Is an act for that VM under way and not given up? */
bool act_of_vm(const struct broker *b, const char *vm);
void act_expire(struct broker *b, uint64_t now_ms);

/* ---- GPUs of VMs: gpu.c ---- */

struct vm;
/* Asks for the devices of a VM in VM_WAIT_GPUS, which is then started; answers when it fails. */
void gpu_grant(struct broker *b, struct vm *vm);
/* Takes them back from a VM in VM_REVOKING; vm_revoked() follows in any case. */
void gpu_revoke(struct broker *b, struct vm *vm);
/* The same of a VM that could not be loaded: its slot, hence its user, may soon be another's. */
void gpu_revoke_lost(struct broker *b, const char *name);
/* At the start: finishes or undoes what was interrupted. */
void gpu_recover_all(struct broker *b);

/* ---- VMs: vm.c (life), vmdir.c (files), handlers.c (requests) ---- */

enum vm_phase {
	VM_IDLE,
	VM_PREPARING,  /* qemu-img runs */
	VM_WAIT_GPUS,  /* its devices are being given to its user */
	VM_WAIT_ACCEL, /* the accelerator is being tried */
	VM_LAUNCHING,  /* children wait at the gate */
	VM_UP,
	VM_ENDING,   /* a launch failed and its children are on their way out */
	VM_REVOKING, /* it has ended; its devices are being taken from its user */
};

struct vm {
	char name[PROTO_NAME_SIZE]; /* empty: free slot. The index is the slot, hence the user */
	enum vm_phase phase;
	bool seeded;
	bool killed;               /* by VM_KILL; its end is no accident */
	bool granted;              /* its user may have the device nodes */
	bool was_up;               /* in VM_REVOKING: its end is to be told */
	enum proto_status failure; /* of a start that is being undone */
	struct vm_record rec;
	struct run_record run;    /* valid in VM_LAUNCHING and VM_UP */
	struct ticket ticket;     /* of the request being worked on */
	uint64_t deadline_ms;     /* 0: none */
	struct child qemu, passt; /* qemu is qemu-img in VM_PREPARING */
	uint32_t n_devices;       /* of the coming start, with the descriptor of their IOMMU */
	struct launch_device devices[PROTO_MAX_DEVICES];
	int iommu_fd;     /* owned */
	int gate;         /* owned; our end */
	uint32_t at_gate; /* children that have come there, as the VM's user */
	int disk_fd;      /* owned; the new overlay in VM_PREPARING */
	struct watch gate_watch;
};

struct accel {
	struct accel_record rec; /* rec.accel is PROTO_ACCEL_UNDECIDED until decided */
	uint64_t started_ms;
	struct child child; /* vm-launch with a trial; it keeps its own deadline */
};

#define REFUSAL_BURST 64 /* records of refusals */
struct bucket {
	uint64_t tokens, last_ms, suppressed;
};

/* A file that was unlinked and is being freed, some at a time: a large one takes long. */
struct doomed {
	int fd; /* owned; 0: none */
	off_t size;
};

struct broker {
	struct broker_setup setup;
	struct monitor monitor;
	struct server server;
	struct bucket refusals;
	struct accel accel;
	struct vm vms[PROTO_MAX_VMS];
	struct act acts[ACT_MAX];
	struct doomed doomed[PROTO_MAX_VMS];
	bool recover;            /* the look at interrupted binds at the start is still to come */
	int epoll_fd, listen_fd; /* owned */
	int vms_fd, run_fd, image_fd, accel_fd; /* owned */
	struct watch listen_watch, monitor_watch;
	struct watch peer_watches[SERVER_MAX_PEERS];
};

/* Takes what vfio-helper has passed, checks it, and opens the rest (STAGE_OPEN). */
int broker_open(struct broker *b, struct err *reterr);
/* Registers everything with the event loop and adopts what runs (STAGE_RUN). */
int broker_begin(struct broker *b, struct err *reterr);
void broker_done(struct broker *b);

struct vm *vm_find(struct broker *b, const char *name);
/* What VM_DESCRIBE says of it. */
void vm_describe(const struct vm *vm, struct vm_describe_rep *rep);
struct vm *vm_free_slot(struct broker *b, const char *name);
/* Reads the directories at start-up, removes unfinished ones, adopts running VMs. */
int vm_load_all(struct broker *b, struct err *reterr);
/* Makes the disk of a VM with image, size and ticket set; the ticket is answered later. */
void vm_prepare(struct broker *b, struct vm *vm, int image_conf);
/* Starts the children of a VM in VM_WAIT_ACCEL; answers the ticket when it fails. */
void vm_launch(struct broker *b, struct vm *vm);
void vm_expire(struct broker *b, uint64_t now_ms);
void vm_kill(struct broker *b, struct vm *vm);
/* Goes on with the start of a VM that has its devices, or needs none. */
void vm_wait_accel(struct broker *b, struct vm *vm);
/* Of a VM in VM_WAIT_GPUS that cannot be started. */
void vm_start_failed(struct broker *b, struct vm *vm, enum proto_status status);
/* Of a VM in VM_REVOKING: it is idle now. */
void vm_revoked(struct broker *b, struct vm *vm);
/* Writes vm->rec; a failure is logged, too. */
int vm_save(struct broker *b, struct vm *vm);
bool vm_is_up(const struct vm *vm);
/* Of an act that went wrong by @r: PROTO_LIMIT, _MISMATCH (another base image), _NO_SPACE, _FAILED.
 */
enum proto_status failure(int r);

/* Every path below is relative to a directory that only root or we can change. */
int vmdir_open(int parent_fd, const char *name);
int vmdir_create(struct broker *b, struct vm *vm, int *ret_disk_fd);
/* Closes the finished disk to its user; sets its size in vm->rec, which is then written. */
int vmdir_finish(struct broker *b, struct vm *vm, int disk_fd);
int vmdir_remove(int parent_fd, const char *name);
/* Removes a VM with its disk, whose space is freed by and by: vmdir_free_some(). */
int vmdir_forget(struct broker *b, const char *name);
/* Frees some of what was removed; false when nothing is left to free. */
bool vmdir_free_some(struct broker *b);
/* Is there a finished VM of that name, whether it could be loaded or not? */
bool vmdir_is_vm(int parent_fd, const char *name);
bool vmdir_has(int dirfd, const char *file);
/* Opens a plain file that has one name, belongs to @owner, and that no other can write. */
int vmdir_open_file(int dirfd, const char *file, int flags, uid_t owner);
/* Opens the firmware's variables of a VM, or makes an empty file for them. */
int vmdir_open_vars(int dirfd);
/* Stores a seed: 0, or -EEXIST when another one is there. */
int vmdir_seed(struct broker *b, const struct vm *vm, int memfd, size_t size);
/* Makes the run directory and its three listening sockets. */
int vmdir_run(struct broker *b, const struct vm *vm, int fds[static FD_ROLES], struct err *reterr);
int for_each_name(int dirfd, int (*fn)(void *arg, const char *name), void *arg);

/* ---- accelerator: accel.c ---- */

/* Decides without a trial where that is possible. */
void accel_load(struct broker *b);
/* Makes sure that a decision is under way; true when there is one already. */
bool accel_ready(struct broker *b);

/* ---- audit: journal.c ---- */

void audit_record(struct broker *b, int level, const char *event, const struct log_field *fields,
		  size_t n);
#define audit_event(b, level, event, ...)                                                          \
	audit_record((b), (level), (event), (const struct log_field[]){{0}, ##__VA_ARGS__},        \
		     ARRAY_LEN(((const struct log_field[]){{0}, ##__VA_ARGS__})))
/* Records a refused request, rate-limited, and returns @status. */
int refuse(struct broker *b, const struct peer *peer, const char *vm, enum proto_status status,
	   const char *why);
/* The server's callback. */
void on_refused(void *ctx, const struct peer *peer, enum server_refusal why, int detail);

/* ---- dispatch.c ---- */
void dispatch_init(struct broker *b);
