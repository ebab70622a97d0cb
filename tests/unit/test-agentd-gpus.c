/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of GPUs, which is believed only when it keeps its own rules; the choice of GPUs, by
 * table; and the names in pci.ids.
 * Trust: test.
 */
#include "agentd/gpunames.h"
#include "agentd/gpus.h"
#include "tests/unit/gpu-records.h"

#include <setjmp.h>
#include <stdarg.h>
/* cmocka wants the two above first */
#include <cmocka.h>

/* 0000:01:00.0 and so on. */
#define AT(bus) ((uint64_t)(bus) << 8)
#define NOWHERE PROTO_NO_NODE

static struct gpu_records r;

static int setup(void **state)
{
	(void)state;
	memset(&r, 0, sizeof(r));
	return 0;
}

static void decode(struct gpus *gpus)
{
	struct err why = {0};

	if (gpus_decode(r.bytes, r.len, r.n, gpus, &why) < 0)
		fail_msg("%s", why.text);
}

/* A rentable GPU in a group of its own, named after its bus. */
static void lone(unsigned int bus, uint32_t node)
{
	records_card(&r, AT(bus), bus, node, PROTO_GPU_RENTABLE, NULL);
	records_part(&r, AT(bus), AT(bus), PROTO_ROLE_GPU, "");
}

/* Two rentable GPUs in one group. */
static void pair(unsigned int bus, uint32_t node)
{
	for (unsigned int i = 0; i < 2; i++) {
		records_card(&r, AT(bus + i), bus, node, PROTO_GPU_RENTABLE, NULL);
		records_part(&r, AT(bus + i), AT(bus), PROTO_ROLE_GPU, "");
		records_part(&r, AT(bus + i), AT(bus + 1), PROTO_ROLE_GPU, "");
	}
}

static void refused_gpu(unsigned int bus, enum proto_gpu_reason reason, const char *what)
{
	records_card(&r, AT(bus), bus, NOWHERE, reason, NULL);
	records_reason(&r, AT(bus), AT(bus), reason, what);
}

/* Decoding. */

static void test_decode(void **state)
{
	_cleanup_(gpus_done) struct gpus gpus = {0};
	const struct gpu_entry *entry;

	(void)state;
	records_card(&r, AT(1), 7, 0, PROTO_GPU_NOT_VIABLE, NULL);
	records_part(&r, AT(1), 0, PROTO_ROLE_FOREIGN, "a platform device");
	records_part(&r, AT(1), 0, PROTO_ROLE_FOREIGN, "another");
	records_part(&r, AT(1), AT(1), PROTO_ROLE_GPU, "");
	records_part(&r, AT(1), AT(1) | 1, PROTO_ROLE_COMPANION, "");
	records_reason(&r, AT(1), 0, PROTO_GPU_NOT_VIABLE, "a platform device");
	records_reason(&r, AT(1), AT(1), PROTO_GPU_BUSY, "");
	records_holder(&r, AT(1), 7, "Xorg", "/dev/dri/card0", "");
	lone(2, 1);
	decode(&gpus);
	assert_int_equal(gpus.n, 2);
	entry = gpus_find(&gpus, AT(1));
	assert_ptr_equal(entry, &gpus.entries[0]);
	assert_int_equal(entry->n_parts, 4);
	assert_int_equal(entry->n_reasons, 2);
	assert_int_equal(entry->n_holders, 1);
	assert_string_equal(entry->holders[0].program, "Xorg");
	assert_int_equal(gpus.entries[1].set, 1);
	assert_null(gpus_find(&gpus, AT(1) | 1));
	assert_null(gpus_find(&gpus, AT(3)));
}

static void expect_refused(const char *part)
{
	struct gpus gpus = {0};
	struct err why = {0};

	assert_int_equal(gpus_decode(r.bytes, r.len, r.n, &gpus, &why), -EBADMSG);
	if (!strstr(why.text, part))
		fail_msg("\"%s\" does not say \"%s\"", why.text, part);
	assert_null(gpus.entries);
	memset(&r, 0, sizeof(r));
}

