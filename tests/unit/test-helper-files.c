/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helper's files: policy, accounts, records, images, directories of VMs, with what an attacker
 * might have put in their place.
 * Trust: runs in tests only; some tests need root and are skipped without.
 */
#include "common/fd.h"
#include "vfio-helper/broker/broker.h"
#include "vfio-helper/config.h"

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
	assert_true(c.setup.require_isolation);
	assert_int_equal(c.accel, ACCEL_AUTO);
	assert_int_equal(load_text("max_memory_mib = 8G\naccel = tcg\n", &c, &err), 0);
	assert_int_equal(c.setup.max_memory_mib, 8192);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		err.text[0] = '\0';
		assert_true(load_text(bad[i], &c, &err) < 0);
		assert_true(strlen(err.text) > 10);
	}
	assert_int_equal(config_load("/nonexistent/helper.conf", &c, &err), -ENOENT);
}

static int load_accounts(const char *text, struct config *ret)
{
	char path[64];
	struct err err;

	*ret = (struct config){.agentd_user = "a",
			       .vmmon_user = "m",
			       .helper_user = "h",
			       .vm_user_prefix = "v",
			       .setup.max_vms = 2};
	put_file(dirfd_, "passwd", text);
	(void)snprintf(path, sizeof(path), "%s/passwd", dir);
	return accounts_load(ret, path, &err);
}

static void test_accounts(void **state)
{
#define AM "a:x:1:1:::\nm:x:2:2:::\n"
#define H  "h:x:9:9:::\n"
	static const char *const bad[] = {
		AM H "v0:x:3:3:::\n",                                      /* one missing */
		AM "v0:x:3:3:::\nv1:x:4:5:::\n",                           /* no broker */
		AM H "v0:x:3:3:::\nv1:x:0:4:::\n",                         /* root */
		AM H "v0:x:3:3:::\nv1:x:4:0:::\n",                         /* root's group */
		AM H "v0:x:3:3:::\nv1:x:3:4:::\n",                         /* one user twice */
		AM H "v0:x:1:3:::\nv1:x:4:4:::\n",                         /* a peer's */
		AM H "v0:x:3:2:::\nv1:x:4:4:::\n",                         /* a peer's group */
		AM H "v0:x:3:3:::\nv1:x:9:4:::\n",                         /* the broker's */
		AM H "v0:x:3:9:::\nv1:x:4:4:::\n",                         /* the broker's group */
		AM "h:x:1:9:::\nv0:x:3:3:::\nv1:x:4:4:::\n",               /* broker is agentd */
		AM "h:x:9:2:::\nv0:x:3:3:::\nv1:x:4:4:::\n",               /* has vmmon's group */
		AM "h:x:0:9:::\nv0:x:3:3:::\nv1:x:4:4:::\n",               /* is root */
		"a:x:1:1:::\nm:x:1:2:::\n" H "v0:x:3:3:::\nv1:x:4:4:::\n", /* peers alike */
	};
	struct config a;

	(void)state;
	assert_int_equal(load_accounts(AM H "v0:x:3:3:::\nv1:x:4:5:::\n", &a), 0);
	assert_int_equal(a.setup.users[1].uid, 4);
	assert_int_equal(a.setup.users[1].gid, 5);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_true(load_accounts(bad[i], &a) < 0);
}

static void test_records(void **state)
{
	const struct vm_record rec = {
		.image = "base", .slot = 3, .disk_mib = 100, .generation = UINT32_MAX};
	const struct run_record run = {
		.boot_id = "b", .qemu_start = UINT64_MAX, .qemu_pid = 7, .ports = {{10022, 22}}};
	struct vm_record got = {0};
	struct run_record got_run = {0};

	(void)state;
	assert_int_equal(record_save(dirfd_, "record", &rec, sizeof(rec)), 0);
	assert_int_equal(record_load(dirfd_, "record", &got, sizeof(got)), 0);
	assert_memory_equal(&rec, &got, sizeof(rec));
	assert_int_equal(record_save(dirfd_, "running", &run, sizeof(run)), 0);
	assert_int_equal(record_load(dirfd_, "running", &got_run, sizeof(got_run)), 0);
	assert_memory_equal(&run, &got_run, sizeof(run));
	assert_int_equal(record_load(dirfd_, "none", &got, sizeof(got)), -ENOENT);
}

