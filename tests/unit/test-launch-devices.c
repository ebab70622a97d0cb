/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices of a start: what vfio-helper and vm-launch refuse, and the exact words that QEMU gets.
 * Trust: runs in tests only.
 */
#include "vfio-helper/launch/launch.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static const struct spawn_setup setup = {.qemu_binary = "/q/qemu",
					 .qemu_img_binary = "/q/img",
					 .passt_binary = "/q/passt",
					 .dns = "9.9.9.9",
					 .max_vms = 4,
					 .max_cpus = 8,
					 .max_memory_mib = 65536,
					 .max_disk_mib = 10000,
					 .port_low = 10000,
					 .port_high = 20000};
static const struct image image = {.format = IMAGE_QCOW2, .min_disk_mib = 64};

#define CARD_GPU   LAUNCH_DEVICE_GPU
#define NO_CDEV    .cdev = UINT32_MAX, .node = PROTO_NO_NODE
#define BARS_OF_24 .window_bytes = 32 * GIB + 48 * MIB, .largest_bar = 32 * GIB

/* GPU and audio at 01:00, as one card. */
static struct spawn_spec gpu_spec(void)
{
	return (struct spawn_spec){
		.program = PROGRAM_QEMU,
		.slot = 3,
		.roles = FD_BIT(FD_STDERR) | FD_BIT(FD_GATE) | FD_BIT(FD_NET) | FD_BIT(FD_CONSOLE) |
			 FD_BIT(FD_DISK) | FD_BIT(FD_BASE) | FD_BIT(FD_IMAGE) | FD_BIT(FD_SEED) |
			 FD_BIT(FD_QMP) | FD_BIT(FD_READY),
		.cpus = 2,
		.memory_mib = 4096,
		.disk_mib = 1000,
		.accel = PROTO_ACCEL_KVM,
		.vm = "vm-1",
		.n_devices = 2,
		.devices = {{.address = 0x100, .flags = CARD_GPU, BARS_OF_24, NO_CDEV},
			    {.address = 0x101, .function = 1, NO_CDEV}},
	};
}

/* The same with a second card, of one function, in a domain that Linux made up itself. */
static struct spawn_spec two_cards(void)
{
	struct spawn_spec s = gpu_spec();

	s.devices[2] = (struct launch_device){
		.address = UINT64_C(0x10000) << 16 | 0x8128,
		.card = 1,
		.flags = CARD_GPU | LAUNCH_DEVICE_NO_ROM,
		BARS_OF_24,
		NO_CDEV,
	};
	s.n_devices = 3;
	return s;
}

static void test_accepts(void **state)
{
	struct spawn_spec s = gpu_spec();

	(void)state;
	assert_int_equal(spec_check(&s, &setup), 0);
	s = two_cards();
	assert_int_equal(spec_check(&s, &setup), 0);
	s = gpu_spec();
	s.roles |= FD_BIT(FD_IOMMU) | FD_BIT(FD_VARS);
	s.devices[0].cdev = 7;
	s.devices[1].cdev = 8;
	assert_int_equal(spec_check(&s, &setup), 0);
	/* As many as there may be: sixteen cards of four functions. */
	s = gpu_spec();
	for (uint32_t i = 0; i < PROTO_MAX_DEVICES; i++)
		s.devices[i] = (struct launch_device){.address = 0x100 + (i / 4 << 8) + i % 4,
						      .card = i / 4,
						      .function = i % 4,
						      .flags = i % 4 == 0 ? CARD_GPU : 0,
						      .node = 1023,
						      .cdev = UINT32_MAX};
	s.n_devices = PROTO_MAX_DEVICES;
	assert_int_equal(spec_check(&s, &setup), 0);
}

#define REFUSED(change)                                                                            \
	do {                                                                                       \
		struct spawn_spec changed = gpu_spec();                                            \
                                                                                                   \
		changed.change;                                                                    \
		assert_int_equal(spec_check(&changed, &setup), -EINVAL);                           \
	} while (0)

