/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The folder's one shared header: what the helper knows, and who may call what. Everything has a
 * fixed size; nothing is allocated after the start.
 */
#pragma once

#include "common/audit.h"
#include "common/conf.h"
#include "common/log.h"
#include "common/server.h"
#include "proto/proto.h"

#include <limits.h>
#include <sys/stat.h>

#define DIR_TEXT_MAX   60 /* leaves room for "/<vm>/console.sock" in a socket's address */
#define APPEND_MAX     512
#define PORTS_TEXT_MAX 256
#define STDERR_MAX     8192 /* bytes that are kept of a child's complaints */

/* ---- configuration: config.c ---- */

enum accel_choice {
	ACCEL_AUTO,
	ACCEL_KVM,
	ACCEL_TCG,
};

struct config {
	char socket[DIR_TEXT_MAX];
	char state_dir[DIR_TEXT_MAX];
	char run_dir[DIR_TEXT_MAX];
	char image_dir[DIR_TEXT_MAX];
	char agentd_user[PROTO_NAME_SIZE];
	char vmmon_user[PROTO_NAME_SIZE];
	char vm_user_prefix[PROTO_NAME_SIZE];
	char qemu_binary[128];
	char qemu_img_binary[128];
	char passt_binary[128];
	char cgroup[128]; /* "auto", "none" or an absolute path */
	char dns[64];
	int accel; /* enum accel_choice */
	uint32_t kvm_trial_seconds;
	uint32_t max_vms, max_cpus, max_memory_mib, max_total_memory_mib, max_disk_mib;
	uint32_t port_low, port_high;
	bool require_isolation;
};

struct account {
	uid_t uid;
	gid_t gid;
};

struct accounts {
	struct account agentd, vmmon;
	struct account vm[PROTO_MAX_VMS]; /* the first max_vms are set */
};

/* Reads @path over the defaults and checks what the keys' own ranges cannot. */
int config_load(const char *path, struct config *ret_config, struct err *reterr);
/* Looks the accounts up in /etc/passwd, or in @passwd for tests. */
int accounts_load(const struct config *config, const char *passwd, struct accounts *ret_accounts,
		  struct err *reterr);
/* Checks that only root could have put something else at @path (each directory on the way too). */
int config_check_trusted(const char *path, mode_t type, struct err *reterr);

/* ---- small text records of the helper's own: record.c ---- */

/* What a VM is: vms/<vm>/vm.conf. Without this file the directory is an unfinished one. */
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
	char ports_text[PORTS_TEXT_MAX];
	char qemu_start[24]; /* field 22 of /proc/<pid>/stat: tells a recycled pid */
	char passt_start[24];
	uint32_t qemu_pid, passt_pid;
	uint32_t generation, accel, cpus, memory_mib, started_s, limited;
};

struct accel_record {
	char host[128]; /* what the result is valid for */
	char qemu[64];
	uint32_t accel, reason, sign_of_life_ms;
};

