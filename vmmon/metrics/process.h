/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a VM's QEMU takes of the host: CPU time and memory, as the kernel counts them.
 * Trust: runs in vmmon; reads procfs. Which process it is, the kernel says of QEMU's socket.
 */
#pragma once

#include "common/base.h"

/*
 * Finds the process that listens at @socket, which has to call itself qemu-system-*, and keeps its
 * statistics open in @ret_fd: of that process for good, even when its id is used again. To be
 * called when QEMU has answered: earlier, the socket's listener is who made it. A negative errno
 * when it cannot be known, -ENOENT where other users' processes are hidden.
 */
int process_find(const char *socket, int *ret_fd);

/* Reads them: -ESRCH when the process has ended, or another errno. */
int process_read(int fd, uint64_t *ret_cpu_ms, uint64_t *ret_rss_kib);

/* The line of /proc/PID/stat (see proc_pid_stat(5)), for process_read() and tests. */
int process_parse(const char *line, uint64_t *ret_cpu_ms, uint64_t *ret_rss_kib);
