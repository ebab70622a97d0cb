/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-bind's acts on a made-up machine: everything comes back as it was, whatever goes wrong and
 * wherever it is killed; what may not be taken is refused without a write; what it remembers is not
 * believed once a byte of it is another.
 * Trust: runs in tests only; device nodes need root, and are left out without.
 */
#include "tests/unit/bind-rig.h"
#include "tests/unit/rig.h"

#include "common/fd.h"
#include "common/priv.h"
#include "kill-bind.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <cmocka.h>

/* Two cards of one kind, each with its audio function; the second's has no driver. */
#define BRIDGES                                                                                    \
	"pci 0000:00:00.0 8086:a706 060000 group=0\n"                                              \
	"pci 0000:00:01.0 8086:a70d 060400 driver=pcieport group=1\n"                              \
	"pci 0000:00:02.0 8086:a70d 060400 driver=pcieport group=2\n"
#define CARD_1                                                                                     \
	"pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=nvidia group=11 "            \
	"bars=16M,32G/64p,-,32M/64p,-,128/io boot_vga=0 reset=flr,bus numa=1\n"                    \
	"pci 0000:01:00.1 10de:1aef 040300 parent=0000:00:01.0 driver=snd_hda_intel group=11 "     \
	"bars=16K\n"
#define CARD_2                                                                                     \
	"pci 0000:02:00.0 10de:2204 030000 parent=0000:00:02.0 driver=nvidia group=12 "            \
	"bars=16M,32G/64p boot_vga=0 reset=bus\n"                                                  \
	"pci 0000:02:00.1 10de:1aef 040300 parent=0000:00:02.0 group=13 bars=16K\n"
#define BOARD BRIDGES CARD_1 CARD_2

#define GPU_1 "0000:01:00.0"
#define GPU_2 "0000:02:00.0"
#define GPUS(...)                                                                                  \
	(const char *const[])                                                                      \
	{                                                                                          \
		__VA_ARGS__, NULL                                                                  \
	}

static char *before; /* the machine when it was made */

static void make(const char *board)
{
	machine_make(board);
	before = machine_snapshot();
}

static void unmake(void)
{
	free(before);
	machine_done();
}

static void assert_as_before(const char *where)
{
	_cleanup_free_ char *now = NULL;

	machine_quiet();
	now = machine_snapshot();
	if (strcmp(now, before) != 0)
		print_error("after %s:\n", where);
	assert_string_equal(now, before);
}

static void take(const char *vm, const char *const gpus[])
{
	struct bind_answer ans;

	if (machine_act(BIND_TAKE, vm, gpus, &ans, NULL) != PROTO_OK)
		print_error("take: %s\n", ans.why);
	assert_int_equal(ans.status, PROTO_OK);
}

static void release(const char *vm)
{
	struct bind_answer ans;

	if (machine_act(BIND_RELEASE, vm, NULL, &ans, NULL) != PROTO_OK)
		print_error("release: %s\n", ans.why);
	assert_int_equal(ans.status, PROTO_OK);
	assert_int_equal(ans.left, 0);
}

static void read_attr(const char *address, const char *name, char text[static 64])
{
	if (fd_read_file(AT_FDCWD, machine_path("sys/bus/pci/devices/%s/%s", address, name), text,
			 64) < 0)
		text[0] = '\0';
	text[strcspn(text, "\n")] = '\0';
}

static void assert_attr(const char *address, const char *name, const char *value)
{
	char text[64];

	read_attr(address, name, text);
	assert_string_equal(text, value);
}

static void test_take_and_release(void **state)
{
	struct bind_answer ans;

	(void)state;
	make(BOARD);
	assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1, GPU_2), &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 4);
	assert_int_equal(ans.n_gpus, 2);
	assert_string_equal(machine_records(), "lease-vm1 ");
	assert_string_equal(machine_driver(GPU_1), "vfio-pci");
	assert_string_equal(machine_driver("0000:01:00.1"), "vfio-pci");
	assert_string_equal(machine_driver("0000:02:00.1"), "vfio-pci");
	assert_string_equal(machine_driver("0000:00:01.0"), "pcieport");
	assert_attr(GPU_1, "driver_override", "vfio-pci");
	assert_attr(GPU_1, "d3cold_allowed", "0");
	assert_attr(GPU_1, "power/control", "on");
	assert_attr("0000:00:01.0", "driver_override", "(null)");

	/* The same again is the same; another set is another matter. */
	assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1, GPU_2), &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 4);
	assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL), PROTO_CONFLICT);

	assert_int_equal(machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 4);
	assert_as_before("release");
	assert_string_equal(machine_records(), "");
	assert_int_equal(machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 0);
	unmake();
}

/* The host has booted anew, and every function has its own driver again. */
static void test_after_reboot(void **state)
{
	struct bind_answer ans;

	(void)state;
	for (int again = 0; again < 2; again++) {
		make(BOARD);
		take("vm1", GPUS(GPU_1));
		machine_quiet();
		machine_boot();
		assert_as_before("a boot");
		assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_FAILED);
		assert_int_equal(ans.n_devices, 0);
		if (again) {
			take("vm1", GPUS(GPU_1));
			assert_string_equal(machine_driver(GPU_1), "vfio-pci");
		}
		release("vm1");
		assert_as_before("release");
		assert_string_equal(machine_records(), "");
		unmake();
	}
}

/* Under the real filter: no call that an act makes is missing on its list. */
static void test_filter(void **state)
{
	static const char board[] =
		BRIDGES "pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=vfio-pci "
			"group=11 bars=16M boot_vga=0 reset=flr\n";
	struct err err = {0};
	int status;
	pid_t pid;

	(void)state;
#ifdef __SANITIZE_ADDRESS__
	skip(); /* the sanitizer makes calls of its own */
#endif
	make(board);
	machine_env.policy.adopt_vfio = true;
	pid = fork();
	if (pid == 0) {
		bind_point_hook = NULL; /* the made-up kernel is no part of vfio-bind */
		RIG_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
		RIG_CHECK(priv_enter_filter("vfio-bind", filter_vfio_bind, filter_vfio_bind_len,
					    &err) == 0);
		RIG_CHECK(machine_act(BIND_LIST, NULL, NULL, NULL, NULL) == PROTO_OK);
		RIG_CHECK(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), NULL, NULL) == PROTO_OK);
		RIG_CHECK(machine_act(BIND_GRANT, "vm1", NULL, NULL, NULL) ==
			  (machine_has_nodes() ? PROTO_OK : PROTO_FAILED));
		RIG_CHECK(machine_act(BIND_REVOKE, "vm1", NULL, NULL, NULL) == PROTO_OK);
		RIG_CHECK(machine_act(BIND_RELEASE, "vm1", NULL, NULL, NULL) == PROTO_OK);
		RIG_CHECK(machine_act(BIND_RECOVER, NULL, GPUS(GPU_1), NULL, NULL) == PROTO_OK);
		_exit(0);
	}
	assert_true(waitpid(pid, &status, 0) == pid);
	assert_int_equal(status, 0);
	unmake();
}

