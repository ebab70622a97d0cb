/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The capability check: what a host has of what instances need, and the remedy for what it lacks.
 *
 * Trust: runs as the operator, read only; reads proc, sysfs and the versions that programs print.
 *
 * Everything is looked up below one directory descriptor, so that tests can show it any host.
 */
#pragma once

#include <jansson.h>

#include "common/base.h"

enum check_level {
	CHECK_OK,
	CHECK_INFO, /* nothing to do; worth knowing */
	CHECK_WARN, /* works, but less than it could */
	CHECK_FAIL, /* instances can not run */
};

struct check_result {
	enum check_level level;
	const char *id; /* stable name for scripts; constant */
	char *detail;   /* owned: what was found */
	char *remedy;   /* owned: what to do, or NULL */
};

struct check_report {
	struct check_result *results; /* owned */
	size_t n;
};

struct check_env {
	int root_fd;            /* borrowed: "/", or a test's directory */
	const char *path;       /* where programs are, like PATH */
	const char *qemu;       /* QEMU's path or name */
	const char *images_dir; /* absolute */
	const char *helper_dir; /* absolute: the helper's state */
	uint64_t min_free_mib;  /* less than this for disks is a failure */
	/* The agent's word on acceleration (GET /v1/host), or NULL when it does not answer. */
	const char *accel_choice, *accel_reason;
	/* The agent's list of GPUs (GET /v1/gpus), borrowed, or NULL when it gives none. */
	const json_t *gpus;
	/* How the agent fares with NVML (the same answer, or GET /v1/host), borrowed, or NULL. */
	const json_t *nvml;
	const char *backend; /* the agent's word on it, or NULL */
	/* What the engine on this host says (GET /v1/engine), borrowed, or NULL. */
	const json_t *engine;
	bool agent_answers;
	bool (*user_exists)(const char *name);
	/*
	 * Runs the program @fd (an O_PATH descriptor) with the one argument @arg, no shell, as
	 * @name (some behave by the name that they are called by, passt does), and
	 * collects at most @size - 1 bytes of its output. 0 or negative errno.
	 */
	int (*run)(int fd, const char *name, const char *arg, char *buf, size_t size);
};

/* A real host: "/", the environment's settings, the real user database and programs. */
void check_env_real(struct check_env *ret_env);
/* All checks, in the order in which they are read. */
void check_all(const struct check_env *env, struct check_report *ret_report);
void check_report_done(struct check_report *report);
size_t check_count(const struct check_report *report, enum check_level level);
/* The report as a JSON object; owned by the caller. */
json_t *check_to_json(const struct check_report *report);
/* The report for people; @color says whether colours may be used. */
void check_print(const struct check_report *report, FILE *f, bool color);
const char *check_level_name(enum check_level level);

/* ---- for the folder's check_*.c ---- */

/* Adds a result; @remedy may be NULL. @fmt makes the detail. */
void check_add(struct check_report *report, enum check_level level, const char *id,
	       const char *remedy, const char *fmt, ...) _printf_(5, 6);
/* The whole of a small file below the root, without trailing white space; length or negative errno.
 */
ssize_t check_read(const struct check_env *env, const char *path, char *buf, size_t size);
/* Whether @path (absolute or relative to the root) exists: 0, or negative errno. */
int check_exists(const struct check_env *env, const char *path);
/* Whether @line has @word, with blanks or nothing around it. */
bool check_has_word(const char *line, const char *word);
/* IOMMU, VFIO and the GPUs. */
void check_pci(const struct check_env *env, struct check_report *report);
bool check_has_gpu(const struct check_env *env);
/* What is known against this kernel, or this QEMU (a version as check_parse_version() gives it), on
 * a host with GPUs. */
void check_kernel_faults(const struct check_env *env, struct check_report *report);
void check_qemu_faults(const struct check_env *env, struct check_report *report, int version);
/* Whether kernel and QEMU have iommufd, where helper.conf or the kernel asks for it. */
void check_iommufd(const struct check_env *env, struct check_report *report, int qemu_version);
/* What the agent says of each GPU in @env->gpus. */
void check_listed_gpus(const struct check_env *env, struct check_report *report);
/* Are data of GPUs made up, or not to be had? */
void check_gpu_data(const struct check_env *env, struct check_report *report);
/* Containers on this host: their engine. */
void check_engine(const struct check_env *env, struct check_report *report);
void check_programs(const struct check_env *env, struct check_report *report);
/* The .run of a real host. */
int check_run_program(int fd, const char *name, const char *arg, char *buf, size_t size);
/*
 * The first "N.N[.N]" in @text: major * 10000 + minor * 100 + patch, or -EINVAL. Numbers above 99
 * behind the first point count as 99.
 */
int check_parse_version(const char *text);