static void test_refuses(void **state)
{
	(void)state;
	REFUSED(n_devices = 1); /* what follows is not zero */
	REFUSED(n_devices = 3); /* an empty one */
	REFUSED(n_devices = PROTO_MAX_DEVICES + 1);
	REFUSED(n_devices = UINT32_MAX);
	REFUSED(reserved = 1);
	REFUSED(devices[PROTO_MAX_DEVICES - 1].reserved = 1);
	REFUSED(devices[0].reserved = 1);
	REFUSED(devices[0].address = PROTO_PCI_MAX + 1);
	REFUSED(devices[1].address = PROTO_PCI_MAX + 1);
	REFUSED(devices[0].address = 0x101); /* twice the same */
	REFUSED(devices[0].address = 0x200); /* not ascending */
	REFUSED(devices[0].flags = 0);       /* no GPU at function 0 */
	REFUSED(devices[0].flags = CARD_GPU | (LAUNCH_DEVICE_FLAGS_ALL + 1));
	REFUSED(devices[1].function = 0); /* twice the same function; and no GPU */
	REFUSED(devices[1].function = 8);
	REFUSED(devices[1].function = UINT32_MAX);
	REFUSED(devices[0].function = 2); /* a card without function 0 */
	REFUSED(devices[1].card = 1);
	REFUSED(devices[0].card = 1); /* card 0 has no GPU */
	REFUSED(devices[1].card = PROTO_MAX_GPUS);
	REFUSED(devices[1].card = UINT32_MAX);
	REFUSED(devices[0].node = 1024);
	REFUSED(devices[0].largest_bar = 24 * GIB);
	REFUSED(devices[0].largest_bar = 0);
	REFUSED(devices[0].largest_bar = 64 * GIB); /* larger than the sum */
	REFUSED(devices[0].window_bytes = 6 * 32 * GIB + 1);
	REFUSED(devices[0].window_bytes = UINT64_MAX);
	REFUSED(devices[0].largest_bar = UINT64_C(1) << 63);
}

/* Numbers of character devices: all or none, and with /dev/iommu only. */
static void test_refuses_cdevs(void **state)
{
	struct spawn_spec s = gpu_spec();

	(void)state;
	REFUSED(roles |= FD_BIT(FD_IOMMU));
	REFUSED(roles |= FD_BIT(FD_FIRMWARE));
	REFUSED(devices[0].cdev = 1);
	s.roles |= FD_BIT(FD_IOMMU);
	s.devices[0].cdev = 0;
	assert_int_equal(spec_check(&s, &setup), -EINVAL);
	s.devices[1].cdev = 1 << 20;
	assert_int_equal(spec_check(&s, &setup), -EINVAL);
	s.devices[1].cdev = 1;
	assert_int_equal(spec_check(&s, &setup), 0);
	s.n_devices = 0;
	memset(s.devices, 0, sizeof(s.devices));
	assert_int_equal(spec_check(&s, &setup), -EINVAL);
}

/* Devices are QEMU's: no other program of the suite has to do with them. */
static void test_refuses_others(void **state)
{
	struct spawn_spec s = gpu_spec();

	(void)state;
	s.program = PROGRAM_PASST;
	s.roles = FD_BIT(FD_STDERR) | FD_BIT(FD_GATE) | FD_BIT(FD_NET);
	assert_int_equal(spec_check(&s, &setup), -EINVAL);
	s.program = PROGRAM_QEMU_IMG;
	s.roles = FD_BIT(FD_STDERR) | FD_BIT(FD_DISK) | FD_BIT(FD_IMAGE);
	assert_int_equal(spec_check(&s, &setup), -EINVAL);
	s.program = PROGRAM_TRIAL;
	s.roles = FD_BIT(FD_STDERR) | FD_BIT(FD_KERNEL);
	assert_int_equal(spec_check(&s, &setup), -EINVAL);
}

static void test_memlock(void **state)
{
	struct spawn_spec s = gpu_spec();

	(void)state;
	assert_int_equal(spec_memlock(&s), 4 * GIB + GIB + 32 * GIB + 48 * MIB);
	s.n_devices = 0;
	assert_int_equal(spec_memlock(&s), MIB);
}

