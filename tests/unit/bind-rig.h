/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A made-up machine for vfio-bind: a sysfs tree from a board's description, records, device nodes,
 * a procfs, and a kernel that reacts to what is written, between two steps of the act under test.
 * Trust: runs in tests only.
 */
#pragma once

#include "vfio-helper/bind/act.h"

/* What happens at the @at-th point that an act passes (from 1 on). */
enum trouble {
	TROUBLE_NONE,
	TROUBLE_LIE,  /* the kernel takes what was written and does nothing */
	TROUBLE_FAIL, /* every write up to the next point fails */
	TROUBLE_KILL, /* the process ends */
	TROUBLE_CALL, /* machine_call is called */
};
extern enum trouble trouble;
extern int trouble_at;
extern void (*machine_call)(void);
/* From here on no file grows, as on a full disk, but for what the kernel does. */
extern bool machine_full;
/* Points passed since machine_quiet(), with their names. */
extern int n_points;
const char *point_name(int n);

/* Makes a machine of @board (text, see tests/tools/fake-sysfs) in a fresh directory. */
void machine_make(const char *board);
void machine_done(void);
/* Every function gets the driver that it had first, and every attribute its first value. */
void machine_boot(void);
/* No trouble, no points. */
void machine_quiet(void);
/* Everything in sysfs and below /dev as sorted text; the caller frees it. */
char *machine_snapshot(void);
/* Names in the directory of records, without "lock": "lease-vm1 ", in order; static. */
const char *machine_records(void);
/* Path of something in the machine: "sys/bus", "state/lease-vm1"; one of eight static buffers. */
const char *machine_path(const char *format, ...) _printf_(1, 2);
void machine_write(const char *path, const char *text);
/* Driver of a function, "" for none; static. */
const char *machine_driver(const char *address);
/* Lets process @pid, in @unit, have a device node of @address open; needs root for the node. */
void machine_hold(unsigned int pid, const char *program, const char *unit, const char *address);
bool machine_has_nodes(void);

/* What acts run with; keys may be changed before machine_act(). */
extern struct bind_env machine_env;
extern int64_t machine_ms; /* that an act has */
/* Commands that the stand-in for systemctl was given: "stop nvidia-powerd.service\n"; static. */
const char *machine_systemctl(void);

/* Does one act, with all that is opened for it, and gives its answer. @gpus ends with NULL. */
enum proto_status machine_act(enum bind_act act, const char *vm, const char *const gpus[],
			      struct bind_answer *ret_ans, int *ret_fd);
