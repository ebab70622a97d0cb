/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that a hostile peer sends, and files that a crash interrupts.
 * Trust: runs in tests only.
 */
#include "common/fd.h"
#include "tests/unit/rig.h"

#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static int memfd_with(size_t len, unsigned int flags)
{
	int fd = memfd_create("test", MFD_CLOEXEC | flags);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	return fd;
}

static void test_sealed(void **state)
{
	_cleanup_close_ int fd = fd_memfd_sealed("test", "hello", 5);
	char text[16];

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(fd_memfd_check(fd, 5), 5);
	assert_int_equal(fd_memfd_check(fd, 100), 5);
	assert_int_equal(fd_memfd_check(fd, 4), -EFBIG);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(fd_read_text(fd, text, sizeof(text)), 5);
	assert_string_equal(text, "hello");
	assert_true(write(fd, "x", 1) < 0);
	assert_true(pwrite(fd, "x", 1, 0) < 0);
	assert_true(ftruncate(fd, 0) < 0);
	assert_true(ftruncate(fd, 6) < 0);
	assert_true(mmap(NULL, 5, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	assert_true(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0);
}

static void test_sealed_sizes(void **state)
{
	static const size_t sizes[] = {1, 4095, 4096, 4097, 256 * 1024, 3 << 20};
	_cleanup_close_ int empty = fd_memfd_sealed("test", "", 0);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		_cleanup_free_ uint8_t *data = calloc(1, sizes[i]);
		_cleanup_close_ int fd = fd_memfd_sealed("test", data, sizes[i]);

		assert_int_equal(fd_memfd_check(fd, sizes[i]), sizes[i]);
		assert_int_equal(fd_memfd_check(fd, sizes[i] - 1), -EFBIG);
		assert_int_equal(fd_memfd_check(fd, SIZE_MAX), sizes[i]);
	}
	assert_int_equal(fd_memfd_check(empty, 100), -EINVAL);
}

/* Each of the sixteen sets of seals: only the full one is taken. */
static void test_every_missing_seal(void **state)
{
	static const int seals[] = {F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE};

	(void)state;
	for (unsigned int set = 0; set < 16; set++) {
		_cleanup_close_ int fd = memfd_with(100, MFD_ALLOW_SEALING);
		int mask = 0;

		for (unsigned int i = 0; i < 4; i++)
			mask |= set & 1u << i ? seals[i] : 0;
		assert_int_equal(fcntl(fd, F_ADD_SEALS, mask), 0);
		assert_int_equal(fd_memfd_check(fd, 100), set == 15 ? 100 : -EINVAL);
	}
}

/* F_SEAL_FUTURE_WRITE leaves a mapping that exists writable. */
static void test_future_write_is_not_enough(void **state)
{
	_cleanup_close_ int fd = memfd_with(100, MFD_ALLOW_SEALING);
	char *map = mmap(NULL, 100, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	(void)state;
	assert_true(map != MAP_FAILED);
	assert_true(fcntl(fd, F_ADD_SEALS, SEALS) < 0); /* the kernel refuses while it is mapped */
	assert_int_equal(fcntl(fd, F_ADD_SEALS,
			       F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE),
			 0);
	assert_int_equal(fd_memfd_check(fd, 100), -EINVAL);
	assert_int_equal(munmap(map, 100), 0);
}

static void test_other_descriptors(void **state)
{
	_cleanup_close_ int plain = memfd_with(100, 0);
	_cleanup_close_ int huge = memfd_with((size_t)1 << 40, MFD_ALLOW_SEALING);
	_cleanup_close_ int dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	_cleanup_close_ int path = open("/dev/null", O_PATH | O_CLOEXEC);
	_cleanup_close_ int proc = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int file = open(rig_path("file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int pipes[2], sockets[2];

	(void)state;
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	assert_int_equal(write(file, "data", 4), 4);
	assert_int_equal(fcntl(huge, F_ADD_SEALS, SEALS), 0);
	assert_int_equal(fd_memfd_check(huge, 256 * 1024), -EFBIG);
	assert_int_equal(fd_memfd_check(plain, 100), -EINVAL);
	assert_int_equal(fd_memfd_check(dir, SIZE_MAX), -EINVAL);
	assert_int_equal(fd_memfd_check(null, SIZE_MAX), -EINVAL);
	assert_int_equal(fd_memfd_check(path, SIZE_MAX), -EINVAL);
	assert_int_equal(fd_memfd_check(proc, SIZE_MAX), -EINVAL);
	assert_int_equal(fd_memfd_check(file, SIZE_MAX), -EINVAL);
	assert_int_equal(fd_memfd_check(-EBADF, SIZE_MAX), -EINVAL);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fd_memfd_check(pipes[i], SIZE_MAX), -EINVAL);
		assert_int_equal(fd_memfd_check(sockets[i], SIZE_MAX), -EINVAL);
		(void)close(pipes[i]);
		(void)close(sockets[i]);
	}
}

static void test_fdlist(void **state)
{
	_cleanup_(fdlist_done) struct fdlist list = {0};
	size_t before = rig_count_fds();
	int fds[FDLIST_MAX];

	(void)state;
	assert_int_equal(fdlist_take(&list), -EBADF);
	for (size_t i = 0; i < FDLIST_MAX; i++) {
		fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		assert_int_equal(fdlist_add(&list, fds[i]), 0);
	}
	assert_int_equal(fdlist_add(&list, open("/dev/null", O_RDONLY | O_CLOEXEC)), -E2BIG);
	assert_int_equal(rig_count_fds(), before + FDLIST_MAX);
	for (size_t i = 0; i < 3; i++) {
		int fd = fdlist_take(&list);

		assert_int_equal(fd, fds[i]);
		assert_int_equal(close(fd), 0);
	}
	assert_int_equal(list.n, FDLIST_MAX - 3);
	fdlist_done(&list);
	fdlist_done(&list);
	assert_int_equal(rig_count_fds(), before);
	assert_int_equal(fdlist_take(&list), -EBADF);
}

/* A connection whose last close waits for a peer that never reads; that one is in @ret_peer. */
static int lingering(int *ret_peer)
{
	const struct linger linger = {.l_onoff = 1, .l_linger = 90};
	struct sockaddr_in addr = {.sin_family = AF_INET,
				   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	_cleanup_close_ int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 4096;
	static char data[65536];
	socklen_t len = sizeof(addr);

	assert_int_equal(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	*ret_peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(*ret_peer >= 0);
	while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
		;
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	return fd;
}

/* However many of them there are: nobody waits for their close, and nobody dies of it. */
static void test_fdlist_lingers(void **state)
{
	struct sigaction action;
	struct timespec begun, ended;
	struct fdlist list = {0};
	int peers[5];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(peers); i++)
		assert_int_equal(fdlist_add(&list, lingering(&peers[i])), 0);
	(void)clock_gettime(CLOCK_MONOTONIC, &begun);
	fdlist_done(&list);
	(void)clock_gettime(CLOCK_MONOTONIC, &ended);
	assert_true(ended.tv_sec - begun.tv_sec < 30); /* a busy machine is no linger */
	for (size_t i = 0; i < ARRAY_LEN(peers); i++)
		(void)close(peers[i]);
	assert_int_equal(sigaction(SIGALRM, NULL, &action), 0);
	assert_ptr_equal(action.sa_handler, SIG_DFL);
}

static void test_read_text(void **state)
{
	_cleanup_close_ int fd = memfd_with(0, 0);
	char buf[16], guard;

	(void)state;
	assert_int_equal(fd_write_all(fd, "0123456789abcdef", 16), 0);
	for (size_t size = 1; size <= sizeof(buf); size++) {
		memset(buf, 'x', sizeof(buf));
		assert_true(lseek(fd, (off_t)(16 - (size - 1)), SEEK_SET) >= 0);
		assert_int_equal(fd_read_text(fd, buf, size), size - 1);
		assert_int_equal(strlen(buf), size - 1);
		if (size < sizeof(buf))
			assert_int_equal(buf[size], 'x');
		assert_true(lseek(fd, (off_t)(16 - size), SEEK_SET) >= 0);
		assert_int_equal(fd_read_text(fd, buf, size), -EFBIG);
	}
	guard = 'x';
	assert_true(fd_read_text(fd, &guard, 0) < 0);
	assert_int_equal(guard, 'x');
	assert_int_equal(fd_read_text(-1, buf, sizeof(buf)), -EBADF);
}

static void test_write_all(void **state)
{
	_cleanup_free_ uint8_t *data = calloc(1, 1 << 20);
	int pipes[2];

	(void)state;
	assert_int_equal(fd_write_all(-1, "x", 1), -EBADF);
	assert_int_equal(fd_write_all(-1, "", 0), 0);
	assert_int_equal(pipe2(pipes, O_CLOEXEC | O_NONBLOCK), 0);
	assert_int_equal(fd_write_all(pipes[1], data, 1 << 20), -EAGAIN);
	(void)close(pipes[0]);
	(void)signal(SIGPIPE, SIG_IGN);
	assert_int_equal(fd_write_all(pipes[1], data, 1), -EPIPE);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)close(pipes[1]);
}

static int open_dir(const char *path)
{
	int fd;

	(void)mkdir(path, 0700);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void assert_content(int dirfd, const char *name, const char *want)
{
	char text[64];

	assert_int_equal(fd_read_file(dirfd, name, text, sizeof(text)), strlen(want));
	assert_string_equal(text, want);
}

static void test_replace(void **state)
{
	const char *path = rig_path("replace");
	_cleanup_close_ int dir = open_dir(path);
	mode_t mask = umask(0);
	struct stat st;

	(void)state;
	assert_int_equal(fd_replace_file(dir, "state", "one", 3, 0640), 0);
	assert_content(dir, "state", "one");
	assert_int_equal(fstatat(dir, "state", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(fd_replace_file(dir, "state", "second", 6, 0600), 0);
	assert_content(dir, "state", "second");
	assert_int_equal(fstatat(dir, "state", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_nlink, 1);
	assert_int_equal(fd_replace_file(dir, "state", "", 0, 0600), 0);
	assert_content(dir, "state", "");
	assert_int_equal(rig_count_entries(path), 1);
	(void)umask(mask);
}

static void test_replace_links(void **state)
{
	const char *path = rig_path("links");
	_cleanup_close_ int dir = open_dir(path);
	struct stat st;

	(void)state;
	assert_int_equal(fd_replace_file(dir, "victim", "precious", 8, 0600), 0);
	/* The target and any temporary name an attacker or a crash may have left. */
	assert_int_equal(symlinkat("victim", dir, "state"), 0);
	assert_int_equal(symlinkat("victim", dir, ".state.new"), 0);
	assert_int_equal(fd_replace_file(dir, "state", "new", 3, 0600), 0);
	assert_content(dir, "victim", "precious");
	assert_int_equal(fstatat(dir, "state", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISREG(st.st_mode));
	assert_content(dir, "state", "new");
	/* A hard link stays with the old content. */
	assert_int_equal(linkat(dir, "state", dir, "hard", 0), 0);
	assert_int_equal(fd_replace_file(dir, "state", "newer", 5, 0600), 0);
	assert_content(dir, "hard", "new");
	/* A directory under either name is an error and changes nothing. */
	assert_int_equal(mkdirat(dir, "folder", 0700), 0);
	assert_true(fd_replace_file(dir, "folder", "x", 1, 0600) < 0);
	assert_int_equal(fstatat(dir, "folder", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(rig_count_entries(path), 4);
	assert_int_equal(mkdirat(dir, ".state.new", 0700), 0);
	assert_true(fd_replace_file(dir, "state", "x", 1, 0600) < 0);
	assert_content(dir, "state", "newer");
}

static void test_replace_long_name(void **state)
{
	const char *path = rig_path("long");
	_cleanup_close_ int dir = open_dir(path);
	char name[NAME_MAX + 8];

	(void)state;
	for (size_t len = NAME_MAX - 8; len < sizeof(name); len++) {
		int r;

		memset(name, 'n', len);
		name[len] = '\0';
		r = fd_replace_file(dir, name, "x", 1, 0600);
		assert_true(r == 0 || r == -ENAMETOOLONG);
		assert_true(r == 0 || len > NAME_MAX - 5);
	}
	assert_int_equal(rig_count_entries(path), 4);
}

/* Where the writing ends: the size limit kills or fails the write at every byte. */
struct crash {
	int dir;
	rlim_t limit;
	bool die;
};

static int replace_under_limit(void *arg)
{
	const struct crash *crash = arg;
	const struct rlimit limit = {crash->limit, crash->limit};
	char data[48];
	int r;

	memset(data, 'n', sizeof(data));
	(void)signal(SIGXFSZ, crash->die ? SIG_DFL : SIG_IGN);
	RIG_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	r = fd_replace_file(crash->dir, "state", data, sizeof(data), 0600);
	RIG_CHECK(r == (crash->limit < sizeof(data) ? -EFBIG : 0));
	return 0;
}

static void test_replace_interrupted(void **state)
{
	const char *path = rig_path("crash");
	_cleanup_close_ int dir = open_dir(path);
	char text[64];

	(void)state;
	for (rlim_t limit = 0; limit <= 48; limit++)
		for (int die = 0; die < 2; die++) {
			struct crash crash = {dir, limit, die};
			int status;

			assert_int_equal(fd_replace_file(dir, "state", "old", 3, 0600), 0);
			status = rig_in_child(replace_under_limit, &crash);
			/* A partial write comes first, so death and error are both possible. */
			assert_true(status == 0 ||
				    (die && WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ));
			if (limit < 48)
				assert_content(dir, "state", "old");
			else
				assert_int_equal(fd_read_file(dir, "state", text, sizeof(text)),
						 48);
			if (status == 0)
				assert_int_equal(rig_count_entries(path), 1);
		}
	/* What a death left behind does not stand in the way. */
	assert_int_equal(fd_replace_file(dir, "state", "new", 3, 0600), 0);
	assert_content(dir, "state", "new");
	assert_int_equal(rig_count_entries(path), 1);
}

static void test_replace_no_space(void **state)
{
	const char *path = rig_path("full");
	_cleanup_free_ uint8_t *data = calloc(1, 256 * 1024);
	_cleanup_close_ int dir = -EBADF;

	(void)state;
	assert_int_equal(mkdir(path, 0700), 0);
	if (mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k") < 0) {
		print_message("skipped: only root can mount a tiny file system\n");
		skip();
	}
	dir = open_dir(path);
	assert_int_equal(fd_replace_file(dir, "state", "old", 3, 0600), 0);
	assert_int_equal(fd_replace_file(dir, "state", data, 256 * 1024, 0600), -ENOSPC);
	assert_content(dir, "state", "old");
	assert_int_equal(rig_count_entries(path), 1);
	assert_int_equal(fd_replace_file(dir, "state", "new", 3, 0600), 0);
	assert_content(dir, "state", "new");
	dir = safe_close(dir);
	assert_int_equal(umount(path), 0);
}

static void test_read_file(void **state)
{
	const char *path = rig_path("read");
	_cleanup_close_ int dir = open_dir(path);
	char text[16];

	(void)state;
	assert_int_equal(fd_read_file(dir, "absent", text, sizeof(text)), -ENOENT);
	assert_int_equal(symlinkat("/etc/passwd", dir, "link"), 0);
	assert_int_equal(fd_read_file(dir, "link", text, sizeof(text)), -ELOOP);
	assert_int_equal(mkdirat(dir, "folder", 0700), 0);
	assert_true(fd_read_file(dir, "folder", text, sizeof(text)) < 0);
	/* A pipe without a writer must not hang the daemon. */
	assert_int_equal(mkfifoat(dir, "fifo", 0600), 0);
	(void)alarm(60);
	assert_true(fd_read_file(dir, "fifo", text, sizeof(text)) <= 0);
	(void)alarm(0);
	assert_int_equal(fd_replace_file(dir, "file", "0123456789abcdef", 16, 0600), 0);
	assert_int_equal(fd_read_file(dir, "file", text, sizeof(text)), -EFBIG);
}

static int teardown(void **state)
{
	(void)state;
	rig_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sealed),
		cmocka_unit_test(test_sealed_sizes),
		cmocka_unit_test(test_every_missing_seal),
		cmocka_unit_test(test_future_write_is_not_enough),
		cmocka_unit_test(test_other_descriptors),
		cmocka_unit_test(test_fdlist),
		cmocka_unit_test(test_fdlist_lingers),
		cmocka_unit_test(test_read_text),
		cmocka_unit_test(test_write_all),
		cmocka_unit_test(test_replace),
		cmocka_unit_test(test_replace_links),
		cmocka_unit_test(test_replace_long_name),
		cmocka_unit_test(test_replace_interrupted),
		cmocka_unit_test(test_replace_no_space),
		cmocka_unit_test(test_read_file),
	};

	return cmocka_run_group_tests(tests, NULL, teardown);
}
