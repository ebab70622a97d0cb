/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a wish has on this host, where no VM stands around the container: names of its own, limits,
 * few rights, ports on 127.0.0.1.
 * Trust: runs in vmmon; reads JSON of agentd, which may be hostile.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "common/gpuname.h"

#include <jansson.h>

#define WISH_NAME_SIZE 48
#define WISH_INSTANCE  "qudata.instance" /* label of all that belongs to an instance */
#define WISH_GPUS_MAX  16
#define WISH_GPUS_SIZE (WISH_GPUS_MAX * (GPUNAME_MAX + 1) + 1)

/* Members of a wish that only one for this host has. */
struct wish_host {
	const char *instance;  /* a NAME; NULL: the wish is for a guest, and the rest is 0 */
	const json_t *publish; /* [[container's port, port on 127.0.0.1]]; borrowed */
	json_int_t cpus, memory_mib;
	json_int_t disk_mib;   /* 0: no limit */
	const json_t *gpu_ids; /* [name as in common/gpuname.h]; borrowed; may be NULL */
	json_int_t ssh;        /* port of 127.0.0.1 that leads to the container's sshd; 0: none */
};

/* The name of the container, and on this host of its network. @instance NULL: in a guest. */
void wish_name(const char *instance, char ret_name[static WISH_NAME_SIZE]);

/* The name of the volume that becomes /data. */
void wish_volume(const char *instance, char ret_name[static WISH_NAME_SIZE]);

/* 0, or -EINVAL with the reason: something is missing, out of range or out of place. */
int wish_host_check(const struct wish_host *h, bool has_ports, struct err *reterr);

/* The names of the GPUs, with commas between; "" when none are wanted. They were checked. */
void wish_host_gpus(const struct wish_host *h, char ret_names[static WISH_GPUS_SIZE]);

/* Puts all that into the request that makes the container and its HostConfig. 0 or -ENOMEM. */
int wish_host_put(json_t *body, json_t *host, const struct wish_host *h);

/* "DeviceRequests" of those GPUs, by NVIDIA's toolkit or by CDI. 0 or -ENOMEM. */
int wish_host_put_gpus(json_t *host, const struct wish_host *h, bool cdi);

/* The body of the request that makes the network; NULL: out of memory. The caller frees. */
char *wish_host_network(const char *instance);

/*
 * The body of the request that makes the volume: with a limit when @disk_mib is not 0, in the form
 * that podman wants or in that of Docker. NULL as above.
 */
char *wish_host_volume(const char *instance, json_int_t disk_mib, bool podman);
