/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-helper/pci: parsers, the scan of made-up trees, each rule with what only our own records or
 * processes can tell (what boards alone tell is judged in tests/boards), and the choice of
 * functions. Usage: test-pci FAKE_SYSFS Trust: a test.
 */
#include "common/base.h"
#include "vfio-helper/config.h"
#include "vfio-helper/explain/explain.h"
#include "vfio-helper/pci/pci.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static const char *fake_sysfs;

/* A tree made from a description, and what it is judged to be. */
struct board {
	char dir[64];
	int sysfs_fd;
	struct pci_tree tree;
	struct gpu_policy policy;
	struct gpu_state state;
	struct gpu_list list;
};

static void run(const char *const argv[])
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		(void)execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* All of it, as for a list: what is no GPU by policy, too. */
static void board_read(struct board *b)
{
	assert_int_equal(pci_scan(b->sysfs_fd, &b->tree, NULL), 0);
	for (uint32_t i = 0; i < b->tree.n_funcs; i++)
		b->tree.funcs[i].near = true;
	assert_int_equal(gpu_survey(b->sysfs_fd, &b->policy, &b->state, NULL, 0, &b->tree), 0);
	for (uint32_t i = 0; i < b->tree.n_funcs; i++) {
		struct pci_func *f = &b->tree.funcs[i];
		_cleanup_close_ int fd = pci_open(b->sysfs_fd, f->address);

		pci_read_more(fd, f);
	}
}

static void board_make(struct board *b, const char *description)
{
	char path[80], tree[80];
	FILE *f;

	*b = (struct board){.dir = "/tmp/test-pci.XXXXXX"};
	assert_non_null(mkdtemp(b->dir));
	(void)snprintf(path, sizeof(path), "%s/board", b->dir);
	(void)snprintf(tree, sizeof(tree), "%s/sys", b->dir);
	f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs(description, f) >= 0);
	assert_int_equal(fclose(f), 0);
	run((const char *const[]){fake_sysfs, path, tree, NULL});
	b->sysfs_fd = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(b->sysfs_fd >= 0);
	b->policy.vendors[b->policy.n_vendors++] = 0x10de;
	board_read(b);
}

static void board_judge(struct board *b)
{
	gpu_list_done(&b->list);
	assert_int_equal(gpu_judge(&b->tree, &b->policy, &b->state, &b->list), 0);
}

static void board_done(struct board *b)
{
	gpu_list_done(&b->list);
	/* Holders are the board's own; leases and quarantines are the tests' literals. */
	free(b->state.holders);
	pci_tree_done(&b->tree);
	(void)close(b->sysfs_fd);
	run((const char *const[]){"rm", "-rf", b->dir, NULL});
}

static const struct pci_func *func_at(const struct board *b, const char *text)
{
	pci_addr addr;
	uint32_t i;

	assert_int_equal(pci_addr_parse(text, &addr), 0);
	i = pci_find(&b->tree, addr);
	assert_int_not_equal(i, PCI_NO_INDEX);
	return &b->tree.funcs[i];
}

/* What --explain prints of the whole board. */
static void assert_explained(struct board *b, const char *expected)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	assert_non_null(f);
	board_judge(b);
	assert_int_equal(gpu_explain(&b->tree, &b->list, f), 0);
	(void)fclose(f);
	assert_string_equal(text, expected);
	free(text);
}

/* Has the first GPU a reason with these words about this function? */
static void assert_reason(const struct board *b, enum proto_gpu_reason reason, const char *address,
			  const char *words)
{
	const struct gpu *gpu = &b->list.gpus[0];
	char text[PCI_TEXT_SIZE];

	assert_true(b->list.n > 0);
	for (uint32_t i = 0; i < gpu->n_reasons; i++) {
		pci_addr_text(gpu->reasons[i].address, text);
		if (gpu->reasons[i].reason == reason && STR_EQ(text, address) &&
		    strstr(gpu->reasons[i].what, words))
			return;
	}
	fail_msg("no %s of %s with \"%s\"", proto_gpu_reason_name(reason), address, words);
}

/* ---- parsers ---- */

