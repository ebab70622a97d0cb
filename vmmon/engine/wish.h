/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What agentd wants of a container, as requests to the engine.
 * Trust: runs in vmmon; reads JSON of agentd, which may be hostile, with texts of the tenant.
 *
 * The container's policy is here, for one on this host in wish_host.h, too: an init process,
 * restarts unless stopped, ports published on all addresses of the guest under their own number,
 * the container's sshd under the number that agentd gives, the directory /data that outlives the
 * container, no limits of its own (the VM is the limit), all GPUs of the VM.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "common/imageref.h"
#include "common/sha256.h"
#include "vmmon/engine/wish_host.h"

#include <jansson.h>

#define WISH_CONTAINER "qudata" /* the container's name in a guest; wish_name() */
#define WISH_LABEL     "qudata.wish"
#define WISH_DATA      "/var/lib/qudata/data:/data"
#define WISH_HASH_SIZE (2 * SHA256_SIZE + 1)

struct wish {
	char image[IMAGEREF_MAX + 1];
	char *pull;             /* owned; path of the request that pulls the image */
	char *auth;             /* owned; X-Registry-Auth, NULL without a login; secret */
	char *login, *password; /* owned; to be kept out of messages; may be NULL */
	char *create;           /* owned; body of the request that makes the container */
	char *create_cdi;       /* owned; the same for an engine that has GPUs by CDI only */
	char *create_unbounded; /* owned; as create without a limit of its disk; NULL: has none */
	char *create_cdi_unbounded; /* owned; both; NULL as for one of them */
	char *network;              /* owned; of the request that makes its network; NULL: none */
	char *gpu_names;            /* owned; on this host: as wish_host_gpus() has them */
	json_int_t disk_mib;        /* on this host: the limit of its disk and of /data; 0: none */
	char hash[WISH_HASH_SIZE];  /* of all that the container is made of; in its label */
	bool gpus;
	bool ssh; /* the tenant logs in to the container, where it can have an sshd */
};

/*
 * {"image": reference, "login", "password", "command": text, "env": {name: text},
 *  "ports": [number], "gpus": number, "ssh": port of the guest that leads to the container's
 *  port 22}; all but image may be absent, nothing else may be there.
 * For @instance on this host (NULL: for a guest) "publish", "cpus" and "memory_mib" of struct
 * wish_host must be there, in place of "ports", and "disk_mib" and "gpu_ids" (in place of "gpus")
 * may; "ssh" is then a port of this host.
 * Returns 0, -EINVAL with the reason, or -ENOMEM.
 */
int wish_parse(const char *text, size_t len, const char *instance, struct wish *ret_wish,
	       struct err *reterr);

/* Frees what it holds, secrets wiped. */
void wish_done(struct wish *wish);

/* Appends @len bytes percent-encoded but for what an URL's query may hold as it is. */
void wish_url_encode(FILE *f, const char *text, size_t len);
