/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helper's files: policy, accounts, records, images, directories of VMs, with what an attacker
 * might have put in their place.
 * Trust: runs in tests only; some tests need root and are skipped without.
 */
#include "common/fd.h"
#include "vfio-helper/helper.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>

#include <cmocka.h>

static char dir[] = "/tmp/test-helper-XXXXXX";
static int dirfd_ = -EBADF;

static void put_file(int at, const char *name, const char *text)
{
	assert_int_equal(fd_replace_file(at, name, text, strlen(text), 0644), 0);
}

static int load_text(const char *text, struct config *ret_config, struct err *reterr)
{
	char path[64];

	put_file(dirfd_, "helper.conf", text);
	(void)snprintf(path, sizeof(path), "%s/helper.conf", dir);
	return config_load(path, ret_config, reterr);
}

static void test_config(void **state)
{
	static const char *const bad[] = {
		"port_low = 80\n",       "port_low = 3000\nport_high = 2000\n",
		"max_memory_mib = 2T\n", "dns = resolver.example\n",
		"cgroup = x\n",          "max_vms = 17\n",
		"max_vms = 0\n",         "accel = fast\n",
		"run_dir = vm\n",        "state_dir = /var/../etc\n",
		"unknown = 1\n",         "vm_user_prefix = abcdefghijklmnopqrstuvwxyz0123456\n"};
	struct config c;
	struct err err;

	(void)state;
	assert_int_equal(load_text("# all defaults\n", &c, &err), 0);
	assert_true(c.require_isolation);
	assert_int_equal(c.accel, ACCEL_AUTO);
	assert_int_equal(load_text("max_memory_mib = 8G\naccel = tcg\n", &c, &err), 0);
	assert_int_equal(c.max_memory_mib, 8192);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		err.text[0] = '\0';
		assert_true(load_text(bad[i], &c, &err) < 0);
		assert_true(strlen(err.text) > 10);
	}
	assert_int_equal(config_load("/nonexistent/helper.conf", &c, &err), -ENOENT);
}

static int load_accounts(const char *text, struct accounts *ret)
{
	const struct config c = {
		.agentd_user = "a", .vmmon_user = "m", .vm_user_prefix = "v", .max_vms = 2};
	char path[64];
	struct err err;

	put_file(dirfd_, "passwd", text);
	(void)snprintf(path, sizeof(path), "%s/passwd", dir);
	return accounts_load(&c, path, ret, &err);
}

static void test_accounts(void **state)
{
	static const char *const bad[] = {
		"a:x:1:1:::\nm:x:2:2:::\nv0:x:3:3:::\n",              /* one missing */
		"a:x:1:1:::\nm:x:2:2:::\nv0:x:3:3:::\nv1:x:0:4:::\n", /* root */
		"a:x:1:1:::\nm:x:2:2:::\nv0:x:3:3:::\nv1:x:4:0:::\n", /* root's group */
		"a:x:1:1:::\nm:x:2:2:::\nv0:x:3:3:::\nv1:x:3:4:::\n", /* one user twice */
		"a:x:1:1:::\nm:x:2:2:::\nv0:x:1:3:::\nv1:x:4:4:::\n", /* a peer's */
		"a:x:1:1:::\nm:x:2:2:::\nv0:x:3:2:::\nv1:x:4:4:::\n", /* a peer's group */
		"a:x:1:1:::\nm:x:1:2:::\nv0:x:3:3:::\nv1:x:4:4:::\n", /* peers alike */
	};
	struct accounts a = {0};

	(void)state;
	assert_int_equal(load_accounts("a:x:1:1:::\nm:x:2:2:::\nv0:x:3:3:::\nv1:x:4:5:::\n", &a),
			 0);
	assert_int_equal(a.vm[1].uid, 4);
	assert_int_equal(a.vm[1].gid, 5);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_true(load_accounts(bad[i], &a) < 0);
}