static void test_addresses(void **state _unused_)
{
	static const char *const good[] = {"0000:00:00.0", "0000:01:00.0", "10000:e1:1f.7",
					   "ffffffff:ff:1f.7", "000a:00:00.0"};
	static const char *const bad[] = {"",
					  "0000",
					  "000:01:00.0",
					  "0000:01:00.8",
					  "0000:01:20.0",
					  "0000:1:00.0",
					  "0000:01:00.0 ",
					  " 0000:01:00.0",
					  "0000:01:00.00",
					  "0000:01:0.0",
					  "0000:0A:00.0",
					  "00000:01:00.0",
					  "123456789:01:00.0",
					  "0000-01:00.0",
					  "0000:01:00.",
					  "4b20d080-1b54-4048-85b3-a6a62d165c01"};
	char text[PCI_TEXT_SIZE];
	pci_addr addr;

	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_int_equal(pci_addr_parse(good[i], &addr), 0);
		pci_addr_text(addr, text);
		assert_string_equal(text, good[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(pci_addr_parse(bad[i], &addr), -EINVAL);
	assert_int_equal(pci_addr_parse("0001:02:03.4", &addr), 0);
	assert_true(addr == (UINT64_C(1) << 16 | 2 << 8 | 3 << 3 | 4));
	assert_true(pci_slot_of(addr) == addr - 4);
}

#define LINE "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"

static void test_resource(void **state _unused_)
{
	uint64_t bars[PCI_BARS];
	uint32_t wide;

	assert_int_equal(pci_parse_resource(
				 "0x0000000010000000 0x0000000010ffffff 0x0000000000040200\n"
				 "0x0000004000000000 0x0000007fffffffff 0x000000000014220c\n" LINE
				 "0x0000008000000000 0x0000008001ffffff 0x000000000014220c\n" LINE
				 "0x000000000000e000 0x000000000000e07f 0x0000000000040101\n" LINE,
				 bars, &wide),
			 0);
	assert_true(bars[0] == 16 << 20 && bars[1] == UINT64_C(256) << 30 && bars[2] == 0 &&
		    bars[3] == 32 << 20 && bars[4] == 0 && bars[5] == 128);
	assert_int_equal(wide, 1 << 1 | 1 << 3);
	/* Six lines are needed, more do not matter, and nothing else may be in them. */
	assert_int_equal(pci_parse_resource(LINE LINE LINE LINE LINE, bars, &wide), -EINVAL);
	assert_int_equal(pci_parse_resource(LINE LINE LINE LINE LINE LINE "x", bars, &wide), 0);
	assert_int_equal(pci_parse_resource(LINE LINE LINE LINE LINE "0x0 0x0 0x0", bars, &wide),
			 0);
	assert_int_equal(pci_parse_resource(LINE LINE LINE LINE LINE "0x0 0x0", bars, &wide),
			 -EINVAL);
	assert_int_equal(pci_parse_resource(LINE LINE LINE LINE LINE "0 0x0 0x0\n", bars, &wide),
			 -EINVAL);
	assert_int_equal(pci_parse_resource("", bars, &wide), -EINVAL);
}

static void test_resets(void **state _unused_)
{
	assert_int_equal(pci_parse_resets(""), 0);
	assert_int_equal(pci_parse_resets("flr bus"), 1 << PROTO_RESET_FLR | 1 << PROTO_RESET_BUS);
	assert_int_equal(pci_parse_resets("device_specific  cxl_bus unheard pm"),
			 1 << PROTO_RESET_DEVICE_SPECIFIC | 1 << PROTO_RESET_CXL_BUS |
				 1 << PROTO_RESET_PM);
	assert_int_equal(pci_parse_resets("fl bu flrx"), 0);
}

static void test_policy(void **state _unused_)
{
	struct gpu_keys keys = {.vendors = "10de, 1002 ,8086",
				.accelerators = "",
				.along = "0000:03:00.0",
				.never = "10000:e1:00.0,0000:04:00.0",
				.services = "a.service,nvidia-dcgm@1.service",
				.adopt_vfio = true};
	struct gpu_policy p;
	struct err err;
	pci_addr addr;

	assert_int_equal(gpu_policy_parse(&keys, &p, &err), 0);
	assert_int_equal(p.n_vendors, 3);
	assert_int_equal(p.vendors[1], 0x1002);
	assert_int_equal(p.n_accelerators, 0);
	assert_int_equal(p.n_along, 1);
	assert_int_equal(p.n_never, 2);
	assert_true(p.adopt_vfio && !p.allow_nouveau && !p.allow_boot_display);
	assert_int_equal(pci_addr_parse("10000:e1:00.0", &addr), 0);
	assert_true(gpu_policy_has(p.never, p.n_never, addr));
	assert_false(gpu_policy_has(p.along, p.n_along, addr));
	assert_true(gpu_policy_may_stop(&p, "nvidia-dcgm@1.service"));
	assert_false(gpu_policy_may_stop(&p, "ssh.service") || gpu_policy_may_stop(&p, ""));
}

static void test_policy_errors(void **state _unused_)
{
	static const char *const vendors[] = {"10de,",  ",10de", "10d",  "010de",    "0x10de",
					      "nvidia", "0000",  "ffff", "10de 1002"};
	static const char *const services[] = {"ssh",         ".service",
					       "-x.service",  "a b.service",
					       "a/b.service", "a.service,,b.service"};
	struct gpu_keys keys = {.vendors = ""};
	struct gpu_policy p;
	struct err err;

	for (size_t i = 0; i < ARRAY_LEN(vendors); i++) {
		(void)snprintf(keys.vendors, sizeof(keys.vendors), "%s", vendors[i]);
		assert_int_equal(gpu_policy_parse(&keys, &p, &err), -EINVAL);
		assert_non_null(strstr(err.text, "gpu_vendors: \""));
	}
	keys.vendors[0] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(services); i++) {
		(void)snprintf(keys.services, sizeof(keys.services), "%s", services[i]);
		assert_int_equal(gpu_policy_parse(&keys, &p, &err), -EINVAL);
		assert_non_null(strstr(err.text, "gpu_services: \""));
	}
	keys.services[0] = '\0';
	(void)snprintf(keys.along, sizeof(keys.along), "0000:01:00.0,01:00.0");
	assert_int_equal(gpu_policy_parse(&keys, &p, &err), -EINVAL);
	assert_string_equal(err.text,
			    "gpu_along: \"01:00.0\" is not a PCI address like 0000:01:00.0");
	keys.along[0] = '\0';
	for (size_t i = 0; i + 5 < sizeof(keys.never); i += 13)
		(void)snprintf(keys.never + i, sizeof(keys.never) - i, "0000:00:00.0,");
	keys.never[sizeof(keys.never) - 1] = '\0';
	assert_int_equal(gpu_policy_parse(&keys, &p, &err), -EINVAL);
	keys.never[0] = '\0';
	for (size_t i = 0; i + 5 < sizeof(keys.vendors); i += 5)
		(void)snprintf(keys.vendors + i, sizeof(keys.vendors) - i, "10de,");
	keys.vendors[124] = '\0';
	assert_int_equal(gpu_policy_parse(&keys, &p, &err), 0);
	assert_int_equal(p.n_vendors, 25);
}

/* ---- the scan ---- */

static const char desktop[] =
	"pci 0000:00:00.0 8086:a706 060000 group=0\n"
	"pci 0000:00:01.0 8086:a70d 060400 driver=pcieport group=1\n"
	"pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=nvidia group=1 "
	"bars=16M,256G/64p,-,32M/64p,-,128/io rom=512K windows=1G/64p boot_vga=0 reset=flr,bus "
	"numa=1 sub=1043:87d9 rev=a1 node=drm/card0:1:3\n"
	"pci 0000:01:00.1 10de:1aef 040300 parent=0000:00:01.0 driver=snd_hda_intel group=1 "
	"bars=16K node=sound/card1/controlC1:1:5\n"
	"pci 10000:e1:00.0 10de:2204 030200 group=2 override=vfio-pci attr=reset:\n";

static void test_scan(void **state _unused_)
{
	const struct pci_func *f;
	struct board b;

	board_make(&b, desktop);
	assert_int_equal(b.tree.n_funcs, 5);
	f = func_at(&b, "0000:01:00.0");
	assert_int_equal(f->vendor, 0x10de);
	assert_int_equal(f->device, 0x2204);
	assert_int_equal(f->subvendor, 0x1043);
	assert_int_equal(f->subdevice, 0x87d9);
	assert_int_equal(f->class_code, 0x030000);
	assert_int_equal(f->revision, 0xa1);
	assert_int_equal(f->group, 1);
	assert_int_equal(f->node, 1);
	assert_ptr_equal(&b.tree.funcs[f->parent], func_at(&b, "0000:00:01.0"));
	assert_int_equal(f->physfn, PCI_NO_INDEX);
	assert_int_equal(f->resets, 1 << PROTO_RESET_FLR | 1 << PROTO_RESET_BUS);
	assert_true(f->bars[1] == UINT64_C(256) << 30 && f->bars[5] == 128);
	assert_int_equal(f->wide, 1 << 1 | 1 << 3);
	assert_string_equal(f->driver, "nvidia");
	assert_false(f->vfio || f->boot_vga || f->display || f->critical);
	f = func_at(&b, "10000:e1:00.0");
	assert_int_equal(f->group, 2);
	assert_int_equal(f->node, PROTO_NO_NODE);
	assert_int_equal(f->parent, PCI_NO_INDEX);
	assert_string_equal(f->driver, "");
	assert_int_equal(f->resets, 1 << PROTO_RESET_DEVICE_SPECIFIC);
	assert_int_equal(pci_find(&b.tree, 0x12345), PCI_NO_INDEX);
	board_done(&b);
}

static void test_scan_of_nothing(void **state _unused_)
{
	int fd = open("/dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct pci_tree tree;
	struct err err = {0};
	struct board b;

	assert_true(fd >= 0);
	assert_int_equal(pci_scan(fd, &tree, &err), -ENOENT);
	assert_non_null(strstr(err.text, "bus/pci/devices"));
	(void)close(fd);
	board_make(&b, "# nothing\n");
	assert_int_equal(b.tree.n_funcs, 0);
	assert_explained(&b, "");
	board_done(&b);
}

/* FIFOs, binary texts and texts without end where attributes belong: read as absent, at once. */
static void test_scan_of_oddities(void **state _unused_)
{
	char path[160], page[8192];
	struct board b;
	FILE *f;

	board_make(&b, "pci 0000:01:00.0 10de:2204 030000 group=1 boot_vga=1 reset=flr "
		       "hang=boot_vga,reset_method,numa_node\n"
		       "pci 0000:02:00.0 10de:2204 030000 group=2\n"
		       "pci 0000:03:00.0 10de:2204 030000 group=2 hang=modalias\n");
	assert_false(func_at(&b, "0000:01:00.0")->boot_vga);
	assert_int_equal(func_at(&b, "0000:01:00.0")->resets, 0);
	(void)snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/0000:02:00.0/boot_vga", b.dir);
	memset(page, '1', sizeof(page));
	f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(page, sizeof(page), 1, f), 1);
	assert_int_equal(fclose(f), 0);
	pci_tree_done(&b.tree);
	board_read(&b);
	assert_false(func_at(&b, "0000:02:00.0")->boot_vga);
	/* One that does not say what it is, is a stranger to its group. */
	assert_int_equal(b.tree.n_funcs, 2);
	assert_int_equal(b.tree.n_strangers, 1);
	assert_string_equal(b.tree.strangers[0].name, "0000:03:00.0");
	board_done(&b);
}

/* What changes after the first reading is seen in the second, and nothing that does not matter. */
static void test_again(void **state _unused_)
{
	static const char board[] =
		"pci 0000:00:01.0 8086:a70d 060400 driver=pcieport group=1\n"
		"pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=nvidia group=1\n"
		"pci 0000:01:00.1 10de:1aef 040300 parent=0000:00:01.0 group=1\n"
		"pci 0000:02:00.0 144d:a808 010802 driver=nvme group=2\n";
	static const struct {
		const char *path, *target; /* a link that is made; NULL: what is there is removed */
		int r;
	} changes[] = {
		{"bus/pci/devices/0000:02:00.0/driver", NULL, 0},
		{"bus/pci/devices/0000:01:00.0/driver", NULL, -EBUSY},
		{"bus/pci/devices/0000:01:00.1/driver", "x/snd_hda_intel", -EBUSY},
		{"bus/pci/devices/0000:01:00.0/iommu_group", NULL, -EBUSY},
		{"bus/pci/devices/0000:01:00.0/modalias", NULL, -EBUSY},
		{"bus/pci/devices/0000:01:00.0/virtfn0", "../0000:01:00.2", -EBUSY},
		{"bus/pci/devices/0000:01:00.0/physfn", "../0000:02:00.0", -EBUSY},
		{"bus/pci/devices/0000:01:00.1", NULL, -EBUSY},
		{"bus/pci/devices/0000:03:00.0", "x", 0},
		{"bus/pci/devices/0000:03:00.0", "../../../devices/pci0000:00/0000:03:00.0", 0},
		{"bus/pci/devices/0000:03:00.0",
		 "../../../devices/pci0000:00/0000:00:01.0/0000:03:00.0", -EBUSY},
		{"bus/pci/devices/0000:03:00.0",
		 "../../../devices/pci0000:00/0000:02:00.0/0000:03:00.0", 0},
		{"bus/pci/devices/0000:01:00.2", "x", -EBUSY},
		{"kernel/iommu_groups/2/devices/0000:03:00.0", "x", 0},
		{"kernel/iommu_groups/1/devices/0000:03:00.0", "x", -EBUSY},
		{"class/block/sda", "../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/sda",
		 -EBUSY},
		{"class/graphics/fb0", "../../devices/pci0000:00/0000:01:00.0/fb0", -EBUSY},
	};

	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		const pci_addr gpu = 0x100;
		char path[160];
		struct board b;

		board_make(&b, board);
		pci_tree_done(&b.tree);
		assert_int_equal(pci_scan(b.sysfs_fd, &b.tree, NULL), 0);
		assert_int_equal(gpu_survey(b.sysfs_fd, &b.policy, &b.state, &gpu, 1, &b.tree), 0);
		assert_int_equal(pci_again(b.sysfs_fd, &b.tree, NULL), 0);
		(void)snprintf(path, sizeof(path), "%s/sys/%s", b.dir, changes[i].path);
		if (changes[i].target)
			assert_int_equal(symlink(changes[i].target, path), 0);
		else
			assert_int_equal(unlink(path), 0);
		if (pci_again(b.sysfs_fd, &b.tree, NULL) != changes[i].r)
			fail_msg("%s", changes[i].path);
		board_done(&b);
	}
}