/* A bit changed, a byte lost or added, another kind of record: none is taken for a record. */
static void test_damaged_records(void **state)
{
	const struct vm_record rec = {.image = "base", .slot = 3, .disk_mib = 100};
	struct vm_record got = {.slot = 9};
	char bytes[sizeof(rec) + 64] = "";
	ssize_t n;

	(void)state;
	assert_int_equal(record_save(dirfd_, "record", &rec, sizeof(rec)), 0);
	n = fd_read_file(dirfd_, "record", bytes, sizeof(bytes));
	assert_true(n > (ssize_t)sizeof(rec));
	for (ssize_t i = 0; i < n; i++) {
		bytes[i] ^= 1;
		assert_int_equal(fd_replace_file(dirfd_, "record", bytes, (size_t)n, 0600), 0);
		assert_int_equal(record_load(dirfd_, "record", &got, sizeof(got)), -EBADMSG);
		bytes[i] ^= 1;
	}
	for (ssize_t len = 0; len <= n + 1; len++) {
		int want = len == n ? 0 : -EBADMSG;

		assert_int_equal(got.slot, 9);
		assert_int_equal(fd_replace_file(dirfd_, "record", bytes, (size_t)len, 0600), 0);
		assert_int_equal(record_load(dirfd_, "record", &got, sizeof(got)), want);
		if (len == n)
			got.slot = 9;
	}
	assert_int_equal(fd_replace_file(dirfd_, "other", bytes, (size_t)n, 0600), 0);
	assert_int_equal(record_load(dirfd_, "other", &got, sizeof(got)), -EBADMSG);
}

static void test_process(void **state)
{
	uint64_t start = 0, again = 1;
	uid_t uid = 12345;

	(void)state;
	assert_int_equal(process_identify(getpid(), &start, &uid), 0);
	assert_int_equal(process_identify(getpid(), &again, &uid), 0);
	assert_true(start > 0 && start == again);
	assert_int_equal(uid, getuid());
	assert_true(process_identify(INT_MAX, &start, &uid) < 0);
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
	assert_true(vmdir_open_file(sub, "disk.img", O_RDONLY, 0) < 0);
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
	assert_int_equal(vmdir_open_file(dirfd_, "owned", O_RDONLY, 65534), -EPERM);
	fd = vmdir_open_file(dirfd_, "owned", O_RDONLY, 0);
	assert_true(fd >= 0);
	assert_int_equal(linkat(dirfd_, "owned", dirfd_, "second", 0), 0);
	assert_int_equal(vmdir_open_file(dirfd_, "owned", O_RDONLY, 0), -EPERM);
	assert_int_equal(unlinkat(dirfd_, "second", 0), 0);
	assert_int_equal(fchown(fd, 65534, 65534), 0);
	assert_int_equal(vmdir_open_file(dirfd_, "owned", O_RDONLY, 0), -EPERM);
	assert_int_equal(mkfifoat(dirfd_, "fifo", 0600), 0);
	assert_int_equal(vmdir_open_file(dirfd_, "fifo", O_RDONLY, 0), -EPERM);
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
	_cleanup_close_ int img = -EBADF;
	int fds[FD_ROLES];

	(void)state;
	if (geteuid() != 0)
		skip();
	no_fds(fds);
	assert_int_equal(image_open(dirfd_, "img", fds, NULL), -ENOENT);
	assert_int_equal(image_open_conf(dirfd_, "img"), -ENOENT);
	assert_int_equal(mkdirat(dirfd_, "img", 0755), 0);
	img = vmdir_open(dirfd_, "img");
	put_file(img, "image.conf", "format = raw\nmin_disk_mib = 5\nappend = quiet\n");
	assert_true(image_open(dirfd_, "img", fds, NULL) < 0); /* no disk */
	close_roles(fds);
	put_file(img, "disk.img", "disk");
	assert_int_equal(image_open(dirfd_, "img", fds, NULL), 0);
	assert_true(fds[FD_IMAGE] >= 0 && fds[FD_BASE] >= 0 && fds[FD_KERNEL] < 0 &&
		    fds[FD_INITRD] < 0);
	close_roles(fds);
	put_file(img, "kernel", "kernel");
	assert_int_equal(image_open(dirfd_, "img", fds, NULL), 0);
	assert_true(fds[FD_KERNEL] >= 0);
	close_roles(fds);
	assert_int_equal(fchmodat(img, "kernel", 0600, 0), 0);
	assert_int_equal(image_open(dirfd_, "img", fds, NULL), -EACCES);
	close_roles(fds);
}