/* Fifty times, and neither a record nor a descriptor is left. */
static void test_no_leak(void **state)
{
	size_t fds;

	(void)state;
	make(BOARD);
	fds = rig_count_fds();
	for (int i = 0; i < 50; i++) {
		take("vm1", GPUS(GPU_1));
		take("vm2", GPUS(GPU_2));
		release("vm1");
		release("vm2");
		machine_quiet();
	}
	assert_as_before("fifty rounds");
	assert_string_equal(machine_records(), "");
	assert_int_equal(rig_count_fds(), fds);
	unmake();
}

/* What another VM's name can do to a lease: nothing. */
static void test_other_vm(void **state)
{
	_cleanup_free_ char *held = NULL, *after = NULL;
	struct bind_answer ans;

	(void)state;
	make(BOARD);
	take("vm1", GPUS(GPU_1));
	machine_quiet();
	held = machine_snapshot();
	assert_int_equal(machine_act(BIND_TAKE, "vm2", GPUS(GPU_1), &ans, NULL), PROTO_BUSY);
	assert_non_null(strstr(ans.why, "leased to VM vm1"));
	assert_int_equal(machine_act(BIND_TAKE, "vm2", GPUS(GPU_1, GPU_2), &ans, NULL), PROTO_BUSY);
	assert_int_equal(machine_act(BIND_RELEASE, "vm2", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 0);
	assert_int_equal(machine_act(BIND_GRANT, "vm2", NULL, &ans, NULL), PROTO_NOT_FOUND);
	assert_int_equal(machine_act(BIND_REVOKE, "vm2", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(GPU_1), &ans, NULL), PROTO_OK);
	assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 0);
	machine_quiet();
	after = machine_snapshot();
	assert_string_equal(after, held);
	assert_string_equal(machine_records(), "lease-vm1 ");
	release("vm1");
	assert_as_before("release");
	unmake();
}

/* Each class of device, asked for as if it were a GPU. */
static void test_classes(void **state)
{
	static const char board[] = BOARD
		"pci 0000:03:00.0 144d:a80a 010802 driver=nvme group=20 block=nvme/nvme0/nvme0n1\n"
		"pci 0000:04:00.0 8086:1533 020000 driver=igb group=21 net=eth0:up\n"
		"pci 0000:05:00.0 1000:0097 010700 driver=mpt3sas group=22\n"
		"pci 0000:06:00.0 1a03:2000 030000 driver=ast group=23 boot_vga=1\n"
		"pci 0000:07:00.0 10de:22a3 068000 driver=nvidia-nvswitch group=24\n"
		"pci 0000:08:00.0 8086:a0ed 0c0330 driver=xhci_hcd group=25\n"
		"pci 0000:09:00.0 10ee:9038 120000 driver=xdma group=26\n"
		"pci 0000:0a:00.0 8086:a0c8 040300 driver=snd_hda_intel group=27\n"
		"pci 0000:0b:00.0 10de:2204 030000 driver=nvidia group=28\n"
		"pci 0000:0c:00.0 8086:1533 020000 driver=igb group=28 net=eth1:up\n"
		"pci 0000:0d:00.0 10de:2204 030000 driver=nvidia\n"
		"pci 0000:0e:00.0 10de:2204 030000 driver=vfio-pci group=29\n"
		"pci 0000:0f:00.0 1002:73bf 030000 driver=amdgpu group=30\n"
		"pci 0000:10:00.0 10de:2204 030000 driver=pci-stub group=31\n"
		"pci 0000:11:00.0 10de:2204 030000 driver=nouveau group=32\n"
		"pci 0000:12:00.0 10de:2204 030000 driver=nvidia group=33 boot_vga=1\n"
		"pci 0000:13:00.0 10de:20b0 030200 driver=nvidia group=34 vfs=2\n";
	static const char *const others[] = {
		"0000:00:01.0", "0000:01:00.1", "0000:03:00.0", "0000:04:00.0", "0000:05:00.0",
		"0000:06:00.0", "0000:07:00.0", "0000:08:00.0", "0000:09:00.0", "0000:0a:00.0",
		"0000:0b:00.0", "0000:0c:00.0", "0000:0d:00.0", "0000:0e:00.0", "0000:0f:00.0",
		"0000:10:00.0", "0000:11:00.0", "0000:12:00.0", "0000:13:00.0", "0000:7f:00.0"};
	struct bind_answer ans;

	(void)state;
	make(board);
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		/* Alone, and beside one that could be had. */
		const char *first = strcmp(others[i], GPU_1) < 0 ? others[i] : GPU_1;
		const char *second = first == others[i] ? GPU_1 : others[i];

		assert_int_not_equal(machine_act(BIND_TAKE, "vm1", GPUS(others[i]), &ans, NULL),
				     PROTO_OK);
		assert_string_not_equal(ans.why, "");
		assert_int_not_equal(machine_act(BIND_TAKE, "vm1", GPUS(first, second), &ans, NULL),
				     PROTO_OK);
		assert_int_equal(n_points, 0); /* not even a record */
		assert_as_before(others[i]);
		assert_string_equal(machine_records(), "");
	}
	unmake();
}

static void test_no_vfio_module(void **state)
{
	struct bind_answer ans;

	(void)state;
	make(BOARD);
	assert_int_equal(unlink(machine_path("sys/bus/pci/drivers/vfio-pci/unbind")), 0);
	assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL), PROTO_DENIED);
	assert_non_null(strstr(ans.why, "modprobe vfio-pci"));
	unmake();
}

/* How many points an act passes that goes well. */
static int count_take(void)
{
	int n;

	machine_quiet();
	take("vm1", GPUS(GPU_1));
	n = n_points;
	release("vm1");
	return n;
}

static int count_release(void)
{
	int n;

	take("vm1", GPUS(GPU_1));
	machine_quiet();
	release("vm1");
	n = n_points;
	return n;
}

/* A step that does not do what it should, or whose write fails, at every point of a take. */
static void test_take_undone(void **state)
{
	int n;

	(void)state;
	make(BOARD);
	n = count_take();
	for (int kind = TROUBLE_LIE; kind <= TROUBLE_FAIL; kind++)
		for (int at = 1; at < n; at++) {
			struct bind_answer ans;
			char where[512];

			machine_quiet();
			trouble = (enum trouble)kind;
			trouble_at = at;
			(void)machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL);
			(void)snprintf(where, sizeof(where), "trouble %d at %d, %s: %s", kind, at,
				       point_name(at), ans.why);
			if (ans.status == PROTO_OK) {
				/* Only a lie about what changes nothing can be overlooked. */
				assert_int_equal(kind, TROUBLE_LIE);
				release("vm1");
			}
			assert_as_before(where);
			assert_string_equal(machine_records(), "");
		}
	unmake();
}

static void fill_disk(void)
{
	machine_full = true;
}

