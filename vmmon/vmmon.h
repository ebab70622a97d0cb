/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's own structure; shared by its main loop and its handlers.
 * Trust: runs in vmmon.
 */
#pragma once

#include "common/base.h"
#include "common/registry.h"
#include "common/service.h"
#include "vmmon/engine/survey.h"
#include "vmmon/guest.h"
#include "vmmon/helper_client.h"
#include "vmmon/host.h"
#include "vmmon/keys.h"

#define VMMON_PATH_SIZE 108
#define VMMON_USER_SIZE 33

struct vmmon_config {
	char socket[VMMON_PATH_SIZE];
	char socket_group[VMMON_USER_SIZE];
	char agentd_user[VMMON_USER_SIZE];
	char guest_user[VMMON_USER_SIZE];
	char helper_socket[VMMON_PATH_SIZE];
	char vm_run_dir[VMMON_PATH_SIZE];
	char state_dir[VMMON_PATH_SIZE];
	char run_dir[VMMON_PATH_SIZE];
	uint32_t metrics_interval_ms; /* 0: no figures of guests */
	uint32_t unhealthy_after_s;
	char engine_socket[VMMON_PATH_SIZE]; /* of containers on this host */
	bool engine_rootful;                 /* one that runs as root will do */
	bool engine_unlimited;               /* one that cannot limit containers will do */
	char engine_registries[REGISTRY_LIST_SIZE];
	uint32_t engine_reserve_mib; /* free on its disk before something is pulled or started */
};

/* An enrolment that waits for vfio-helper. */
struct enrolment {
	struct vmmon *vmmon;      /* borrowed */
	char vm[PROTO_NAME_SIZE]; /* empty: the slot is free */
	char line[KEYS_LINE_SIZE];
	struct ticket ticket;
};

struct vmmon {
	struct vmmon_config config;
	struct service service; /* owned, as all that follow */
	int run_fd;
	struct keys keys;
	struct helper_client helper;
	struct guest_env env;
	struct guest *guests[PROTO_MAX_VMS]; /* NULL: the slot is free */
	struct enrolment enrolments[PROTO_MAX_VMS];
	struct host_env host_env;
	struct host_container *hosts[PROTO_MAX_VMS]; /* on this host; NULL: the slot is free */
	struct survey *survey;                       /* of its engine; NULL: none goes on */
	struct ticket survey_ticket;
};

/* handlers.c: for struct server_config and struct guest_env. */
int vmmon_dispatch(void *ctx, struct peer *peer, const struct proto_op *op,
		   const union proto_body *req, union proto_body *rep, struct fdlist *fds);
void vmmon_on_state(void *ctx, const struct guest *g);
void vmmon_on_container(void *ctx, const struct guest *g, const struct engine_status *status);
void vmmon_on_health(void *ctx, const struct guest *g, enum proto_health health, const char *words);
void vmmon_on_host_container(void *ctx, const char *instance, const struct engine_status *status);
void vmmon_reply(void *ctx, struct ticket *ticket, enum proto_status status, uint32_t n_keys);
