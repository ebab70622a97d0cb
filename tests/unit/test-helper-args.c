/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vfio-helper and vm-launch accept, and what command lines come of it.
 * Trust: runs in tests only.
 */
#include "common/fd.h"
#include "vfio-helper/launch/launch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>

#include <cmocka.h>

static const struct spawn_setup setup = {.qemu_binary = "/q/qemu",
					 .qemu_img_binary = "/q/img",
					 .passt_binary = "/q/passt",
					 .dns = "9.9.9.9",
					 .max_vms = 4,
					 .max_cpus = 8,
					 .max_memory_mib = 4096,
					 .max_disk_mib = 10000,
					 .port_low = 10000,
					 .port_high = 20000};

static struct image image = {
	.format = IMAGE_QCOW2, .min_disk_mib = 64, .append = "console=ttyS0 quiet"};

static const struct machine no_machine = {0};

static struct spawn_spec vm_spec(enum program program)
{
	struct spawn_spec s = {.program = program,
			       .slot = 3,
			       .cpus = 2,
			       .memory_mib = 512,
			       .disk_mib = 1000,
			       .accel = PROTO_ACCEL_TCG,
			       .vm = "vm-1",
			       .ports = {{10022, 22}, {10080, 80}}};

	s.roles = FD_BIT(FD_STDERR);
	if (program == PROGRAM_QEMU)
		s.roles |= FD_BIT(FD_GATE) | FD_BIT(FD_NET) | FD_BIT(FD_CONSOLE) | FD_BIT(FD_DISK) |
			   FD_BIT(FD_BASE) | FD_BIT(FD_IMAGE) | FD_BIT(FD_SEED) | FD_BIT(FD_QMP) |
			   FD_BIT(FD_READY);
	else if (program == PROGRAM_PASST)
		s.roles |= FD_BIT(FD_GATE) | FD_BIT(FD_NET);
	else if (program == PROGRAM_QEMU_IMG)
		s.roles |= FD_BIT(FD_DISK) | FD_BIT(FD_IMAGE);
	else
		s.roles |= FD_BIT(FD_KERNEL);
	return s;
}

static bool has(const struct args *a, const char *word)
{
	for (size_t i = 0; i < a->n; i++)
		if (STR_EQ(a->argv[i], word))
			return true;
	return false;
}

/* The argument after @word, or "". */
static const char *after(const struct args *a, const char *word)
{
	for (size_t i = 0; i + 1 < a->n; i++)
		if (STR_EQ(a->argv[i], word))
			return a->argv[i + 1];
	return "";
}

static void test_accepts(void **state)
{
	(void)state;
	for (int p = PROGRAM_QEMU; p <= PROGRAM_TRIAL; p++) {
		struct spawn_spec s = vm_spec((enum program)p);

		assert_int_equal(spec_check(&s, &setup), 0);
	}
}

#define REFUSED(program, change)                                                                   \
	do {                                                                                       \
		struct spawn_spec s = vm_spec(program);                                            \
                                                                                                   \
		s.change;                                                                          \
		assert_int_equal(spec_check(&s, &setup), -EINVAL);                                 \
	} while (0)

static void test_refuses_values(void **state)
{
	(void)state;
	REFUSED(PROGRAM_QEMU, program = 0);
	REFUSED(PROGRAM_QEMU, program = PROGRAM_TRIAL + 1);
	REFUSED(PROGRAM_QEMU, slot = 4);
	REFUSED(PROGRAM_QEMU, cpus = 0);
	REFUSED(PROGRAM_QEMU, cpus = 9);
	REFUSED(PROGRAM_QEMU, memory_mib = 127);
	REFUSED(PROGRAM_QEMU, memory_mib = 4097);
	REFUSED(PROGRAM_QEMU, accel = PROTO_ACCEL_UNDECIDED);
	REFUSED(PROGRAM_QEMU, accel = PROTO_ACCEL_MAX + 1);
	REFUSED(PROGRAM_PASST, ports[0].host = 9999);
	REFUSED(PROGRAM_PASST, ports[1].host = 20001);
	REFUSED(PROGRAM_PASST, ports[1].guest = 0);
	REFUSED(PROGRAM_QEMU_IMG, disk_mib = 10001);
}

