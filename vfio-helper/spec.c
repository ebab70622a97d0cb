/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may be started: every number and name in a spec is checked here, whoever wrote it. Pure.
 * Trust: runs in vfio-helper as root and in vm-launch as a VM's user; reads what vfio-broker wrote.
 */
#include "vfio-helper/spec.h"

#define CDEV_MAX       (1u << 20)          /* minor numbers there are */
#define NODE_MAX       1024                /* NUMA nodes that Linux can be built for */
#define BAR_MAX        (UINT64_C(1) << 44) /* as much as OVMF's window can hold */
#define BARS_MAX       6                   /* that a function has */
#define FUNCTIONS_MAX  8                   /* in one slot */
#define MEMLOCK_SPARE  (UINT64_C(1) << 30) /* firmware, ROMs, what QEMU pins for itself */
#define MEMLOCK_LITTLE (UINT64_C(1) << 20) /* for a program that pins nothing */

/* What each program must be given and may be given besides. */
static const struct {
	uint32_t must, may;
} program_roles[] = {
	[PROGRAM_QEMU] = {FD_BIT(FD_STDERR) | FD_BIT(FD_GATE) | FD_BIT(FD_NET) |
				  FD_BIT(FD_CONSOLE) | FD_BIT(FD_DISK) | FD_BIT(FD_BASE) |
				  FD_BIT(FD_SEED) | FD_BIT(FD_IMAGE) | FD_BIT(FD_QMP) |
				  FD_BIT(FD_READY),
			  FD_BIT(FD_KERNEL) | FD_BIT(FD_INITRD) | FD_BIT(FD_IOMMU) |
				  FD_BIT(FD_VARS)},
	[PROGRAM_PASST] = {FD_BIT(FD_STDERR) | FD_BIT(FD_GATE) | FD_BIT(FD_NET), 0},
	[PROGRAM_QEMU_IMG] = {FD_BIT(FD_STDERR) | FD_BIT(FD_DISK) | FD_BIT(FD_IMAGE), 0},
	[PROGRAM_TRIAL] = {FD_BIT(FD_STDERR) | FD_BIT(FD_KERNEL), 0},
};

static bool within(uint32_t value, uint32_t low, uint32_t high)
{
	return value >= low && value <= high;
}

static bool vm_ok(const struct spawn_spec *s, const struct spawn_setup *c)
{
	size_t n = proto_ports_count(s->ports);

	for (size_t i = 0; i < n; i++)
		if (!within(s->ports[i].host, c->port_low, c->port_high) || s->ports[i].guest == 0)
			return false;
	return within(s->cpus, 1, c->max_cpus) && within(s->memory_mib, 128, c->max_memory_mib) &&
	       within(s->accel, PROTO_ACCEL_KVM, PROTO_ACCEL_TCG);
}

static bool device_ok(const struct launch_device *d)
{
	uint64_t largest = d->largest_bar;

	if (d->address > PROTO_PCI_MAX || (d->flags & ~LAUNCH_DEVICE_FLAGS_ALL) || d->reserved != 0)
		return false;
	if (d->cdev >= CDEV_MAX && d->cdev != UINT32_MAX)
		return false;
	if (d->node >= NODE_MAX && d->node != PROTO_NO_NODE)
		return false;
	return largest <= BAR_MAX && (largest & (largest - 1)) == 0 && d->window_bytes >= largest &&
	       d->window_bytes <= BARS_MAX * largest;
}

/* Cards are numbered without a gap, each function is there once, and function 0 is a GPU. */
static bool cards_ok(const struct spawn_spec *s)
{
	uint32_t functions[PROTO_MAX_GPUS + 1] = {0};

	for (uint32_t i = 0; i < s->n_devices; i++) {
		const struct launch_device *d = &s->devices[i];

		if (d->card >= PROTO_MAX_GPUS || d->function >= FUNCTIONS_MAX ||
		    (functions[d->card] & 1u << d->function))
			return false;
		if (d->function == 0 && !(d->flags & LAUNCH_DEVICE_GPU))
			return false;
		functions[d->card] |= 1u << d->function;
	}
	for (uint32_t card = 0; card < PROTO_MAX_GPUS; card++)
		if (!(functions[card] & 1) && (functions[card] | functions[card + 1]) != 0)
			return false;
	return true;
}

static bool devices_ok(const struct spawn_spec *s)
{
	uint32_t n = s->n_devices, cdevs = 0;

	if (n > PROTO_MAX_DEVICES || (n > 0 && s->program != PROGRAM_QEMU) || s->reserved != 0 ||
	    !proto_all_zero(s->devices + n, sizeof(s->devices[0]) * (PROTO_MAX_DEVICES - n)))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		if (!device_ok(&s->devices[i]) ||
		    (i > 0 && s->devices[i].address <= s->devices[i - 1].address))
			return false;
		cdevs += s->devices[i].cdev != UINT32_MAX;
	}
	if ((cdevs != 0 && cdevs != n) || (cdevs != 0) != !!(s->roles & FD_BIT(FD_IOMMU)))
		return false;
	return cards_ok(s);
}

int spec_check(const struct spawn_spec *s, const struct spawn_setup *c)
{
	if (!within(s->program, PROGRAM_QEMU, PROGRAM_TRIAL) || s->slot >= c->max_vms)
		return -EINVAL;
	if ((s->roles & program_roles[s->program].must) != program_roles[s->program].must ||
	    (s->roles & ~(program_roles[s->program].must | program_roles[s->program].may)))
		return -EINVAL;
	if (!proto_text_ok(s->vm, sizeof(s->vm)) || !devices_ok(s))
		return -EINVAL;
	if (s->program == PROGRAM_TRIAL)
		return 0;
	if (!proto_name_valid(s->vm))
		return -EINVAL;
	if (s->program == PROGRAM_QEMU_IMG)
		return within(s->disk_mib, 0, c->max_disk_mib) ? 0 : -EINVAL;
	return vm_ok(s, c) ? 0 : -EINVAL;
}

bool spec_wants_kvm(const struct spawn_spec *s)
{
	return s->program == PROGRAM_TRIAL ||
	       (s->program == PROGRAM_QEMU && s->accel == PROTO_ACCEL_KVM);
}

uint64_t spec_memlock(const struct spawn_spec *s)
{
	uint64_t bytes = ((uint64_t)s->memory_mib << 20) + MEMLOCK_SPARE;

	if (s->n_devices == 0)
		return MEMLOCK_LITTLE;
	for (uint32_t i = 0; i < s->n_devices; i++)
		bytes += s->devices[i].window_bytes; /* iommufd counts mappings of BARs, too */
	return bytes;
}
