/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The capability check of GPUs by the agent's list: the root helper's judgement, with remedies.
 *
 * Trust: runs as the operator, read only; reads the agent's answers.
 */
#include "ctl/check.h"
#include "ctl/gpus.h"

/* What to do about each reason; the keys are those of helper.conf. */
static const struct {
	const char *word, *remedy;
} remedies[] = {
	{"no_iommu", "see the line iommu"},
	{"boot_display",
	 "let the firmware use another display, or none; or, when nobody looks at it: "
	 "gpu_allow_boot_display = yes"},
	{"virtualised", "remove its virtual functions or mediated devices"},
	{"not_viable", "another slot may help, where it has a group of its own; a device without a "
		       "driver can go along: gpu_along"},
	{"reserved", "see vfio-pci.ids= on the kernel's command line and /etc/modprobe.d; "
		     "gpu_adopt_vfio = yes takes over what was bound at boot; see also gpu_never"},
	{"busy", "stop what has it open; a service may be stopped for it: gpu_services"},
	{"quarantined", "qudatactl gpus recover"},
	{"half_bound", "qudatactl gpus recover"},
};

static const char *remedy_of(const char *verdict)
{
	for (size_t i = 0; i < ARRAY_LEN(remedies); i++)
		if (STR_EQ(remedies[i].word, verdict))
			return remedies[i].remedy;
	return NULL;
}

/* ": busy (Xorg (7) has /dev/dri/card0 open), …": all that speaks against it. */
static void reasons_text(const json_t *gpu, char *buf, size_t size)
{
	const char *address = gpu_text(gpu, "address");
	const json_t *reason;
	size_t i, len = 0;

	buf[0] = 0;
	json_array_foreach (json_object_get(gpu, "reasons"), i, reason) {
		const char *about = gpu_text(reason, "address"), *what = gpu_text(reason, "what");
		bool self = !*about || STR_EQ(about, address);

		snprintf(buf + len, size - len, "%s%.20s%s%.24s%s%.120s%s", i > 0 ? ", " : ": ",
			 gpu_text(reason, "reason"), self && !*what ? "" : " (", self ? "" : about,
			 !self && *what ? ": " : "", what, self && !*what ? "" : ")");
		len = strlen(buf);
	}
}

static void check_one(struct check_report *report, const json_t *gpu)
{
	const char *verdict = gpu_text(gpu, "verdict"), *owner = gpu_text(gpu, "instance");
	const char *address = gpu_text(gpu, "address"), *name = gpu_text(gpu, "name");
	bool rentable = STR_EQ(verdict, "rentable");
	char reasons[1024];

	reasons_text(gpu, reasons, sizeof(reasons));
	if (json_is_true(json_object_get(gpu, "leased")) && STR_EQ(verdict, "busy"))
		check_add(report, CHECK_OK, "gpu", NULL, "%s %s: in use by instance %s", address,
			  name, owner);
	else if (rentable && *owner)
		check_add(report, CHECK_OK, "gpu", NULL, "%s %s: promised to instance %s", address,
			  name, owner);
	else
		check_add(report, rentable ? CHECK_OK : CHECK_WARN, "gpu", remedy_of(verdict),
			  "%s %s: %s%s", address, name,
			  rentable ? "can be rented" : "cannot be rented", reasons);
}

void check_listed_gpus(const struct check_env *env, struct check_report *report)
{
	const json_t *gpu;
	size_t i;

	json_array_foreach (env->gpus, i, gpu)
		check_one(report, gpu);
}

void check_gpu_data(const struct check_env *env, struct check_report *report)
{
	if (json_is_true(json_object_get(env->nvml, "fake_gpus")))
		check_add(report, CHECK_WARN, "gpu-data",
			  "debug = no in agentd.conf, and no QUDATA_DEBUG in its environment",
			  "data of GPUs are made up: debug is on");
	else if (gpu_figures_wrong(env->nvml))
		check_add(report, CHECK_WARN, "gpu-data",
			  "see nvml-probe(8): systemctl enable --now qudata-nvml.socket; or "
			  "nvml = no in agentd.conf",
			  "no figures of the host's GPUs: %s", gpu_text(env->nvml, "detail"));
}
