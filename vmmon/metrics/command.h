/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command that prints a guest's figures, see lines.h.
 * Trust: runs in vmmon; makes constant text.
 */
#pragma once

#include "common/base.h"

#define COMMAND_MAX 4096

/* The only part that is not constant is the interval, as a decimal number of seconds and of ms. */
void command_make(uint32_t interval_ms, char ret_command[static COMMAND_MAX]);
