/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes from vfio-broker to vfio-helper, and from there to vm-launch: one fixed-size struct
 * that says which of four programs to run, and descriptors by role. No path, no argument, no uid.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"

#include <sys/types.h>

#define SPAWN_VERSION 2

enum program {
	PROGRAM_QEMU = 1,
	PROGRAM_PASST,
	PROGRAM_QEMU_IMG,
	PROGRAM_TRIAL, /* QEMU that shows whether a real kernel lives under KVM */
};

/* vm-launch's exit codes that say more than that it failed. */
enum launch_exit {
	LAUNCH_OK = 0,        /* of a trial: the kernel came to life */
	LAUNCH_SILENT = 3,    /* of a trial: it did not, but QEMU ran */
	LAUNCH_TOO_SMALL = 4, /* the disk asked for is below the image's minimum */
	LAUNCH_NO_ROOM = 5,   /* memory and GPUs do not fit into the guest's address space */
};

/* Descriptors by role; a child finds role r at CHILD_FD(r). Sent in this order. */
enum fd_role {
	FD_STDERR,
	FD_GATE, /* passt's child writes a byte when isolated; each waits for one to go on */
	FD_NET,
	FD_CONSOLE,
	FD_DISK,
	FD_BASE,
	FD_IMAGE, /* image.conf; read by vm-launch, not passed on */
	FD_SEED,
	FD_QMP,
	FD_READY,
	FD_KERNEL,
	FD_INITRD,
	FD_IOMMU,    /* /dev/iommu, with devices that are used by iommufd */
	FD_VARS,     /* firmware variables of this VM; an empty file is filled by vm-launch */
	FD_FIRMWARE, /* its code; opened by vm-launch, never sent */
	FD_ROLES,
};
#define FD_BIT(role)   (1u << (role))
#define CHILD_FD(role) (3 + (int)(role))
/* Where vm-launch finds its struct launch, in a sealed memfd. */
#define LAUNCH_FD      CHILD_FD(FD_ROLES)

struct account {
	uid_t uid;
	gid_t gid;
};

/* What the configuration says for all starts. */
struct spawn_setup {
	uint32_t version; /* SPAWN_VERSION: the programs may be of different packages */
	uint32_t max_vms, max_cpus, max_memory_mib, max_disk_mib;
	uint32_t port_low, port_high;
	uint32_t kvm_trial_seconds;
	gid_t kvm_gid; /* may open /dev/kvm; 0: nobody needs a group for it */
	bool require_isolation;
	struct account users[PROTO_MAX_VMS]; /* of the slots; the first max_vms are set */
	char launch_binary[256];
	char qemu_binary[128];
	char qemu_img_binary[128];
	char passt_binary[128];
	char dns[64];
	char firmware[128];      /* "auto", "none" or the path of OVMF's code */
	char firmware_vars[128]; /* its template of variables; "" but with a path */
};

/* A PCI function that goes to a guest. No number in it can name more than the VM's user may open.
 */
struct launch_device {
	uint64_t address;      /* on the host; the devices of a spec are in this order */
	uint64_t window_bytes; /* sum of its 64-bit BARs, for the guest's MMIO window */
	uint64_t largest_bar;  /* bytes; the largest of those */
	uint32_t cdev;         /* N of /dev/vfio/devices/vfioN with iommufd, else UINT32_MAX */
	uint32_t card;         /* from 0 on: each has a root port of its own in the guest */
	uint32_t function;     /* its function number there; 0 is the GPU */
	uint32_t flags;        /* LAUNCH_DEVICE_* */
	uint32_t node;         /* NUMA node, PROTO_NO_NODE */
	uint32_t reserved;
};
#define LAUNCH_DEVICE_GPU       (1u << 0)
#define LAUNCH_DEVICE_NO_ROM    (1u << 1) /* rombar=0 */
#define LAUNCH_DEVICE_HIDE_VM   (1u << 2) /* its driver refuses to work when it sees a hypervisor */
#define LAUNCH_DEVICE_FLAGS_ALL 7u

/* One start. Checked by vfio-helper, which does not believe vfio-broker, and by vm-launch. */
struct spawn_spec {
	uint32_t program; /* enum program */
	uint32_t slot;    /* whose user */
	uint32_t roles;   /* mask of FD_BIT()s that go along */
	uint32_t cpus, memory_mib;
	uint32_t disk_mib; /* size of the disk; 0 for a new one: the image's minimum */
	uint32_t accel;    /* enum proto_accel */
	struct proto_port ports[PROTO_MAX_PORTS];
	uint32_t n_devices;
	uint32_t reserved;
	struct launch_device devices[PROTO_MAX_DEVICES];
	char vm[PROTO_NAME_SIZE];
};

struct launch {
	struct spawn_setup setup;
	struct spawn_spec spec;
};

/* 0, or -EINVAL when a value is outside of what @setup and the program allow. */
int spec_check(const struct spawn_spec *spec, const struct spawn_setup *setup);
/* Does the program of a checked spec open /dev/kvm? */
bool spec_wants_kvm(const struct spawn_spec *spec);
/* RLIMIT_MEMLOCK for the program of a checked spec, bytes: VFIO pins all of a guest's memory. */
uint64_t spec_memlock(const struct spawn_spec *spec);
