/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What frp-supervisor asks of frp-spawn, the program that runs frpc for it: a request of fixed size
 * at a time, a struct proto_header and a body as everywhere. Both run as the same user; the
 * boundary keeps execve out of the process that parses what frpc and agentd say.
 *   frp-spawn FRPC RUN_DIR CA_FILE keep|end       the socket is descriptor 3
 */
#pragma once

#include "common/base.h"
#include "common/err.h"

#include <sys/types.h>

#define SPAWN_FD        3
#define SPAWN_GATE_FD   3           /* of frpc before it is frpc */
#define SPAWN_CONFIG    "frpc.toml" /* in RUN_DIR */
#define SPAWN_LOG       "frpc.log"  /* what frpc prints; the supervisor reads and cuts it */
#define SPAWN_LOG_MAX   (4 * 1024 * 1024)
#define SPAWN_TIME_SIZE 24
#define SPAWN_VERSION_S 5 /* for `frpc --version` */

enum spawn_op {
	SPAWN_OP_VERSION = 1, /* answer: text */
	SPAWN_OP_START,       /* answer: result is the pid, text its start time; pidfd, gate */
	SPAWN_OP_REAP,        /* answer: exit_kind, exit_code */
};

struct spawn_request {
	uint32_t admin_port; /* START: the only one that frpc may listen on */
	int32_t pid;         /* REAP */
};

struct spawn_answer {
	int32_t result;     /* 0 or a pid, or a negative errno */
	uint32_t exit_kind; /* enum proto_exit_kind */
	uint32_t exit_code;
	char text[36]; /* what it printed, NUL-terminated */
};

struct spawn_config {
	char frpc[256];
	char run_dir[256];
	char ca_file[256];
	bool keep; /* frpc goes on when the supervisor ends */
};

/* client.c: starts frp-spawn, which lies beside this program. Returns its socket or an errno. */
int spawner_start(const struct spawn_config *config, struct err *reterr);

/*
 * start_time.c: when the process @pid (0: this one) was started, in clock ticks since boot, as
 * text. A negative errno when there is none, or none that we may see.
 */
int spawn_start_time(pid_t pid, char ret_start[static SPAWN_TIME_SIZE]);

/* landlock.c, in frp-spawn: */
struct confinement {
	const char *frpc, *run_dir, *ca_file;
	uint16_t admin_port; /* 0: none */
};

/*
 * Restricts the process by Landlock to: running frpc, reading it, its run directory, /etc and
 * the certificates, listening on the admin port. Returns 0 (also when the kernel has no Landlock)
 * or a negative errno.
 */
int confine(const struct confinement *c);
