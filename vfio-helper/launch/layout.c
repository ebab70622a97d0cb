/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a guest's memory ends and where the BARs of its devices go. QEMU's q35 machine and OVMF
 * each follow rules of their own; here they are followed beforehand, so that a set that does not
 * fit is refused in words instead of a guest that does not find its GPUs.
 * Trust: runs as a VM's user. Pure: no I/O, no state.
 */
#include "vfio-helper/launch/launch.h"

#define GIB         (UINT64_C(1) << 30)
#define FOUR_GIB    (4 * GIB)
#define TIB         (UINT64_C(1) << 40)
#define LOW_MAX     UINT64_C(0xb0000000) /* q35: a guest with that much memory or more... */
#define LOW_KEPT    (2 * GIB)            /* ...has only this much of it below 4 GiB */
#define AMD_HOLE    (1012 * GIB)         /* HyperTransport's, up to 1 TiB */
#define WINDOW_MIN  (32 * GIB)           /* QEMU's and OVMF's own choice */
#define WINDOW_MAX  (16 * TIB)           /* OVMF takes no larger one */
#define WINDOW_REST (1 * GIB)            /* for the BARs of all other devices */

static uint64_t align_up(uint64_t value, uint64_t power_of_two)
{
	return (value + power_of_two - 1) & ~(power_of_two - 1);
}

static uint64_t power_of_two_below(uint64_t value)
{
	return UINT64_C(1) << (63 - __builtin_clzll(value));
}

/* What the root port of one card has to let through, and in units of what. */
static uint64_t card_bytes(const struct spawn_spec *s, uint32_t card, uint64_t *ret_largest)
{
	uint64_t sum = 0;

	*ret_largest = 1;
	for (uint32_t i = 0; i < s->n_devices; i++)
		if (s->devices[i].card == card) {
			sum += s->devices[i].window_bytes;
			*ret_largest = MAX_OF(*ret_largest, s->devices[i].largest_bar);
		}
	return sum;
}

/* One card after the other, the largest BARs first, as firmware does it; whole GiB. */
static uint64_t window_needed(const struct spawn_spec *s)
{
	uint64_t need = 0, largest;

	for (uint64_t unit = WINDOW_MAX; unit > 0; unit /= 2)
		for (uint32_t card = 0; card < PROTO_MAX_GPUS; card++) {
			uint64_t bytes = card_bytes(s, card, &largest);

			if (largest == unit && bytes > 0)
				need = align_up(need, unit) + bytes;
		}
	return MAX_OF(align_up(need + WINDOW_REST, GIB), WINDOW_MIN);
}

/* End of the memory, in whole GiB, when what is not below 4 GiB starts at @high. */
static uint64_t memory_end(const struct spawn_spec *s, uint64_t high, bool *ret_any_high)
{
	uint64_t bytes = (uint64_t)s->memory_mib << 20;
	uint64_t low = bytes >= LOW_MAX ? LOW_KEPT : bytes;

	*ret_any_high = bytes > low;
	return align_up(high + bytes - low, GIB);
}

/*
 * Puts a window of @size above the memory, at an address that OVMF chooses: a multiple of the
 * largest power of two in the size. On AMD, QEMU lets high memory and hole start at 1 TiB when
 * both would otherwise reach the hole of HyperTransport; OVMF looks only at where memory ends.
 */
static bool try_window(const struct spawn_spec *s, const struct host *host, uint32_t bits,
		       uint64_t size, struct machine *machine)
{
	bool any_high;
	uint64_t unit = power_of_two_below(size), end = memory_end(s, FOUR_GIB, &any_high);
	uint64_t base = align_up(end, unit), hole = base + size - end;

	if (host->is_amd && end + hole > AMD_HOLE) {
		/* QEMU looks at memory and hole only, and must come to the same conclusion. */
		uint64_t least = end <= AMD_HOLE ? AMD_HOLE - end + GIB : 0;

		end = memory_end(s, TIB, &any_high);
		base = align_up(any_high ? end : FOUR_GIB, unit);
		if (base < TIB)
			return false;
		hole = MAX_OF(base + size - end, least);
	}
	if (size > WINDOW_MAX || end + hole > UINT64_C(1) << bits)
		return false;
	machine->window_bytes = size;
	machine->hole_bytes = hole;
	return true;
}

int layout_fit(const struct spawn_spec *s, const struct host *host, struct machine *machine,
	       struct err *reterr)
{
	uint32_t bits = host->cpu_bits;
	uint64_t need = window_needed(s);

	if (s->n_devices == 0)
		return 0;
	if (host->iommu_bits != 0 && host->iommu_bits < bits)
		machine->address_limit = bits = host->iommu_bits;
	/* Twice that where there is room: firmware may be less thrifty than is assumed here. */
	if (try_window(s, host, bits, 2 * need, machine) ||
	    try_window(s, host, bits, need, machine))
		return 0;
	return err_set(reterr, -ERANGE,
		       "%u MiB of memory and a window of %llu GiB for the GPUs' BARs do not fit "
		       "into %u bits of address; less memory or fewer GPUs do",
		       s->memory_mib, (unsigned long long)(need / GIB), bits);
}
