/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI functions as sysfs shows them, what is a card, and whether it may be rented. Reads only; the
 * writing is in vfio-helper/bind/. Everything is below a directory descriptor of /sys, so that a
 * made-up tree is judged by the same code.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "proto/proto.h"

#define PCI_TEXT_SIZE   20
#define PCI_MAX_FUNCS   4096
#define PCI_BARS        6
#define PCI_DRIVER_SIZE 32
#define PCI_NO_INDEX    UINT32_MAX
#define PCI_NO_ADDRESS  UINT64_MAX
#define PCI_WHAT_SIZE   120

/* domain << 16 | bus << 8 | slot << 3 | function, as in the protocol. */
typedef uint64_t pci_addr;

/*
 * Reads "0000:01:00.0" (four to eight lower-case hexadecimal digits of domain, four being the least
 * the kernel prints). -EINVAL for anything else, a device name that is no address included.
 */
int pci_addr_parse(const char *text, pci_addr *ret_addr);
void pci_addr_text(pci_addr addr, char ret_text[static PCI_TEXT_SIZE]);
/* The same with function 0 to 7 masked out: what the functions of one slot have in common. */
pci_addr pci_slot_of(pci_addr addr);

/* ---- scan.c ---- */

/* Class and subclass: pci_func.class_code without its interface byte. */
enum pci_class {
	PCI_CLASS_VGA = 0x0300,
	PCI_CLASS_3D = 0x0302,
	PCI_CLASS_DISPLAY = 0x0380,
	PCI_CLASS_AUDIO = 0x0403,
	PCI_CLASS_HOST_BRIDGE = 0x0600,
	PCI_CLASS_BRIDGE = 0x0604,
	PCI_CLASS_BRIDGE_OTHER = 0x0680, /* NVLink switches among others */
	PCI_CLASS_USB = 0x0c03,
	PCI_CLASS_SERIAL_OTHER = 0x0c80, /* UCSI controllers of cards with USB-C */
	PCI_CLASS_ACCELERATOR = 0x1200,
};

struct pci_func {
	pci_addr address;
	/* By pci_scan(). */
	uint16_t vendor, device, subvendor, subdevice;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
	pci_addr above;      /* the bridge above, PCI_NO_ADDRESS at a root */
	pci_addr owner;      /* its physical function, PCI_NO_ADDRESS: it is no virtual one */
	uint32_t parent;     /* index of @above, PCI_NO_INDEX without one */
	uint32_t physfn;     /* index of @owner, the same */
	uint32_t group;      /* IOMMU group, PROTO_NO_GROUP: in none */
	bool listed;         /* only its group told of it */
	char driver[PCI_DRIVER_SIZE]; /* "" without one */
	/* By gpu_survey(), false and 0 before it. */
	bool near;       /* the judgement rests on it, and the following has been read */
	bool vfio;       /* @driver is one of VFIO's: vfio-pci or a variant */
	bool overridden; /* and it got there by its address (driver_override), not by ids */
	bool boot_vga;
	bool display;   /* a connected connector of it is enabled, or it holds the console */
	bool critical;  /* a disk with a medium, or a configured network interface, is behind it */
	uint32_t n_vfs; /* virtual functions that are enabled */
	uint32_t n_mdevs; /* mediated devices */
	/* By pci_read_more(). */
	uint8_t revision;
	uint32_t node;           /* NUMA node, PROTO_NO_NODE */
	uint32_t resets;         /* mask of 1 << enum proto_reset */
	uint32_t wide;           /* mask of the BARs that are 64-bit and prefetchable */
	uint64_t bars[PCI_BARS]; /* bytes; 0: not there */
};

/* A member of an IOMMU group that is no PCI function: a platform device, a mediated device. */
struct pci_stranger {
	uint32_t group;
	char name[PCI_WHAT_SIZE];
};

struct pci_tree {
	struct pci_func *funcs; /* owned, ascending by address */
	uint32_t n_funcs;
	struct pci_stranger *strangers; /* owned */
	uint32_t n_strangers;
};

/*
 * Reads bus/pci/devices below @sysfs_fd, a directory descriptor of /sys: what each function is, its
 * driver, and where it hangs. A function that vanishes while it is read is left out; if a group
 * still lists it, it is a stranger there. -E2BIG beyond PCI_MAX_FUNCS, -ENOMEM.
 *
 * Where a function hangs is read from the target of its link in bus/pci/devices
 * (…/0000:00:01.0/0000:01:00.0), its group from the link iommu_group or else from the group's
 * devices/, and so on: links' targets are read, and need not be there.
 */