/* Checks the spec, builds its command line, and compares what is from "-cpu" to "-smp" and the
 * words about devices with @want, which ends with NULL. */
static void expect(const struct spawn_spec *s, const struct machine *m, const char *const *want)
{
	static const char *const about[] = {"-cpu",    "-global", "-fw_cfg",
					    "-object", "-device", "-machine"};
	static struct args a;

	assert_int_equal(spec_check(s, &setup), 0);
	assert_int_equal(spec_args(s, &setup, &image, m, &a), 0);
	assert_null(a.argv[a.n]);
	for (size_t i = 1; i + 1 < a.n; i++) {
		bool relevant = false;

		for (size_t k = 0; k < ARRAY_LEN(about); k++)
			relevant |= STR_EQ(a.argv[i], about[k]);
		if (!relevant || strncmp(a.argv[i + 1], "virt", 4) == 0 ||
		    strncmp(a.argv[i + 1], "isa-", 4) == 0)
			continue;
		assert_non_null(*want);
		assert_string_equal(a.argv[i + 1], *want++);
	}
	assert_null(*want);
}

#define MACHINE                                                                                    \
	"q35,usb=off,sata=off,smbus=off,hpet=off,vmport=off,graphics=off,dump-guest-core=off"
#define PORT(n, slot)                                                                              \
	"pcie-root-port,id=port" #n ",bus=pcie.0,addr=0x" #slot ",chassis=" PORT_##n               \
		",slot=" PORT_##n ",hotplug=off"
#define PORT_0 "1"
#define PORT_1 "2"
#define SYSFS  "sysfsdev=/sys/bus/pci/devices/"

static void test_one_gpu(void **state)
{
	static const char *const want[] = {MACHINE,
					   "host,host-phys-bits=on",
					   "q35-pcihost.pci-hole64-size=123G",
					   PORT(0, 8),
					   "vfio-pci,id=gpu0-0," SYSFS
					   "0000:01:00.0,bus=port0,addr=0.0,multifunction=on",
					   NULL};
	const struct machine m = {.window_bytes = 64 * GIB, .hole_bytes = 123 * GIB};
	struct spawn_spec s = gpu_spec();

	(void)state;
	s.n_devices = 1;
	memset(&s.devices[1], 0, sizeof(s.devices[1]));
	expect(&s, &m, want);
}

static void test_gpu_and_audio(void **state)
{
	static const char *const want[] = {
		MACHINE ",pflash0=firmware,pflash1=vars",
		"host,host-phys-bits=on,host-phys-bits-limit=39",
		"q35-pcihost.pci-hole64-size=123G",
		"name=opt/ovmf/X-PciMmio64Mb,string=65536",
		PORT(0, 8),
		"vfio-pci,id=gpu0-0," SYSFS "0000:01:00.0,bus=port0,addr=0.0,multifunction=on",
		"vfio-pci,id=gpu0-1," SYSFS "0000:01:00.1,bus=port0,addr=0.1",
		NULL};
	const struct machine m = {.window_bytes = 64 * GIB,
				  .hole_bytes = 123 * GIB,
				  .address_limit = 39,
				  .uefi = true};
	struct spawn_spec s = gpu_spec();

	(void)state;
	s.roles |= FD_BIT(FD_VARS);
	expect(&s, &m, want);
}

static void test_two_cards(void **state)
{
	static const char *const want[] = {
		MACHINE,
		"max",
		"q35-pcihost.pci-hole64-size=256G",
		PORT(0, 8),
		PORT(1, 9),
		"vfio-pci,id=gpu0-0," SYSFS "0000:01:00.0,bus=port0,addr=0.0,multifunction=on",
		"vfio-pci,id=gpu0-1," SYSFS "0000:01:00.1,bus=port0,addr=0.1",
		"vfio-pci,id=gpu1-0," SYSFS
		"10000:81:05.0,bus=port1,addr=0.0,multifunction=on,rombar=0",
		NULL};
	const struct machine m = {.window_bytes = 256 * GIB, .hole_bytes = 256 * GIB};
	struct spawn_spec s = two_cards();

	(void)state;
	s.accel = PROTO_ACCEL_TCG;
	expect(&s, &m, want);
}

