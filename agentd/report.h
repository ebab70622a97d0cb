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
 * Fills the figures of the reported instance's guest (GPUs, processors, memory) as far as they are
 * known (GPUs of the host's own driver for an instance without any), and asks for the next: what
 * came last goes out now, what is asked for now goes out next time. @ctx: the agentd.
 */
void report_figures(void *ctx, struct control_stats *stats);
/* A status word has changed: reported at once. */
void report_changed(struct agentd *a);
