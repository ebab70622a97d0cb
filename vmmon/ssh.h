/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One SSH session to a guest that does one fixed thing: replace the list of the tenant's keys.
 * Trust: runs in vmmon; reads SSH of a guest, which its tenant owns.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"
#include "vmmon/session.h"

struct ssh_job;

/* The outcome, once: PROTO_OK, PROTO_UNREACHABLE, PROTO_TIMEOUT or PROTO_FAILED. */
typedef void ssh_done_fn(void *arg, enum proto_status status);

/*
 * Begins to install @keys (@len bytes, checked by the caller, copied) in the guest. @fn is not
 * called before this has returned; afterwards the job must be freed with ssh_job_free(), which may
 * happen within @fn, or earlier to give it up. @patience_ms is for each phase (login, channel,
 * command, list, result), so that a slow guest gets on and a stuck one is given up.
 */
int ssh_job_start(const struct session_target *target, const char *keys, size_t len,
		  uint32_t patience_ms, ssh_done_fn *fn, void *arg, struct ssh_job **ret_job);

/* NULL is fine. */
void ssh_job_free(struct ssh_job *job);