static void test_decode_refuses(void **state)
{
	const struct gpu_list_rep reply = {0};

	(void)state;
	lone(1, 0);
	r.len--;
	expect_refused("middle of a record");
	lone(1, 0);
	memset(r.bytes + r.len, 0, 8);
	r.len += 8;
	expect_refused("middle of a record");
	lone(1, 0);
	r.n = 2;
	expect_refused("another number");
	lone(2, 0);
	lone(1, 0);
	expect_refused("ascending");
	lone(1, 0);
	lone(1, 0);
	expect_refused("ascending");
	records_part(&r, AT(1), AT(1), PROTO_ROLE_GPU, "");
	expect_refused("behind its GPU");
	lone(1, 0);
	records_holder(&r, AT(2), 7, "x", "y", "");
	expect_refused("behind its GPU");
	lone(1, 0);
	records_part(&r, AT(1), AT(1), PROTO_ROLE_GPU, "");
	expect_refused("parts are not in ascending order");
	records_card(&r, AT(1), 1, 0, PROTO_GPU_RENTABLE, NULL);
	records_part(&r, AT(1), AT(1), PROTO_ROLE_BRIDGE, "");
	expect_refused("another role");
	lone(1, 0);
	r.bytes[sizeof(struct proto_header) + sizeof(struct gpu_card_ev) - 1] = 'x';
	expect_refused("malformed");
	lone(1, 0);
	records_add(&r, OP_GPU_LIST, &reply, sizeof(reply));
	expect_refused("malformed");
	records_card(&r, AT(1), 1, 0, PROTO_GPU_BUSY, NULL);
	expect_refused("verdict");
	records_card(&r, AT(1), 1, 0, PROTO_GPU_RENTABLE, NULL);
	records_reason(&r, AT(1), AT(1), PROTO_GPU_BUSY, "");
	expect_refused("verdict");
	records_card(&r, AT(1), 1, 0, PROTO_GPU_BUSY, NULL);
	records_reason(&r, AT(1), AT(1), PROTO_GPU_BUSY, "");
	records_reason(&r, AT(1), AT(1), PROTO_GPU_RESERVED, "");
	expect_refused("not in their order");
	records_card(&r, AT(1), 1, 0, PROTO_GPU_RENTABLE, "vm");
	expect_refused("that a VM has");
	records_card(&r, AT(1), PROTO_NO_GROUP, 0, PROTO_GPU_RENTABLE, NULL);
	expect_refused("without a group");
	lone(1, 0);
	records_part(&r, AT(1), AT(9), PROTO_ROLE_GPU, "");
	expect_refused("not in the list");
}

/* The list as it comes: sealed memory of the size that was said. */
static void test_receive(void **state)
{
	_cleanup_(gpus_done) struct gpus gpus = {0};
	struct fdlist fds = {0};
	struct gpu_list_rep rep;
	struct err why = {0};

	(void)state;
	lone(1, 0);
	rep = (struct gpu_list_rep){.gpus = 1, .bytes = (uint32_t)r.len};
	assert_int_equal(fdlist_add(&fds, fd_memfd_sealed("gpus", r.bytes, r.len)), 0);
	assert_int_equal(gpus_receive(&rep, &fds, &gpus, &why), 0);
	assert_int_equal(gpus.n, 1);
	assert_int_equal(fds.n, 0);
	gpus_done(&gpus);
	rep.bytes--;
	assert_int_equal(fdlist_add(&fds, fd_memfd_sealed("gpus", r.bytes, r.len)), 0);
	assert_int_equal(gpus_receive(&rep, &fds, &gpus, &why), -EBADMSG);
	assert_true(gpus_receive(&rep, &fds, &gpus, &why) < 0); /* no descriptor */
	rep = (struct gpu_list_rep){0};
	assert_int_equal(fdlist_add(&fds, fd_memfd_sealed("gpus", "", 0)), 0);
	assert_int_equal(gpus_receive(&rep, &fds, &gpus, &why), 0);
	assert_int_equal(gpus.n, 0);
}