/* ---- rules that need more than a board ---- */

#define CARD "0000:01:00.0,0000:01:00.1"

static void test_leases(void **state _unused_)
{
	struct gpu_lease_ref leases[] = {
		{.address = 0x100, .vm = "0123456789abcdef", .complete = true},
		{.address = 0x101, .vm = "0123456789abcdef", .complete = true}};
	struct board b;

	board_make(&b, "pci 0000:01:00.0 10de:2204 030000 driver=vfio-pci group=1\n"
		       "pci 0000:01:00.1 10de:1aef 040300 driver=vfio-pci group=1\n");
	assert_explained(&b, "0000:01:00.0 reserved bind=" CARD
			     " reasons=reserved:0000:01:00.0,reserved:0000:01:00.1\n");
	b.state.leases = leases;
	b.state.n_leases = ARRAY_LEN(leases);
	assert_explained(&b, "0000:01:00.0 busy bind=" CARD " reasons=busy:0000:01:00.0\n");
	assert_reason(&b, PROTO_GPU_BUSY, "0000:01:00.0", "leased to VM 0123456789abcdef");
	leases[1].complete = false;
	assert_explained(&b, "0000:01:00.0 busy bind=" CARD
			     " reasons=busy:0000:01:00.0,half_bound:0000:01:00.0\n");
	b.state.n_leases = 0;
	b.policy.adopt_vfio = true;
	assert_explained(&b, "0000:01:00.0 rentable bind=" CARD " reasons=\n");
	board_done(&b);
}

