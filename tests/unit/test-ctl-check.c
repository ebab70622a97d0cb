/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tests of the capability check, on hosts made of files below a directory.
 *
 * Trust: a test; reads nothing from outside.
 */
#include "ctl/check.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

struct host {
	char dir[64];
	struct check_env env;
};

static bool every_user(const char *name)
{
	return *name != 0;
}

static bool no_user(const char *name)
{
	return *name == 0;
}

static int setup(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	if (!h)
		return -1;
	snprintf(h->dir, sizeof(h->dir), "/tmp/ctl-check-XXXXXX");
	if (!mkdtemp(h->dir))
		return -1;
	h->env = (struct check_env){
		.root_fd = open(h->dir, O_PATH | O_DIRECTORY | O_CLOEXEC),
		.path = "/nowhere:/usr/bin",
		.qemu = "qemu-system-x86_64",
		.images_dir = "/var/lib/qudata-images",
		.helper_dir = "/var/lib/qudata-helper",
		.user_exists = no_user,
		.run = check_run_program,
	};
	*state = h;
	return h->env.root_fd < 0 ? -1 : 0;
}

static int unlink_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct host *h = *state;

	(void)close(h->env.root_fd);
	(void)nftw(h->dir, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
	free(h);
	return 0;
}

static void make_parents(const struct host *h, const char *path)
{
	char part[512];

	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", (int)(p - path), path);
		assert_true(mkdirat(h->env.root_fd, part, 0755) == 0 || errno == EEXIST);
	}
}