/* Choosing. */

struct expected {
	uint32_t count;
	const char *addresses; /* buses in hexadecimal, blanks between; NULL: none can be had */
};

static void expect_choice(const struct gpus *gpus, const struct gpu_claim *claims, size_t n,
			  const struct expected *expected)
{
	uint64_t chosen[PROTO_MAX_GPUS] = {0};
	_cleanup_free_ char *why = NULL;
	char text[256] = "";
	int result = gpus_choose(gpus, expected->count, claims, n, chosen, &why);

	for (size_t i = 0; result == 0 && i < proto_gpus_count(chosen); i++)
		(void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%x",
			       i > 0 ? " " : "", (unsigned int)(chosen[i] >> 8));
	if (!expected->addresses) {
		assert_int_equal(result, -EBUSY);
		assert_non_null(why);
		return;
	}
	if (result != 0)
		fail_msg("%u: none, but wanted %s: %s", expected->count, expected->addresses, why);
	assert_string_equal(text, expected->addresses);
	assert_null(why);
	/* What is chosen can be asked for by address as well. */
	assert_int_equal(gpus_check(gpus, chosen, claims, n, &why), 0);
}

static void expect_choices(const struct gpu_claim *claims, size_t n_claims,
			   const struct expected *expected, size_t n)
{
	_cleanup_(gpus_done) struct gpus gpus = {0};

	decode(&gpus);
	for (size_t i = 0; i < n; i++)
		expect_choice(&gpus, claims, n_claims, &expected[i]);
}

#define CHOICES(claims, n_claims, ...)                                                             \
	expect_choices(claims, n_claims, (const struct expected[]){__VA_ARGS__},                   \
		       ARRAY_LEN(((const struct expected[]){__VA_ARGS__})))

static void test_choose_lowest(void **state)
{
	(void)state;
	lone(1, NOWHERE);
	refused_gpu(2, PROTO_GPU_BOOT_DISPLAY, "");
	lone(3, NOWHERE);
	lone(0x81, NOWHERE);
	CHOICES(NULL, 0, {1, "1"}, {2, "1 3"}, {3, "1 3 81"}, {4, NULL}, {17, NULL});
}

static void test_choose_respects_claims(void **state)
{
	const struct gpu_claim claims[] = {{AT(1), "aaaa"}, {AT(4), "bbbb"}};

	(void)state;
	lone(1, 0);
	lone(2, 0);
	pair(3, 0);
	CHOICES(claims, 2, {1, "2"}, {2, NULL}, {3, NULL});
	CHOICES(claims, 1, {1, "2"}, {2, "3 4"}, {3, "2 3 4"}, {4, NULL});
}

/* Sets fit exactly or not at all: nobody gets a GPU that was not asked for. */
static void test_choose_sets(void **state)
{
	(void)state;
	pair(1, 0);
	CHOICES(NULL, 0, {1, NULL}, {2, "1 2"}, {3, NULL});
	pair(3, 0);
	CHOICES(NULL, 0, {1, NULL}, {2, "1 2"}, {3, NULL}, {4, "1 2 3 4"});
	lone(5, 0);
	CHOICES(NULL, 0, {1, "5"}, {3, "1 2 5"}, {5, "1 2 3 4 5"});
}

/* A meets B in one group, B meets C in another: all three go together. */
static void test_choose_chains(void **state)
{
	(void)state;
	for (unsigned int i = 1; i <= 3; i++) {
		records_card(&r, AT(i), i, 0, PROTO_GPU_RENTABLE, NULL);
		for (unsigned int k = MAX_OF(i, 2) - 1; k <= MIN_OF(i + 1, 3u); k++)
			records_part(&r, AT(i), AT(k), PROTO_ROLE_GPU, "");
	}
	CHOICES(NULL, 0, {1, NULL}, {2, NULL}, {3, "1 2 3"});
}