/* A function that was bound along stays so while it is leased, although it has a driver then. */
static void test_leased_along(void **state _unused_)
{
	struct gpu_lease_ref leases[] = {{.address = 0x100, .vm = "a", .complete = true},
					 {.address = 0x200, .vm = "a", .complete = true}};
	struct board b;

	board_make(&b, "pci 0000:01:00.0 10de:2204 030000 driver=vfio-pci group=1\n"
		       "pci 0000:02:00.0 8086:1533 020000 driver=vfio-pci group=1\n");
	b.policy.along[b.policy.n_along++] = 0x200;
	b.state.leases = leases;
	b.state.n_leases = 1;
	assert_explained(&b, "0000:01:00.0 not_viable bind=0000:01:00.0 "
			     "reasons=not_viable:0000:02:00.0,busy:0000:01:00.0\n");
	b.state.n_leases = 2;
	assert_explained(&b, "0000:01:00.0 busy bind=0000:01:00.0,0000:02:00.0 "
			     "reasons=busy:0000:01:00.0\n");
	board_done(&b);
}

static void test_quarantine(void **state _unused_)
{
	struct gpu_quarantine_ref q = {.address = 0x101, .since_s = 1763719200};
	struct board b;

	memset(q.why, 'w', sizeof(q.why) - 1);
	board_make(&b, "pci 0000:01:00.0 10de:2204 030000 driver=nvidia group=1\n"
		       "pci 0000:01:00.1 10de:1aef 040300 driver=vfio-pci group=1\n");
	b.state.quarantines = &q;
	b.state.n_quarantines = 1;
	/* On VFIO by our own doing: not reserved for anyone. */
	assert_explained(&b, "0000:01:00.0 quarantined bind=" CARD
			     " reasons=quarantined:0000:01:00.1,half_bound:0000:01:00.0\n");
	assert_reason(&b, PROTO_GPU_QUARANTINED, "0000:01:00.1", "www; since 2025-11-21T10:00Z;");
	assert_reason(&b, PROTO_GPU_QUARANTINED, "0000:01:00.1",
		      "qudatactl gpus recover 0000:01:00.1");
	board_done(&b);
}

