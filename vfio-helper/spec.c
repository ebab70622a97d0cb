/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may be started: every number and name in a spec is checked here, whoever wrote it. Pure.
 * Trust: runs in the spawner as root and in vm-launch as a VM's user; reads what the helper wrote.
 */
#include "vfio-helper/spec.h"

/* What each program must be given and may be given besides. */
static const struct {
	uint32_t must, may;
} program_roles[] = {
	[PROGRAM_QEMU] = {FD_BIT(FD_STDERR) | FD_BIT(FD_GATE) | FD_BIT(FD_NET) |
				  FD_BIT(FD_CONSOLE) | FD_BIT(FD_DISK) | FD_BIT(FD_BASE) |
				  FD_BIT(FD_SEED) | FD_BIT(FD_IMAGE) | FD_BIT(FD_QMP) |
				  FD_BIT(FD_READY),
			  FD_BIT(FD_CGROUP) | FD_BIT(FD_KERNEL) | FD_BIT(FD_INITRD)},
	[PROGRAM_PASST] = {FD_BIT(FD_STDERR) | FD_BIT(FD_GATE) | FD_BIT(FD_NET), FD_BIT(FD_CGROUP)},
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

int spec_check(const struct spawn_spec *s, const struct spawn_setup *c)
{
	if (!within(s->program, PROGRAM_QEMU, PROGRAM_TRIAL) || s->slot >= c->max_vms)
		return -EINVAL;
	if ((s->roles & program_roles[s->program].must) != program_roles[s->program].must ||
	    (s->roles & ~(program_roles[s->program].must | program_roles[s->program].may)))
		return -EINVAL;
	if (!proto_text_ok(s->vm, sizeof(s->vm)))
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