static void test_choose_nodes(void **state)
{
	(void)state;
	lone(1, 0);
	lone(2, 1);
	lone(3, 1);
	lone(4, 2);
	lone(5, 2);
	lone(6, 2);
	lone(7, NOWHERE);
	/* One node before the lowest addresses; the node with the least left over. */
	CHOICES(NULL, 0, {1, "1"}, {2, "2 3"}, {3, "4 5 6"}, {4, "1 2 3 4"}, {7, "1 2 3 4 5 6 7"});
}

static void test_choose_sixteen(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 8; i++)
		pair(1 + 2 * i, i / 4);
	CHOICES(NULL, 0, {16, "1 2 3 4 5 6 7 8 9 a b c d e f 10"}, {8, "1 2 3 4 5 6 7 8"},
		{15, NULL});
}

/* A node's set across two nodes counts for none of them. */
static void test_choose_mixed_set(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		records_card(&r, AT(1 + i), 1, i, PROTO_GPU_RENTABLE, NULL);
		records_part(&r, AT(1 + i), AT(1), PROTO_ROLE_GPU, "");
		records_part(&r, AT(1 + i), AT(2), PROTO_ROLE_GPU, "");
	}
	lone(3, 1);
	lone(4, 1);
	CHOICES(NULL, 0, {2, "3 4"}, {3, "1 2 3"});
}

/* Saying why not. */

static void expect_why(int result, int wanted, char *const *why, const char *text)
{
	assert_int_equal(result, wanted);
	assert_non_null(*why);
	assert_string_equal(*why, text);
}

static void test_reasons_by_count(void **state)
{
	const struct gpu_claim claims[] = {{AT(3), "aaaa"}, {AT(4), "bbbb"}};
	_cleanup_(gpus_done) struct gpus gpus = {0}, none = {0};
	_cleanup_free_ char *why = NULL, *no_gpu = NULL;
	uint64_t chosen[PROTO_MAX_GPUS];

	(void)state;
	refused_gpu(1, PROTO_GPU_BOOT_DISPLAY, "");
	records_card(&r, AT(2), 2, 0, PROTO_GPU_NOT_VIABLE, NULL);
	records_reason(&r, AT(2), AT(9), PROTO_GPU_NOT_VIABLE, "e1000e");
	records_reason(&r, AT(2), 0, PROTO_GPU_NOT_VIABLE, "some-uuid");
	records_reason(&r, AT(2), AT(2), PROTO_GPU_BUSY, "");
	records_holder(&r, AT(2), 7, "nvidia-smi", "/dev/nvidia0", "");
	records_holder(&r, AT(2), 8, "nvidia-persist", "/dev/nvidia0",
		       "nvidia-persistenced.service");
	lone(3, 0);
	records_card(&r, AT(4), 4, 0, PROTO_GPU_BUSY, "bbbb");
	records_reason(&r, AT(4), AT(4), PROTO_GPU_BUSY, "leased to VM bbbb");
	pair(5, 0);
	decode(&gpus);
	expect_why(gpus_choose(&gpus, 1, claims, 2, chosen, &why), -EBUSY, &why,
		   "1 GPU is wanted, 2 of 6 can be had, but not just that many: "
		   "0000:01:00.0: boot_display; "
		   "0000:02:00.0: not_viable (0000:09:00.0: e1000e), not_viable (some-uuid), "
		   "busy (process 7 nvidia-smi has /dev/nvidia0 open; process 8 nvidia-persist has "
		   "/dev/nvidia0 open, of nvidia-persistenced.service); "
		   "0000:03:00.0: promised to instance aaaa; "
		   "0000:04:00.0: busy (leased to VM bbbb); "
		   "0000:05:00.0: can only be rented together with 0000:06:00.0; "
		   "0000:06:00.0: can only be rented together with 0000:05:00.0");
	expect_why(gpus_choose(&none, 2, NULL, 0, chosen, &no_gpu), -EBUSY, &no_gpu,
		   "this host has no GPU");
}