static void test_policy_rules(void **state _unused_)
{
	struct board b;

	board_make(&b, "pci 0000:01:00.0 10de:2204 030000 driver=nouveau group=1 boot_vga=1\n"
		       "pci 0000:01:00.1 10de:1aef 040300 driver=snd_hda_intel group=1\n");
	assert_explained(&b, "0000:01:00.0 boot_display bind=" CARD
			     " reasons=boot_display:0000:01:00.0,busy:0000:01:00.0\n");
	b.policy.allow_boot_display = b.policy.allow_nouveau = true;
	assert_explained(&b, "0000:01:00.0 rentable bind=" CARD " reasons=\n");
	b.policy.never[b.policy.n_never++] = 0x100;
	assert_explained(&b, "0000:01:00.0 reserved bind=" CARD " reasons=reserved:0000:01:00.0\n");
	assert_reason(&b, PROTO_GPU_RESERVED, "0000:01:00.0", "helper.conf");
	b.policy.n_vendors = 0;
	assert_explained(&b, "");
	board_done(&b);
}

static void test_bmc(void **state _unused_)
{
	struct board b;

	board_make(&b, "pci 0000:02:00.0 1a03:2000 030000 driver=ast group=1\n");
	b.policy.vendors[0] = 0x1a03;
	b.policy.allow_boot_display = true;
	assert_explained(&b, "0000:02:00.0 boot_display bind=0000:02:00.0 "
			     "reasons=boot_display:0000:02:00.0\n");
	board_done(&b);
}