/* When the way back cannot be written down, the lease stays, and nobody is told otherwise. */
static void test_undo_without_room(void **state)
{
	int n, stayed = 0;

	(void)state;
	make(BOARD);
	n = count_take();
	for (int at = 1; at < n; at++) {
		struct bind_answer ans;

		machine_quiet();
		trouble = TROUBLE_CALL;
		trouble_at = at;
		machine_call = fill_disk;
		(void)machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL);
		machine_quiet();
		assert_int_not_equal(ans.status, PROTO_OK);
		if (strstr(machine_records(), "lease-vm1")) {
			stayed++;
			assert_int_equal(ans.status, PROTO_FAILED);
			assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL),
					 PROTO_OK);
			assert_int_equal(ans.left, 0);
		}
		assert_as_before(point_name(at));
		assert_string_equal(machine_records(), "");
	}
	assert_true(stayed > 0);
	unmake();
}

/* A group's number that has passed on is not the lease's any more. */
static void test_revoke_after_hotplug(void **state)
{
	struct bind_answer ans;
	struct stat st;

	(void)state;
	if (!machine_has_nodes())
		skip(); /* device nodes cannot be made without root */
	make(BOARD);
	take("vm1", GPUS(GPU_1));
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_OK);
	for (int function = 0; function < 2; function++) {
		const char *link =
			machine_path("sys/bus/pci/devices/0000:01:00.%d/iommu_group", function);

		assert_int_equal(unlink(link), 0);
		assert_int_equal(symlink("../../../../kernel/iommu_groups/12", link), 0);
	}
	assert_int_equal(machine_act(BIND_REVOKE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(lstat(machine_path("dev/vfio/11"), &st), 0);
	assert_int_equal(st.st_uid, 1001);
	unmake();
}

/* The same for a release: what fails is quarantined, the rest is back, and recover ends it. */
static void test_release_troubled(void **state)
{
	int n, quarantines = 0;

	(void)state;
	make(BOARD);
	n = count_release();
	for (int kind = TROUBLE_LIE; kind <= TROUBLE_FAIL; kind++)
		for (int at = 1; at < n; at++) {
			struct bind_answer ans;
			char where[512];

			machine_quiet();
			take("vm1", GPUS(GPU_1));
			machine_quiet();
			trouble = (enum trouble)kind;
			trouble_at = at;
			(void)machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL);
			(void)snprintf(where, sizeof(where), "trouble %d at %d, %s: %s", kind, at,
				       point_name(at), ans.why);
			machine_quiet();
			if (ans.left > 0) {
				quarantines++;
				assert_int_equal(ans.left, 1);
				assert_string_not_equal(ans.why, "");
				assert_int_equal(
					machine_act(BIND_TAKE, "vm2", GPUS(GPU_1), &ans, NULL),
					PROTO_DENIED);
				assert_non_null(strstr(ans.why, "quarantined"));
			}
			assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL),
					 PROTO_OK);
			assert_int_equal(ans.left, 0);
			release("vm1"); /* when even the first record could not be written */
			assert_as_before(where);
			assert_string_equal(machine_records(), "");
		}
	assert_true(quarantines > 4);
	unmake();
}

/* Does the act in a child that ends at point @at; false when it came to the end before. */
static bool killed_at(int at, enum bind_act act, const char *const gpus[])
{
	int status;
	pid_t pid;

	machine_quiet();
	pid = fork();
	if (pid == 0) {
		trouble = TROUBLE_KILL;
		trouble_at = at;
		(void)machine_act(act, act == BIND_RECOVER ? NULL : "vm1", gpus, NULL, NULL);
		_exit(0);
	}
	assert_true(waitpid(pid, &status, 0) == pid);
	machine_quiet();
	assert_true(WIFEXITED(status) || WTERMSIG(status) == SIGKILL);
	return WIFSIGNALED(status);
}

static void test_take_killed(void **state)
{
	struct bind_answer ans;
	int at = 1;

	(void)state;
	make(BOARD);
	for (; killed_at(at, BIND_TAKE, GPUS(GPU_1)); at++) {
		char where[64];

		(void)snprintf(where, sizeof(where), "kill at %d of a take", at);
		assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
		assert_int_equal(ans.left, 0);
		if (machine_records()[0] != '\0') /* it was complete */
			release("vm1");
		assert_as_before(where);
		assert_string_equal(machine_records(), "");

		/* Asked for again instead, it is taken. */
		assert_true(killed_at(at, BIND_TAKE, GPUS(GPU_1)));
		take("vm1", GPUS(GPU_1));
		release("vm1");
		assert_as_before(where);

		/* Given up instead, it is given back. */
		assert_true(killed_at(at, BIND_TAKE, GPUS(GPU_1)));
		release("vm1");
		assert_as_before(where);
		assert_string_equal(machine_records(), "");
	}
	release("vm1");
	assert_true(at > 12);
	unmake();
}

static void test_release_killed(void **state)
{
	struct bind_answer ans;
	int at = 1;

	(void)state;
	make(BOARD);
	for (;; at++) {
		char where[64];

		(void)snprintf(where, sizeof(where), "kill at %d of a release", at);
		take("vm1", GPUS(GPU_1));
		if (!killed_at(at, BIND_RELEASE, NULL))
			break;
		assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
		assert_int_equal(ans.left, 0);
		assert_as_before(where);
		assert_string_equal(machine_records(), "");

		take("vm1", GPUS(GPU_1));
		assert_true(killed_at(at, BIND_RELEASE, NULL));
		release("vm1");
		assert_as_before(where);
		assert_string_equal(machine_records(), "");
	}
	assert_true(at > 10);
	/* And the undoing itself, at each of its points. */
	for (at = 1;; at++) {
		assert_true(killed_at(8, BIND_TAKE, GPUS(GPU_1)));
		if (!killed_at(at, BIND_RECOVER, NULL))
			break;
		assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
		assert_as_before("kill of a recovery");
		assert_string_equal(machine_records(), "");
	}
	assert_true(at > 3);
	unmake();
}

/* A write that never ends costs a deadline, and one function; all the rest is as before. */
static void test_hanging_write(void **state)
{
	static const char board[] = BOARD "driver nvidia hang=unbind\n";
	struct bind_answer ans;
	int64_t begun_ms;

	(void)state;
	make(board);
	machine_env.keys.write_seconds = 1;
	begun_ms = now_ms();
	assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL), PROTO_TIMEOUT);
	assert_true(now_ms() - begun_ms < 5000);
	assert_int_equal(ans.left, 1);
	assert_non_null(strstr(ans.why, "hangs"));
	assert_string_equal(machine_records(), "quarantine-0000:01:00.0 ");
	assert_string_equal(machine_driver("0000:01:00.1"), "snd_hda_intel");
	assert_attr("0000:01:00.1", "driver_override", "(null)");
	assert_int_equal(machine_act(BIND_LIST, NULL, NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 2);
	assert_int_equal(machine_act(BIND_TAKE, "vm2", GPUS(GPU_1), &ans, NULL), PROTO_DENIED);
	assert_non_null(strstr(ans.why, "quarantined"));
	/* The machine has another driver now, whose unbind does not hang. */
	assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(GPU_1), &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 1);
	assert_as_before("recovery");
	assert_string_equal(machine_records(), "");
	unmake();
}

