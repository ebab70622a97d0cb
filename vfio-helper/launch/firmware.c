/* SPDX-License-Identifier: Apache-2.0 */
/*
 * UEFI for guests: which OVMF, and a copy of its variables for each VM.
 * Trust: runs as a VM's user; reads files of root's that helper.conf or the table below names, and
 * writes the VM's own variables, which its guest can change as it likes.
 */
#include "vfio-helper/launch/launch.h"

#include "common/fd.h"

#include <fcntl.h>
#include <sys/stat.h>

#define VARS_MAX (4 << 20) /* bytes; QEMU maps 8 MiB of code and variables at most */

struct firmware {
	const char *code, *vars;
};

/* Where distributions put OVMF, the larger build (4 MiB) first. */
static const struct firmware known[] = {
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
};

/* Opens the code: the configured one, or the first that is there; -ENOENT. */
static int open_code(const struct spawn_setup *c, struct firmware *ret_firmware)
{
	int fd;

	if (c->firmware[0] == '/') {
		*ret_firmware = (struct firmware){c->firmware, c->firmware_vars};
		fd = open(c->firmware, O_RDONLY);
		return fd < 0 ? -errno : fd;
	}
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		*ret_firmware = known[i];
		fd = open(known[i].code, O_RDONLY);
		if (fd >= 0 || errno != ENOENT)
			return fd < 0 ? -errno : fd;
	}
	return -ENOENT;
}

/*
 * The size tells whether the variables are there: what a crash left half copied is smaller, and
 * those of another build of OVMF would be of no use to this one.
 */
static int fill_vars(int vars, const char *path)
{
	_cleanup_close_ int from = open(path, O_RDONLY | O_CLOEXEC);
	static char buf[VARS_MAX];
	struct stat have, want;
	ssize_t n;
	int r;

	if (from < 0 || fstat(from, &want) < 0 || fstat(vars, &have) < 0)
		return -errno;
	if (!S_ISREG(want.st_mode) || !S_ISREG(have.st_mode) || want.st_size == 0 ||
	    want.st_size > VARS_MAX)
		return -EINVAL;
	if (have.st_size == want.st_size)
		return 0;
	n = pread(from, buf, sizeof(buf), 0);
	if (n != want.st_size)
		return n < 0 ? -errno : -EIO;
	if (ftruncate(vars, 0) < 0 || lseek(vars, 0, SEEK_SET) < 0)
		return -errno;
	r = fd_write_all(vars, buf, (size_t)n);
	if (r == 0 && fdatasync(vars) < 0)
		r = -errno;
	return r;
}

int firmware_prepare(const struct spawn_spec *s, const struct spawn_setup *c,
		     struct machine *machine, struct err *reterr)
{
	struct firmware firmware;
	int code, r;

	if (!(s->roles & FD_BIT(FD_VARS)) || STR_EQ(c->firmware, "none") ||
	    ((s->roles & FD_BIT(FD_KERNEL)) && s->n_devices == 0))
		return 0;
	code = open_code(c, &firmware);
	if (code == -ENOENT && c->firmware[0] != '/' && s->n_devices == 0)
		return 0;
	if (code < 0)
		return err_errno(reterr, code,
				 "OVMF's code (the package ovmf has it; `firmware = none` in "
				 "helper.conf does without)");
	if (code != CHILD_FD(FD_FIRMWARE)) {
		r = dup2(code, CHILD_FD(FD_FIRMWARE)) < 0 ? -errno : 0;
		(void)close(code);
		if (r < 0)
			return err_errno(reterr, r, "OVMF's code");
	}
	r = fill_vars(CHILD_FD(FD_VARS), firmware.vars);
	if (r < 0)
		return err_errno(reterr, r, "the VM's copy of %s", firmware.vars);
	machine->uefi = true;
	return 0;
}