static void test_strangers(void **state _unused_)
{
	struct board b;

	board_make(&b, "pci 0000:00:00.0 8086:0000 060000 driver=edac group=1\n"
		       "pci 0000:01:00.0 10de:2204 030000 driver=nvidia group=1\n"
		       "stranger 'odd, name' group=1\n"
		       "stranger 4b20d080-1b54-4048-85b3-a6a62d165c01 group=2\n");
	assert_explained(&b, "0000:01:00.0 not_viable bind=0000:01:00.0 "
			     "reasons=not_viable:0000:00:00.0,not_viable:odd??name\n");
	assert_reason(&b, PROTO_GPU_NOT_VIABLE, "0000:00:00.0", "0000:00:00.0: not of the card");
	board_done(&b);
}

/* ---- holders ---- */

static void put_process(const char *dir, const char *pid, const char *comm, const char *cgroup,
			const char *node)
{
	static const char *const parts[] = {"", "/fd"};
	char path[256];
	FILE *f;

	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		(void)snprintf(path, sizeof(path), "%s/proc/%s%s", dir, pid, parts[i]);
		assert_int_equal(mkdir(path, 0755), 0);
	}
	(void)snprintf(path, sizeof(path), "%s/proc/%s/fd/3", dir, pid);
	assert_int_equal(symlink(node, path), 0);
	(void)snprintf(path, sizeof(path), "%s/proc/%s/comm", dir, pid);
	f = fopen(path, "we");
	assert_true(f && fputs(comm, f) >= 0 && fclose(f) == 0);
	(void)snprintf(path, sizeof(path), "%s/proc/%s/cgroup", dir, pid);
	f = fopen(path, "we");
	assert_true(f && fputs(cgroup, f) >= 0 && fclose(f) == 0);
}