/* What comes too late is not begun, and there is time left for the way back. */
static void test_no_time(void **state)
{
	struct bind_answer ans;

	(void)state;
	make(BOARD);
	machine_ms = BIND_DEADLINE_MS / 3;
	assert_int_not_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL), PROTO_OK);
	assert_int_equal(ans.left, 0);
	assert_as_before("a take without time");
	assert_string_equal(machine_records(), "");
	machine_ms = BIND_DEADLINE_MS;
	take("vm1", GPUS(GPU_1));
	machine_ms = 0;
	assert_int_equal(machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.left, 2);
	assert_null(strstr(ans.why, "hangs"));
	machine_ms = BIND_DEADLINE_MS;
	assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 2);
	assert_as_before("recovery");
	unmake();
}

/* While a write to a function hangs, its lock is held, whoever made the write may have died. */
static void test_lock_outlives(void **state)
{
	struct bind_answer ans;
	pci_addr address;
	int fds[2], fd, status;
	pid_t pid, writer = 0;

	(void)state;
	make(BOARD);
	assert_int_equal(pci_addr_parse(GPU_1, &address), 0);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		fd = lock_open(machine_env.state_fd);
		if (lock_function(fd, address, 0) < 0 || (writer = fork()) == 0)
			(void)pause();
		(void)!write(fds[1], &writer, sizeof(writer));
		_exit(0);
	}
	assert_true(waitpid(pid, &status, 0) == pid);
	assert_int_equal(read(fds[0], &writer, sizeof(writer)), sizeof(writer));
	assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL), PROTO_BUSY);
	assert_non_null(strstr(ans.why, "a write hangs"));
	assert_as_before("a refusal");
	take("vm1", GPUS(GPU_2));
	release("vm1");
	assert_int_equal(kill(writer, SIGKILL), 0);
	(void)close(fds[0]);
	(void)close(fds[1]);
	unmake();
}

static void remove_device(void)
{
	const char *from = machine_path("sys/bus/pci/devices/" GPU_1);

	if (STR_EQ(point_name(n_points), "function-unbound"))
		(void)rename(from, machine_path("gone"));
}

static void test_device_vanishes(void **state)
{
	struct bind_answer ans;
	int n;

	(void)state;
	make(BOARD);
	n = count_take();
	for (int at = 1; at <= n; at++) {
		machine_quiet();
		trouble = TROUBLE_CALL;
		trouble_at = at;
		machine_call = remove_device;
		(void)machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL);
		if (faccessat(AT_FDCWD, machine_path("gone"), F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			break;
		release("vm1");
	}
	machine_quiet();
	assert_int_not_equal(ans.status, PROTO_OK);
	assert_int_equal(ans.left, 1);
	assert_string_equal(machine_records(), "quarantine-0000:01:00.0 ");
	assert_int_equal(rename(machine_path("gone"), machine_path("sys/bus/pci/devices/" GPU_1)),
			 0);
	assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 1);
	assert_as_before("it came back");
	unmake();
}

/* Each byte of a lease's record turned: refused, and nothing is touched on its word. */
static void test_tampered_lease(void **state)
{
	_cleanup_free_ char *held = NULL, *after = NULL;
	static char record[16384];
	struct bind_answer ans;
	ssize_t size;
	int fd;

	(void)state;
	make(BOARD);
	take("vm1", GPUS(GPU_1));
	machine_quiet();
	held = machine_snapshot();
	fd = open(machine_path("state/lease-vm1"), O_RDWR | O_CLOEXEC);
	size = read(fd, record, sizeof(record));
	assert_true(size > 32);
	for (ssize_t i = 0; i < size; i++) {
		char turned = (char)~record[i];

		assert_int_equal(pwrite(fd, &turned, 1, i), 1);
		assert_int_equal(machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL), PROTO_FAILED);
		assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_FAILED);
		if (i % 64 == 0) {
			assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL),
					 PROTO_FAILED);
			assert_int_not_equal(machine_act(BIND_TAKE, "vm2", GPUS(GPU_1), &ans, NULL),
					     PROTO_OK);
		}
		assert_int_equal(pwrite(fd, record + i, 1, i), 1);
	}
	assert_int_equal(n_points, 0);
	machine_quiet();
	after = machine_snapshot();
	assert_string_equal(after, held);

	/* Put aside by recover, and what it held is found by its address. */
	assert_int_equal(pwrite(fd, "x", 1, 0), 1);
	(void)close(fd);
	assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.left, 1);
	assert_string_equal(machine_records(), "damaged-vm1 ");
	assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(GPU_1), &ans, NULL), PROTO_OK);
	assert_string_equal(machine_driver(GPU_1), "nvidia");
	assert_string_equal(machine_driver("0000:01:00.1"), "snd_hda_intel");
	unmake();
}

static void test_tampered_quarantine(void **state)
{
	static char record[1024];
	struct bind_answer ans;
	ssize_t size;
	int fd;

	(void)state;
	make(BOARD "driver nvidia hang=unbind\n");
	machine_env.keys.write_seconds = 1;
	(void)machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL);
	assert_string_equal(machine_records(), "quarantine-0000:01:00.0 ");
	machine_quiet();
	fd = open(machine_path("state/quarantine-" GPU_1), O_RDWR | O_CLOEXEC);
	size = read(fd, record, sizeof(record));
	assert_true(size > 32);
	for (ssize_t i = 0; i < size; i++) {
		char turned = (char)~record[i];

		assert_int_equal(pwrite(fd, &turned, 1, i), 1);
		assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
		assert_int_equal(ans.done, 0);
		assert_int_equal(ans.left, 1);
		assert_int_equal(machine_act(BIND_TAKE, "vm2", GPUS(GPU_1), &ans, NULL),
				 PROTO_DENIED);
		assert_int_equal(pwrite(fd, record + i, 1, i), 1);
	}
	assert_int_equal(n_points, 0);
	(void)close(fd);
	unmake();
}