static void test_reasons_by_address(void **state)
{
	_cleanup_(gpus_done) struct gpus gpus = {0};
	_cleanup_free_ char *why = NULL, *alone = NULL, *fine = NULL;
	const struct gpu_claim claim = {AT(3), "aaaa"};
	uint64_t wanted[PROTO_MAX_GPUS] = {AT(1), AT(2), AT(3), AT(9)};

	(void)state;
	refused_gpu(1, PROTO_GPU_QUARANTINED, "no answer after reset");
	lone(2, 0);
	lone(3, 0);
	pair(4, 0);
	decode(&gpus);
	expect_why(gpus_check(&gpus, wanted, &claim, 1, &why), -ENODEV, &why,
		   "0000:01:00.0: quarantined (no answer after reset); "
		   "0000:03:00.0: promised to instance aaaa; "
		   "0000:09:00.0: there is no GPU at this address");
	memset(wanted, 0, sizeof(wanted));
	wanted[0] = AT(4);
	expect_why(gpus_check(&gpus, wanted, &claim, 1, &alone), -EBUSY, &alone,
		   "0000:04:00.0: can only be rented together with 0000:05:00.0");
	wanted[1] = AT(5);
	assert_int_equal(gpus_check(&gpus, wanted, &claim, 1, &fine), 0);
	assert_null(fine);
}

/* What keeps a bind from succeeding; that the VM itself has some of the GPUs does not. */
static void test_explain(void **state)
{
	const uint64_t wanted[PROTO_MAX_GPUS] = {AT(1), AT(2), AT(3), AT(7)};
	_cleanup_(gpus_done) struct gpus gpus = {0};
	_cleanup_free_ char *why = NULL;

	(void)state;
	records_card(&r, AT(1), 1, 0, PROTO_GPU_BUSY, "aaaa");
	records_reason(&r, AT(1), AT(1), PROTO_GPU_BUSY, "leased to VM aaaa");
	lone(2, 0);
	records_card(&r, AT(3), 3, 0, PROTO_GPU_BUSY, NULL);
	records_reason(&r, AT(3), AT(3) | 1, PROTO_GPU_BUSY, "");
	records_holder(&r, AT(3), 7, "pipewire", "/dev/snd/controlC1", "");
	decode(&gpus);
	why = gpus_explain(&gpus, wanted, "aaaa");
	assert_string_equal(why, "0000:03:00.0: busy (0000:03:00.1: process 7 pipewire has "
				 "/dev/snd/controlC1 open); "
				 "0000:07:00.0: there is no GPU at this address");
}

/* Hundreds of GPUs with long stories make a text that ends. */
static void test_explanation_is_bounded(void **state)
{
	_cleanup_(gpus_done) struct gpus gpus = {0};
	_cleanup_free_ char *why = NULL;
	uint64_t chosen[PROTO_MAX_GPUS];
	char what[120];

	(void)state;
	memset(what, 'x', sizeof(what) - 1);
	what[sizeof(what) - 1] = '\0';
	for (unsigned int i = 1; i <= 150; i++)
		refused_gpu(i, PROTO_GPU_RESERVED, what);
	decode(&gpus);
	assert_int_equal(gpus_choose(&gpus, 1, NULL, 0, chosen, &why), -EBUSY);
	assert_true(strlen(why) < GPUS_WHY_MAX + 500);
	assert_non_null(strstr(why, "more"));
}

/* Names. */

