/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The management key, guests' pinned host keys and seeds that are not delivered yet, all in the
 * state directory:
 *   management_key, management_key.pub    made once; the private part never leaves this user
 *   guests/<vm>/host_key.pub              what the guest's sshd must show
 *   guests/<vm>/seed.img                  until vfio-helper has it; then only the guest has the key
 * Trust: runs in vmmon; reads files that vmmon wrote.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"

#include <libssh/libssh.h>

#define KEYS_LINE_SIZE  128 /* bytes of a public key as text, with NUL */
#define KEYS_MAX_GUESTS 64  /* guests that may be enrolled at one time */

struct keys {
	int state_fd;  /* owned */
	int guests_fd; /* owned */
	char management_public[KEYS_LINE_SIZE];
};

#define KEYS_INIT ((struct keys){.state_fd = -EBADF, .guests_fd = -EBADF})

/* Opens the state directory @dir, which must exist, and makes the management key if there is none.
 */
int keys_open(struct keys *k, const char *dir, struct err *reterr);
void keys_done(struct keys *k);

/* Reads the management key; the caller frees it with ssh_key_free() as soon as possible. */
int keys_management(const struct keys *k, ssh_key *ret_key);

/*
 * Makes sure that @vm has a host key: an existing one is kept, otherwise key and seed are made.
 * Returns its public line. -ENOSPC when KEYS_MAX_GUESTS are enrolled, or another errno.
 */
int keys_enrol(const struct keys *k, const char *vm, char ret_line[static KEYS_LINE_SIZE]);

/* The seed of @vm that waits for delivery, as a sealed memfd; -ENOENT when none waits. */
int keys_pending_seed(const struct keys *k, const char *vm);

/* The seed was delivered: deletes our copy, and with it the guest's private key. */
int keys_seed_delivered(const struct keys *k, const char *vm);

/* The pinned public line of @vm; -ENOENT when it is not enrolled. */
int keys_pinned(const struct keys *k, const char *vm, char ret_line[static KEYS_LINE_SIZE]);

/* Deletes what there is of @vm. Not existing is no error. */
int keys_discard(const struct keys *k, const char *vm);
