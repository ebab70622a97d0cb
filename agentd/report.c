/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of the instances and GPUs goes to the control plane.
 * Trust: runs inside agentd; reads vfio-helper's list of GPUs.
 */
#include "agentd/report.h"

#include "agentd/gpunames.h"
#include "agentd/metrics.h"
#include "common/fd.h"
#include "common/log.h"

#include <fcntl.h>

#define FIGURES_OLD_MS 5000 /* what is older is not told */

/* What the control plane is told of: the bare instance, else the one that was made first. */
static const struct instance *reported(struct agentd *a)
{
	const struct instance *bare = agentd_bare(a);

	return bare ? bare : TAILQ_FIRST(&a->instances);
}

static const char *status(void *ctx)
{
	const struct instance *inst = reported(ctx);

	return inst ? inst->status : NULL;
}

static void name_gpus(struct agentd *a, const struct gpus *gpus)
{
	_cleanup_close_ int sys_fd = open("/sys", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct pciids_name *name;
	char address[GPUS_TEXT_SIZE];

	a->host_vram_mib = CONTROL_UNKNOWN;
	a->host_gpus = (uint32_t)gpus->n;
	if (gpus->n == 0)
		return;
	gpu_names_learn(&a->gpu_names, gpus);
	a->host_gpu = gpus->entries[0].card.gpu;
	name = gpu_names_get(&a->gpu_names, gpus->entries[0].card.vendor,
			     gpus->entries[0].card.device);
	if (name)
		proto_text_set(a->host_gpu_name, sizeof(a->host_gpu_name), name->device_name);
	gpus_address_text(gpus->entries[0].card.gpu, address);
	a->host_vram_mib = hostinfo_vram_mib(sys_fd, address, a->host_gpu_name);
}

static void on_gpus(void *arg, enum proto_status answer, const void *body, struct fdlist *fds)
{
	_cleanup_(gpus_done) struct gpus gpus = {0};
	struct agentd *a = arg;
	struct err why = {0};

	a->host_gpus_asked = false;
	if (answer == PROTO_OK && gpus_receive(body, fds, &gpus, &why) < 0)
		log_event(LOG_WARNING, "vfio-helper's list of GPUs is of no use",
			  LOG_STR("WHY", why.text));
	/* A helper that refuses to list has none to offer. */
	if (answer == PROTO_OK || answer == PROTO_DENIED) {
		name_gpus(a, &gpus);
		a->host_gpus_known = true;
	}
}

/*
 * What the driver itself says of the GPU that is described, and of CUDA. Without vfio-helper's list
 * the driver's is the only one.
 */
static void describe_by_driver(struct agentd *a, struct control_host *host)
{
	struct hostgpus_view view = hostgpus_view(a->hostgpus);
	const struct probe_gpu *gpu = NULL;

	/* A made-up GPU stands in for none, never beside real ones. */
	if (!view.report ||
	    (view.fake && host->gpu_amount != 0 && host->gpu_amount != CONTROL_UNKNOWN))
		return;
	if (view.report->cuda != 0)
		hostgpus_cuda_text(view.report, host->max_cuda);
	if (view.report->n_gpus > 0)
		gpu = a->host_gpus > 0 ? hostgpus_find(&view, a->host_gpu) : &view.report->gpus[0];
	if (!gpu)
		return;
	if (gpu->name[0] != '\0')
		proto_text_set(host->gpu_name, sizeof(host->gpu_name), gpu->name);
	if (gpu->total_mib != PROBE_UNKNOWN)
		host->vram_mib = gpu->total_mib;
	if (a->host_gpus == 0)
		host->gpu_amount = view.report->n_gpus + view.report->left_out;
}

static bool describe(void *ctx, struct control_host *host)
{
	const struct gpu_list_req req = {0};
	struct agentd *a = ctx;

	if (!a->host_gpus_known && !a->host_gpus_asked)
		a->host_gpus_asked =
			agentd_call(a, PEER_HELPER, OP_GPU_LIST, &req, /* fd= */ -EBADF,
				    GPU_LIST_TIMEOUT_MS, on_gpus, a) == 0;
	if (peers_limits(a->peers)->known)
		host->capacity = peers_limits(a->peers)->max_vms;
	host->gpu_amount = a->host_gpus_known ? a->host_gpus : CONTROL_UNKNOWN;
	host->vram_mib = a->host_gpus_known ? a->host_vram_mib : CONTROL_UNKNOWN;
	memcpy(host->gpu_name, a->host_gpu_name, sizeof(host->gpu_name));
	hostgpus_want(a->hostgpus);
	describe_by_driver(a, host);
	return a->host_gpus_known && !hostgpus_is_asking(a->hostgpus);
}

static void on_figures(void *arg, enum proto_status answer, const void *body, struct fdlist *fds)
{
	_cleanup_(metrics_done) struct metrics_list list = {0};
	struct agentd *a = arg;
	struct report_figures *f = &a->figures;
	struct err why = {0};

	f->asked = false;
	if (answer != PROTO_OK)
		return;
	if (metrics_receive(body, fds, &list, &why) < 0) {
		log_event(LOG_WARNING, "vmmon's list of figures is of no use",
			  LOG_STR("WHY", why.text));
		return;
	}
	/* The number tells a new sample from one that has stayed. */
	if (list.n == 0 || list.newest == f->newest)
		return;
	(void)metrics_add_fakes(a->config.debug, &list);
	f->newest = list.newest;
	f->told_ms = rpc_now_ms();
	metrics_sum_gpus(&list, &f->gpu_util, &f->gpu_temp, &f->mem_util);
	metrics_guest_use(&list, &f->cpu_util, &f->ram_util);
}

/* Of a container on this host its own GPUs. */
static struct probe_report own_gpus(const struct instance *inst, const struct hostgpus_view *view)
{
	struct probe_report own = {0};

	for (size_t i = 0; i < instance_n_host_gpus(inst); i++) {
		const struct probe_gpu *gpu = hostgpus_find_name(view, inst->host_gpus[i]);

		if (gpu)
			own.gpus[own.n_gpus++] = *gpu;
	}
	return own;
}

/* An instance without GPUs of its own has the host's before its eyes, or shares them. */
static void report_host_gpus(struct agentd *a, const struct instance *inst,
			     struct control_stats *stats)
{
	struct hostgpus_view view;
	struct probe_report own;

	hostgpus_want(a->hostgpus);
	view = hostgpus_view(a->hostgpus);
	if (!view.report)
		return;
	own = own_gpus(inst, &view);
	hostgpus_sum(instance_n_host_gpus(inst) > 0 ? &own : view.report, &stats->gpu_util,
		     &stats->gpu_temp, &stats->mem_util);
}

static bool has_gpu_figures(const struct control_stats *stats)
{
	return stats->gpu_util != CONTROL_UNKNOWN || stats->gpu_temp != CONTROL_UNKNOWN ||
	       stats->mem_util != CONTROL_UNKNOWN;
}

void report_figures(void *ctx, struct control_stats *stats)
{
	struct agentd *a = ctx;
	const struct instance *inst = reported(a);
	struct report_figures *f = &a->figures;
	struct metrics_read_req req = {.max = 1};

	if (!inst)
		return;
	if (!f->asked && !STR_EQ(f->id, inst->id)) {
		*f = (struct report_figures){0};
		(void)proto_name_set(f->id, inst->id);
	}
	if (STR_EQ(f->id, inst->id) && f->told_ms != 0 &&
	    rpc_now_ms() - f->told_ms < FIGURES_OLD_MS) {
		stats->gpu_util = f->gpu_util;
		stats->gpu_temp = f->gpu_temp;
		stats->mem_util = f->mem_util;
		if (f->cpu_util != PROTO_NO_FIGURE)
			stats->cpu_util = f->cpu_util;
		if (f->ram_util != PROTO_NO_FIGURE)
			stats->ram_util = f->ram_util;
	}
	if (!has_gpu_figures(stats) && proto_gpus_count(inst->gpus) == 0)
		report_host_gpus(a, inst, stats);
	if (f->asked)
		return;
	memcpy(req.vm, f->id, sizeof(req.vm));
	f->asked = peers_call(a->peers, PEER_VMMON, OP_METRICS_READ, &req, -1, FIGURES_OLD_MS,
			      on_figures, a) == 0;
}

/* frp-supervisor takes them over; see tunnels.h. */
static void tunnels(void *ctx, const struct control_init *init)
{
	struct agentd *a = ctx;

	tunnels_offered(a, init);
	log_event(LOG_INFO, "the control plane offers tunnels",
		  LOG_STR("SERVER", init->frp_port ? init->frp_server : "none"));
}

int report_start(struct agentd *a, struct err *reterr)
{
	const struct controlplane_calls calls = {.ctx = a,
						 .describe = describe,
						 .status = status,
						 .figures = report_figures,
						 .tunnels = tunnels};

	return controlplane_start(a->cp, a->base, &calls, reterr);
}

void report_changed(struct agentd *a)
{
	controlplane_kick(a->cp);
}
