/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of this host concerns a guest with devices: the width of its addresses, the NUMA node, the
 * character devices of iommufd.
 * Trust: runs as a VM's user; reads CPUID and sysfs, opens what this user was given.
 */
#include "vfio-helper/launch/launch.h"

#include "common/fd.h"
#include "vfio-helper/pci/pci.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>

#define TCG_BITS        40 /* of -cpu max without KVM, whose vendor is AMD */
#define CPUID_ADDRESSES 0x80000008
#define VTD_CAP_MGAW(c) ((uint32_t)((c) >> 16 & 0x3f) + 1) /* VT-d, Capability Register */
#define BITS_LEAST      36
#define NODES_PER_WORD  (8 * sizeof(unsigned long))
#define NODE_WORDS      (1024 / NODES_PER_WORD) /* spec_check() knows no higher node */

static void read_cpu(struct host *host)
{
	unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;

	host->cpu_bits = BITS_LEAST;
	if (__get_cpuid(CPUID_ADDRESSES, &eax, &ebx, &ecx, &edx))
		host->cpu_bits = eax & 0xff;
	(void)__get_cpuid(0, &eax, &ebx, &ecx, &edx);
	host->is_amd =
		ebx == signature_AMD_ebx && ecx == signature_AMD_ecx && edx == signature_AMD_edx;
}

/* An address that is too wide for Intel's IOMMU cannot be mapped; others take what a CPU has. */
static uint32_t iommu_bits(pci_addr address)
{
	char text[PCI_TEXT_SIZE], path[96];
	_cleanup_close_ int fd = -EBADF;
	unsigned long long cap;

	pci_addr_text(address, text);
	(void)snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu/intel-iommu/cap", text);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fd_read_text(fd, path, sizeof(path)) <= 0)
		return 0;
	cap = strtoull(path, NULL, 16);
	return VTD_CAP_MGAW(cap);
}

void host_read(const struct spawn_spec *s, struct host *ret_host)
{
	*ret_host = (struct host){.cpu_bits = TCG_BITS, .is_amd = true};
	if (s->accel == PROTO_ACCEL_KVM)
		read_cpu(ret_host);
	for (uint32_t i = 0; i < s->n_devices; i++) {
		uint32_t bits = iommu_bits(s->devices[i].address);

		if (bits != 0 && (ret_host->iommu_bits == 0 || bits < ret_host->iommu_bits))
			ret_host->iommu_bits = bits;
	}
}

/*
 * The policy outlives execve(), so that QEMU needs no option and no call for it. Only a wish: when
 * the node is full, or the kernel knows no nodes, memory comes from elsewhere.
 */
void host_prefer_node(const struct spawn_spec *s)
{
	unsigned long mask[NODE_WORDS] = {0};
	uint32_t node = s->devices[0].node;

	for (uint32_t i = 0; i < s->n_devices; i++)
		if (s->devices[i].node != node)
			return;
	if (s->n_devices == 0 || node == PROTO_NO_NODE)
		return;
	mask[node / NODES_PER_WORD] = 1ul << node % NODES_PER_WORD;
	/* The kernel reads one bit less than it is told. */
	(void)syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask, NODE_WORDS * NODES_PER_WORD + 1);
}

/* Numbers ascend and the lower ones are taken, so that open() never gets one of a later device. */
int host_open_devices(const struct spawn_spec *s)
{
	char path[48];

	if (!(s->roles & FD_BIT(FD_IOMMU)))
		return 0;
	for (uint32_t i = 0; i < s->n_devices; i++) {
		int fd;

		(void)snprintf(path, sizeof(path), "/dev/vfio/devices/vfio%u", s->devices[i].cdev);
		fd = open(path, O_RDWR);
		if (fd < 0 || (fd != CDEV_FD(i) && dup2(fd, CDEV_FD(i)) < 0))
			return -errno;
		if (fd != CDEV_FD(i))
			(void)close(fd);
	}
	return 0;
}
