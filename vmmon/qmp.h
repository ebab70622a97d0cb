/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's machine protocol: greeting, capabilities, status, a few events, one command.
 * Trust: runs in vmmon; reads JSON of a QEMU that its guest may have taken over.
 */
#pragma once

#include "common/base.h"

#include <event2/event.h>

#define QMP_LINE_MAX (64 * 1024) /* bytes of one message */

/* What one message meant. */
enum qmp_kind {
	QMP_OTHER, /* well-formed and of no interest */
	QMP_GREETING,
	QMP_RETURN,
	QMP_ERROR,
	QMP_RESET,
	QMP_SHUTDOWN,
	QMP_POWERDOWN,
	QMP_STOP,
	QMP_RESUME,
	QMP_PANICKED,
};

struct qmp_message {
	enum qmp_kind kind;
	uint32_t id; /* of a return or error; 0: none */
};

/* Cuts a byte stream into lines of at most QMP_LINE_MAX bytes. */
struct qmp_decoder {
	char *line; /* owned */
	size_t used, size;
};

/*
 * Takes @len bytes and calls @fn for each message. Returns 0, or stops with -EBADMSG (not JSON, not
 * an object), -EMSGSIZE (a line is too long), -ENOMEM, or the negative value that @fn returned.
 */
int qmp_decode(struct qmp_decoder *d, const void *data, size_t len,
	       int (*fn)(void *arg, const struct qmp_message *msg), void *arg);

/* Frees what the decoder holds. */
void qmp_decoder_done(struct qmp_decoder *d);

/* Told to the owner. */
enum qmp_note {
	QMP_NOTE_UP,        /* negotiated; QEMU answers */
	QMP_NOTE_RESET,     /* the guest was reset */
	QMP_NOTE_SHUTDOWN,  /* the guest has shut down, or was told to by a signal */
	QMP_NOTE_POWERDOWN, /* the power button was pressed */
	QMP_NOTE_PANICKED,  /* the guest's kernel says that it has panicked */
	QMP_NOTE_PRESSED,   /* qmp_powerdown() was done */
	QMP_NOTE_REFUSED,   /* qmp_powerdown() was refused */
	QMP_NOTE_CLOSED,    /* the connection has ended; nothing follows */
};

struct qmp;

/* May free the connection only when @note is QMP_NOTE_CLOSED. */
typedef void qmp_note_fn(void *arg, enum qmp_note note);

/* Connects to the socket at @path. @fn is not called before this has returned. */
int qmp_open(struct event_base *base, const char *path, qmp_note_fn *fn, void *arg,
	     struct qmp **ret_qmp);

/* Closes without a note. NULL is fine. */
void qmp_free(struct qmp *q);

/* Presses the power button; one of two notes follows. -ENOTCONN before QMP_NOTE_UP. */
int qmp_powerdown(struct qmp *q);
