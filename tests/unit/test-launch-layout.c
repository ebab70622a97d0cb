/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The address space of guests with GPUs: each combination of memory, cards and width of addresses
 * is built again the way QEMU and OVMF do it, and must come out as layout_fit() has promised.
 * Trust: runs in tests only.
 */
#include "vfio-helper/launch/launch.h"

#include <linux/mempolicy.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include <cmocka.h>

#define MIB      (UINT64_C(1) << 20)
#define GIB      (UINT64_C(1) << 30)
#define TIB      (UINT64_C(1) << 40)
#define HT_START (1012 * GIB)

static struct spawn_spec cards(uint32_t memory_mib, uint32_t n, uint64_t bar)
{
	struct spawn_spec s = {.memory_mib = memory_mib, .n_devices = 2 * n};

	for (uint32_t i = 0; i < n; i++) {
		s.devices[2 * i] = (struct launch_device){.card = i,
							  .flags = LAUNCH_DEVICE_GPU,
							  .window_bytes = bar + 48 * MIB,
							  .largest_bar = MAX_OF(bar, 32 * MIB)};
		s.devices[2 * i + 1] =
			(struct launch_device){.card = i, .function = 1, .window_bytes = 16384};
	}
	return s;
}

static uint64_t up(uint64_t value, uint64_t step)
{
	return (value + step - 1) / step * step;
}

/* QEMU, pc_q35_init(): how much memory is above 4 GiB. */
static uint64_t high_memory(uint64_t memory)
{
	uint64_t low = memory >= 0xb0000000 ? 0x80000000 : 0xb0000000;

	return memory > low ? memory - low : 0;
}

/* QEMU's checks and OVMF's placement for what layout_fit() has answered: is all where it must be?
 */
static bool works(uint64_t memory, uint32_t n, uint64_t bar, const struct host *host,
		  const struct machine *m)
{
	uint64_t width = UINT64_C(1) << (m->address_limit != 0 ? m->address_limit : host->cpu_bits);
	uint64_t high = high_memory(memory), start = 4 * GIB, align = GIB, base, at;

	/* QEMU, pc_memory_init(): where high memory starts on AMD, and the last address in use. */
	if (host->is_amd && up(start + high, GIB) + m->hole_bytes - 1 >= HT_START)
		start = TIB;
	if (up(start + high, GIB) + m->hole_bytes > width)
		return false;
	/* OVMF, PlatformGetFirstNonAddress(). */
	while (align * 2 <= m->window_bytes)
		align *= 2;
	base = up(up(high ? start + high : 4 * GIB, GIB), align);
	if (base + m->window_bytes > width)
		return false;
	if (host->is_amd && base < TIB && base + m->window_bytes > HT_START)
		return false;
	/* Its PCI bus driver: one port after the other, each at a multiple of its largest BAR. */
	at = base;
	for (uint32_t i = 0; i < n; i++)
		at = up(at, MAX_OF(bar, 32 * MIB)) + bar + 48 * MIB + 16384;
	return at <= base + m->window_bytes;
}

/* Is there any hole with which the least window would do? */
static bool possible(uint64_t memory, uint32_t n, uint64_t bar, const struct host *host)
{
	uint64_t one = bar + 48 * MIB + 16384;
	struct machine m = {.address_limit = 0};

	m.window_bytes = (n - 1) * up(one, MAX_OF(bar, 32 * MIB)) + one;
	m.window_bytes = MAX_OF(up(m.window_bytes + GIB, GIB), 32 * GIB);
	for (m.hole_bytes = m.window_bytes; m.hole_bytes <= 16 * TIB; m.hole_bytes += 4 * GIB)
		if (works(memory, n, bar, host, &m))
			return true;
	return false;
}

/* 1 to 8 cards, BARs of 16 MiB to 256 GiB, memory of 1 GiB to 2 TiB, on all widths. */
static void test_matrix(void **state)
{
	static const uint32_t widths[] = {36, 39, 40, 42, 44, 46, 48, 52};
	uint32_t fits = 0, refused = 0;

	(void)state;
	for (size_t w = 0; w < 2 * ARRAY_LEN(widths); w++)
		for (uint32_t n = 1; n <= 8; n++)
			for (uint64_t bar = 16 * MIB; bar <= 256 * GIB; bar *= 2)
				for (uint64_t memory = GIB; memory <= 2 * TIB; memory *= 2) {
					const struct host host = {.cpu_bits = widths[w / 2],
								  .is_amd = w & 1};
					struct spawn_spec s =
						cards((uint32_t)(memory / MIB), n, bar);
					struct machine m = {0};
					int r = layout_fit(&s, &host, &m, NULL);

					if (r == 0)
						assert_true(works(memory, n, bar, &host, &m));
					else
						assert_false(possible(memory, n, bar, &host));
					fits += r == 0;
					refused += r != 0;
				}
	assert_true(fits > 1000 && refused > 1000);
}

struct layout_case {
	uint64_t memory, bar;
	uint32_t n, cpu_bits, iommu_bits;
	bool is_amd;
	int r;
	uint32_t limit;
	uint64_t window_gib, hole_gib;
};

