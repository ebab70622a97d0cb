/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One line of explanation that travels up beside a negative errno, for people.
 */
#pragma once

#include "common/base.h"

#define ERR_TEXT_MAX 256

struct err {
	char text[ERR_TEXT_MAX];
};

/*
 * Writes a line into @reterr (may be NULL) and returns @code, so that a failing function can end
 * with `return err_set(reterr, -EINVAL, "…")`. The text names the remedy where there is one.
 */
int err_set(struct err *reterr, int code, const char *format, ...) _printf_(3, 4);

/* The same, followed by ": " and the system's text for @code. */
int err_errno(struct err *reterr, int code, const char *format, ...) _printf_(3, 4);
