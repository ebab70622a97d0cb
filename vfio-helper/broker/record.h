/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of the broker's own: fixed-size structs, written whole and durably, with a sum. No
 * padding: they are files as they are.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"

#include <sys/types.h>

/* What a VM is: vms/<vm>/record. Without this file the directory is an unfinished one. */
struct vm_record {
	char image[PROTO_NAME_SIZE];
	uint32_t slot;
	uint32_t disk_mib;
	uint32_t generation; /* of the latest start; 0: never started */
	uint32_t exit_kind;
	uint32_t exit_code;
	uint32_t gpus;   /* of its lease, once that is complete */
	uint32_t leased; /* there may be a lease: set before it is asked for */
};

/* What runs: <run_dir>/<vm>/running, from just before QEMU's exec to its end. */
struct run_record {
	char boot_id[40];
	uint64_t qemu_start; /* field 22 of /proc/<pid>/stat: tells a recycled pid */
	uint64_t passt_start;
	uint32_t qemu_pid, passt_pid;
	uint32_t generation, accel, cpus, memory_mib, started_s, limited;
	struct proto_port ports[PROTO_MAX_PORTS];
};

/*
 * What the image's disk was when the VM first started on it: vms/<vm>/base. Its own disk holds only
 * what differs, so another base under the same name would make rubbish of both.
 */
struct base_record {
	uint64_t size;
	int64_t modified_s;
};

struct accel_record {
	char basis[192]; /* what the result is valid for: kernel and QEMU of the host */
	uint32_t accel, reason, sign_of_life_ms;
};

/* Writes @size bytes of @body, or reads exactly that many back; -EBADMSG when they are damaged. The
 * last two use an open file, which a crash may damage. */
int record_save(int dirfd, const char *name, const void *body, size_t size);
int record_load(int dirfd, const char *name, void *ret_body, size_t size);
int record_put(int fd, const char *name, const void *body, size_t size);
int record_get(int fd, const char *name, void *ret_body, size_t size);
/* Field 22 of /proc/<pid>/stat, and the real uid that all four of its ids must equal. */
int process_identify(pid_t pid, uint64_t *ret_start, uid_t *ret_uid);