/* What a name or the kernel's command line must not smuggle in. */
static void test_refuses_text(void **state)
{
	static const char *const names[] = {"", "x,romfile=", "a b", "../x", "-x", "x\n", "A"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct spawn_spec s = vm_spec(PROGRAM_QEMU);

		memset(s.vm, 0, sizeof(s.vm));
		memcpy(s.vm, names[i], strlen(names[i]));
		assert_int_equal(spec_check(&s, &setup), -EINVAL);
	}
	REFUSED(PROGRAM_QEMU, vm[20] = 'x'); /* behind the end */
	REFUSED(PROGRAM_TRIAL, vm[20] = 'x');
}

static void test_refuses_roles(void **state)
{
	(void)state;
	for (int p = PROGRAM_QEMU; p <= PROGRAM_TRIAL; p++) {
		uint32_t roles = vm_spec((enum program)p).roles;

		for (int role = 0; role < 32; role++) {
			bool may = p == PROGRAM_QEMU &&
				   (role == FD_KERNEL || role == FD_INITRD || role == FD_VARS);
			if (!may)
				REFUSED((enum program)p, roles = roles ^ 1u << role);
		}
	}
}

static void test_qemu(void **state)
{
	struct spawn_spec s = vm_spec(PROGRAM_QEMU);
	struct args a;

	(void)state;
	assert_int_equal(spec_args(&s, &setup, &image, &no_machine, &a), 0);
	assert_string_equal(a.argv[0], "/q/qemu");
	assert_null(a.argv[a.n]);
	assert_string_equal(after(&a, "-sandbox"), "on,obsolete=deny,elevateprivileges=deny,"
						   "spawn=deny,resourcecontrol=deny");
	assert_true(has(&a, "-nodefaults") && has(&a, "-no-user-config"));
	assert_string_equal(after(&a, "-m"), "512");
	assert_string_equal(after(&a, "-smp"), "2");
	assert_string_equal(after(&a, "-accel"), "tcg,thread=multi");
	assert_string_equal(after(&a, "-cpu"), "max");
	assert_string_equal(after(&a, "-name"), "guest=vm-1");
	assert_false(has(&a, "-kernel") || has(&a, "-append") || has(&a, "-initrd"));
	s.roles |= FD_BIT(FD_KERNEL) | FD_BIT(FD_INITRD);
	s.accel = PROTO_ACCEL_KVM;
	assert_int_equal(spec_args(&s, &setup, &image, &no_machine, &a), 0);
	assert_string_equal(after(&a, "-append"), "console=ttyS0 quiet");
	assert_string_equal(after(&a, "-kernel"), "/proc/self/fd/13");
	assert_string_equal(after(&a, "-initrd"), "/proc/self/fd/14");
	assert_string_equal(after(&a, "-accel"), "kvm");
	assert_string_equal(after(&a, "-cpu"), "host");
}

/* No argument but the kernel's command line is free text: names, numbers and constants only. */
static void test_longest(void **state)
{
	struct spawn_spec s = vm_spec(PROGRAM_QEMU);
	struct args a;

	(void)state;
	s.roles |= FD_BIT(FD_KERNEL) | FD_BIT(FD_INITRD);
	memset(s.vm, 'a', PROTO_NAME_MAX);
	image.append[APPEND_MAX - 1] = '\0';
	memset(image.append, 'b', APPEND_MAX - 1);
	for (size_t i = 0; i < PROTO_MAX_PORTS; i++)
		s.ports[i] = (struct proto_port){(uint16_t)(10000 + i), UINT16_MAX};
	assert_int_equal(spec_check(&s, &setup), 0);
	assert_int_equal(spec_args(&s, &setup, &image, &no_machine, &a), 0);
	s.program = PROGRAM_PASST;
	assert_int_equal(spec_args(&s, &setup, &image, &no_machine, &a), 0);
}

