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
/* A status word has changed: reported at once. */
void report_changed(struct agentd *a);
