/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances as the agent describes them, how an operator names one, and waiting for a state.
 *
 * Trust: runs as the operator; reads the agent's answers, texts in them are hostile.
 */
#pragma once

#include <jansson.h>

#include "ctl/api.h"
#include "ctl/parse.h"

#define INSTANCE_WAIT_DEFAULT_S 300

struct instance_ssh {
	const char *host, *user, *host_key; /* borrowed */
	const char *in, *detail; /* "container" or "vm", and why; NULL when not said. Untrusted */
	uint16_t port;
};

/* Everything is borrowed from the JSON value that it was read from. */
struct instance {
	const char *id, *status;           /* never NULL */
	const char *name, *detail, *error; /* NULL when absent or empty */
	const char *image, *accel;
	const char *health, *health_detail; /* NULL when absent or empty */
	int64_t cpus, memory_mib, disk_mib; /* 0 when unknown */
	int64_t created_at, since;          /* Unix seconds; 0 when unknown */
	const json_t *ports;                /* object, or NULL */
	const json_t *gpus;                 /* array of addresses, or NULL */
	const json_t *ssh;                  /* object, or NULL */
	const json_t *tunnels;              /* object by guest port, or NULL: no server */
};

/* -EBADMSG unless @json is an object with a well-formed id and a status. */
int instance_read(const json_t *json, struct instance *ret_inst);
/*
 * The validated SSH address of an instance. -ENOENT: it has none (yet); -EBADMSG: a field could be
 * mistaken for an option or a second known_hosts entry, or is malformed.
 */
int instance_read_ssh(const struct instance *inst, struct instance_ssh *ret_ssh);
/* Why nobody can log in to a container on the host, untrusted; NULL when that is not so. */
const char *instance_ssh_refusal(const struct instance *inst);

/*
 * Which of @instances (array of objects) does @arg (id, unique prefix, name, or NULL for the only
 * one) mean? CTL_OK with @ret_id, or CTL_NOT_FOUND or CTL_USAGE with @ret_error (owned).
 */
enum ctl_exit instance_choose(const json_t *instances, const char *arg,
			      char ret_id[static PARSE_NAME_MAX + 1], char **ret_error);
/* The same, asking the agent when @arg is no full id. Failures are reported. */
enum ctl_exit instance_pick(struct ctl *c, const char *arg, char ret_id[static PARSE_NAME_MAX + 1]);

/* Calls /v1/instances/ID@suffix (suffix may be ""). Failures are reported; the caller frees
 * @ret_reply. */
enum ctl_exit instance_call(struct ctl *c, const char *method, const char *id, const char *suffix,
			    const json_t *body, struct api_reply *ret_reply);

/*
 * Waits until @id has status @state ("destroyed": or is gone), at most @timeout_s. @progress prints
 * each new detail on stderr. @ret_json (owned, may be NULL) is the last description. Failures are
 * reported.
 */
enum ctl_exit instance_wait(struct ctl *c, const char *id, const char *state, uint32_t timeout_s,
			    bool progress, json_t **ret_json);
/* The value of --timeout, or INSTANCE_WAIT_DEFAULT_S. */
enum ctl_exit instance_wait_timeout(struct ctl *c, uint32_t *ret_timeout_s);

/* SGR colour of a status word; of a tunnel's state. */
int instance_status_color(const char *status);
int tunnel_state_color(const char *state);
