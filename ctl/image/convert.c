/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command lines of qemu-img and gpgv.
 *
 * Trust: pure but for running them; no word of a stranger gets into an argument.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "ctl/image/image.h"

#define GPGV          "/usr/bin/gpgv"
#define SIGNED_MAX    (1 << 20)
#define OVERHEAD      (UINT64_C(64) << 20) /* tables of a qcow2, besides 1/512 of its size */
#define CHECK_LEAKS   3                    /* exit status of qemu-img check: only space is lost */
#define TOOL_TEXT_MAX 160

/* The source is named by a description, so that nothing in its header is followed. */
#define SOURCE_QCOW2                                                                               \
	"json:{\"driver\":\"qcow2\",\"backing\":null,\"file\":{\"driver\":\"file\","               \
	"\"filename\":\"/proc/self/fd/3\",\"locking\":\"off\"}}"
#define SOURCE_RAW                                                                                 \
	"json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\","                                  \
	"\"filename\":\"/proc/self/fd/3\",\"locking\":\"off\"}}"

static int run_qemu_img(const struct tool *t, const char *what, struct err *reterr)
{
	char text[TOOL_TEXT_MAX];
	int r = tool_run(t, text, sizeof(text), reterr);

	if (r < 0 && !strstr(text, "No space left"))
		return r;
	if (r != 0 && strstr(text, "No space left"))
		return err_set(reterr, -ENOSPC, "%s", text);
	return r > 0 ? err_set(reterr, -EIO, "%s: %s", what, text) : 0;
}

static int convert(const struct place *p, struct progress *progress, const char *source,
		   const int fds[2], uint64_t max_bytes, struct err *reterr)
{
	const char *const argv[] = {"qemu-img", "convert",         "-p", "-O", "qcow2",
				    source,     "/proc/self/fd/4", NULL};
	const struct tool t = {.program = p->qemu_img,
			       .argv = argv,
			       .fds = fds,
			       .n_fds = 2,
			       .max_bytes = max_bytes,
			       .progress = progress};

	return run_qemu_img(&t, "the disk cannot be read", reterr);
}

static int resize(const struct place *p, int fd, uint64_t bytes, uint64_t max_bytes,
		  struct err *reterr)
{
	char size[24];
	const char *const argv[] = {"qemu-img", "resize",          "-q", "-f",
				    "qcow2",    "/proc/self/fd/3", size, NULL};
	const struct tool t = {.program = p->qemu_img,
			       .argv = argv,
			       .fds = &fd,
			       .n_fds = 1,
			       .max_bytes = max_bytes};

	(void)snprintf(size, sizeof(size), "%llu", (unsigned long long)bytes);
	return run_qemu_img(&t, "the disk cannot be enlarged", reterr);
}

int convert_disk(const struct place *p, struct progress *progress, const char *format, int in_fd,
		 int out_fd, uint64_t bytes, uint64_t resize_bytes, struct err *reterr)
{
	const int fds[] = {in_fd, out_fd};
	uint64_t want = MAX_OF(bytes, resize_bytes), got;
	uint64_t max_bytes = want + want / 256 + OVERHEAD;
	int r;

	/* qemu-img opens its descriptors again as another user; nobody reaches the files by a path.
	 */
	if (fchmod(in_fd, 0444) < 0 || fchmod(out_fd, 0666) < 0)
		return err_errno(reterr, -errno, "modes");
	r = convert(p, progress, STR_EQ(format, "qcow2") ? SOURCE_QCOW2 : SOURCE_RAW, fds,
		    max_bytes, reterr);
	if (r == 0 && resize_bytes > bytes)
		r = resize(p, out_fd, resize_bytes, max_bytes, reterr);
	if (fchmod(out_fd, 0644) < 0 && r == 0)
		r = err_errno(reterr, -errno, "modes");
	/* What came out of a program that a hostile disk may have taken over is looked at, too. */
	if (r == 0)
		r = disk_check_file(out_fd, /* strict= */ true, &got, reterr);
	if (r == 0 && (got < want || got - want >= 65536))
		r = err_set(reterr, -EIO, "the converted disk has %llu bytes instead of %llu",
			    (unsigned long long)got, (unsigned long long)want);
	return r;
}

int convert_check(const struct place *p, int fd, struct err *reterr)
{
	static const char *const argv[] = {"qemu-img", "check",           "-q", "-U", "-f",
					   "qcow2",    "/proc/self/fd/3", NULL};
	const struct tool t = {
		.program = p->qemu_img, .argv = argv, .fds = &fd, .n_fds = 1, .max_bytes = 0};
	char text[TOOL_TEXT_MAX];
	int r = tool_run(&t, text, sizeof(text), reterr);

	if (r < 0 || r == 0 || r == CHECK_LEAKS)
		return MIN_OF(r, 0);
	return err_set(reterr, -EBADMSG, "the disk's structure is damaged (qemu-img check: %s)",
		       text);
}

/* gpgv reads copies, which any user may open by a descriptor. */
static int copy_of(int fd, struct err *reterr)
{
	_cleanup_free_ char *data = malloc(SIGNED_MAX);
	ssize_t n = data ? pread(fd, data, SIGNED_MAX, 0) : -1;
	int copy;

	if (n < 0 || n == SIGNED_MAX)
		return err_set(reterr, -EFBIG,
			       "the checksums, the signature or the keyring cannot "
			       "be read, or have more than 1 MiB");
	copy = fd_memfd_sealed("signed", data, (size_t)n);
	return copy < 0 ? err_errno(reterr, copy, "memory") : copy;
}

int convert_verify_signature(int data_fd, int signature_fd, const char *keyring, struct err *reterr)
{
	static const char *const argv[] = {
		"gpgv", "--keyring", "/proc/self/fd/5", "/proc/self/fd/4", "/proc/self/fd/3", NULL};
	_cleanup_close_ int keys = open(keyring, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	_cleanup_close_ int data = -EBADF, signature = -EBADF, keys_copy = -EBADF;
	char text[TOOL_TEXT_MAX];
	int r;

	if (keys < 0)
		return err_errno(reterr, -errno, "%s", keyring);
	data = copy_of(data_fd, reterr);
	signature = data < 0 ? data : copy_of(signature_fd, reterr);
	keys_copy = signature < 0 ? signature : copy_of(keys, reterr);
	if (keys_copy < 0)
		return keys_copy;
	const int fds[] = {data, signature, keys_copy};
	const struct tool t = {
		.program = GPGV, .argv = argv, .fds = fds, .n_fds = 3, .max_bytes = 0};

	r = tool_run(&t, text, sizeof(text), reterr);
	if (r > 0)
		return err_set(reterr, -EBADMSG, "the signature is not good: %s", text);
	return r;
}
