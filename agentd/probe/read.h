/* SPDX-License-Identifier: Apache-2.0 */
/* Asking NVML. */
#pragma once

#include "agentd/probe/probe.h"

/*
 * Loads @library (a name for the dynamic linker, or a path) and asks it about every GPU. It may
 * hang, crash, print or write where it likes within this process, which is good for nothing
 * afterwards but telling *@ret_report and ending.
 */
void read_nvml(const char *library, struct probe_report *ret_report);
