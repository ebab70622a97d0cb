/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the records of leases and quarantines that a board's file asks for, with the code that
 * vfio-bind writes them with, into a directory: `boards-records DIR`. A line of standard input:
 *
 *   lease VM taking|held|releasing ADDRESS[=STEP] [ADDRESS[=STEP] ...]   the first is the GPU
 *   quarantine ADDRESS WHY
 *
 * STEP is a number of enum lease_step; without it a function is bound.
 * Trust: run by tests as anyone; reads tests' files.
 */
#include "vfio-helper/bind/lease.h"

#include <fcntl.h>

static struct lease_func func_of(const char *address, pci_addr gpu)
{
	struct lease_func f = {.step = STEP_BOUND, .class_code = 0x030000, .vendor = 0x10de};
	const char *step = strchr(address, '=');
	char text[PCI_TEXT_SIZE] = "";

	if (step)
		f.step = (uint32_t)strtoul(step + 1, NULL, 10);
	(void)snprintf(text, sizeof(text), "%.*s", (int)strcspn(address, "="), address);
	if (pci_addr_parse(text, &f.address) < 0)
		f.address = 0;
	f.gpu = gpu ? gpu : f.address;
	f.role = gpu ? PROTO_ROLE_COMPANION : PROTO_ROLE_GPU;
	proto_text_set(f.driver, sizeof(f.driver), gpu ? "snd_hda_intel" : "nvidia");
	return f;
}

static int write_lease(int dir_fd, const char *vm, const char *phase, char **save)
{
	struct lease lease = {.n_gpus = 1, .since_s = 1700000000};
	const char *word;

	lease.phase = STR_EQ(phase, "taking") ? LEASE_TAKING
		      : STR_EQ(phase, "held") ? LEASE_HELD
					      : LEASE_RELEASING;
	proto_text_set(lease.vm, sizeof(lease.vm), vm);
	while ((word = strtok_r(NULL, " \n", save)) && lease.n_funcs < PROTO_MAX_DEVICES) {
		lease.funcs[lease.n_funcs] = func_of(word, lease.gpus[0]);
		if (lease.n_funcs++ == 0)
			lease.gpus[0] = lease.funcs[0].address;
	}
	return lease_save(dir_fd, &lease);
}

static int write_line(int dir_fd, char *line)
{
	char *save = NULL, *kind = strtok_r(line, " \n", &save), *name, *what;
	struct lease_func f;

	if (!kind)
		return 0;
	name = strtok_r(NULL, " \n", &save);
	what = strtok_r(NULL, " \n", &save);
	if (!name || !what)
		return -EINVAL;
	if (STR_EQ(kind, "lease"))
		return write_lease(dir_fd, name, what, &save);
	f = func_of(name, 0);
	return quarantine_save(dir_fd, &f, what);
}

int main(int argc, char *argv[])
{
	_cleanup_close_ int dir_fd = -EBADF, lock_fd = -EBADF;
	char line[512];
	int r = 0;

	if (argc != 2)
		return 2;
	dir_fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	lock_fd = dir_fd < 0 ? -errno : lock_open(dir_fd);
	if (lock_fd < 0)
		r = lock_fd;
	while (r == 0 && fgets(line, sizeof(line), stdin))
		r = write_line(dir_fd, line);
	if (r < 0)
		(void)fprintf(stderr, "boards-records: %s\n", strerror(-r));
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