static void test_records(void **state)
{
	const struct vm_record rec = {
		.image = "base", .slot = 3, .disk_mib = 100, .generation = UINT32_MAX};
	struct run_record run = {.boot_id = "b", .qemu_start = "123456789012345", .qemu_pid = 7};
	struct vm_record got = {0};
	struct run_record got_run = {0};

	(void)state;
	assert_int_equal(RECORD_SAVE(dirfd_, "vm.conf", vm, &rec), 0);
	assert_int_equal(RECORD_LOAD(dirfd_, "vm.conf", vm, &got), 0);
	assert_memory_equal(&rec, &got, sizeof(rec));
	assert_int_equal(RECORD_SAVE(dirfd_, "running", run, &run), 0);
	assert_int_equal(RECORD_LOAD(dirfd_, "running", run, &got_run), 0);
	assert_memory_equal(&run, &got_run, sizeof(run));
	put_file(dirfd_, "vm.conf", "slot = 1\nslot = 2\n");
	assert_true(RECORD_LOAD(dirfd_, "vm.conf", vm, &got) < 0);
	assert_int_equal(RECORD_LOAD(dirfd_, "none", vm, &got), -ENOENT);
}

static void test_ports(void **state)
{
	static const char *const bad[] = {"1", "1:", ":1", "0:1", "1:0", "1:2,3:4", "1:2 ", "a:b"};
	struct proto_port ports[PROTO_MAX_PORTS] = {0}, got[PROTO_MAX_PORTS];
	char text[PORTS_TEXT_MAX];

	(void)state;
	for (size_t n = 0; n <= PROTO_MAX_PORTS; n++) {
		ports_to_text(ports, text);
		assert_int_equal(ports_from_text(text, got), 0);
		assert_memory_equal(ports, got, sizeof(ports));
		if (n < PROTO_MAX_PORTS)
			ports[n] = (struct proto_port){(uint16_t)(65535 - n), 65535};
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(ports_from_text(bad[i], got), -EINVAL);
}

static void test_process(void **state)
{
	char start[24], again[24];
	uid_t uid = 12345;

	(void)state;
	assert_int_equal(process_identify(getpid(), start, &uid), 0);
	assert_int_equal(process_identify(getpid(), again, &uid), 0);
	assert_string_equal(start, again);
	assert_true(strtoull(start, NULL, 10) > 0);
	assert_int_equal(uid, getuid());
	assert_true(process_identify(INT_MAX, start, &uid) < 0);
}

/* Names that would leave the directory, and things that are not what they should be. */
static void test_beneath(void **state)
{
	static const char *const names[] = {"..", ".", "/etc", "a/b", "", "link", "file"};
	_cleanup_close_ int sub = -EBADF;

	(void)state;
	assert_int_equal(mkdirat(dirfd_, "sub", 0755), 0);
	assert_int_equal(symlinkat("sub", dirfd_, "link"), 0);
	put_file(dirfd_, "file", "x");
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		assert_true(vmdir_open(dirfd_, names[i]) < 0);
	sub = vmdir_open(dirfd_, "sub");
	assert_true(sub >= 0);
	assert_int_equal(symlinkat("/etc/passwd", sub, "disk.img"), 0);
	assert_true(vmdir_open_file(sub, "disk.img", O_RDONLY) < 0);
	assert_int_equal(vmdir_remove(dirfd_, "sub"), 0);
	assert_int_equal(vmdir_remove(dirfd_, "sub"), 0); /* gone is fine */
}

static void test_open_file(void **state)
{
	_cleanup_close_ int fd = -EBADF;

	(void)state;
	if (geteuid() != 0)
		skip();
	put_file(dirfd_, "owned", "x");
	fd = vmdir_open_file(dirfd_, "owned", O_RDONLY);
	assert_true(fd >= 0);
	assert_int_equal(linkat(dirfd_, "owned", dirfd_, "second", 0), 0);
	assert_int_equal(vmdir_open_file(dirfd_, "owned", O_RDONLY), -EPERM);
	assert_int_equal(unlinkat(dirfd_, "second", 0), 0);
	assert_int_equal(fchown(fd, 65534, 65534), 0);
	assert_int_equal(vmdir_open_file(dirfd_, "owned", O_RDONLY), -EPERM);
	assert_int_equal(mkfifoat(dirfd_, "fifo", 0600), 0);
	assert_int_equal(vmdir_open_file(dirfd_, "fifo", O_RDONLY), -EPERM);
}

static void test_trusted(void **state)
{
	char path[64];

	(void)state;
	assert_int_equal(config_check_trusted("/usr", S_IFDIR, NULL), 0);
	assert_int_equal(config_check_trusted("/usr", S_IFREG, NULL), -EPERM);
	assert_int_equal(config_check_trusted("/tmp", S_IFDIR, NULL), -EPERM); /* others write */
	if (geteuid() != 0)
		skip();
	(void)snprintf(path, sizeof(path), "%s/trusted", dir);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_int_equal(config_check_trusted(path, S_IFDIR, NULL), 0); /* /tmp is sticky */
	assert_int_equal(chown(path, 65534, 0), 0);
	assert_int_equal(config_check_trusted(path, S_IFDIR, NULL), -EPERM);
	assert_int_equal(chown(path, 0, 0), 0);
	assert_int_equal(chmod(path, 0775), 0);
	assert_int_equal(config_check_trusted(path, S_IFDIR, NULL), -EPERM);
}

static void test_image(void **state)
{
	static const char *const bad[] = {"", "format = raw\n", "min_disk_mib = 5\n",
					  "format = vmdk\nmin_disk_mib = 5\n",
					  "format = raw\nmin_disk_mib = 0\n"};
	_cleanup_close_ int img = -EBADF;
	struct image_fds fds;
	struct image image;

	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(image_load(dirfd_, "img", &image, NULL), -ENOENT);
	assert_int_equal(mkdirat(dirfd_, "img", 0755), 0);
	img = vmdir_open(dirfd_, "img");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		put_file(img, "image.conf", bad[i]);
		assert_int_equal(image_load(dirfd_, "img", &image, NULL), -EINVAL);
	}
	put_file(img, "image.conf", "format = raw\nmin_disk_mib = 5\nappend = quiet\n");
	assert_int_equal(image_load(dirfd_, "img", &image, NULL), 0);
	assert_int_equal(image.format, IMAGE_RAW);
	assert_true(image_open(dirfd_, "img", &fds, NULL) < 0); /* no disk */
	put_file(img, "disk.img", "disk");
	assert_int_equal(image_open(dirfd_, "img", &fds, NULL), 0);
	assert_true(fds.disk >= 0 && fds.kernel < 0 && fds.initrd < 0);
	image_close(&fds);
	put_file(img, "kernel", "kernel");
	assert_int_equal(image_open(dirfd_, "img", &fds, NULL), 0);
	assert_true(fds.kernel >= 0);
	image_close(&fds);
	assert_int_equal(fchmodat(img, "kernel", 0600, 0), 0);
	assert_int_equal(image_open(dirfd_, "img", &fds, NULL), -EACCES);
}