static void test_iommufd(void **state)
{
	static const char *const want[] = {
		MACHINE,
		"host,host-phys-bits=on,kvm=off",
		"q35-pcihost.pci-hole64-size=64G",
		"iommufd,id=iommufd0,fd=15",
		PORT(0, 8),
		"vfio-pci,id=gpu0-0,iommufd=iommufd0,fd=19,bus=port0,addr=0.0,multifunction=on",
		"vfio-pci,id=gpu0-1,iommufd=iommufd0,fd=20,bus=port0,addr=0.1,rombar=0",
		NULL};
	const struct machine m = {.window_bytes = 64 * GIB, .hole_bytes = 64 * GIB};
	struct spawn_spec s = gpu_spec();

	(void)state;
	s.roles |= FD_BIT(FD_IOMMU);
	s.devices[0].cdev = 3;
	s.devices[1].cdev = 12;
	s.devices[1].flags = LAUNCH_DEVICE_NO_ROM;
	s.devices[0].flags |= LAUNCH_DEVICE_HIDE_VM;
	expect(&s, &m, want);
}

/* Without a device nothing of all that is there. */
static void test_none(void **state)
{
	static const char *const want[] = {MACHINE, "host", NULL};
	const struct machine m = {0};
	struct spawn_spec s = gpu_spec();

	(void)state;
	s.n_devices = 0;
	memset(s.devices, 0, sizeof(s.devices));
	expect(&s, &m, want);
}

/*
 * The longest command line fits, and no argument holds what could end an option or begin another:
 * text of a peer could get in through the name only, and spec_check() lets none of that through.
 */
static void test_all_devices(void **state)
{
	const struct machine m = {.window_bytes = 16384 * GIB,
				  .hole_bytes = 99999 * GIB,
				  .address_limit = 52,
				  .uefi = true};
	struct spawn_spec s = gpu_spec();
	static struct image with_append;
	static struct args a;

	(void)state;
	with_append = image;
	memset(with_append.append, 'b', APPEND_MAX - 1);
	memset(s.vm, 'a', PROTO_NAME_MAX);
	s.roles |= FD_BIT(FD_KERNEL) | FD_BIT(FD_INITRD) | FD_BIT(FD_VARS) | FD_BIT(FD_IOMMU);
	for (uint32_t i = 0; i < PROTO_MAX_DEVICES; i++)
		s.devices[i] =
			(struct launch_device){.address = PROTO_PCI_MAX - PROTO_MAX_DEVICES + i,
					       .card = i / 4,
					       .function = i % 4,
					       .flags = LAUNCH_DEVICE_FLAGS_ALL,
					       .node = PROTO_NO_NODE,
					       .cdev = (1 << 20) - 1};
	s.n_devices = PROTO_MAX_DEVICES;
	assert_int_equal(spec_check(&s, &setup), 0);
	assert_int_equal(spec_args(&s, &setup, &with_append, &m, &a), 0);
	for (uint32_t i = 0; i < PROTO_MAX_DEVICES; i++)
		s.devices[i].cdev = UINT32_MAX;
	s.roles &= ~FD_BIT(FD_IOMMU);
	assert_int_equal(spec_check(&s, &setup), 0);
	assert_int_equal(spec_args(&s, &setup, &with_append, &m, &a), 0);
	for (size_t i = 0; i < a.n; i++)
		assert_int_equal(strspn(a.argv[i], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRS"
						   "TUVWXYZ0123456789-_.,:=/"),
				 strlen(a.argv[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepts),       cmocka_unit_test(test_refuses),
		cmocka_unit_test(test_refuses_cdevs), cmocka_unit_test(test_refuses_others),
		cmocka_unit_test(test_memlock),       cmocka_unit_test(test_one_gpu),
		cmocka_unit_test(test_gpu_and_audio), cmocka_unit_test(test_two_cards),
		cmocka_unit_test(test_iommufd),       cmocka_unit_test(test_none),
		cmocka_unit_test(test_all_devices),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
