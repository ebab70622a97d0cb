/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting control-client from agentd, which may not fork once it is confined: a keeper process is
 * forked before, parses nothing, and starts the client again when it ends.
 */
#pragma once

#include "common/err.h"

/*
 * Forks the keeper, which starts the client at once. Returns agentd's end of the SEQPACKET pair,
 * non-blocking; keeper and client end when it is closed. STAGE_OPEN.
 */
int keeper_start(struct err *reterr);