static const char ids[] = "#\n#\tList of PCI ID's\n\n"
			  "1002  Advanced Micro Devices, Inc. [AMD/ATI]\n"
			  "\t2204  Not this one\n"
			  "10de  NVIDIA Corporation\n"
			  "\t2203  GA102 [GeForce RTX 3090 Ti]\n"
			  "\t\t10de 2204  A subsystem, not a device\n"
			  "\t2204  GA102 [GeForce RTX 3090]\r\n"
			  "\t2204  The second does not count\n"
			  "10de2  No vendor\n"
			  "\t2330  GH100, of nobody\n"
			  "10DE  Capitals are none\n"
			  "10df  Emulex\x01\xc3\xa9\n"
			  "C 03  Display controller\n"
			  "\t2330  A class\n";

static void test_names(void **state)
{
	struct pciids_name names[] = {{.vendor = 0x10de, .device = 0x2204},
				      {.vendor = 0x10de, .device = 0x2330},
				      {.vendor = 0x10df, .device = 1},
				      {.vendor = 0xffff, .device = 0xffff},
				      {.vendor = 0x10de, .device = 0x2204}};
	char longer[400] = "10de  ";

	(void)state;
	pciids_lookup(ids, strlen(ids), names, ARRAY_LEN(names));
	assert_string_equal(names[0].vendor_name, "NVIDIA Corporation");
	assert_string_equal(names[0].device_name, "GA102 [GeForce RTX 3090]");
	assert_string_equal(names[1].vendor_name, "NVIDIA Corporation");
	assert_string_equal(names[1].device_name, "");
	assert_string_equal(names[2].vendor_name, "Emulex???");
	assert_string_equal(names[3].vendor_name, "");
	assert_string_equal(names[4].device_name, "GA102 [GeForce RTX 3090]");
	memset(longer + 6, 'n', sizeof(longer) - 6);
	pciids_lookup(longer, sizeof(longer), names, 1);
	assert_int_equal(strlen(names[0].vendor_name), PCIIDS_NAME_SIZE - 1);
	pciids_lookup("", 0, names, 1);
	assert_string_equal(names[0].vendor_name, "");
}

/* The file is read when something new is seen, and not again. */
static void test_names_are_kept(void **state)
{
	_cleanup_(gpu_names_done) struct gpu_names names = {.fd = -EBADF};
	_cleanup_(gpus_done) struct gpus gpus = {0};
	char path[] = "/tmp/test-agentd-gpus-XXXXXX";
	int fd = mkstemp(path);

	(void)state;
	assert_int_equal(fd_write_all(fd, ids, strlen(ids)), 0);
	gpu_names_open(&names, path);
	lone(1, 0);
	decode(&gpus);
	assert_null(gpu_names_get(&names, 0x10de, 0x2204));
	gpu_names_learn(&names, &gpus);
	assert_string_equal(gpu_names_get(&names, 0x10de, 0x2204)->device_name,
			    "GA102 [GeForce RTX 3090]");
	assert_int_equal(ftruncate(fd, 0), 0);
	gpu_names_learn(&names, &gpus);
	assert_string_equal(gpu_names_get(&names, 0x10de, 0x2204)->device_name,
			    "GA102 [GeForce RTX 3090]");
	gpu_names_done(&names);
	gpu_names_open(&names, "/nonexistent/pci.ids");
	gpu_names_learn(&names, &gpus);
	assert_string_equal(gpu_names_get(&names, 0x10de, 0x2204)->device_name, "");
	(void)close(fd);
	(void)unlink(path);
}

#define CASE(name) cmocka_unit_test_setup(name, setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_decode),
		CASE(test_decode_refuses),
		CASE(test_receive),
		CASE(test_choose_lowest),
		CASE(test_choose_respects_claims),
		CASE(test_choose_sets),
		CASE(test_choose_chains),
		CASE(test_choose_nodes),
		CASE(test_choose_sixteen),
		CASE(test_choose_mixed_set),
		CASE(test_reasons_by_count),
		CASE(test_reasons_by_address),
		CASE(test_explain),
		CASE(test_explanation_is_bounded),
		CASE(test_names),
		CASE(test_names_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
