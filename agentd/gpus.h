/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's GPUs as vfio-helper describes them, and the choice of those that an instance gets.
 * Trust: runs inside agentd; checks what vfio-helper says, record by record.
 *
 * What is chosen here is a wish: vfio-helper decides again, from the machine itself, before the
 * first write. Pure but for memory and the descriptor of the list.
 */
#pragma once

#include "common/base.h"
#include "common/err.h"
#include "common/fd.h"
#include "proto/proto.h"

/* An address as text: "0000:01:00.0". */
#define GPUS_TEXT_SIZE 20
/* Characters of an explanation; longer ones end in "…and N more". */
#define GPUS_WHY_MAX   4096

struct gpu_entry {
	struct gpu_card_ev card;
	/* Borrowed from struct gpus. */
	const struct gpu_part_ev *parts;     /* ascending by address */
	const struct gpu_reason_ev *reasons; /* in the order of verdicts */
	const struct gpu_holder_ev *holders;
	size_t n_parts, n_reasons, n_holders;
	/* Index of the entry with the lowest address among those that can only be rented with it.
	 */
	size_t set;
};

struct gpus {
	struct gpu_entry *entries; /* owned, ascending by address */
	size_t n;
	/* Owned: the records of all entries, one entry's behind the other's. */
	struct gpu_part_ev *parts;
	struct gpu_reason_ev *reasons;
	struct gpu_holder_ev *holders;
	size_t n_parts, n_reasons, n_holders;
};

void gpus_done(struct gpus *gpus);

/*
 * Reads the @len bytes of a list of @n_cards GPUs: every record strictly, and that they agree with
 * one another. -EBADMSG with the reason when they do not, -ENOMEM.
 */
int gpus_decode(const void *bytes, size_t len, uint32_t n_cards, struct gpus *ret_gpus,
		struct err *reterr);

/* The same from the answer to GPU_LIST; takes the descriptor out of @fds. */
int gpus_receive(const struct gpu_list_rep *rep, struct fdlist *fds, struct gpus *ret_gpus,
		 struct err *reterr);

/* The entry at @address, or NULL. */
const struct gpu_entry *gpus_find(const struct gpus *gpus, uint64_t address);

/* A GPU that an instance has been promised; its VM may not hold it yet. */
struct gpu_claim {
	uint64_t address;
	const char *owner; /* borrowed: the instance's id */
};

/*
 * Chooses @count GPUs that nothing speaks against and nobody has a claim to. Cards that meet in a
 * group are taken together or not at all, and never more than @count. In this order: all on one
 * NUMA node; the node on which the fewest then stay free; the lowest addresses.
 *
 * Returns 0 with @ret_addresses (ascending, the rest zero), -EBUSY when there are not as many, or
 * -ENOMEM; then *@ret_why (owned by the caller) says what speaks against each.
 */
int gpus_choose(const struct gpus *gpus, uint32_t count, const struct gpu_claim *claims,
		size_t n_claims, uint64_t ret_addresses[static PROTO_MAX_GPUS], char **ret_why);

/*
 * Are just these GPUs (ascending, the rest zero) to be had? Returns 0; -ENODEV when one is none of
 * this host's; -EBUSY when something speaks against one, or one can only be rented with another
 * that is not named; -ENOMEM. *@ret_why as above.
 */
int gpus_check(const struct gpus *gpus, const uint64_t addresses[static PROTO_MAX_GPUS],
	       const struct gpu_claim *claims, size_t n_claims, char **ret_why);

/*
 * "0000:01:00.0: busy (0000:01:00.0: process 7 nvidia-smi has /dev/nvidia0 open); …": what speaks
 * against each of @addresses but that @vm itself holds it. Owned by the caller; "" when nothing
 * does, NULL when out of memory.
 */
char *gpus_explain(const struct gpus *gpus, const uint64_t addresses[static PROTO_MAX_GPUS],
		   const char *vm);

/*
 * Reads an address: as the kernel prints it, or with capitals or a domain padded to eight digits,
 * as other tools do. -EINVAL for anything else, and for address 0, at which no GPU is.
 */
int gpus_parse_address(const char *text, uint64_t *ret_address);
void gpus_address_text(uint64_t address, char ret_text[static GPUS_TEXT_SIZE]);

/*
 * Adds @address to the ascending list. Returns 0, -EEXIST when it is there already, -E2BIG when the
 * list is full.
 */
int gpus_add_address(uint64_t addresses[static PROTO_MAX_GPUS], uint64_t address);
