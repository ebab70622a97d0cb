/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start-up stages and the giving up of privilege, proved. Every daemon goes through the same stages
 * in the same order, and reads no stranger's byte before the last.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"

#include <linux/filter.h>

enum stage {
	STAGE_START,
	STAGE_CONFIG,  /* arguments and the administrator's file */
	STAGE_OPEN,    /* every path and socket it needs from outside */
	STAGE_DROP,    /* limits, capabilities, no_new_privs, undumpable */
	STAGE_SECCOMP, /* the system-call filter */
	STAGE_RUN,     /* strangers' input begins */
};

/* Enters the next stage; aborts when a stage was skipped. */
void stage_enter(enum stage next);

/* Aborts unless the process is in STAGE_RUN: for whatever begins to read strangers' bytes. */
void stage_assert_running(void);

/*
 * Makes sure that descriptors 0 to 2 are open, closes every inherited descriptor but those and the
 * @n_passed from 3 on (notify_listen_begin() of a daemon), unblocks and resets signals (SIGPIPE is
 * ignored from then on), and checks that there is a program name. Call it first.
 */
int priv_sane_start(int argc, unsigned int n_passed, struct err *reterr);

/*
 * Gives up everything but the capabilities in @keep (a mask of 1 << CAP_*; they stay permitted,
 * effective and in the bounding set; 0 for an unprivileged daemon), sets no_new_privs, undumpable
 * and no core file, then checks by asking the kernel that what was dropped is gone. With @keep == 0
 * it refuses (-EPERM) to go on as uid 0.
 */
int priv_drop(uint64_t keep, struct err *reterr);

/*
 * Takes all but @keep from what the process and whatever it executes can ever have (its bounding
 * set), for which it needs CAP_SETPCAP.
 */
int priv_bound_caps(uint64_t keep);

/* Checks that none of the process's ids can be turned back into @uid (by trying to). */
int priv_prove_no_return(uid_t uid, struct err *reterr);

/* Loads a filter generated from an .allow file for all threads; @name is for the error line. */
int priv_enter_filter(const char *name, const struct sock_filter *filter, size_t len,
		      struct err *reterr);

/* STAGE_DROP and STAGE_SECCOMP of program @name: priv_drop(@keep), then priv_enter_filter(). */
int priv_confine(const char *name, uint64_t keep, const struct sock_filter *filter, size_t len,
		 struct err *reterr);