/* Nodes of the description are numbers of /dev/null and /dev/zero, which the processes hold. */
static void test_holders(void **state _unused_)
{
	char path[128];
	struct board b;
	int proc_fd;

	board_make(&b, desktop);
	(void)snprintf(path, sizeof(path), "%s/proc", b.dir);
	assert_int_equal(mkdir(path, 0755), 0);
	put_process(b.dir, "41", "dcgm\n", "1:cpu:/x\n0::/system.slice/dcgm.service/sub\n",
		    "/dev/null");
	put_process(b.dir, "42", "evil\n\x1b[31m\n",
		    "0::/user.slice/x:/system.slice/dcgm.service\n", "/dev/zero");
	put_process(b.dir, "43", "other\n", "0::/system.slice/other.service\n", "/dev/full");
	put_process(b.dir, "x44", "nobody\n", "", "/dev/null");
	put_process(b.dir, "45", "boxed\n", "0::/system.slice/docker-x.scope/dcgm.service\n",
		    "/dev/zero");
	put_process(b.dir, "46", "dcgm\n", "0::/system.slice/system-dcgm.slice/dcgm.service\n",
		    "/dev/null");
	proc_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(proc_fd >= 0);
	assert_int_equal(gpu_find_holders(b.sysfs_fd, proc_fd, &b.tree, &b.state), 0);
	(void)close(proc_fd);
	assert_int_equal(b.state.n_holders, 4);
	board_judge(&b);
	assert_reason(&b, PROTO_GPU_BUSY, "0000:01:00.0", "dcgm (41) has /dev/null open");
	assert_reason(&b, PROTO_GPU_BUSY, "0000:01:00.1", "evil??[31m (42) has /dev/zero open");
	(void)snprintf(b.policy.services[b.policy.n_services++], 64, "dcgm.service");
	assert_explained(&b, "0000:01:00.0 busy bind=" CARD " reasons=busy:0000:01:00.1\n"
			     "10000:e1:00.0 rentable bind=10000:e1:00.0 reasons=\n");
	/* A container's own cgroup has no unit's name. */
	assert_reason(&b, PROTO_GPU_BUSY, "0000:01:00.1", "boxed (45) has /dev/zero open");
	board_done(&b);
}

/* This very process, through the real procfs; a pseudo-terminal is nobody else's. */
static void test_real_holder(void **state _unused_)
{
	int proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int ptmx = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), pts;
	char description[160], name[64];
	struct board b;
	struct stat st;

	assert_true(proc_fd >= 0 && ptmx >= 0);
	assert_int_equal(grantpt(ptmx) | unlockpt(ptmx) | ptsname_r(ptmx, name, sizeof(name)), 0);
	pts = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(pts >= 0 && fstat(pts, &st) == 0);
	(void)snprintf(description, sizeof(description),
		       "pci 0000:01:00.0 10de:2204 030000 group=1 node=a/b/c:%u:%u\n",
		       (unsigned int)(st.st_rdev >> 8), (unsigned int)(st.st_rdev & 0xff));
	board_make(&b, description);
	assert_int_equal(gpu_find_holders(b.sysfs_fd, proc_fd, &b.tree, &b.state), 0);
	assert_int_equal(b.state.n_holders, 1);
	assert_int_equal(b.state.holders[0].pid, getpid());
	assert_string_equal(b.state.holders[0].program, "test-pci");
	assert_string_equal(b.state.holders[0].node, name);
	board_done(&b);
	(void)close(pts);
	(void)close(ptmx);
	(void)close(proc_fd);
}

/* ---- the choice ---- */

