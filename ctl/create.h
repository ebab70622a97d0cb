/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The request that `qudatactl create` sends, made from its options.
 *
 * Trust: runs as the operator; reads argv, and the environment where asked to.
 */
#pragma once

#include <jansson.h>

#include "ctl/ctl.h"

/* The body of POST /v1/instances (owned by the caller), or NULL with the failure reported. */
json_t *create_request(struct ctl *c, enum ctl_exit *ret_code);
