/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which registries an engine on this host may be sent to: it asks whatever a tenant names, as the
 * user that it runs as, from inside the host's network.
 * Trust: pure; reads text of strangers.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"

#define REGISTRY_LIST_SIZE 1024
#define REGISTRY_ANY       "*" /* whatever is not known by its name to be of a closed network */

/*
 * Is @list one: entries with commas between, each "*" or host[:port]? "docker.io" is the registry
 * of images that name none. Returns 0, or -EINVAL with the reason.
 */
int registry_list_check(const char *list, struct err *reterr);

/*
 * May the image @reference come from where it says, by the @list (checked)? An entry's very name
 * always may; with "*" so may every other one but "localhost", names without a dot or below a
 * domain that no public one has, and numeric addresses that are no public IPv4 addresses. What a
 * name resolves to, and where a registry redirects to, is not seen here.
 * Returns 0, -EINVAL (it is no reference) or -EACCES, with the reason.
 */
int registry_allowed(const char *list, const char *reference, struct err *reterr);
