/* SPDX-License-Identifier: Apache-2.0 */
/*
 * helper.conf, the policy of everything that runs as root, and the accounts that it names.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "proto/proto.h"
#include "vfio-helper/spec.h"

#include <sys/stat.h>

#define DIR_TEXT_MAX 60 /* leaves room for "/<vm>/console.sock" in a socket's address */

enum accel_choice {
	ACCEL_AUTO,
	ACCEL_KVM,
	ACCEL_TCG,
};

/* A choice of helper.conf that may be left to us. */
enum tristate {
	TRISTATE_AUTO,
	TRISTATE_YES,
	TRISTATE_NO,
};

/* The gpu_* keys. Lists are separated by commas. */
struct gpu_keys {
	char state_dir[DIR_TEXT_MAX]; /* leases and quarantines; root's */
	char vendors[128];            /* hexadecimal ids */
	char accelerators[128];       /* vendors whose class 1200 is a GPU */
	char along[512];              /* addresses to bind along with a card of their group */
	char never[512];              /* addresses that are not for rent */
	char services[512];           /* units that may be stopped for a bind */
	bool allow_boot_display, allow_virtual_functions, allow_nouveau, adopt_vfio, hide_vm;
	int rom;                /* enum tristate: show the guest the card's ROM */
	int iommufd;            /* enum tristate */
	uint32_t write_seconds; /* deadline of one write to sysfs */
};

struct config {
	char socket[DIR_TEXT_MAX];
	char state_dir[DIR_TEXT_MAX];
	char run_dir[DIR_TEXT_MAX];
	char image_dir[DIR_TEXT_MAX];
	char agentd_user[PROTO_NAME_SIZE];
	char vmmon_user[PROTO_NAME_SIZE];
	char helper_user[PROTO_NAME_SIZE]; /* of vfio-broker */
	char vm_user_prefix[PROTO_NAME_SIZE];
	char cgroup[128]; /* "auto", "none" or an absolute path */
	int accel;        /* enum accel_choice */
	uint32_t max_total_memory_mib;
	struct gpu_keys gpu;          /* as they are in the file; pci/policy.c parses the lists */
	struct account agentd, vmmon; /* the two peers: by accounts_load() */
	struct account helper;        /* the broker's */
	struct spawn_setup setup;     /* what the children have to know, too */
};

/* Reads @path (NULL: nothing) over the defaults and checks what the keys' own ranges cannot. */
int config_load(const char *path, struct config *ret_config, struct err *reterr);
/* Looks the accounts up in /etc/passwd, or in @passwd for tests. */
int accounts_load(struct config *config, const char *passwd, struct err *reterr);
/* Checks that only root could have put something else at @path (each directory on the way too). */
int config_check_trusted(const char *path, mode_t type, struct err *reterr);
