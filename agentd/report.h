/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of the instances and GPUs goes to the control plane, and what comes of its answers.
 * Trust: runs inside agentd.
 */
#pragma once

#include "agentd/agentd.h"
#include "agentd/controlplane.h"

/* Begins to report, where there is a control plane. */
int report_start(struct agentd *a, struct err *reterr);
/*
 * Fills the GPU figures of the reported instance's guest as far as they are known (those of the
 * host's own driver for an instance without GPUs of its own), and asks for the next: what came last
 * goes out now, what is asked for now goes out next time. @ctx: the agentd.
 */
void report_gpus(void *ctx, struct control_stats *stats);
/* A status word has changed: reported at once. */
void report_changed(struct agentd *a);
