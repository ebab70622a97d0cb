/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SSH into the container: the tenant's keys, and an sshd that reads them.
 *
 *   NONE       nothing of it is wanted, or the container does not run
 *   TRYING     an sshd is looked for, started or installed
 *   CONTAINER  one listens on port 22 of the container
 *   VM         the container has none and cannot get one, with words
 *
 * An sshd that the image brings and starts itself is left to it. Otherwise one is started, after it
 * was installed by the image's package manager if need be.
 * Trust: runs in vmmon; reads answers of a container engine in a guest, and what programs of the
 * tenant's image print.
 */
#pragma once

#include "proto/proto.h"
#include "vmmon/engine/link.h"

#include <event2/event.h>

#define LOGIN_KEY_SIZE   128
#define LOGIN_WORDS_SIZE 128

struct login_status {
	enum proto_login place;
	char host_key[LOGIN_KEY_SIZE]; /* CONTAINER: "ssh-ed25519 base64"; "": not known */
	char words[LOGIN_WORDS_SIZE];  /* for people, ASCII */
};

struct login_config {
	struct event_base *base;
	struct engine_link *link; /* borrowed */
	void *ctx;                /* passed to both */
	/* Something of the status has changed. */
	void (*on_status)(void *ctx);
	/* The newest list of keys is in the container, or will be as soon as that runs. */
	void (*on_keys)(void *ctx);
};

struct login;

/* NULL: out of memory. */
struct login *login_new(const struct login_config *config);

/* NULL is fine. */
void login_free(struct login *l);

/*
 * The container runs, since @started (a text that is another for each run): brings its sshd to
 * life. Harmless when that was done or is being done. @version: of the engine's API; @container:
 * its id.
 */
void login_begin(struct login *l, unsigned int version, const char *container, const char *started);

/* It does not run, or there is no way to it. */
void login_stop(struct login *l);

/* Sets the list of keys (copied; checked by the caller). */
int login_set_keys(struct login *l, const char *text, size_t len);

/* Is a list on its way into the container? on_keys tells its end. */
bool login_keys_busy(const struct login *l);

const struct login_status *login_status(const struct login *l);

/* "key ssh-ed25519 BASE64" among the lines that a script has printed; false when there is none. */
bool login_find_key(const char *output, size_t len, char ret_key[static LOGIN_KEY_SIZE]);