static void put_mode(const struct host *h, const char *path, const char *text, mode_t mode)
{
	int fd;

	make_parents(h, path);
	fd = openat(h->env.root_fd, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(close(fd), 0);
}

static void put(const struct host *h, const char *path, const char *text)
{
	put_mode(h, path, text, 0644);
}

static void put_link(const struct host *h, const char *path, const char *target)
{
	make_parents(h, path);
	assert_int_equal(symlinkat(target, h->env.root_fd, path), 0);
}

/* The @nth result with @id; fails the test when there is none. */
static const struct check_result *find(const struct check_report *report, const char *id,
				       size_t nth)
{
	for (size_t i = 0; i < report->n; i++)
		if (STR_EQ(report->results[i].id, id) && nth-- == 0)
			return &report->results[i];
	fail_msg("no result %s", id);
	return NULL;
}

static void expect_nth(const struct host *h, const char *id, size_t nth, enum check_level level,
		       const char *part)
{
	_cleanup_(check_report_done) struct check_report report = {0};
	const struct check_result *r;

	check_all(&h->env, &report);
	r = find(&report, id, nth);
	if (r->level != level || !strstr(r->detail, part))
		fail_msg("%s: %s %s, expected %s …%s…", id, check_level_name(r->level), r->detail,
			 check_level_name(level), part);
	/* Whatever is wrong comes with what to do about it. */
	if (r->level == CHECK_FAIL)
		assert_non_null(r->remedy);
}

static void expect(const struct host *h, const char *id, enum check_level level, const char *part)
{
	expect_nth(h, id, 0, level, part);
}

/* What to do about the first result with @id. */
static void expect_remedy(const struct host *h, const char *id, const char *part,
			  const char *remedy)
{
	_cleanup_(check_report_done) struct check_report report = {0};
	const struct check_result *r;

	check_all(&h->env, &report);
	r = find(&report, id, 0);
	if (!strstr(r->detail, part) || !r->remedy || !strstr(r->remedy, remedy))
		fail_msg("%s: %s; %s, expected %s; %s", id, r->detail,
			 r->remedy ? r->remedy : "nothing", part, remedy);
}

/* There is no result with @id at all. */
static void expect_none(const struct host *h, const char *id)
{
	_cleanup_(check_report_done) struct check_report report = {0};

	check_all(&h->env, &report);
	for (size_t i = 0; i < report.n; i++)
		assert_string_not_equal(report.results[i].id, id);
}

static void test_empty_host(void **state)
{
	struct host *h = *state;

	expect(h, "cpu", CHECK_WARN, "cannot read");
	expect(h, "kvm", CHECK_WARN, "software emulation");
	expect(h, "accel", CHECK_INFO, "not tried yet");
	expect(h, "qemu", CHECK_FAIL, "not installed");
	expect(h, "qemu-img", CHECK_FAIL, "not installed");
	expect(h, "passt", CHECK_FAIL, "not installed");
	expect(h, "ovmf", CHECK_WARN, "no UEFI");
	expect(h, "iommu", CHECK_WARN, "no IOMMU");
	expect(h, "vfio", CHECK_WARN, "not loaded");
	expect(h, "gpu", CHECK_INFO, "none");
	expect(h, "nvidia", CHECK_INFO, "no NVIDIA");
	expect(h, "images", CHECK_WARN, "No such file");
	expect(h, "userns", CHECK_FAIL, "no user namespaces");
	expect(h, "cgroup", CHECK_WARN, "no pure cgroup v2");
	expect(h, "systemd", CHECK_INFO, "not the service manager");
	expect(h, "users", CHECK_WARN, "qudata qudata-helper qudata-mon qudata-frp qudata-vm0");
	expect(h, "socket", CHECK_WARN, "does not exist");
	expect(h, "agent", CHECK_INFO, "does not answer");
}

static void test_cpu_flags(void **state)
{
	struct host *h = *state;

	put(h, "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx sse\n");
	expect(h, "cpu", CHECK_OK, "VT-x");
	put(h, "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse svm\nbugs\t: x\n");
	expect(h, "cpu", CHECK_OK, "AMD-V");
	/* Neither a flag with such a beginning, nor another line, counts. */
	put(h, "proc/cpuinfo", "flags\t\t: fpu xvmx svm_lock\nvmx flags\t: vmx svm x\n");
	expect(h, "cpu", CHECK_WARN, "emulated");
}

static void test_kvm_and_accel(void **state)
{
	struct host *h = *state;

	put(h, "dev/kvm", "");
	expect(h, "kvm", CHECK_WARN, "does not answer like KVM");
	put(h, "var/lib/qudata-helper/accel", "host = 6.1.0 accel = 1\naccel = 2\nreason = 5\n");
	expect(h, "accel", CHECK_INFO, "tried earlier: KVM does not work");
	put(h, "var/lib/qudata-helper/accel", "accel = 1\n");
	expect(h, "accel", CHECK_INFO, "tried earlier: KVM works");
	put(h, "var/lib/qudata-helper/accel", "accel = x\n");
	expect(h, "accel", CHECK_INFO, "not tried yet");
	h->env.accel_choice = "kvm";
	h->env.accel_reason = "a guest booted";
	expect(h, "accel", CHECK_OK, "choice is kvm: a guest booted");
	h->env.accel_choice = "undecided";
	expect(h, "accel", CHECK_INFO, "undecided");
	h->env.accel_choice = "tcg";
	h->env.accel_reason = NULL;
	expect(h, "accel", CHECK_WARN, "choice is tcg");
}

static void put_program(const struct host *h, const char *name, const char *says, int status)
{
	char path[128], text[256];

	snprintf(path, sizeof(path), "usr/bin/%s", name);
	snprintf(text, sizeof(text), "#!/bin/sh\n[ \"$1\" = --version ] && echo '%s'\nexit %d\n",
		 says, status);
	put_mode(h, path, text, 0755);
}

static void test_programs(void **state)
{
	struct host *h = *state;

	put_program(h, "qemu-system-x86_64", "QEMU emulator version 7.2.22 (Debian 1:7.2)", 0);
	expect(h, "qemu", CHECK_OK, "/usr/bin/qemu-system-x86_64, version 7.2.22");
	put_program(h, "qemu-system-x86_64", "QEMU emulator version 10.0.2", 0);
	expect(h, "qemu", CHECK_OK, "10.0.2");
	put_program(h, "qemu-system-x86_64", "QEMU emulator version 7.1.90", 0);
	expect(h, "qemu", CHECK_FAIL, "stream network");
	put_program(h, "qemu-system-x86_64", "QEMU emulator version 5.2.0", 0);
	expect(h, "qemu", CHECK_FAIL, "older than 6.0");
	put_program(h, "qemu-system-x86_64", "nonsense", 0);
	expect(h, "qemu", CHECK_FAIL, "does not tell");
	put_program(h, "passt", "passt 0.0~git", 0);
	expect(h, "passt", CHECK_OK, "passt 0.0~git");
	put_program(h, "passt", "illegal instruction", 132);
	expect(h, "passt", CHECK_FAIL, "does not run");
	put(h, "usr/bin/qemu-img", "not executable");
	expect(h, "qemu-img", CHECK_FAIL, "not installed");
	put(h, "usr/share/edk2/ovmf/OVMF_CODE.fd", "");
	expect(h, "ovmf", CHECK_WARN, "OVMF_VARS.fd is not");
	put(h, "usr/share/edk2/ovmf/OVMF_VARS.fd", "");
	expect(h, "ovmf", CHECK_OK, "/usr/share/edk2/ovmf/OVMF_CODE.fd");
	h->env.qemu = "/opt/qemu";
	expect(h, "qemu", CHECK_FAIL, "/opt/qemu is not installed");
}

static void test_versions(void **state)
{
	(void)state;
	assert_int_equal(check_parse_version("QEMU emulator version 7.2.22 (x)"), 70222);
	assert_int_equal(check_parse_version("8.0"), 80000);
	assert_int_equal(check_parse_version("v9.1.150"), -EINVAL);
	assert_int_equal(check_parse_version("4 apples, version 10.0.2"), 100002);
	assert_int_equal(check_parse_version("7.2.150"), 70299);
	assert_int_equal(check_parse_version("99999999999999.1"), 99990100);
	assert_int_equal(check_parse_version("x86 7"), -EINVAL);
	assert_int_equal(check_parse_version(""), -EINVAL);
}

static void put_function(const struct host *h, const char *address, const char *class,
			 const char *driver, const char *group)
{
	char path[160], target[160];

	snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/class", address);
	put(h, path, class);
	snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/vendor", address);
	put(h, path, "0x10de\n");
	snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/device", address);
	put(h, path, "0x2204\n");
	if (driver) {
		snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/driver", address);
		snprintf(target, sizeof(target), "../../drivers/%s", driver);
		put_link(h, path, target);
	}
	if (!group)
		return;
	snprintf(path, sizeof(path), "sys/kernel/iommu_groups/%s/devices/%s", group, address);
	put(h, path, "");
	snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/iommu_group", address);
	snprintf(target, sizeof(target), "../../../../kernel/iommu_groups/%s", group);
	put_link(h, path, target);
}

static void test_gpus(void **state)
{
	struct host *h = *state;

	/* A card with its audio function and its bridge in the group; a domain of five digits. */
	put_function(h, "10000:02:00.0", "0x030000\n", "nvidia", "7");
	put_function(h, "10000:02:00.1", "0x040300\n", "snd_hda_intel", "7");
	put_function(h, "10000:00:01.0", "0x060400\n", "pcieport", "7");
	/* A 3D controller that shares its group with a network card. */
	put_function(h, "0000:01:00.0", "0x030200\n", NULL, "3");
	put_function(h, "0000:03:00.0", "0x020000\n", "e1000e", "3");
	/* No group at all. */
	put_function(h, "0000:05:00.0", "0x038000\n", "vfio-pci", NULL);
	expect(h, "iommu", CHECK_OK, "2 groups");
	expect_nth(h, "gpu", 0, CHECK_WARN,
		   "0000:01:00.0 [10de:2204] no driver, group 3 with 0000:03:00.0 (0200, e1000e)");
	expect_nth(h, "gpu", 1, CHECK_INFO, "0000:05:00.0 [10de:2204] vfio-pci, no IOMMU group");
	expect_nth(h, "gpu", 2, CHECK_OK, "10000:02:00.0 [10de:2204] nvidia, group 7 with ");
	expect_nth(h, "gpu", 2, CHECK_OK, "10000:02:00.1 (0403, snd_hda_intel)");
	put(h, "sys/bus/pci/drivers/vfio-pci/bind", "");
	expect_remedy(h, "vfio", "vfio_iommu_type1 is not loaded", "modprobe vfio_iommu_type1");
	put(h, "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n");
	expect(h, "vfio", CHECK_WARN, "/dev/vfio/vfio does not exist");
	put(h, "dev/vfio/vfio", "");
	expect(h, "vfio", CHECK_OK, "vfio-pci is loaded");
	put(h, "dev/iommu", "");
	expect(h, "vfio", CHECK_OK, "iommufd is there");
	put(h, "sys/module/nvidia/version", "550.54.15\n");
	expect(h, "nvidia", CHECK_OK, "550.54.15");
}

/* Asked for by helper.conf, or the only way that the kernel has. */
static void test_iommufd(void **state)
{
	struct host *h = *state;

	put_program(h, "qemu-system-x86_64", "QEMU emulator version 8.2.9", 0);
	put(h, "dev/vfio/vfio", "");
	put(h, "etc/qudata/helper.conf", "#gpu_iommufd = yes\ngpu_iommufds = yes\n");
	expect_none(h, "iommufd");
	put(h, "etc/qudata/helper.conf", "accel = kvm\n gpu_iommufd=  yes \n");
	expect_remedy(h, "iommufd", "QEMU 8.2 knows no iommufd", "install QEMU 9.0 or newer");
	put_program(h, "qemu-system-x86_64", "QEMU emulator version 9.0.0", 0);
	put(h, "proc/sys/kernel/osrelease", "6.12.1\n");
	put(h, "lib/modules/6.12.1/modules.dep", "kernel/drivers/vfio/vfio.ko:\n");
	put(h, "lib/modules/6.12.1/modules.builtin", "");
	expect_remedy(h, "iommufd", "no /dev/iommu", "CONFIG_IOMMUFD");
	put(h, "lib/modules/6.12.1/modules.dep", "kernel/drivers/iommu/iommufd/iommufd.ko:\n");
	expect_remedy(h, "iommufd", "no /dev/iommu", "modprobe iommufd");
	put(h, "dev/iommu", "");
	put(h, "boot/config-6.12.1", "CONFIG_IOMMUFD=m\n# CONFIG_VFIO_DEVICE_CDEV is not set\n");
	expect_remedy(h, "iommufd", "no character devices", "CONFIG_VFIO_DEVICE_CDEV");
	put(h, "boot/config-6.12.1", "CONFIG_IOMMUFD=m\nCONFIG_VFIO_DEVICE_CDEV=y\n");
	expect(h, "iommufd", CHECK_OK, "/dev/iommu");
	put(h, "etc/qudata/helper.conf", "gpu_iommufd = auto\n");
	expect_none(h, "iommufd");
	assert_int_equal(unlinkat(h->env.root_fd, "dev/vfio/vfio", 0), 0);
	expect(h, "iommufd", CHECK_OK, "/dev/iommu");
	put(h, "etc/qudata/helper.conf", "gpu_iommufd = no\n");
	expect_none(h, "iommufd");
}

/* Why there is no IOMMU, by processor and command line. */
static void test_iommu_remedies(void **state)
{
	struct host *h = *state;

	expect_remedy(h, "iommu", "no IOMMU", "VT-d or AMD-Vi");
	put(h, "proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: vmx\n");
	put(h, "proc/cmdline", "root=/dev/vda quiet\n");
	expect_remedy(h, "iommu", "no IOMMU", "boot with intel_iommu=on iommu=pt");
	put(h, "proc/cmdline", "intel_iommu=on iommu=pt\n");
	expect_remedy(h, "iommu", "no IOMMU", "told to use it");
	put(h, "proc/cmdline", "quiet intel_iommu=off\n");
	expect_remedy(h, "iommu", "no IOMMU", "take intel_iommu=off off");
	put(h, "proc/cpuinfo", "vendor_id\t: AuthenticAMD\nflags\t\t: svm\n");
	put(h, "proc/cmdline", "quiet\n");
	expect_remedy(h, "iommu", "no IOMMU", "AMD-Vi");
	put(h, "proc/cmdline", "iommu=off\n");
	expect_remedy(h, "iommu", "no IOMMU", "take iommu=off off");
}

static void test_interrupt_remapping(void **state)
{
	struct host *h = *state;

	put(h, "proc/interrupts", "  0: 45  IR-IO-APIC  2-edge timer\n");
	expect_none(h, "intremap"); /* without an IOMMU it is no question */
	put(h, "sys/kernel/iommu_groups/1/devices/x", "");
	expect(h, "intremap", CHECK_OK, "are remapped");
	put(h, "proc/interrupts", "  0: 45  IO-APIC  2-edge timer\n 9: 1 PCI-MSI 1-edge xIR-x\n");
	expect(h, "intremap", CHECK_WARN, "VFIO refuses");
	put(h, "proc/cmdline", "intremap=off\n");
	expect_remedy(h, "intremap", "VFIO refuses", "take intremap=off off");
	put(h, "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
	expect(h, "intremap", CHECK_WARN, "allow_unsafe_interrupts");
}

static void test_missing_modules(void **state)
{
	struct host *h = *state;

	put(h, "proc/sys/kernel/osrelease", "6.1.0-25-cloud-amd64\n");
	expect_remedy(h, "vfio", "vfio-pci is not loaded", "modprobe vfio-pci");
	put(h, "lib/modules/6.1.0-25-cloud-amd64/modules.dep", "kernel/drivers/net/x.ko:\n");
	put(h, "lib/modules/6.1.0-25-cloud-amd64/modules.builtin", "kernel/fs/y.ko\n");
	expect_remedy(h, "vfio", "vfio-pci is not loaded", "this kernel has no VFIO");
	put(h, "lib/modules/6.1.0-25-cloud-amd64/modules.dep",
	    "kernel/drivers/vfio/pci/vfio-pci.ko: kernel/drivers/vfio/pci/vfio-pci-core.ko\n");
	expect_remedy(h, "vfio", "vfio-pci is not loaded", "modprobe vfio-pci");
}

/* Faults are told of on hosts with GPUs only, the version's bounds being exact. */
static void test_faults(void **state)
{
	static const struct {
		const char *release, *part;
		enum check_level level;
	} cases[] = {
		{"5.15.0-100-generic", "console off a GPU", CHECK_WARN},
		{"6.1.0-25-amd64", "Ampere", CHECK_INFO},
		{"6.3.13", "Ampere", CHECK_INFO},
		{"6.4.0", "pages of 4 KiB", CHECK_INFO},
		{"6.11.9", "pages of 4 KiB", CHECK_INFO},
		{"6.12.9+deb13-amd64", "wrong addresses", CHECK_WARN},
		{"6.12.10", "page by page", CHECK_INFO},
		{"6.14.7", "page by page", CHECK_INFO},
		{"6.15.0-rc1", "no fault known", CHECK_OK},
		{"7.0.1", "no fault known", CHECK_OK},
	};
	struct host *h = *state;

	put(h, "proc/sys/kernel/osrelease", "5.15.0\n");
	put_program(h, "qemu-system-x86_64", "QEMU emulator version 8.2.0", 0);
	expect_none(h, "kernel");
	expect_none(h, "qemu-gpu");
	put_function(h, "0000:01:00.0", "0x030000\n", "nvidia", "7");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		put(h, "proc/sys/kernel/osrelease", cases[i].release);
		expect(h, "kernel", cases[i].level, cases[i].part);
	}
	expect_nth(h, "qemu-gpu", 0, CHECK_WARN, "not reset when their guest reboots");
	expect_nth(h, "qemu-gpu", 1, CHECK_INFO, "QEMU 8.2.0: BARs are not aligned");
	put_program(h, "qemu-system-x86_64", "QEMU emulator version 8.2.1", 0);
	expect_nth(h, "qemu-gpu", 0, CHECK_INFO, "BARs are not aligned");
	put_program(h, "qemu-system-x86_64", "QEMU emulator version 9.2.0", 0);
	expect(h, "qemu-gpu", CHECK_OK, "no fault known");
}

static void test_pinning(void **state)
{
	struct host *h = *state;

	put(h, "usr/lib/systemd/system/qudata-helper.service", "[Service]\nNice=1\n");
	put(h, "sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
	expect_none(h, "memlock");
	expect_none(h, "hugepages");
	put_function(h, "0000:01:00.0", "0x030000\n", "nvidia", "7");
	expect(h, "memlock", CHECK_WARN, "lets no VM with a GPU pin");
	expect(h, "hugepages", CHECK_WARN, "pinned page by page");
	put(h, "usr/lib/systemd/system/qudata-helper.service",
	    "[Service]\nLimitMEMLOCK=infinity\n");
	put(h, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
	expect_none(h, "memlock");
	expect_none(h, "hugepages");
}

/* The agent's word is taken before what can be seen from here. */
static void test_listed_gpus(void **state)
{
	static const char *const list =
		"[{\"address\": \"0000:01:00.0\", \"name\": \"RTX 3090\", \"verdict\": "
		"\"rentable\"},"
		" {\"address\": \"0000:02:00.0\", \"name\": \"RTX 3090\", \"verdict\": \"busy\","
		"  \"leased\": true, \"instance\": \"abc\"},"
		" {\"address\": \"0000:03:00.0\", \"name\": \"A\", \"verdict\": \"not_viable\", "
		"\"reasons\":"
		"  [{\"reason\": \"not_viable\", \"address\": \"0000:09:00.0\", \"what\": "
		"\"e1000e\"},"
		"   {\"reason\": \"busy\", \"address\": \"0000:03:00.0\", \"what\": \"Xorg "
		"(7)\"}]},"
		" {\"address\": \"0000:04:00.0\", \"verdict\": \"quarantined\", \"instance\": "
		"\"abc\"}]";
	struct host *h = *state;
	json_t *json = json_loads(list, 0, NULL), *none = json_array();

	assert_non_null(json);
	put_function(h, "0000:01:00.0", "0x030000\n", "nvidia", NULL);
	expect(h, "gpu", CHECK_INFO, "no IOMMU group");
	h->env.gpus = none;
	expect(h, "gpu", CHECK_INFO, "1 in this host, none that helper.conf lets be rented");
	h->env.gpus = json;
	expect_nth(h, "gpu", 0, CHECK_OK, "0000:01:00.0 RTX 3090: can be rented");
	expect_nth(h, "gpu", 1, CHECK_OK, "0000:02:00.0 RTX 3090: in use by instance abc");
	expect_nth(h, "gpu", 2, CHECK_WARN,
		   "0000:03:00.0 A: cannot be rented: not_viable (0000:09:00.0: e1000e), "
		   "busy (Xorg (7))");
	expect_nth(h, "gpu", 3, CHECK_WARN, "0000:04:00.0 : cannot be rented");
	h->env.gpus = NULL;
	json_decref(json);
	json_decref(none);
}

static void test_kernel(void **state)
{
	struct host *h = *state;

	put(h, "proc/sys/user/max_user_namespaces", "96365\n");
	expect(h, "userns", CHECK_OK, "user namespaces");
	put(h, "proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
	expect(h, "userns", CHECK_WARN, "AppArmor");
	put(h, "proc/sys/user/max_user_namespaces", "0\n");
	expect(h, "userns", CHECK_FAIL, "may be made");
	put(h, "proc/sys/kernel/unprivileged_userns_clone", "0\n");
	expect(h, "userns", CHECK_FAIL, "switched off");
	put(h, "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
	expect(h, "cgroup", CHECK_OK, "v2");
	put(h, "sys/fs/cgroup/cgroup.controllers", "cpuset io pids\n");
	expect(h, "cgroup", CHECK_WARN, "lacks the controllers cpu memory");
	put(h, "run/systemd/system/x", "");
	expect(h, "systemd", CHECK_OK, "is the service manager");
}

static void put_socket(const struct host *h, const char *path, mode_t mode)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	make_parents(h, path);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", h->dir, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(chmod(addr.sun_path, mode), 0);
	assert_int_equal(close(fd), 0);
}

static void test_suite(void **state)
{
	struct host *h = *state;

	put_socket(h, "run/qudata/helper.sock", 0660);
	put_socket(h, "run/qudata/vmmon.sock", 0666);
	put(h, "run/qudata/frp.sock", "");
	expect_nth(h, "socket", 0, CHECK_OK, "0660");
	expect_nth(h, "socket", 1, CHECK_FAIL, "open to every user");
	expect_nth(h, "socket", 2, CHECK_FAIL, "not a socket");
	h->env.user_exists = every_user;
	expect(h, "users", CHECK_OK, "16 for instances");
	put(h, "var/lib/qudata-images/empty/image.conf", "");
	expect(h, "images", CHECK_WARN, "no base image");
	put(h, "var/lib/qudata-images/debian-12/disk.img", "x");
	expect(h, "images", CHECK_OK, "debian-12 (");
	expect(h, "disk", CHECK_OK, "free");
	h->env.min_free_mib = UINT64_MAX / 16;
	expect(h, "disk", CHECK_FAIL, "free");
	h->env.agent_answers = true;
	expect(h, "agent", CHECK_OK, "answers");
}

static void test_output(void **state)
{
	struct host *h = *state;
	_cleanup_(check_report_done) struct check_report report = {0};
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);
	json_t *json;

	put(h, "sys/module/nvidia/version", "1\x1b[31m\xff\n");
	check_all(&h->env, &report);
	check_print(&report, f, false);
	assert_int_equal(fclose(f), 0);
	assert_non_null(strstr(text,
			       "FAIL  qemu        qemu-system-x86_64 is not installed; apt-get "
			       "install qemu-system-x86\n"));
	assert_non_null(strstr(text, "OK    nvidia      host driver version 1\\x1b[31m\\xff\n"));
	json = check_to_json(&report);
	assert_true(json_is_false(json_object_get(json, "ok")));
	assert_int_equal(json_array_size(json_object_get(json, "checks")), report.n);
	json_decref(json);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* With containers on this host: who the engine runs as. */
static void test_engine(void **state)
{
	const struct host *h = *state;
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	expect(h, "backend", CHECK_OK, "new instances are VMs");
	put(h, "etc/qudata/agentd.conf", "# backend = vm\nbackend = container\n");
	put(h, "etc/qudata/vmmon.conf", "engine_socketx = /no\nengine_socket = /run/e.sock\n");
	expect(h, "backend", CHECK_INFO, "without VMs");
	expect(h, "engine", CHECK_FAIL, "/run/e.sock: No such file");
	put(h, "run/e.sock", "");
	expect(h, "engine", CHECK_FAIL, "not a socket");
	assert_int_equal(unlinkat(h->env.root_fd, "run/e.sock", 0), 0);
	assert_true(fd >= 0);
	(void)snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/run/e.sock", h->dir);
	assert_int_equal(bind(fd, (const struct sockaddr *)&sun, sizeof(sun)), 0);
	if (geteuid() == 0) {
		expect(h, "engine", CHECK_WARN, "root on this host, so vmmon is");
		assert_int_equal(fchownat(h->env.root_fd, "run/e.sock", 12345, 0, 0), 0);
	}
	expect(h, "engine", CHECK_OK, "not to root");
	(void)close(fd);
}

/* What the engine itself has said, and the host's mounts to it. */
static void test_engine_answers(void **state)
{
	static const char mounts[] =
		"1 0 8:1 / / rw - ext4 /dev/a rw\n"
		"2 1 8:2 / /srv rw,relatime shared:1 - xfs /dev/b rw,inode64,prjquota\n"
		"3 2 8:3 / /srv/plain rw - xfs /dev/c rw,noquota\nrubbish\n";
	struct host *h = *state;
	json_t *said = json_pack(
		"{s:s, s:s, s:s, s:b, s:b, s:s, s:s, s:s, s:s, s:i, s:b, s:b, s:b, s:b, s:I, s:I}",
		"state", "ok", "detail", "it answers", "socket", "/run/e", "podman", 0, "rootless",
		0, "version", "20.10", "driver", "overlay2", "backing", "xfs", "root",
		"/srv/docker", "cgroup", 2, "limits_memory", 1, "limits_cpus", 1,
		"limits_processes", 1, "unlimited", 0, "free_mib", (json_int_t)20480, "reserve_mib",
		(json_int_t)10240);

	assert_non_null(said);
	put(h, "proc/self/mountinfo", mounts);
	h->env.backend = "container";
	expect(h, "engine-limits", CHECK_INFO, "do not answer");
	h->env.engine = said;
	expect(h, "engine", CHECK_WARN, "Docker 20.10 at /run/e runs as root");
	expect(h, "engine-limits", CHECK_OK, "cgroup v2");
	expect(h, "engine-disk", CHECK_OK, "overlay2 on XFS with project quotas");
	expect(h, "engine-space", CHECK_OK, "under /srv/docker");
	json_object_set_new(said, "root", json_string("/srv/plain/docker"));
	expect(h, "engine-disk", CHECK_WARN, "cannot be limited (overlay2 on xfs)");
	json_object_set_new(said, "root", json_string("/srvother"));
	expect(h, "engine-disk", CHECK_WARN, "cannot be limited");
	json_object_set_new(said, "driver", json_string("btrfs"));
	expect(h, "engine-disk", CHECK_WARN, "own disks can be limited (btrfs), /data cannot");
	json_object_set_new(said, "rootless", json_true());
	json_object_set_new(said, "podman", json_true());
	expect(h, "engine", CHECK_OK, "podman 20.10 at /run/e runs as an ordinary user");
	expect(h, "engine-disk", CHECK_WARN, "as an ordinary user");
	json_object_set_new(said, "cgroup", json_integer(1));
	expect(h, "engine-limits", CHECK_FAIL, "limits nothing, whatever it says");
	json_object_set_new(said, "limits_cpus", json_false());
	json_object_set_new(said, "limits_processes", json_false());
	expect(h, "engine-limits", CHECK_FAIL, "processors, processes (cgroup v1)");
	json_object_set_new(said, "unlimited", json_true());
	expect(h, "engine-limits", CHECK_WARN, "processors, processes");
	json_object_set_new(said, "free_mib", json_integer(100));
	expect(h, "engine-space", CHECK_FAIL, "engine_reserve keeps");
	json_object_set_new(said, "reserve_mib", json_integer(0));
	expect(h, "engine-space", CHECK_WARN, "no reserve");
	json_object_set_new(said, "free_mib", json_null());
	expect(h, "engine-space", CHECK_WARN, "not known");
	json_object_set_new(said, "state", json_string("closed"));
	expect(h, "engine", CHECK_FAIL, "/run/e: it answers");
	json_decref(said);
	h->env.engine = json_object(); /* an agent that says nothing sensible */
	expect(h, "engine", CHECK_FAIL, ": ");
	json_decref((json_t *)h->env.engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_empty_host),      TEST(test_cpu_flags),
		TEST(test_kvm_and_accel),   TEST(test_programs),
		TEST(test_versions),        TEST(test_gpus),
		TEST(test_kernel),          TEST(test_suite),
		TEST(test_output),          TEST(test_iommufd),
		TEST(test_iommu_remedies),  TEST(test_interrupt_remapping),
		TEST(test_missing_modules), TEST(test_faults),
		TEST(test_pinning),         TEST(test_listed_gpus),
		TEST(test_engine),          TEST(test_engine_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
