/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GPUs that the host's own driver has, as nvml-probe tells of them: asked for when somebody
 * wants to know, seldom, and never while vfio-helper acts on GPUs.
 * Trust: runs inside agentd; reads reports of nvml-probe, which runs the driver's closed library,
 * and checks them again.
 */
#pragma once

#include "agentd/config.h"
#include "agentd/peers.h"
#include "agentd/probe/probe.h"

#include <event2/event.h>
#include <jansson.h>

struct hostgpus;

/* What is known now. */
struct hostgpus_view {
	const char *state;                 /* a word for programs */
	const char *detail;                /* the same for people */
	bool fake;                         /* made up, because `debug = yes` */
	uint64_t age_ms;                   /* of the report */
	const struct probe_report *report; /* borrowed; NULL when nothing is known */
};

/*
 * @config and @peers are borrowed for good. @drivers is the directory of PCI drivers in sysfs, NULL
 * for the real one.
 */
int hostgpus_new(const struct agentd_config *config, struct event_base *base, struct peers *peers,
		 const char *drivers, struct hostgpus **ret_gpus, struct err *reterr);

/*
 * Before peers_free(): whatever waits is answered, nothing more is begun. NULL is fine, as below.
 */
void hostgpus_stop(struct hostgpus *h);
/* After peers_free(), whose callbacks may still be ours. A probe that runs ends by it. */
void hostgpus_free(struct hostgpus *h);

struct hostgpus_view hostgpus_view(struct hostgpus *h);

/* Somebody uses the figures: has them read anew unless they are recent. Returns at once. */
void hostgpus_want(struct hostgpus *h);

/* Is a report on its way? */
bool hostgpus_is_asking(const struct hostgpus *h);

/*
 * The same as hostgpus_want(), and calls @fn when the report has come, when none comes, or after
 * @wait_ms: exactly once, maybe before this returns.
 */
void hostgpus_wait(struct hostgpus *h, uint32_t wait_ms, void (*fn)(void *arg), void *arg);

/*
 * peers_call() to vfio-helper for an act on GPUs: a probe that runs is ended first, and none begins
 * until the answer is there, so that none has open what is to be bound. One that cannot be ended
 * puts the act off by a few seconds; vfio-bind then finds who has the GPU open.
 */
int hostgpus_call(struct hostgpus *h, uint32_t op_number, const void *req, uint32_t timeout_ms,
		  rpc_reply_fn *fn, void *arg);

/* Is it an operation for hostgpus_call(), and not for peers_call()? */
bool hostgpus_is_act(uint32_t op_number);

/* A newest CUDA as people write it, "12.4"; "" when it is not known. */
void hostgpus_cuda_text(const struct probe_report *report, char ret_text[static 16]);

/*
 * The GPUs together as the control plane wants them, in thousandths; see metrics_sum_gpus().
 */
void hostgpus_sum(const struct probe_report *report, uint32_t *ret_percent, uint32_t *ret_celsius,
		  uint32_t *ret_memory_percent);

/* The GPU at @address in a view's report, or NULL. */
const struct probe_gpu *hostgpus_find(const struct hostgpus_view *view, uint64_t address);

/*
 * The same of the GPU that container engines know as @name: by its UUID; of a number or a part of a
 * GPU there is no telling. Of figures that are made up each has the same.
 */
const struct probe_gpu *hostgpus_find_name(const struct hostgpus_view *view, const char *name);

/* JSON: state, detail, versions; and one GPU's figures (null without any). */
json_t *hostgpus_view_json(const struct hostgpus_view *view);
json_t *hostgpus_gpu_json(const struct probe_gpu *gpu);
