/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances on disk: one file each, replaced as a whole.
 * Trust: runs inside agentd; reads back its own files, which may have been damaged.
 */
#pragma once

#include "agentd/instance.h"
#include "common/base.h"
#include "common/err.h"

#define STORE_DIR      "instances"
#define STORE_FILE_MAX (4u * 1024 * 1024) /* bytes */

/*
 * Writes the first record of a new instance into directory @dirfd, durably, with half of what
 * store_save() asks of the disk: whoever wants the instance waits. Returns 0, or a negative errno;
 * then there is none.
 */
int store_create(int dirfd, const struct instance *inst);

/* Writes the record of @inst into directory @dirfd, durably. Returns 0 or a negative errno. */
int store_save(int dirfd, const struct instance *inst);

/* Removes the record. One that is not there is no error. */
int store_remove(int dirfd, const char *id);

/*
 * Loads every record of @dirfd into @list. A file that cannot be understood becomes a quarantined
 * instance whose error says why: it keeps its place, and its file is left as it is. A file whose
 * name is none of ours is named in the log and left alone. A new record in whose writing the host
 * went down is taken if it is whole, quarantined like others if it cannot be read or cannot get its
 * name, else removed. Returns 0 or a negative errno.
 */
int store_load(int dirfd, struct agentd *a, struct instance_list *list, struct err *reterr);

/* Reads one record from memory; @inst is new and has its id. Returns 0 or -EINVAL with the reason.
 */
int store_parse(const char *text, size_t len, struct instance *inst, struct err *reterr);