int pci_scan(int sysfs_fd, struct pci_tree *ret_tree, struct err *reterr);
/*
 * Finds the members of the groups of the functions that are near: 1 when one is found that does not
 * tell its group itself, so that more may be near; 0; -ENOMEM, -E2BIG.
 */
int pci_read_groups(int sysfs_fd, struct pci_tree *tree);
/* Reads of the functions that are near what the rules ask. */
void pci_survey(int sysfs_fd, struct pci_tree *tree);
/* Are all that are near, and their groups, still as they have been read? -EBUSY, -ENOMEM. */
int pci_again(int sysfs_fd, const struct pci_tree *tree, struct err *reterr);
/* Is @func behind bridge @bridge, however far? */
bool pci_is_behind(const struct pci_tree *tree, const struct pci_func *func, uint32_t bridge);
/* Is it of a class that cards' functions have? */
bool pci_is_card_class(const struct pci_func *func);

/* The directory of the function at @address, or a negative errno. */
int pci_open(int sysfs_fd, pci_addr address);

/* The following read one function, whose directory is @dir_fd. */

/* The ids and the class. -ENOENT when it does not tell them. */
int pci_read_ids(int dir_fd, struct pci_func *func);
/* The group that it tells itself, or PROTO_NO_GROUP. */
uint32_t pci_read_group(int dir_fd);
/* BARs, resets, NUMA node and revision. */
void pci_read_more(int dir_fd, struct pci_func *func);

void pci_tree_done(struct pci_tree *tree);
/* The text of `resource`: sizes of the BARs, and the mask for pci_func.wide. -EINVAL. */
int pci_parse_resource(const char *text, uint64_t ret_bars[static PCI_BARS], uint32_t *ret_wide);
/* The text of `reset_method` as a mask; words that nobody knows yet are left out. */
uint32_t pci_parse_resets(const char *text);
/* Index of the function at @address, PCI_NO_INDEX when there is none. */
uint32_t pci_find(const struct pci_tree *tree, pci_addr address);

/* ---- policy.c: the gpu_* keys of helper.conf, parsed ---- */

struct gpu_keys; /* vfio-helper/config.h */

#define POLICY_LIST_MAX 64

struct gpu_policy {
	uint16_t vendors[POLICY_LIST_MAX];      /* of GPUs */
	uint16_t accelerators[POLICY_LIST_MAX]; /* vendors whose class 1200 is a GPU */
	pci_addr along[POLICY_LIST_MAX];        /* foreign, driverless functions to bind along */
	pci_addr never[POLICY_LIST_MAX];        /* GPUs that are not for rent */
	char services[POLICY_LIST_MAX][64];     /* units that may be stopped for a bind */
	uint32_t n_vendors, n_accelerators, n_along, n_never, n_services;
	bool allow_boot_display, allow_virtual_functions, allow_nouveau, adopt_vfio;
};

/* -EINVAL and -E2BIG name the key and the item. */
int gpu_policy_parse(const struct gpu_keys *keys, struct gpu_policy *ret_policy,
		     struct err *reterr);
bool gpu_policy_has(const pci_addr *list, uint32_t n, pci_addr address);
/* May the unit be stopped for a bind? */
bool gpu_policy_may_stop(const struct gpu_policy *policy, const char *service);

/* ---- what only privilege or our own records can tell; holders.c and bind/lease.c gather it ----
 */

struct gpu_holder {
	uint32_t func; /* index in the tree */
	uint32_t pid;
	char program[32]; /* the process's comm */
	char node[64];    /* "/dev/nvidia0" */
	char service[64]; /* the systemd unit that it belongs to, "" unknown */
};

struct gpu_lease_ref { /* a function that one of our leases holds */
	pci_addr address;
	char vm[PROTO_NAME_SIZE];
	bool complete; /* the bind was finished; else it is half bound */
};

struct gpu_quarantine_ref {
	pci_addr address;
	int64_t since_s;
	char why[PCI_WHAT_SIZE];
};

struct gpu_state {
	struct gpu_holder *holders; /* owned, as the others */
	uint32_t n_holders;
	struct gpu_lease_ref *leases;
	uint32_t n_leases;
	struct gpu_quarantine_ref *quarantines;
	uint32_t n_quarantines;
};