/* Records with a right sum and wrong values: of another version, or forged. */
static void test_forged_lease(void **state)
{
	struct lease good, bad, loaded;
	int state_fd;

	(void)state;
	make(BOARD);
	take("vm1", GPUS(GPU_1));
	state_fd = machine_env.state_fd;
	assert_int_equal(lease_load(state_fd, "vm1", &good), 0);
#define FORGED(change)                                                                             \
	do {                                                                                       \
		bad = good;                                                                        \
		change;                                                                            \
		assert_int_equal(lease_save(state_fd, &bad), 0);                                   \
		assert_int_equal(lease_load(state_fd, "vm1", &loaded), -EBADMSG);                  \
	} while (0)
	FORGED(bad.phase = 0);
	FORGED(bad.phase = LEASE_PHASE_MAX + 1);
	FORGED(bad.n_funcs = 0);
	FORGED(bad.n_funcs = PROTO_MAX_DEVICES + 1);
	FORGED(bad.n_gpus = 2);
	FORGED(bad.n_gpus = 0);
	FORGED(bad.n_services = LEASE_SERVICES + 1);
	FORGED(bad.funcs[0].address = 0);
	FORGED(bad.funcs[1].address = bad.funcs[0].address);
	FORGED(bad.funcs[0].address = UINT64_MAX);
	FORGED(bad.funcs[0].gpu = 0);
	FORGED(bad.funcs[0].step = STEP_MAX + 1);
	FORGED(bad.funcs[0].class_code = 0x060400);
	FORGED(bad.funcs[0].adopted = 2);
	FORGED(strcpy(bad.funcs[0].driver, "../../../x"));
	FORGED(strcpy(bad.funcs[0].driver, "a b"));
	FORGED(strcpy(bad.funcs[0].driver, "vfio-pci"));
	FORGED(strcpy(bad.funcs[0].driver, "pci-stub"));
	FORGED(memset(bad.funcs[0].driver, 'a', sizeof(bad.funcs[0].driver)));
	FORGED(strcpy(bad.funcs[0].override, "/etc"));
	FORGED(strcpy(bad.funcs[0].d3cold, "2"));
	FORGED(strcpy(bad.funcs[0].power, "off"));
#undef FORGED
	/* A name that no driver has: never written to sysfs, and said so. */
	{
		struct bind_answer ans;

		bad = good;
		(void)strcpy(bad.funcs[0].driver, "no_such_driver");
		assert_int_equal(lease_save(state_fd, &bad), 0);
		assert_int_equal(machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL), PROTO_OK);
		assert_int_equal(ans.left, 1);
		assert_non_null(strstr(ans.why, "not loaded"));
		assert_string_equal(machine_driver(GPU_1), "vfio-pci");
		assert_string_equal(machine_driver("0000:01:00.1"), "snd_hda_intel");
	}
	unmake();
}

static void test_holders(void **state)
{
	struct bind_answer ans;

	(void)state;
	if (!machine_has_nodes())
		skip(); /* device nodes cannot be made without root */
	make(BOARD);
	machine_hold(7, "python3", "user@1000.service", GPU_1);
	free(before);
	before = machine_snapshot();
	assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL), PROTO_BUSY);
	assert_non_null(strstr(ans.why, "python3"));
	assert_as_before("a refusal");
	take("vm1", GPUS(GPU_2));
	release("vm1");
	unmake();
}

static void test_services(void **state)
{
	struct bind_answer ans;

	(void)state;
	if (!machine_has_nodes())
		skip(); /* device nodes cannot be made without root */
	make(BOARD);
	machine_hold(7, "nvidia-persiste", "nvidia-persistenced.service", GPU_1);
	machine_hold(8, "nvidia-powerd", "nvidia-powerd.service", GPU_1);
	free(before);
	before = machine_snapshot();
	take("vm1", GPUS(GPU_1));
	assert_non_null(strstr(machine_systemctl(), "stop nvidia-p"));
	release("vm1");
	assert_as_before("release");
	/* Whichever was stopped first was started last; one stop was enough for both here. */
	assert_non_null(strstr(machine_systemctl(), "start nvidia-p"));

	/* One that cannot be stopped: all is undone, and it is started again. */
	machine_quiet();
	machine_write(machine_path("systemctl.log"), "");
	machine_write(machine_path("systemctl.fail"), "");
	machine_hold(9, "nvidia-powerd", "nvidia-powerd.service", GPU_1);
	free(before);
	before = machine_snapshot();
	assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL), PROTO_BUSY);
	assert_string_equal(machine_systemctl(),
			    "stop nvidia-powerd.service\nstart nvidia-powerd.service\n");
	assert_as_before("a service that does not stop");
	assert_string_equal(machine_records(), "");
	unmake();
}

static void test_grant(void **state)
{
	struct bind_answer ans;
	struct stat st;

	(void)state;
	if (!machine_has_nodes())
		skip(); /* device nodes cannot be made without root */
	make(BOARD);
	take("vm1", GPUS(GPU_1, GPU_2));
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 4);
	assert_int_equal(ans.n_gpus, 2);
	assert_int_equal(ans.n_devices, 4);
	assert_int_equal(ans.devices[0].address, 0x100 << 0);
	assert_int_equal(ans.devices[0].card, 0);
	assert_int_equal(ans.devices[0].function, 0);
	assert_int_equal(ans.devices[0].flags, LAUNCH_DEVICE_GPU);
	assert_int_equal(ans.devices[0].node, 1);
	assert_int_equal(ans.devices[0].cdev, UINT32_MAX);
	assert_true(ans.devices[0].window_bytes == (UINT64_C(32) << 30) + (32u << 20));
	assert_true(ans.devices[0].largest_bar == UINT64_C(32) << 30);
	assert_int_equal(ans.devices[1].function, 1);
	assert_int_equal(ans.devices[1].flags, 0);
	assert_int_equal(ans.devices[2].card, 1);
	assert_int_equal(ans.devices[2].flags, LAUNCH_DEVICE_GPU);
	assert_int_equal(ans.devices[3].card, 1);
	assert_int_equal(ans.devices[3].function, 1);
	for (int group = 11; group <= 13; group++) {
		assert_int_equal(lstat(machine_path("dev/vfio/%d", group), &st), 0);
		assert_int_equal(st.st_uid, 1001);
		assert_int_equal(st.st_gid, 1002);
		assert_int_equal(st.st_mode & 07777, 0600);
	}
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_OK);
	for (int again = 0; again < 2; again++) {
		assert_int_equal(machine_act(BIND_REVOKE, "vm1", NULL, &ans, NULL), PROTO_OK);
		assert_int_equal(lstat(machine_path("dev/vfio/11"), &st), 0);
		assert_int_equal(st.st_uid, 0);
	}

	/* A device that is another, or none, is nobody's. */
	machine_write(machine_path("sys/class/vfio/12/dev"), "240:99\n");
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_FAILED);
	assert_int_equal(ans.n_devices, 0);
	assert_int_equal(lstat(machine_path("dev/vfio/11"), &st), 0);
	assert_int_equal(st.st_uid, 0);
	machine_write(machine_path("sys/class/vfio/12/dev"), "240:12\n");
	assert_int_equal(unlink(machine_path("dev/vfio/12")), 0);
	assert_int_equal(symlink("/dev/null", machine_path("dev/vfio/12")), 0);
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_FAILED);
	assert_int_equal(stat("/dev/null", &st), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(st.st_mode & 0777, 0666);
	unmake();
}

static void test_policy_flags(void **state)
{
	struct bind_answer ans;

	(void)state;
	if (!machine_has_nodes())
		skip(); /* device nodes cannot be made without root */
	make(BOARD);
	take("vm1", GPUS(GPU_1));
	machine_env.keys.rom = TRISTATE_NO;
	machine_env.keys.hide_vm = true;
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.devices[0].flags, LAUNCH_DEVICE_FLAGS_ALL);
	assert_int_equal(ans.devices[1].flags, LAUNCH_DEVICE_NO_ROM | LAUNCH_DEVICE_HIDE_VM);
	/* iommufd where there is none of it. */
	machine_env.keys.iommufd = TRISTATE_YES;
	assert_int_not_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_OK);
	release("vm1");
	assert_as_before("release");
	unmake();
}

