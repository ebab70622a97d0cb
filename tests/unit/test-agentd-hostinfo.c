/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host tells about itself, from made-up /proc, /sys and records of udev.
 * Trust: test.
 */
#include "agentd/hostinfo.h"
#include "common/fd.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
/* cmocka wants the two above first */
#include <cmocka.h>

static char top[] = "/tmp/qudata-hostinfo-XXXXXX";

static void put(const char *path, const char *text)
{
	char copy[256];
	FILE *f;

	(void)snprintf(copy, sizeof(copy), "%s/%s", top, path);
	for (char *p = strchr(copy + strlen(top) + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = '\0';
		assert_true(mkdir(copy, 0700) == 0 || errno == EEXIST);
		*p = '/';
	}
	f = fopen(copy, "we");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static int at(const char *name)
{
	char path[128];

	(void)snprintf(path, sizeof(path), "%s/%s", top, name);
	assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static struct control_host describe(void)
{
	struct hostinfo info = {.proc_fd = at("proc"), .sys_fd = at("sys"), .udev_fd = at("udev")};
	struct control_host host;

	hostinfo_describe(&info, info.proc_fd, &host);
	hostinfo_done(&info);
	return host;
}

static int make_top(void **state)
{
	(void)state;
	return mkdtemp(top) ? 0 : -1;
}

static int remove_top(void **state)
{
	char command[64];

	(void)state;
	(void)snprintf(command, sizeof(command), "rm -r %s", top);
	return system(command);
}

static void test_nothing_is_guessed(void **state)
{
	struct control_host host = describe();

	(void)state;
	assert_int_equal(host.ram_mib, CONTROL_UNKNOWN);
	assert_int_equal(host.memory_mhz, CONTROL_UNKNOWN);
	assert_int_equal(host.ethernet_mbit, CONTROL_UNKNOWN);
	assert_int_equal(host.cpu_mhz, CONTROL_UNKNOWN);
	assert_int_equal(host.vram_mib, CONTROL_UNKNOWN);
	assert_string_equal(host.cpu_name, "");
	assert_string_equal(host.max_cuda, "");
}

static void test_memory_speed(void **state)
{
	static const struct {
		const char *text;
		uint32_t mhz;
	} cases[] = {
		{"I:1\nE:MEMORY_DEVICE_0_CONFIGURED_SPEED_MTS=4800\n", 4800},
		/* The module may run slower than it could; an empty slot has no speed. */
		{"I:1\nE:MEMORY_DEVICE_0_SPEED_MTS=5600\nE:MEMORY_DEVICE_0_CONFIGURED_SPEED_MTS="
		 "4800\nE:MEMORY_DEVICE_1_PRESENT=0\nE:MEMORY_DEVICE_10_CONFIGURED_SPEED_MTS=4400",
		 4400},
		{"I:1\nE:MEMORY_DEVICE_0_SPEED_MTS=5600\n", CONTROL_UNKNOWN},
		{"I:1\nE:MEMORY_DEVICE_0_CONFIGURED_SPEED_MTS=0\n", CONTROL_UNKNOWN},
		{"I:1\nE:MEMORY_DEVICE_0_CONFIGURED_SPEED_MTS=48x\n", CONTROL_UNKNOWN},
		{"I:1\nE:MEMORY_DEVICE_0_CONFIGURED_SPEED_MTS=99999999999\n", CONTROL_UNKNOWN},
		{"", CONTROL_UNKNOWN},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		put("udev/+dmi:id", cases[i].text);
		assert_int_equal(describe().memory_mhz, cases[i].mhz);
	}
}

#define ZEROS "00000000000000000000000000000000"

static void test_interface_speed(void **state)
{
	static const char route6[] =
		"fe80000000000000" ZEROS " 40 " ZEROS " 00 " ZEROS
		" 00000100 00000001 00000000 00000001 eth9\n" ZEROS " 00 " ZEROS " 00 " ZEROS
		" ffffffff 00000001 00000000 00200200       lo\n" ZEROS " 00 " ZEROS
		" 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     "
		"eth6\n";
	static const char route4[] = "Iface\tDestination\tGateway\n"
				     "eth9\t0000A8C0\t00000000\n"
				     "bond0\t00000000\t0100A8C0\n";

	(void)state;
	put("sys/class/net/eth6/speed", "10000\n");
	put("sys/class/net/eth9/speed", "100\n");
	put("sys/class/net/bond0/speed", "50000\n");
	put("proc/net/ipv6_route", route6);
	assert_int_equal(describe().ethernet_mbit, 10000);
	put("proc/net/route", route4);
	assert_int_equal(describe().ethernet_mbit, 50000);
	/* What drivers say that do not know. */
	put("sys/class/net/bond0/speed", "-1\n");
	assert_int_equal(describe().ethernet_mbit, CONTROL_UNKNOWN);
	put("sys/class/net/bond0/speed", "0\n");
	assert_int_equal(describe().ethernet_mbit, CONTROL_UNKNOWN);
	put("sys/class/net/bond0/speed", "4294967295\n");
	assert_int_equal(describe().ethernet_mbit, CONTROL_UNKNOWN);
}

static void test_vram(void **state)
{
	static const struct {
		const char *name;
		uint32_t mib;
	} cases[] = {
		{"A100 PCIe 80GB", 81920},
		{"GP106 [GeForce GTX 1060 3GB]", 3072},
		{"GP106 [GeForce GTX 1060 6GB Rev. 2]", 6144},
		{"GV100GL [Tesla V100 SXM2 16GB]", 16384},
		{"GA102 [GeForce RTX 3090]", CONTROL_UNKNOWN},
		{"GB202 [GeForce RTX 5090]", CONTROL_UNKNOWN},
		{"B200 GB", CONTROL_UNKNOWN},
		{"X80GB", CONTROL_UNKNOWN},
		{"80GBx", CONTROL_UNKNOWN},
		{"99999999999999999999GB", CONTROL_UNKNOWN},
		{"", CONTROL_UNKNOWN},
	};
	_cleanup_close_ int sys_fd = at("sys");

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		assert_int_equal(hostinfo_vram_mib(sys_fd, "0000:01:00.0", cases[i].name),
				 cases[i].mib);
	put("sys/bus/pci/devices/0000:01:00.0/mem_info_vram_total", "17163091968\n");
	assert_int_equal(hostinfo_vram_mib(sys_fd, "0000:01:00.0", "MI50 32GB"), 16368);
	put("sys/bus/pci/devices/0000:01:00.0/mem_info_vram_total", "no number\n");
	assert_int_equal(hostinfo_vram_mib(sys_fd, "0000:01:00.0", ""), CONTROL_UNKNOWN);
}

static void test_processor_and_memory(void **state)
{
	struct control_host host;

	(void)state;
	put("proc/cpuinfo",
	    "processor\t: 0\nmodel name\t: Made Up CPU @ 3.0GHz\ncpu cores\t: 12\n");
	put("sys/devices/system/cpu/online", "0\n");
	put("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n");
	put("proc/meminfo", "MemTotal:       65536000 kB\nMemFree: 1 kB\n");
	put("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3900000\n");
	put("sys/module/nvidia/version", "550.54.14\n");
	host = describe();
	assert_string_equal(host.cpu_name, "Made Up CPU @ 3.0GHz");
	assert_int_equal(host.cpu_cores, 1); /* the 12 are those of the part */
	assert_int_equal(host.vcpu, 1);
	assert_int_equal(host.cpu_mhz, 3900);
	assert_int_equal(host.ram_mib, 64000);
	assert_string_equal(host.max_cuda, "12.4");
	assert_string_equal(hostinfo_cuda_of_driver("390.1"), "");
	assert_string_equal(hostinfo_cuda_of_driver("x"), "");
}

/* Threads are numbered as Linux does on such machines: those of a core are far apart. */
static void put_thread(unsigned int n, const char *siblings)
{
	char path[96];

	(void)snprintf(path, sizeof(path),
		       "sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", n);
	put(path, siblings);
}

static void test_two_sockets(void **state)
{
	char siblings[32];

	(void)state;
	/* Two sockets of 4 cores with two threads each. */
	put("sys/devices/system/cpu/online", "0-15\n");
	for (unsigned int n = 0; n < 16; n++) {
		(void)snprintf(siblings, sizeof(siblings), "%u,%u\n", n % 8, n % 8 + 8);
		put_thread(n, siblings);
	}
	assert_int_equal(describe().cpu_cores, 8);
	assert_int_equal(describe().vcpu, 16);
	/* A core that has lost a thread is still one; so is a range in place of a list. */
	put_thread(3, "11\n");
	put_thread(11, "11\n");
	put("sys/devices/system/cpu/online", "0-2,4-15\n");
	assert_int_equal(describe().cpu_cores, 8);
	assert_int_equal(describe().vcpu, 15);
	put("sys/devices/system/cpu/online", "0-1\n");
	put_thread(0, "0-1\n");
	put_thread(1, "0-1\n");
	assert_int_equal(describe().cpu_cores, 1);
	assert_int_equal(describe().vcpu, 2);
}

static void test_processors_that_cannot_be_counted(void **state)
{
	static const char *const lists[] = {"", "x", "0-1x", "-1", "0-1,,2"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		put("sys/devices/system/cpu/online", lists[i]);
		assert_int_equal(describe().vcpu, CONTROL_UNKNOWN);
		assert_int_equal(describe().cpu_cores, CONTROL_UNKNOWN);
	}
	/* Threads can be counted without knowing their cores. */
	put("sys/devices/system/cpu/online", "0,100\n");
	assert_int_equal(describe().vcpu, 2);
	assert_int_equal(describe().cpu_cores, CONTROL_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_is_guessed),
		cmocka_unit_test(test_memory_speed),
		cmocka_unit_test(test_interface_speed),
		cmocka_unit_test(test_vram),
		cmocka_unit_test(test_processor_and_memory),
		cmocka_unit_test(test_two_sockets),
		cmocka_unit_test(test_processors_that_cannot_be_counted),
	};

	return cmocka_run_group_tests(tests, make_top, remove_top);
}
