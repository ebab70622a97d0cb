/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of HTTP requests as typed structs: the union of four client dialects in one strict
 * reading. Trust: runs inside agentd; reads JSON of strangers.
 *
 * Pure: no I/O, no logging, no state. Members that no dialect knows are skipped (a newer client may
 * send them); everything that is known is checked even where this version makes no use of it. Each
 * error line names the field at fault.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "common/pubkey.h"
#include "proto/proto.h"

#include <jansson.h>

#define REQUEST_NAME_MAX 63          /* characters of an instance's name */
#define REQUEST_ENV_MAX  256         /* variables */
#define REQUEST_TEXT_MAX 4096        /* bytes of a short text: login, password, token */
#define REQUEST_LONG_MAX (32 * 1024) /* bytes of a command or of one variable */

enum port_proto {
	PORT_HTTP, /* the default: what a tunnel publishes under a name */
	PORT_TCP,  /* raw: SSH and what asks for it */
};

struct port_request {
	uint16_t guest;
	uint16_t host; /* 0: any */
	enum port_proto proto;
};

struct create_request {
	char name[REQUEST_NAME_MAX + 1];        /* "": none */
	uint32_t cpus, memory_mib, disk_mib;    /* 0: not said */
	uint32_t gpus;                          /* how many are wanted */
	uint64_t gpu_addresses[PROTO_MAX_GPUS]; /* which: ascending, the rest zero; none: any */
	bool has_image;                         /* a container is wanted */
	const char *gpu_field;                  /* the member that asked for a GPU, or NULL */
	struct port_request ports[PROTO_MAX_PORTS];
	size_t n_ports;
	uint16_t container_ssh; /* the VM's port that leads to the container's sshd; 0: none does */
	/*
	 * Owned; what belongs to the tenant's container and tunnel, checked and in one form: image
	 * (with its tag), login, password, command, env, tunnel_token, secret_domain.
	 * Holds secrets: never logged, never sent back.
	 */
	json_t *tenant;
};

void create_request_done(struct create_request *req);

/*
 * Reads the body of a create request. Port 22 is always among the ports of the result: the VM's,
 * by which it is managed. With ssh_enabled and an image the port that was asked for as 22 leads to
 * the container, by another port of the VM.
 * Returns 0, or -EINVAL with the reason.
 */
int request_parse_create(const void *body, size_t len, struct create_request *ret_req,
			 struct err *reterr);

enum request_action {
	ACTION_START = 1,
	ACTION_STOP,
	ACTION_RESTART,
};

/* Reads {"action": word} or {"command": word}. Returns 0, or -EINVAL with the reason. */
int request_parse_action(const void *body, size_t len, enum request_action *ret_action,
			 struct err *reterr);

/*
 * Reads {"ssh_pubkey": line} and writes the key in its one form, "type base64[ comment]".
 * Returns 0, or -EINVAL with the reason.
 */
int request_parse_key(const void *body, size_t len, char ret_line[static PUBKEY_LINE_MAX],
		      struct err *reterr);

/* "8G", "512m", "1.5GiB", "2048" (MiB) to MiB, rounded up. -EINVAL or -ERANGE. */
int request_parse_size(const char *text, uint32_t *ret_mib);

/* Whether @image names a tag or a digest by itself, also behind a registry with a port. */
bool request_image_has_tag(const char *image);