static void test_choose(void **state _unused_)
{
	uint32_t funcs[PROTO_MAX_DEVICES], n = 0;
	struct err err = {0};
	struct board b;

	board_make(&b, "pci 0000:01:00.0 10de:2204 030000 group=1\n"
		       "pci 0000:01:00.1 10de:1aef 040300 group=1\n"
		       "pci 0000:02:00.0 10de:2204 030000 group=2\n"
		       "pci 0000:03:00.0 10de:2204 030000 group=2\n"
		       "pci 0000:04:00.0 10de:2204 030000 group=4\n"
		       "pci 0000:05:00.0 8086:1533 020000 driver=igb group=4\n"
		       "pci 0000:06:00.0 8086:1533 020000 driver=igb group=6\n");
	board_judge(&b);
	assert_int_equal(
		gpu_choose(&b.list, &b.tree, (const pci_addr[]){0x100}, 1, funcs, &n, &err), 0);
	assert_int_equal(n, 2);
	assert_true(b.tree.funcs[funcs[0]].address == 0x100 &&
		    b.tree.funcs[funcs[1]].address == 0x101);
	/* Out of order and twice is no way to get a function twice. */
	assert_int_equal(gpu_choose(&b.list, &b.tree,
				    (const pci_addr[]){0x300, 0x100, 0x200, 0x300}, 4, funcs, &n,
				    &err),
			 0);
	assert_int_equal(n, 4);
	for (uint32_t i = 1; i < n; i++)
		assert_true(funcs[i - 1] < funcs[i]);
	assert_int_equal(
		gpu_choose(&b.list, &b.tree, (const pci_addr[]){0x100, 0x200}, 2, funcs, &n, &err),
		-EXDEV);
	assert_non_null(
		strstr(err.text, "0000:02:00.0 can only be had together with 0000:03:00.0"));
	assert_int_equal(
		gpu_choose(&b.list, &b.tree, (const pci_addr[]){0x100, 0x400}, 2, funcs, &n, &err),
		-EPERM);
	assert_string_equal(err.text, "0000:04:00.0 may not be rented: not_viable 0000:05:00.0 not "
				      "of the card; driver igb");
	/* A NIC, a bridge, a companion, nothing at all: none of them is a GPU. */
	for (pci_addr addr = 0x600; addr < 0x608; addr++)
		assert_int_equal(gpu_choose(&b.list, &b.tree, &addr, 1, funcs, &n, &err), -ENODEV);
	assert_int_equal(
		gpu_choose(&b.list, &b.tree, (const pci_addr[]){0x101}, 1, funcs, &n, &err),
		-ENODEV);
	board_done(&b);
}

static void test_choose_too_many(void **state _unused_)
{
	char text[16 * 1024];
	uint32_t funcs[PROTO_MAX_DEVICES], n = 0;
	pci_addr gpus[PROTO_MAX_DEVICES + 1];
	struct err err = {0};
	struct board b;
	size_t used = 0;

	for (uint32_t i = 0; i < ARRAY_LEN(gpus); i++) {
		gpus[i] = (i + 1) << 8;
		used += (size_t)snprintf(text + used, sizeof(text) - used,
					 "pci 0000:%02x:00.0 10de:2204 030000 group=%u\n", i + 1,
					 i);
	}
	board_make(&b, text);
	board_judge(&b);
	assert_int_equal(gpu_choose(&b.list, &b.tree, gpus, PROTO_MAX_DEVICES, funcs, &n, &err), 0);
	assert_int_equal(n, PROTO_MAX_DEVICES);
	assert_int_equal(gpu_choose(&b.list, &b.tree, gpus, ARRAY_LEN(gpus), funcs, &n, &err),
			 -E2BIG);
	board_done(&b);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses),       cmocka_unit_test(test_resource),
		cmocka_unit_test(test_resets),          cmocka_unit_test(test_policy),
		cmocka_unit_test(test_policy_errors),   cmocka_unit_test(test_scan),
		cmocka_unit_test(test_scan_of_nothing), cmocka_unit_test(test_scan_of_oddities),
		cmocka_unit_test(test_again),           cmocka_unit_test(test_leases),
		cmocka_unit_test(test_leased_along),    cmocka_unit_test(test_quarantine),
		cmocka_unit_test(test_policy_rules),    cmocka_unit_test(test_bmc),
		cmocka_unit_test(test_strangers),       cmocka_unit_test(test_holders),
		cmocka_unit_test(test_real_holder),     cmocka_unit_test(test_choose),
		cmocka_unit_test(test_choose_too_many),
	};

	if (argc != 2) {
		(void)fputs("usage: test-pci FAKE_SYSFS\n", stderr);
		return 2;
	}
	fake_sysfs = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
