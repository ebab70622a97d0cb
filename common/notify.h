/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service manager's protocols without its library: readiness (sd_notify(3)) and passed
 * listening sockets (sd_listen_fds(3)).
 */
#pragma once

#include "common/base.h"

/*
 * Connects to NOTIFY_SOCKET before the sandbox closes, and takes the variable out of the
 * environment. Without a service manager it does nothing.
 */
void notify_open(void);

/*
 * Tells the service manager: READY=1 with a status line; a new status line; STOPPING=1. Only the
 * first waits for a manager that does not read.
 */
void notify_ready(const char *status);
void notify_status(const char *status);
void notify_stopping(void);

/*
 * How many descriptors, from 3 on, the service manager passed to this very process. Takes note of
 * which of them are really there, so it is to be called before others are opened.
 */
unsigned int notify_listen_begin(void);

/*
 * The listening descriptor that the service manager passed under @name (FileDescriptorName=), made
 * close-on-exec and non-blocking; -ENOENT when it passed none of that name or none to this process
 * (LISTEN_PID). -EINVAL when it is no listening socket of @type (SOCK_SEQPACKET or SOCK_STREAM).
 */
int notify_listen_fd(const char *name, int type);

/* Closes what was passed and not taken, and forgets the variables after the last
 * notify_listen_fd(), so that no child inherits them. */
void notify_listen_done(void);
