/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients see of an instance.
 * Trust: runs inside agentd; shows nothing secret.
 */
#pragma once

#include "agentd/agentd.h"

/* The status word, one of: pending running paused rebooting error destroyed. */
const char *view_status(const struct instance *inst);

/* "healthy", "unhealthy" or "unknown": is its guest heard of? */
const char *view_health(const struct instance *inst);

/* What is going on, for people; "" when there is nothing to say. */
void view_detail(const struct instance *inst, char *ret_text, size_t size);

/*
 * The instance as JSON text, cached until it changes (NULL: out of memory). Belongs to the
 * instance.
 */
const char *view_instance(struct instance *inst);

/* The same as a JSON value, to be changed and freed by the caller. */
json_t *view_instance_json(const struct instance *inst);

/* {"22": "10001"}: guest port to the port that a client connects to. Owned by the caller. */
json_t *view_ports(const struct instance *inst);

/* ["0000:01:00.0"]: the addresses of its GPUs. Owned by the caller. */
json_t *view_gpus(const struct instance *inst);

/* Complete answers, with their envelope, cached until something changes. NULL: out of memory. */
const char *view_list(struct agentd *a);
const char *view_bare(struct agentd *a);