static void test_seed(void **state)
{
	static struct helper h;
	struct vm vm = {.name = "vm-1"};
	_cleanup_close_ int a = fd_memfd_sealed("a", "seed-a", 6), b = fd_memfd_sealed("b", "x", 1);
	_cleanup_close_ int same = fd_memfd_sealed("c", "seed-a", 6);

	(void)state;
	if (geteuid() != 0)
		skip();
	h.vms_fd = dirfd_;
	assert_int_equal(vmdir_seed(&h, &vm, a, 6), -ENOENT); /* not prepared */
	assert_int_equal(mkdirat(dirfd_, "vm-1", 0700), 0);
	assert_int_equal(vmdir_seed(&h, &vm, a, 6), 0);
	assert_int_equal(vmdir_seed(&h, &vm, same, 6), 0);
	assert_int_equal(vmdir_seed(&h, &vm, b, 1), -EEXIST);
	assert_int_equal(vmdir_seed(&h, &vm, a, 5), -EEXIST);
	assert_int_equal(vmdir_seed(&h, &vm, a, 7), -EIO);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	dirfd_ = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dirfd_ < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	dirfd_ = safe_close(dirfd_);
	return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_config),    cmocka_unit_test(test_accounts),
		cmocka_unit_test(test_records),   cmocka_unit_test(test_ports),
		cmocka_unit_test(test_process),   cmocka_unit_test(test_beneath),
		cmocka_unit_test(test_open_file), cmocka_unit_test(test_trusted),
		cmocka_unit_test(test_image),     cmocka_unit_test(test_seed),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