/* Character devices and a descriptor of /dev/iommu instead of group files. */
static void test_iommufd(void **state)
{
	const char *dir = "sys/bus/pci/devices/" GPU_1 "/vfio-dev";
	struct bind_answer ans;
	struct stat st;
	int fd = -EBADF;

	(void)state;
	if (!machine_has_nodes())
		skip(); /* device nodes cannot be made without root */
	make(BRIDGES "pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=nvidia group=11 "
		     "bars=16M boot_vga=0 reset=flr\n");
	take("vm1", GPUS(GPU_1));
	machine_env.keys.iommufd = TRISTATE_YES;
	assert_int_equal(mknod(machine_path("dev/iommu"), S_IFCHR | 0600, makedev(1, 3)), 0);
	if (access(machine_path("dev/iommu"), W_OK) < 0)
		skip(); /* no devices on this filesystem */
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, &fd), PROTO_FAILED);
	assert_int_equal(fd, -EBADF);
	assert_int_equal(mkdir(machine_path("%s", dir), 0755), 0);
	assert_int_equal(mkdir(machine_path("%s/vfio3", dir), 0755), 0);
	assert_int_equal(mkdir(machine_path("sys/class/vfio-dev"), 0755), 0);
	assert_int_equal(mkdir(machine_path("sys/class/vfio-dev/vfio3"), 0755), 0);
	machine_write(machine_path("sys/class/vfio-dev/vfio3/dev"), "511:3\n");
	assert_int_equal(mkdir(machine_path("dev/vfio/devices"), 0755), 0);
	assert_int_equal(
		mknod(machine_path("dev/vfio/devices/vfio3"), S_IFCHR | 0600, makedev(511, 3)), 0);
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, &fd), PROTO_OK);
	assert_true(fd >= 0);
	(void)close(fd);
	assert_int_equal(ans.devices[0].cdev, 3);
	assert_int_equal(lstat(machine_path("dev/vfio/devices/vfio3"), &st), 0);
	assert_int_equal(st.st_uid, 1001);
	assert_int_equal(lstat(machine_path("dev/vfio/11"), &st), 0);
	assert_int_equal(st.st_uid, 0);
	assert_int_equal(machine_act(BIND_REVOKE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(lstat(machine_path("dev/vfio/devices/vfio3"), &st), 0);
	assert_int_equal(st.st_uid, 0);
	release("vm1");
	unmake();
}

/* A VM that still has its device open keeps it. */
static void test_release_while_open(void **state)
{
	struct bind_answer ans;

	(void)state;
	if (!machine_has_nodes())
		skip(); /* device nodes cannot be made without root */
	make(BOARD);
	take("vm1", GPUS(GPU_1));
	assert_int_equal(mkdir(machine_path("proc/9"), 0755), 0);
	assert_int_equal(mkdir(machine_path("proc/9/fd"), 0755), 0);
	machine_write(machine_path("proc/9/comm"), "qemu\n");
	assert_int_equal(symlink(machine_path("dev/vfio/11"), machine_path("proc/9/fd/3")), 0);
	assert_int_equal(machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL), PROTO_BUSY);
	assert_non_null(strstr(ans.why, "qemu (pid 9)"));
	assert_string_equal(machine_driver(GPU_1), "vfio-pci");
	assert_int_equal(unlink(machine_path("proc/9/fd/3")), 0);
	release("vm1");
	assert_as_before("release");
	unmake();
}

static void test_reset_unwell(void **state)
{
	const char *config;
	struct bind_answer ans;

	(void)state;
	make(BOARD);
	take("vm1", GPUS(GPU_1));
	machine_quiet();
	config = machine_path("sys/bus/pci/devices/" GPU_1 "/config");
	assert_int_equal(rename(config, machine_path("config")), 0);
	{
		char gone[257];

		memset(gone, 0xff, 256);
		gone[256] = '\0';
		machine_write(machine_path("sys/bus/pci/devices/" GPU_1 "/config"), gone);
	}
	assert_int_equal(machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.left, 1);
	assert_int_equal(ans.done, 1);
	assert_string_equal(machine_records(), "quarantine-0000:01:00.0 ");
	assert_string_equal(machine_driver(GPU_1), "vfio-pci"); /* never to the host's driver */
	assert_string_equal(machine_driver("0000:01:00.1"), "snd_hda_intel");
	assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.left, 1);
	assert_int_equal(rename(machine_path("config"),
				machine_path("sys/bus/pci/devices/" GPU_1 "/config")),
			 0);
	machine_write(machine_path("sys/bus/pci/devices/" GPU_1 "/power_state"), "D3cold\n");
	assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.left, 1);
	machine_write(machine_path("sys/bus/pci/devices/" GPU_1 "/power_state"), "D0\n");
	assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(GPU_2), &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 0);
	assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(GPU_1), &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 1);
	assert_as_before("recovery");
	assert_string_equal(machine_records(), "");
	unmake();
}

/* Bound at boot by others, and policy takes it over: it goes back to where it was. */
static void test_adopted(void **state)
{
	static const char board[] =
		BRIDGES "pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=vfio-pci "
			"group=11 bars=16M boot_vga=0 reset=flr\n";

	(void)state;
	make(board);
	machine_env.policy.adopt_vfio = true;
	take("vm1", GPUS(GPU_1));
	assert_string_equal(machine_driver(GPU_1), "vfio-pci");
	release("vm1");
	assert_as_before("release");
	unmake();
}

/* Wherever the release of an adopted one is killed: once the lease has ended, its node is root's.
 */
static void test_adopted_granted(void **state)
{
	static const char board[] =
		BRIDGES "pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=vfio-pci "
			"group=11 bars=16M boot_vga=0 reset=flr\n";
	struct bind_answer ans;
	bool killed = true;
	struct stat st;

	(void)state;
	if (!machine_has_nodes())
		skip(); /* device nodes cannot be made without root */
	make(board);
	machine_env.policy.adopt_vfio = true;
	for (int at = 1; killed; at++) {
		take("vm1", GPUS(GPU_1));
		assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_OK);
		killed = killed_at(at, BIND_RELEASE, NULL);
		assert_int_equal(machine_act(BIND_RECOVER, NULL, NULL, &ans, NULL), PROTO_OK);
		assert_string_equal(machine_records(), "");
		assert_int_equal(lstat(machine_path("dev/vfio/11"), &st), 0);
		assert_int_equal(st.st_uid, 0);
	}
	unmake();
}

