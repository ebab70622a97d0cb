/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Formatting of error lines.
 * Trust: runs in every program; formats what its caller passes.
 */
#include "common/err.h"

#include <stdarg.h>

int err_set(struct err *reterr, int code, const char *format, ...)
{
	va_list ap;

	if (!reterr)
		return code;
	va_start(ap, format);
	(void)vsnprintf(reterr->text, sizeof(reterr->text), format, ap);
	va_end(ap);
	return code;
}

int err_errno(struct err *reterr, int code, const char *format, ...)
{
	const char *words = strerrordesc_np(code < 0 ? -code : code);
	size_t used;
	va_list ap;

	if (!reterr)
		return code;
	va_start(ap, format);
	(void)vsnprintf(reterr->text, sizeof(reterr->text), format, ap);
	va_end(ap);
	used = strlen(reterr->text);
	(void)snprintf(reterr->text + used, sizeof(reterr->text) - used, ": %s",
		       words ? words : "unknown error");
	return code;
}