extern const struct conf_key vm_record_keys[], run_record_keys[], accel_record_keys[];
extern const size_t n_vm_record_keys, n_run_record_keys, n_accel_record_keys;
#define RECORD_SAVE(dirfd, name, stem, rec)                                                        \
	record_save((dirfd), (name), stem##_record_keys, n_##stem##_record_keys, (rec))
#define RECORD_LOAD(dirfd, name, stem, rec)                                                        \
	record_load((dirfd), (name), stem##_record_keys, n_##stem##_record_keys, (rec))
int record_save(int dirfd, const char *name, const struct conf_key *keys, size_t n_keys,
		const void *record);
int record_load(int dirfd, const char *name, const struct conf_key *keys, size_t n_keys,
		void *ret_record);
/* "10022:22 10080:80" and back. */
void ports_to_text(const struct proto_port *ports, char text[static PORTS_TEXT_MAX]);
int ports_from_text(const char *text, struct proto_port ret_ports[static PROTO_MAX_PORTS]);
/* Field 22 of /proc/<pid>/stat, and the real uid that all four of its ids must equal. */
int process_identify(pid_t pid, char ret_start[static 24], uid_t *ret_uid);

/* ---- named base images: image.c ---- */

enum image_format {
	IMAGE_QCOW2,
	IMAGE_RAW,
};

struct image {
	int format; /* enum image_format */
	uint32_t min_disk_mib;
	char append[APPEND_MAX];
};

/* What fds an image gives; -EBADF where it has none. Owned by whoever holds the struct. */
struct image_fds {
	int disk, kernel, initrd;
};

/* Reads image.conf of image @name below @image_dir. -ENOENT when there is no such image. */
int image_load(int image_dir, const char *name, struct image *ret_image, struct err *reterr);
int image_open(int image_dir, const char *name, struct image_fds *ret_fds, struct err *reterr);
void image_close(struct image_fds *fds);
/* The first image (in directory order) that has a kernel. -ENOENT when none has. */
int image_find_kernel(int image_dir, char ret_name[static PROTO_NAME_SIZE]);

/* ---- what a child is to be: qemu_args.c (pure) ---- */

enum program {
	PROGRAM_QEMU = 1,
	PROGRAM_PASST,
	PROGRAM_QEMU_IMG,
	PROGRAM_TRIAL, /* QEMU that shows whether a real kernel lives under KVM */
};

/* Descriptors by role; a child finds role r at CHILD_FD(r). Sent in this order. */
enum fd_role {
	FD_STDERR,
	FD_CGROUP, /* directory; used by the spawner, not passed on */
	FD_GATE,   /* closed at exec */
	FD_NET,
	FD_CONSOLE,
	FD_DISK,
	FD_BASE,
	FD_SEED,
	FD_QMP,
	FD_READY,
	FD_KERNEL,
	FD_INITRD,
	FD_ROLES,
};
#define FD_BIT(role)   (1u << (role))
#define CHILD_FD(role) (3 + (int)(role))

/* All that crosses to the spawner besides descriptors. Validated on both sides. */
struct spawn_spec {
	uint32_t program; /* enum program */
	uint32_t slot;    /* whose user */
	uint32_t roles;   /* mask of FD_BIT()s that go along */
	uint32_t cpus, memory_mib, disk_mib;
	uint32_t accel; /* enum proto_accel */
	int32_t base_format;
	struct proto_port ports[PROTO_MAX_PORTS];
	char vm[PROTO_NAME_SIZE];
	char append[APPEND_MAX];
};

#define ARGS_MAX      128
#define ARGS_TEXT_MAX 8192
struct args {
	char *argv[ARGS_MAX + 1]; /* point into text */
	size_t n, used;
	bool overflow;
	char text[ARGS_TEXT_MAX];
};

/* 0, or -EINVAL when a value is outside of what @config and the program allow. */
int spec_check(const struct spawn_spec *spec, const struct config *config);
/* Builds the command line of a checked spec. -E2BIG never happens for one. */
int spec_args(const struct spawn_spec *spec, const struct config *config, struct args *ret_args);

/* ---- the spawner: spawn.c, isolation.c ---- */

struct spawner {
	int fd;         /* owned; SEQPACKET to the child process */
	uint32_t asked; /* number of the latest question; its answer repeats it */
};

struct child {
	pid_t pid;     /* 0: none. Never used to signal: only the pidfd is */
	int pidfd;     /* owned */
	int stderr_fd; /* owned memfd, -EBADF for adopted ones */
};

#define CHILD_NONE ((struct child){.pidfd = -EBADF, .stderr_fd = -EBADF})

/* Forks the process that forks all others. To be called in STAGE_OPEN, before any state is open. */
int spawner_start(const struct config *config, const struct accounts *accounts,
		  struct spawner *ret_spawner, struct err *reterr);
/*
 * Starts a program. @fds is indexed by role, -EBADF where there is none, and stays the caller's;
 * FD_STDERR is made here. Waits for the spawner's answer (it only forks). -EPIPE, -ETIMEDOUT: the
 * spawner is lost and the helper has to end.
 */
int spawn_child(struct spawner *s, struct spawn_spec *spec, int fds[static FD_ROLES],
		struct child *ret_child);
/* Collects an ended child's status; PROTO_EXIT_UNKNOWN for one that the spawner did not fork. */
void spawn_reap(struct spawner *s, struct child *c, uint32_t *ret_kind, uint32_t *ret_code);
/* Copies the last line that the child wrote to stderr. */
void child_last_words(const struct child *c, char *buf, size_t size);
void child_kill(const struct child *c);
void child_close(struct child *c);

/*
 * Run by passt's process as the VM's user: 0 when the host's loopback refuses TCP and UDP of this
 * user. Needs the listeners of isolation_listen(), made before the ids were given up.
 */
struct isolation {
	int tcp[2], udp[2]; /* IPv4, IPv6 */
};
void isolation_listen(struct isolation *ret_iso);
int isolation_check(const struct isolation *iso);

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
/* Runs until h->stop. Returns 0, or a negative errno when the helper must not go on. */
int loop_run(struct helper *h);
uint64_t loop_now_ms(void);

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
	struct run_record run; /* valid in VM_LAUNCHING and VM_UP */
	struct proto_port ports[PROTO_MAX_PORTS];
	struct ticket ticket;     /* of the request being worked on */
	uint64_t deadline_ms;     /* 0: none */
	struct child qemu, passt; /* qemu is qemu-img in VM_PREPARING */
	int gate;                 /* owned; our end */
	int disk_fd;              /* owned; the new overlay in VM_PREPARING */
	struct watch qemu_watch, passt_watch, gate_watch;
};

struct accel {
	struct accel_record rec; /* rec.accel is PROTO_ACCEL_UNDECIDED until decided */
	uint32_t trial_slot;
	uint64_t started_ms, deadline_ms;
	struct child child;
	int console; /* owned */
	size_t n_text;
	char text[4096];
	struct watch child_watch, console_watch;
};

struct bucket {
	uint64_t tokens, last_ms, suppressed;
};

struct helper {
	struct config config;
	struct accounts accounts;
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
	int fatal; /* why the loop must end, 0: it need not */
};

/* Opens all that is outside, from the configuration (STAGE_OPEN). */
int helper_open(struct helper *h, struct err *reterr);
/* Registers everything with the event loop and adopts what runs (STAGE_RUN). */
int helper_begin(struct helper *h, struct err *reterr);
void helper_done(struct helper *h);

struct vm *vm_find(struct helper *h, const char *name);
struct vm *vm_free_slot(struct helper *h, const char *name);
/* Reads the directories at start-up, removes unfinished ones, adopts running VMs. */
int vm_load_all(struct helper *h, struct err *reterr);
int vm_prepare(struct helper *h, struct vm *vm, struct ticket ticket);
/* Starts the children of a VM in VM_WAIT_ACCEL; answers the ticket when it fails. */
void vm_launch(struct helper *h, struct vm *vm);
void vm_expire(struct helper *h, uint64_t now_ms);
void vm_kill(struct helper *h, struct vm *vm);
bool vm_is_up(const struct vm *vm);
enum proto_status status_of(int r);

/* Every path below is relative to a directory that only root can change. */
int vmdir_open(int parent_fd, const char *name);
int vmdir_create(struct helper *h, struct vm *vm, int *ret_disk_fd);
int vmdir_finish(struct helper *h, struct vm *vm, int disk_fd);
int vmdir_remove(int parent_fd, const char *name);
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
void accel_expire(struct helper *h, uint64_t now_ms);
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
