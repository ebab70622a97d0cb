/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentd's side of the control plane: who we are, what it told us, what it is told.
 * Trust: runs inside agentd; reads messages of control-client, which reads the network, and checks
 * them again.
 */
#pragma once

#include "agentd/auth.h"
#include "agentd/config.h"
#include "agentd/control/control.h"
#include "agentd/hostinfo.h"
#include "common/err.h"

#include <event2/event.h>

struct controlplane;

/* The newest that a guest has told of itself, in thousandths; kept by report.c. */
struct report_figures {
	bool asked;               /* and not answered yet */
	char id[PROTO_NAME_SIZE]; /* whose they are */
	uint64_t newest;          /* number of that sample */
	uint64_t told_ms;         /* monotonic; 0: never */
	uint32_t gpu_util, gpu_temp, mem_util, cpu_util, ram_util;
};

struct controlplane_calls {
	void *ctx;
	/* Fills what only agentd knows of the host (GPUs, capacity); false: not known yet. */
	bool (*describe)(void *ctx, struct control_host *host);
	/* The status word of the instance that is reported, NULL when there is no instance. */
	const char *(*status)(void *ctx);
	/* Fills what the reported instance's guest tells of itself; never waits. */
	void (*figures)(void *ctx, struct control_stats *stats);
	/* The control plane has given us tunnels, or others than before. */
	void (*tunnels)(void *ctx, const struct control_init *init);
};

/*
 * Reads or makes the agent's id in @data_fd, takes the API key, and starts control-client. @auth is
 * borrowed for good: the control plane may change the secret. With `control_plane = none` *@ret_cp
 * is NULL and nothing happens. STAGE_OPEN.
 */
int controlplane_open(const struct agentd_config *config, int data_fd, uint16_t port,
		      struct auth *auth, struct controlplane **ret_cp, struct err *reterr);

/* Begins to listen and to report. STAGE_RUN. */
int controlplane_start(struct controlplane *cp, struct event_base *base,
		       const struct controlplane_calls *calls, struct err *reterr);

/* Something that is reported has changed: tells it at once. NULL is fine, as below. */
void controlplane_kick(struct controlplane *cp);

/* The last word on the connection, for people; "" without a control plane. */
const char *controlplane_words(const struct controlplane *cp);
/* "none", "connecting", "up", "down", "refused". */
const char *controlplane_phase(const struct controlplane *cp);

void controlplane_free(struct controlplane *cp);