void gpu_state_done(struct gpu_state *state);
/*
 * Who has a device node of a function that is near open: DRM, NVIDIA, sound and VFIO nodes, found
 * through sysfs and compared by device number with the descriptors in @proc_fd (a descriptor of
 * /proc). Processes that may not be looked into count as not holding; as root without
 * CAP_SYS_PTRACE those are all of other users.
 */
int gpu_find_holders(int sysfs_fd, int proc_fd, const struct pci_tree *tree,
		     struct gpu_state *state);

/* ---- card.c: what is a card ---- */

/* A GPU by class, and by policy: of a vendor that is for rent. */
bool card_is_gpu(const struct pci_func *func, const struct gpu_policy *policy);

/* What the functions of a tree are to each other. */
struct card_map {
	const struct pci_tree *tree;
	const struct gpu_policy *policy;
	const struct gpu_state *state;
	uint32_t *gpu_of; /* owned: of whose card each one is, PCI_NO_INDEX for no card's */
	uint8_t *roles;   /* owned: what card_closure() has found */
};

/* Role of a function that a bind does not concern. */
#define CARD_NO_PART UINT8_MAX

/* Finds the cards. All three have to outlive the map. -ENOMEM. */
int card_map_make(const struct pci_tree *tree, const struct gpu_policy *policy,
		  const struct gpu_state *state, struct card_map *ret_map);
void card_map_done(struct card_map *map);
/*
 * Fills map->roles (enum proto_gpu_role or CARD_NO_PART) with what a bind of GPU @gpu concerns: its
 * card, all members of its groups, and the cards that it meets there. What spoils a card's slot and
 * what is critical on a card is foreign.
 */
void card_closure(struct card_map *map, uint32_t gpu);
/* The lease that holds a function, NULL without one. */
const struct gpu_lease_ref *gpu_lease_of(const struct gpu_state *state, pci_addr address);

/* ---- judge.c, choose.c: the rules ---- */

struct gpu_reason {
	enum proto_gpu_reason reason;
	pci_addr address;         /* of whom */
	bool stranger;            /* it is no PCI function, @what is its name */
	char what[PCI_WHAT_SIZE]; /* a name, words; "" when the reason says it all */
};

struct gpu_part {
	uint32_t func; /* index in the tree */
	enum proto_gpu_role role;
};

/* One GPU and all that a bind of it would concern. */
struct gpu {
	uint32_t func;
	enum proto_gpu_reason verdict;
	struct gpu_part *parts; /* owned: all members of the card and of its groups, ascending */
	uint32_t n_parts;
	struct gpu_reason *reasons; /* owned, in the order of the verdicts */
	uint32_t n_reasons;
};

struct gpu_list {
	struct gpu *gpus; /* owned, ascending by address */
	uint32_t n;
};

/*
 * Reads what the judgement of the @n GPUs of @gpus (0: of all) rests on: their cards, those that
 * they meet, and all members of their groups are near then. What is no GPU is not looked at.
 * -ENOMEM, -E2BIG.
 */
int gpu_survey(int sysfs_fd, const struct gpu_policy *policy, const struct gpu_state *state,
	       const pci_addr *gpus, uint32_t n, struct pci_tree *tree);
/* Judges each GPU of @tree that is near. Pure but for memory: -ENOMEM is its only error. */
int gpu_judge(const struct pci_tree *tree, const struct gpu_policy *policy,
	      const struct gpu_state *state, struct gpu_list *ret_list);
void gpu_list_done(struct gpu_list *list);
/* Index of the GPU at @address in @list, PCI_NO_INDEX when there is none. */
uint32_t gpu_find(const struct gpu_list *list, const struct pci_tree *tree, pci_addr address);

/* Does a bind take this part along? GPU itself, companions, and what policy binds along. */
bool gpu_part_is_bound(const struct gpu_part *part);

/*
 * The functions that binding the @n GPUs of @gpus means, ascending and each once, into @ret_funcs
 * (indices, room for PROTO_MAX_DEVICES). Refused as a whole with @reterr: -ENODEV (no such GPU),
 * -EPERM (one is not rentable, all reasons of all members are named), -EXDEV (a card that shares a
 * group with one of them was not asked for), -E2BIG.
 */
int gpu_choose(const struct gpu_list *list, const struct pci_tree *tree, const pci_addr *gpus,
	       uint32_t n, uint32_t ret_funcs[static PROTO_MAX_DEVICES], uint32_t *ret_n,
	       struct err *reterr);