static void test_passt(void **state)
{
	struct spawn_spec s = vm_spec(PROGRAM_PASST);
	struct args a;
	size_t n = 0;

	(void)state;
	assert_int_equal(spec_args(&s, &setup, &image, &no_machine, &a), 0);
	assert_string_equal(a.argv[0], "/q/passt");
	assert_true(has(&a, "--no-map-gw") && has(&a, "--foreground"));
	assert_string_equal(after(&a, "--udp-ports"), "none");
	assert_string_equal(after(&a, "--dns"), "9.9.9.9");
	for (size_t i = 0; i < a.n; i++)
		n += STR_EQ(a.argv[i], "--tcp-ports");
	assert_int_equal(n, 2);
	assert_true(has(&a, "127.0.0.1/10022:22") && has(&a, "127.0.0.1/10080:80"));
	memset(s.ports, 0, sizeof(s.ports));
	assert_int_equal(spec_args(&s, &setup, &image, &no_machine, &a), 0);
	assert_string_equal(after(&a, "--tcp-ports"), "none");
}

static void test_small_programs(void **state)
{
	struct spawn_spec s = vm_spec(PROGRAM_QEMU_IMG);
	struct args a;

	(void)state;
	assert_int_equal(spec_args(&s, &setup, &image, &no_machine, &a), 0);
	assert_int_equal(a.n, 7);
	assert_string_equal(a.argv[5], "/proc/self/fd/7");
	assert_string_equal(a.argv[6], "1000M");
	s.disk_mib = 0;
	assert_int_equal(spec_args(&s, &setup, &image, &no_machine, &a), 0);
	assert_string_equal(a.argv[6], "64M");
	s = vm_spec(PROGRAM_TRIAL);
	assert_int_equal(spec_args(&s, &setup, &image, &no_machine, &a), 0);
	assert_string_equal(after(&a, "-accel"), "kvm");
	assert_false(has(&a, "-netdev") || has(&a, "-blockdev"));
}

static void test_image(void **state)
{
	static const char *const bad[] = {"", "format = raw\n", "min_disk_mib = 5\n",
					  "format = vmdk\nmin_disk_mib = 5\n",
					  "format = raw\nmin_disk_mib = 0\n"};
	static const char good[] = "format = raw\nmin_disk_mib = 5\nappend = quiet\n";
	struct image got = {0};
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad) + 1; i++) {
		const char *text = i < ARRAY_LEN(bad) ? bad[i] : good;
		_cleanup_close_ int fd = memfd_create("image.conf", MFD_CLOEXEC);

		assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
		assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
		assert_int_equal(image_read(fd, &got, &err), text == good ? 0 : -EINVAL);
	}
	assert_int_equal(got.format, IMAGE_RAW);
	assert_int_equal(got.min_disk_mib, 5);
	assert_string_equal(got.append, "quiet");
}

/* In QEMU's place a shell that says on the serial port what a kernel would, or does not. */
static void test_trial(void **state)
{
	static const struct {
		const char *script;
		int r;
		enum launch_exit result;
	} cases[] = {
		{"echo Booting >&6; echo 'Linux version 6' >&6; exec sleep 9", 0, LAUNCH_OK},
		{"echo SeaBIOS >&6; exec sleep 9", 0, LAUNCH_SILENT},
		{"head -c 9000 /dev/zero >&6; exec sleep 9", 0, LAUNCH_SILENT},
		{"echo no such device >&6", -EPIPE, LAUNCH_SILENT},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char shell[] = "/bin/sh", option[] = "-c", script[80];
		struct args a = {.argv = {shell, option, script}, .n = 3};
		enum launch_exit result = LAUNCH_OK;

		(void)snprintf(script, sizeof(script), "%s", cases[i].script);
		assert_int_equal(CHILD_FD(FD_CONSOLE), 6);
		assert_int_equal(trial_run(&a, 1, &result), cases[i].r);
		assert_int_equal(result, cases[i].result);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accepts),      cmocka_unit_test(test_refuses_values),
		cmocka_unit_test(test_refuses_text), cmocka_unit_test(test_refuses_roles),
		cmocka_unit_test(test_qemu),         cmocka_unit_test(test_longest),
		cmocka_unit_test(test_passt),        cmocka_unit_test(test_small_programs),
		cmocka_unit_test(test_image),        cmocka_unit_test(test_trial),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