/* Policy that names no vendor any more: nothing is taken or lent, and all is given back. */
static void test_policy_emptied(void **state)
{
	struct bind_answer ans;

	(void)state;
	make(BOARD);
	take("vm1", GPUS(GPU_1));
	machine_env.policy.n_vendors = 0;
	machine_env.policy.n_accelerators = 1;
	machine_env.policy.accelerators[0] = 0x10de;
	free(before);
	before = machine_snapshot();
	assert_int_equal(machine_act(BIND_LIST, NULL, NULL, &ans, NULL), PROTO_DENIED);
	assert_int_equal(machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL), PROTO_DENIED);
	assert_int_equal(machine_act(BIND_TAKE, "vm2", GPUS(GPU_2), &ans, NULL), PROTO_DENIED);
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_DENIED);
	assert_as_before("a refusal");
	assert_int_equal(machine_act(BIND_REVOKE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 2);
	unmake();
}

/* Kept from rent since it was leased: not lent again, and given back. */
static void test_never_since(void **state)
{
	struct bind_answer ans;

	(void)state;
	make(BOARD);
	take("vm1", GPUS(GPU_1, GPU_2));
	machine_env.policy.n_never = 1;
	assert_int_equal(pci_addr_parse(GPU_2, &machine_env.policy.never[0]), 0);
	free(before);
	before = machine_snapshot();
	assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_DENIED);
	assert_int_equal(ans.n_devices, 0);
	assert_non_null(strstr(ans.why, GPU_2));
	assert_non_null(strstr(ans.why, "gpu_never"));
	assert_as_before("a refusal");
	if (machine_has_nodes()) {
		machine_env.policy.n_never = 0;
		assert_int_equal(machine_act(BIND_GRANT, "vm1", NULL, &ans, NULL), PROTO_OK);
		machine_env.policy.n_never = 1;
	}
	assert_int_equal(machine_act(BIND_REVOKE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(machine_act(BIND_RELEASE, "vm1", NULL, &ans, NULL), PROTO_OK);
	assert_int_equal(ans.done, 4);
	assert_int_equal(ans.left, 0);
	unmake();
}

/* What the operator keeps from rent and has on VFIO's driver for another use is not brought back.
 */
static void test_recover_never(void **state)
{
	static const char board[] =
		BRIDGES "pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=vfio-pci "
			"group=11 bars=16M boot_vga=0 reset=flr\n";
	struct bind_answer ans;

	(void)state;
	make(board);
	machine_write(machine_path("sys/bus/pci/devices/" GPU_1 "/driver_override"), "vfio-pci\n");
	free(before);
	before = machine_snapshot();
	machine_env.policy.n_never = 1;
	assert_int_equal(pci_addr_parse(GPU_1, &machine_env.policy.never[0]), 0);
	assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(GPU_1), &ans, NULL), PROTO_DENIED);
	assert_as_before("a refusal");
	machine_env.policy.n_never = 0;
	assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(GPU_1), &ans, NULL), PROTO_OK);
	unmake();
}

/* An address at which there is no GPU is said to be wrong, whatever else there is to repair. */
static void test_recover_unknown(void **state)
{
	static const char board[] =
		BRIDGES "pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=nvidia "
			"group=11 bars=16M boot_vga=0 reset=flr\n"
			"pci 0000:02:00.0 144d:a808 010802 driver=nvme group=2\n";
	static const char *const unknown[] = {"0000:7f:1f.7", "0000:02:00.0", "10000:01:00.0"};
	struct bind_answer ans;

	(void)state;
	make(board);
	for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
		assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(unknown[i]), &ans, NULL),
				 PROTO_NOT_FOUND);
		machine_write(machine_path("state/lease-vm9"), "damaged");
		assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(unknown[i]), &ans, NULL),
				 PROTO_NOT_FOUND);
		assert_int_equal(unlink(machine_path("state/damaged-vm9")), 0);
		assert_as_before("a refusal");
	}
	assert_int_equal(machine_act(BIND_RECOVER, NULL, GPUS(GPU_1), &ans, NULL), PROTO_OK);
	unmake();
}

/* While a service is stopped, a disk is plugged into the card's USB port. */
static void plug_disk(void)
{
	if (!STR_EQ(point_name(n_points), "service-stopped"))
		return;
	(void)mkdir(machine_path("sys/class/block"), 0755);
	(void)!symlink("../../devices/pci0000:00/0000:00:01.0/" GPU_1 "/block/sda",
		       machine_path("sys/class/block/sda"));
}

static void test_disk_meanwhile(void **state)
{
	struct bind_answer ans;

	(void)state;
	if (!machine_has_nodes())
		skip(); /* device nodes cannot be made without root */
	make(BOARD);
	machine_hold(8, "nvidia-powerd", "nvidia-powerd.service", GPU_1);
	for (int at = 1; at < 10; at++) {
		machine_quiet();
		trouble = TROUBLE_CALL;
		trouble_at = at;
		machine_call = plug_disk;
		(void)machine_act(BIND_TAKE, "vm1", GPUS(GPU_1), &ans, NULL);
		if (faccessat(AT_FDCWD, machine_path("sys/class/block/sda"), F_OK,
			      AT_SYMLINK_NOFOLLOW) == 0)
			break;
		release("vm1");
		machine_hold(8, "nvidia-powerd", "nvidia-powerd.service", GPU_1);
	}
	machine_quiet();
	assert_int_not_equal(ans.status, PROTO_OK);
	assert_non_null(strstr(ans.why, "disk"));
	assert_string_equal(machine_driver(GPU_1), "nvidia");
	assert_string_equal(machine_records(), "");
	unmake();
}

static void test_console(void **state)
{
	static const char board[] =
		BRIDGES "pci 0000:01:00.0 10de:2204 030000 parent=0000:00:01.0 driver=nvidia "
			"group=11 bars=16M boot_vga=1 reset=flr\n";
	static const char fb[] = "sys/bus/platform/drivers/efi-framebuffer";
	char text[64] = "";

	(void)state;
	make(board);
	assert_int_equal(mkdir(machine_path("sys/class/vtconsole"), 0755), 0);
	assert_int_equal(mkdir(machine_path("sys/class/vtconsole/vtcon1"), 0755), 0);
	machine_write(machine_path("sys/class/vtconsole/vtcon1/name"), "(M) frame buffer device\n");
	machine_write(machine_path("sys/class/vtconsole/vtcon1/bind"), "1\n");
	(void)mkdir(machine_path("sys/bus/platform"), 0755);
	(void)mkdir(machine_path("sys/bus/platform/drivers"), 0755);
	assert_int_equal(mkdir(machine_path("%s", fb), 0755), 0);
	machine_write(machine_path("%s/bind", fb), "");
	machine_write(machine_path("%s/unbind", fb), "");
	assert_int_equal(symlink("../../devices", machine_path("%s/efi-framebuffer.0", fb)), 0);
	free(before);
	before = machine_snapshot();
	machine_env.policy.allow_boot_display = true;
	take("vm1", GPUS(GPU_1));
	machine_quiet();
	(void)fd_read_file(AT_FDCWD, machine_path("sys/class/vtconsole/vtcon1/bind"), text,
			   sizeof(text));
	assert_string_equal(text, "0\n");
	assert_int_not_equal(access(machine_path("%s/efi-framebuffer.0", fb), F_OK), 0);
	release("vm1");
	assert_as_before("release");
	for (int at = 1; killed_at(at, BIND_TAKE, GPUS(GPU_1)); at++) {
		release("vm1");
		assert_as_before("kill of a take with the console");
	}
	unmake();
}