/* A disk that is removed goes at once as a name, and bit by bit as space. */
static void test_forget(void **state)
{
	static struct broker b;
	_cleanup_close_ int dir_fd = -EBADF, disk = -EBADF;
	const off_t size = (96 << 20) + 5;
	struct stat st;
	int steps = 0;

	(void)state;
	b.vms_fd = dirfd_;
	assert_int_equal(mkdirat(dirfd_, "vm-2", 0700), 0);
	dir_fd = vmdir_open(dirfd_, "vm-2");
	disk = openat(dir_fd, "disk.qcow2", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(disk, size), 0);
	assert_int_equal(vmdir_forget(&b, "vm-2"), 0);
	assert_int_equal(vmdir_open(dirfd_, "vm-2"), -ENOENT);
	for (off_t before = size; vmdir_free_some(&b); steps++) {
		assert_int_equal(fstat(disk, &st), 0);
		assert_true(st.st_size < before || steps == 3);
		before = st.st_size;
	}
	assert_int_equal(steps, 4);
	assert_int_equal(vmdir_forget(&b, "vm-2"), 0);
	assert_false(vmdir_free_some(&b));
}

static void test_accel_file(void **state)
{
	const struct accel_record rec = {.basis = "host", .accel = 1}, other = {.basis = "x"};
	_cleanup_close_ int fd = memfd_create("accel", MFD_CLOEXEC);
	struct accel_record got = {0};

	(void)state;
	assert_int_equal(record_get(fd, "accel", &got, sizeof(got)), -EBADMSG);
	assert_int_equal(record_put(fd, "accel", &other, sizeof(other)), 0);
	assert_int_equal(record_put(fd, "accel", &rec, sizeof(rec)), 0);
	assert_int_equal(record_get(fd, "accel", &got, sizeof(got)), 0);
	assert_memory_equal(&got, &rec, sizeof(rec));
	assert_int_equal(pwrite(fd, "y", 1, 40), 1);
	assert_int_equal(record_get(fd, "accel", &got, sizeof(got)), -EBADMSG);
}

static void test_seed(void **state)
{
	static struct broker broker;
	struct vm vm = {.name = "vm-1"};
	_cleanup_close_ int a = fd_memfd_sealed("a", "seed-a", 6), b = fd_memfd_sealed("b", "x", 1);
	_cleanup_close_ int same = fd_memfd_sealed("c", "seed-a", 6);

	(void)state;
	if (geteuid() != 0)
		skip();
	broker.vms_fd = dirfd_;
	assert_int_equal(vmdir_seed(&broker, &vm, a, 6), -ENOENT); /* not prepared */
	assert_int_equal(mkdirat(dirfd_, "vm-1", 0700), 0);
	assert_int_equal(vmdir_seed(&broker, &vm, a, 6), 0);
	assert_int_equal(vmdir_seed(&broker, &vm, same, 6), 0);
	assert_int_equal(vmdir_seed(&broker, &vm, b, 1), -EEXIST);
	assert_int_equal(vmdir_seed(&broker, &vm, a, 5), -EEXIST);
	assert_int_equal(vmdir_seed(&broker, &vm, a, 7), -EIO);
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
		cmocka_unit_test(test_records),   cmocka_unit_test(test_damaged_records),
		cmocka_unit_test(test_process),   cmocka_unit_test(test_beneath),
		cmocka_unit_test(test_open_file), cmocka_unit_test(test_trusted),
		cmocka_unit_test(test_image),     cmocka_unit_test(test_seed),
		cmocka_unit_test(test_forget),    cmocka_unit_test(test_accel_file),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
