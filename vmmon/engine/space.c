/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room on the disk of an engine on this host.
 * Trust: runs in vmmon; follows a path that the engine tells.
 */
#include "vmmon/engine/space.h"

#include "vmmon/engine/answers.h"

#include <sys/statvfs.h>

bool space_free_mib(const char *root, uint64_t *ret_mib)
{
	char path[ANSWER_PATH_SIZE];
	struct statvfs st;
	char *slash;

	(void)snprintf(path, sizeof(path), "%s", root);
	/* Its folders may be closed to us; those above them are, as a rule, on the same disk. */
	while (statvfs(path, &st) < 0) {
		slash = strrchr(path, '/');
		if (!slash || slash == path)
			return false;
		*slash = '\0';
	}
	*ret_mib = (uint64_t)st.f_bavail * st.f_frsize >> 20;
	return true;
}
