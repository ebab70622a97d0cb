/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels and QEMUs with known faults of GPUs in guests. Distributions take fixes over into older
 * versions, so what is said is what to look for, not a verdict.
 *
 * Trust: constant data; reads the version that the kernel tells.
 */
#include "ctl/check.h"

#define VERSION(major, minor, patch) ((major)*10000 + (minor)*100 + (patch))

struct fault {
	int from, below; /* from <= version < below */
	enum check_level level;
	const char *what, *remedy;
};

/* Each with the commit that mends it; git.kernel.org, torvalds/linux.git. */
static const struct fault kernel_faults[] = {
	/* d173780620792c725506b0f3c5ec52c7fbac1db0 */
	{0, VERSION(6, 0, 0), CHECK_WARN,
	 "vfio-pci does not take the firmware's console off a GPU: BARs cannot be mapped",
	 "use Linux 6.0 or newer, or boot with video=efifb:off"},
	/* a5a6dd2, of a fault that came with 3e347969a577 */
	{VERSION(6, 1, 0), VERSION(6, 4, 0), CHECK_INFO,
	 "NVIDIA cards of the Ampere kind may be lost at a VM's end until the host reboots, unless "
	 "the fix (D3hot delay of their audio function) was taken over",
	 "use Linux 6.4 or newer, or an update of 6.1 to 6.3 from after April 2023"},
	/* f9e54c3a2f5b79ecc57c7bc7d0d3521e461a2101 */
	{0, VERSION(6, 12, 0), CHECK_INFO,
	 "BARs are mapped in pages of 4 KiB: a VM starts slowly with BARs of many GiB",
	 "use Linux 6.15 and QEMU 9.2 or newer for GPUs with large BARs"},
	/* 09dfc8a5f2ce897005a94bf66cca4f91e4e03700, bugzilla.kernel.org 219619 */
	{VERSION(6, 12, 0), VERSION(6, 12, 10), CHECK_WARN,
	 "BARs may be mapped at wrong addresses, and GPUs fail in the guest",
	 "use Linux 6.12.10 or newer"},
	/* 0fd06844de5d063cb384384e06a11ec7141a35d5 */
	{VERSION(6, 12, 0), VERSION(6, 15, 0), CHECK_INFO,
	 "BARs are entered into the IOMMU page by page: a VM starts slowly with BARs of many GiB",
	 "use Linux 6.15 or newer for GPUs with large BARs"},
};

/* gitlab.com/qemu-project/qemu */
static const struct fault qemu_faults[] = {
	/* 9353b6da430f90e47f352dbf6dc31120c8914da6, issue 2061 */
	{VERSION(8, 2, 0), VERSION(8, 2, 1), CHECK_WARN,
	 "GPUs are not reset when their guest reboots, and fail after it",
	 "use QEMU 8.2.1 or newer"},
	/* 00b519c0 */
	{0, VERSION(9, 2, 0), CHECK_INFO,
	 "BARs are not aligned for the kernel's large pages: a VM starts slowly with BARs of many "
	 "GiB",
	 "use QEMU 9.2 or newer for GPUs with large BARs"},
};

static void list_faults(struct check_report *report, const char *id, const char *name,
			const struct fault *faults, size_t n, int version)
{
	bool any = false;

	for (size_t i = 0; i < n; i++) {
		const struct fault *fault = &faults[i];

		if (version < fault->from || version >= fault->below)
			continue;
		check_add(report, fault->level, id, fault->remedy, "%s %d.%d.%d: %s", name,
			  version / 10000, version / 100 % 100, version % 100, fault->what);
		any = true;
	}
	if (!any)
		check_add(report, CHECK_OK, id, NULL, "%s %d.%d.%d: no fault known with GPUs", name,
			  version / 10000, version / 100 % 100, version % 100);
}

void check_kernel_faults(const struct check_env *env, struct check_report *report)
{
	char release[128];
	int version;

	if (!check_has_gpu(env) ||
	    check_read(env, "proc/sys/kernel/osrelease", release, sizeof(release)) <= 0)
		return;
	version = check_parse_version(release);
	if (version >= 0)
		list_faults(report, "kernel", "Linux", kernel_faults, ARRAY_LEN(kernel_faults),
			    version);
}

void check_qemu_faults(const struct check_env *env, struct check_report *report, int version)
{
	if (check_has_gpu(env))
		list_faults(report, "qemu-gpu", "QEMU", qemu_faults, ARRAY_LEN(qemu_faults),
			    version);
}
