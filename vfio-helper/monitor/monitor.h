/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-helper's shared header: the one process of the suite that stays root. It starts vfio-broker
 * and then does what that one may ask of it (see pair.h), and nothing else.
 */
#pragma once

#include "common/audit.h"
#include "common/err.h"
#include "common/fd.h"
#include "vfio-helper/pair.h"

/* ---- the audit log: audit.c ---- */

#define AUDIT_FILE_MAX (16u << 20) /* bytes; then it becomes audit.log.1 */
#define AUDIT_KEEP     8

struct audit {
	int dir_fd; /* borrowed: the state directory */
	int fd;     /* owned */
	off_t size;
	struct audit_chain chain; /* goes on from file to file */
	uint64_t tokens, last_ms; /* what the broker may still append */
	uint64_t dropped;         /* records of the broker since the last one taken */
};

/* Opens or makes the log in @dir_fd, and goes on with its chain; records the start. */
int audit_open(int dir_fd, const char *boot_id, struct audit *ret_audit, struct err *reterr);
/* Appends a record of our own, and logs it. */
void audit_append(struct audit *a, int level, const char *event, const struct log_field *fields,
		  size_t n);
/* Appends what the broker has sent: 0, -EBADMSG, -EAGAIN when there are too many of them. */
int audit_take(struct audit *a, const void *body, size_t len);
void audit_done(struct audit *a);

/* ---- cgroups of the slots: cgroup.c ---- */

/* Opens the directory of helper.conf's `cgroup`; *@ret_fd is -EBADF where there is none. */
int cgroup_open(const struct config *config, int *ret_fd, struct err *reterr);
/*
 * The cgroup of a slot, to start a process in; -EBADF: none. QEMU's is made here, and @ret_limited
 * tells whether all limits hold.
 */
int cgroup_enter(int dir_fd, const struct spawn_spec *spec, uint32_t *ret_limited);
void cgroup_remove(int dir_fd, uint32_t slot);

/* ---- children: child.c. No function here returns in the child ---- */

/* vfio-broker, as its own user; before the sandbox closes. @fds from BROKER_FD_PAIR on. */
int child_broker(const char *path, const struct config *config,
		 const int fds[static BROKER_FD_END - BROKER_FD_PAIR], int *ret_pidfd);
/* vm-launch as the user of a slot, from a checked spec. Returns the pid. */
int child_launch(const struct launch *launch, const struct fdlist *fds, int cgroup_fd,
		 int *ret_pidfd);
/* vfio-bind, as root with BIND_CAPS at most. Returns the pid. */
int child_bind(const char *path, const char *config_path, int stderr_fd, int socket_fd,
	       int *ret_pidfd);
/* Ends all processes of @user, and waits for that. */
int child_sweep(const struct account *user);

/* ---- serve.c ---- */

struct monitor {
	struct config config;
	const char *config_path;
	char broker_binary[256], bind_binary[256];
	char boot_id[40];
	struct audit audit;
	int pair_fd, signal_fd, broker_pidfd;               /* owned */
	int listen_fd, state_fd, vms_fd, run_fd, images_fd; /* owned */
	int accel_fd, cgroup_fd;                            /* owned */
	pid_t broker_pid;
	uint32_t n_children;
	uint64_t n_refused; /* requests that were nonsense */
	bool ready;
	bool binds; /* is vfio-bind of any use here? */
};

/* Opens all that is outside, from the configuration, and starts the broker (STAGE_OPEN). */
int monitor_open(struct monitor *m, struct err *reterr);
/* Does what the broker asks until a signal comes (0) or the broker ends (-EPIPE). */
int monitor_serve(struct monitor *m);
/* Ends the broker; the VMs stay. */
void monitor_done(struct monitor *m);
/* The path of the program @name beside our own. */
int beside_us(const char *name, char *path, size_t size);