/* Two at once: one has it, and no act ever sees the other's half. */
static void test_two_at_once(void **state)
{
	(void)state;
	make(BOARD);
	for (int round = 0; round < 10; round++) {
		int won = 0;
		pid_t pids[2];

		machine_quiet();
		for (int i = 0; i < 2; i++) {
			pids[i] = fork();
			if (pids[i] == 0)
				_exit(machine_act(BIND_TAKE, i == 0 ? "vm1" : "vm2", GPUS(GPU_1),
						  NULL, NULL) == PROTO_OK
					      ? 1
					      : 0);
		}
		for (int i = 0; i < 2; i++) {
			int status;

			assert_true(waitpid(pids[i], &status, 0) == pids[i]);
			assert_true(WIFEXITED(status));
			won += WEXITSTATUS(status);
		}
		assert_int_equal(won, 1);
		machine_quiet();
		release("vm1");
		release("vm2");
		assert_as_before("two at once");
	}
	unmake();
}

static void test_list(void **state)
{
	const struct proto_conn conn = {
		.self = PROTO_AGENTD, .peer = PROTO_HELPER, .state = PROTO_ST_READY};
	static uint8_t list[65536];
	struct bind_answer ans;
	uint32_t cards = 0, parts = 0, reasons = 0;
	int fd;

	(void)state;
	make(BOARD);
	take("vm1", GPUS(GPU_2));
	assert_int_equal(machine_act(BIND_LIST, NULL, NULL, &ans, &fd), PROTO_OK);
	assert_int_equal(ans.done, 2);
	assert_int_equal(fd_memfd_check(fd, PROTO_GPU_LIST_MAX), ans.list_bytes);
	assert_int_equal(read(fd, list, sizeof(list)), ans.list_bytes);
	(void)close(fd);
	for (size_t at = 0; at < ans.list_bytes;) {
		const struct proto_op *op;
		struct proto_header header;
		union proto_body body;
		struct gpu_card_ev card;

		memcpy(&header, list + at, sizeof(header));
		assert_int_equal(proto_decode_answer(&conn, list + at, sizeof(header) + header.len,
						     0, &op, &header, &body),
				 0);
		at += sizeof(header) + header.len;
		parts += header.op == OP_GPU_PART;
		reasons += header.op == OP_GPU_REASON;
		if (header.op != OP_GPU_CARD)
			continue;
		memcpy(&card, &body, sizeof(card));
		assert_string_equal(card.vm, cards == 0 ? "" : "vm1");
		assert_int_equal(card.verdict, cards == 0 ? PROTO_GPU_RENTABLE : PROTO_GPU_BUSY);
		assert_string_equal(card.driver, cards == 0 ? "nvidia" : "vfio-pci");
		cards++;
	}
	assert_int_equal(cards, 2);
	assert_true(parts >= 4);
	assert_true(reasons >= 1);
	release("vm1");
	assert_as_before("release");
	unmake();
}

static void test_request(void **state)
{
	const struct bind_request good = {
		.version = BIND_VERSION, .act = BIND_TAKE, .gpus = {1, 2}, .vm = "vm1"};
	struct bind_request bad;

	(void)state;
	assert_int_equal(request_check(&good, 16), 0);
#define REFUSED(change)                                                                            \
	do {                                                                                       \
		bad = good;                                                                        \
		change;                                                                            \
		assert_true(request_check(&bad, 16) < 0);                                          \
	} while (0)
	REFUSED(bad.version = 0);
	REFUSED(bad.version = BIND_VERSION + 1);
	REFUSED(bad.act = 0);
	REFUSED(bad.act = BIND_ACT_MAX + 1);
	REFUSED(bad.reserved = 1);
	REFUSED(bad.slot = 1);
	REFUSED(bad.vm[0] = '\0');
	REFUSED(bad.vm[0] = '-');
	REFUSED(bad.vm[0] = '/');
	REFUSED(bad.vm[PROTO_NAME_SIZE - 1] = 'x');
	REFUSED(memset(bad.vm, 'a', sizeof(bad.vm)));
	REFUSED(bad.gpus[0] = 0);
	REFUSED(bad.gpus[1] = 1);
	REFUSED(bad.gpus[0] = 3);
	REFUSED(bad.gpus[1] = PROTO_PCI_MAX + 1);
	REFUSED(bad.gpus[3] = 9);
	REFUSED(bad.act = BIND_LIST);
	REFUSED(bad.act = BIND_LIST; memset(bad.vm, 0, sizeof(bad.vm)));
	REFUSED(bad.act = BIND_GRANT);
	REFUSED(bad.act = BIND_GRANT; memset(bad.gpus, 0, sizeof(bad.gpus)); bad.slot = 16);
	REFUSED(bad.act = BIND_RELEASE);
	REFUSED(bad.act = BIND_RECOVER);
	REFUSED(bad.act = BIND_RECOVER; memset(bad.vm, 0, sizeof(bad.vm)));
#undef REFUSED
}

static int remove_rig(void **state)
{
	(void)state;
	rig_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request),
		cmocka_unit_test(test_take_and_release),
		cmocka_unit_test(test_after_reboot),
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_no_leak),
		cmocka_unit_test(test_other_vm),
		cmocka_unit_test(test_classes),
		cmocka_unit_test(test_no_vfio_module),
		cmocka_unit_test(test_take_undone),
		cmocka_unit_test(test_undo_without_room),
		cmocka_unit_test(test_revoke_after_hotplug),
		cmocka_unit_test(test_release_troubled),
		cmocka_unit_test(test_take_killed),
		cmocka_unit_test(test_release_killed),
		cmocka_unit_test(test_hanging_write),
		cmocka_unit_test(test_no_time),
		cmocka_unit_test(test_lock_outlives),
		cmocka_unit_test(test_device_vanishes),
		cmocka_unit_test(test_tampered_lease),
		cmocka_unit_test(test_tampered_quarantine),
		cmocka_unit_test(test_forged_lease),
		cmocka_unit_test(test_holders),
		cmocka_unit_test(test_services),
		cmocka_unit_test(test_grant),
		cmocka_unit_test(test_policy_flags),
		cmocka_unit_test(test_iommufd),
		cmocka_unit_test(test_release_while_open),
		cmocka_unit_test(test_reset_unwell),
		cmocka_unit_test(test_adopted),
		cmocka_unit_test(test_adopted_granted),
		cmocka_unit_test(test_policy_emptied),
		cmocka_unit_test(test_never_since),
		cmocka_unit_test(test_recover_never),
		cmocka_unit_test(test_recover_unknown),
		cmocka_unit_test(test_disk_meanwhile),
		cmocka_unit_test(test_console),
		cmocka_unit_test(test_two_at_once),
		cmocka_unit_test(test_list),
	};

	return cmocka_run_group_tests(tests, NULL, remove_rig);
}