static void test_figures(void **state)
{
	static const struct layout_case cases[] = {
		/* a small card takes what QEMU and OVMF would have given, twice over */
		{4 * GIB, 256 * MIB, 1, 39, 0, false, 0, 0, 64, 122},
		/* 128 GiB of BAR on a desktop's 39 bits: once, but not twice that */
		{64 * GIB, 128 * GIB, 1, 39, 0, false, 0, 0, 130, 192},
		{64 * GIB, 128 * GIB, 2, 39, 0, false, -ERANGE, 0, 0, 0},
		/* the IOMMU is narrower than the CPU, or wider */
		{64 * GIB, 32 * GIB, 1, 46, 39, false, 0, 39, 68, 130},
		{64 * GIB, 32 * GIB, 1, 39, 46, false, 0, 0, 68, 130},
		{600 * GIB, 32 * GIB, 1, 46, 39, false, -ERANGE, 0, 0, 0},
		/* eight with 256 GiB each and 2 TiB of memory, on a server */
		{2 * TIB, 256 * GIB, 8, 46, 0, false, 0, 0, 7684, 9730},
		{2 * TIB, 256 * GIB, 8, 43, 0, false, 0, 0, 3842, 5888},
		{2 * TIB, 256 * GIB, 8, 42, 0, false, -ERANGE, 0, 0, 0},
		/* OVMF takes no window above 16 TiB */
		{4 * GIB, TIB, 8, 52, 0, false, 0, 0, 15362, 8186 + 15362},
		{4 * GIB, TIB, 16, 52, 0, false, -ERANGE, 0, 0, 0},
		/* AMD: memory goes above 1 TiB, rather than a window over the hole below it */
		{256 * GIB, 256 * GIB, 1, 48, 0, true, 0, 0, 516, 774},
		/* TCG has 40 bits and AMD's hole */
		{2 * GIB, 16 * MIB, 1, 40, 0, true, 0, 0, 64, 124},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct layout_case *c = &cases[i];
		const struct host host = {
			.cpu_bits = c->cpu_bits, .iommu_bits = c->iommu_bits, .is_amd = c->is_amd};
		struct spawn_spec s = cards((uint32_t)(c->memory / MIB), c->n, c->bar);
		struct machine m = {0};
		struct err err = {0};

		assert_int_equal(layout_fit(&s, &host, &m, &err), c->r);
		if (c->r < 0) {
			assert_non_null(strstr(err.text, "do not fit"));
			continue;
		}
		assert_int_equal(m.address_limit, c->limit);
		assert_int_equal(m.window_bytes / GIB, c->window_gib);
		assert_int_equal(m.hole_bytes / GIB, c->hole_gib);
		assert_int_equal((m.window_bytes | m.hole_bytes) % GIB, 0);
	}
}

/* No device: nothing is asked for, whatever the memory. */
static void test_none(void **state)
{
	const struct spawn_spec s = {.memory_mib = PROTO_MAX_MEMORY_MIB};
	const struct host host = {.cpu_bits = 36};
	struct machine m = {0};

	(void)state;
	assert_int_equal(layout_fit(&s, &host, &m, NULL), 0);
	assert_int_equal(m.window_bytes | m.hole_bytes | m.address_limit, 0);
}

/* The worst that spec_check() lets through neither overflows nor fits. */
static void test_extremes(void **state)
{
	const struct host host = {.cpu_bits = 52};
	struct spawn_spec s = {.memory_mib = PROTO_MAX_MEMORY_MIB, .n_devices = PROTO_MAX_DEVICES};
	struct machine m = {0};
	struct err err = {0};

	(void)state;
	for (uint32_t i = 0; i < PROTO_MAX_DEVICES; i++)
		s.devices[i] = (struct launch_device){.card = i / 4,
						      .window_bytes = UINT64_C(6) << 44,
						      .largest_bar = UINT64_C(1) << 44};
	assert_int_equal(layout_fit(&s, &host, &m, &err), -ERANGE);
	assert_int_equal(m.window_bytes, 0);
}

/* This very host: the answer is one of a CPU that exists. */
static void test_host(void **state)
{
	struct spawn_spec s = {.accel = PROTO_ACCEL_KVM};
	struct host host;

	(void)state;
	host_read(&s, &host);
	assert_in_range(host.cpu_bits, 36, 57);
	assert_int_equal(host.iommu_bits, 0);
	s.accel = PROTO_ACCEL_TCG;
	host_read(&s, &host);
	assert_int_equal(host.cpu_bits, 40);
	assert_true(host.is_amd);
}

static int mempolicy(unsigned long *ret_nodes)
{
	unsigned long nodes[1024 / (8 * sizeof(unsigned long))] = {0};
	int mode;

	if (syscall(SYS_get_mempolicy, &mode, nodes, 1024, NULL, 0) < 0)
		return -errno;
	*ret_nodes = nodes[0];
	return mode;
}

/* One node for all devices: memory from there. Node 0 is the one that every machine has. */
static void test_node(void **state)
{
	struct spawn_spec s = cards(1024, 2, GIB);
	unsigned long nodes = 0;

	(void)state;
	if (mempolicy(&nodes) != MPOL_DEFAULT)
		skip(); /* a kernel without nodes, or someone has chosen already */
	s.devices[3].node = 1;
	host_prefer_node(&s);
	assert_int_equal(mempolicy(&nodes), MPOL_DEFAULT);
	for (uint32_t i = 0; i < s.n_devices; i++)
		s.devices[i].node = PROTO_NO_NODE;
	host_prefer_node(&s);
	assert_int_equal(mempolicy(&nodes), MPOL_DEFAULT);
	for (uint32_t i = 0; i < s.n_devices; i++)
		s.devices[i].node = 0;
	host_prefer_node(&s);
	assert_int_equal(mempolicy(&nodes), MPOL_PREFERRED);
	assert_int_equal(nodes, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_matrix), cmocka_unit_test(test_figures),
		cmocka_unit_test(test_none),   cmocka_unit_test(test_extremes),
		cmocka_unit_test(test_host),   cmocka_unit_test(test_node),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
