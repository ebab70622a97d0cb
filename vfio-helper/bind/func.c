/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One PCI function: from the host's driver to the guest's and back.
 * Trust: runs as root; writes what the journal says, and believes no write: only what the links in
 * sysfs say afterwards.
 */
#include "vfio-helper/bind/act.h"

#include <fcntl.h>

#define CONFIG_BYTES 64 /* what the kernel shows without CAP_SYS_ADMIN */

/* One write on behalf of a function, below @dirfd. @point is where tests may end the process. */
static int put(const struct job *job, uint32_t index, int dirfd, const char *name, const char *text,
	       const char *point, struct err *reterr)
{
	char address[PCI_TEXT_SIZE];
	int r = sysfs_write(job->env, dirfd, name, text, job->locks[index]);

	bind_point(point);
	if (r == 0)
		return 0;
	pci_addr_text(job->lease.funcs[index].address, address);
	if (r == -ETIMEDOUT)
		return err_set(reterr, r, "%s: writing %s hangs; only a reboot may end that",
			       address, name);
	return err_errno(reterr, r, "%s: cannot write %s", address, name);
}

/* Tells a driver, or the bus when @driver is "", something about the function. */
static int tell(const struct job *job, uint32_t index, const char *driver, const char *what,
		const char *point, struct err *reterr)
{
	char name[80], address[PCI_TEXT_SIZE];

	(void)snprintf(name, sizeof(name),
		       driver[0] != '\0' ? "bus/pci/drivers/%s/%s" : "bus/pci/%s%s", driver, what);
	pci_addr_text(job->lease.funcs[index].address, address);
	return put(job, index, job->env->sysfs_fd, name, address, point, reterr);
}

static int fail(const struct lease_func *f, int r, const char *what, const char *whom,
		struct err *reterr)
{
	char address[PCI_TEXT_SIZE];

	pci_addr_text(f->address, address);
	return err_set(reterr, r, "%s: %s%s", address, what, whom);
}

const char *func_guest_driver(const struct lease_func *func)
{
	return func->adopted != 0 ? func->driver : "vfio-pci";
}

/* From the driver it had to the guest's, by way of none. */
static int change_driver(const struct job *job, uint32_t i, int dirfd, struct err *reterr)
{
	const struct lease_func *f = &job->lease.funcs[i];
	int r = 0;

	if (f->driver[0] != '\0')
		r = tell(job, i, f->driver, "unbind", "function-unbound", reterr);
	if (r == 0 && !driver_is(dirfd, ""))
		r = fail(f, -EBUSY, "could not be taken from ", f->driver, reterr);
	if (r == 0)
		r = tell(job, i, "", "drivers_probe", "function-probed", reterr);
	if (r == 0 && !driver_is(dirfd, func_guest_driver(f)))
		r = fail(f, -EIO, func_guest_driver(f), " did not take it; see the kernel's log",
			 reterr);
	return r;
}

int func_take(const struct job *job, uint32_t i, struct err *reterr)
{
	const struct lease_func *f = &job->lease.funcs[i];
	_cleanup_close_ int dirfd = func_open(job->env, f);
	const char *guest = func_guest_driver(f);
	int r = 0;

	if (dirfd < 0)
		return fail(f, dirfd, "is gone", "", reterr);
	if (!driver_is(dirfd, f->driver))
		return fail(f, -EBUSY, "is no longer bound to ", f->driver, reterr);
	if (f->d3cold[0] != '\0')
		r = put(job, i, dirfd, "d3cold_allowed", "0", "function-d3cold", reterr);
	if (r == 0)
		r = put(job, i, dirfd, "driver_override", guest, "function-override", reterr);
	if (r == 0 && !STR_EQ(f->driver, guest))
		r = change_driver(job, i, dirfd, reterr);
	/* After the probe: vfio-pci allows the device to sleep when it takes it. */
	if (r == 0 && f->power[0] != '\0')
		r = put(job, i, dirfd, "power/control", "on", "function-power", reterr);
	return r < 0 ? r : node_check(job->env, f->group, reterr);
}

int func_probe(const struct job *job, uint32_t i, struct err *reterr)
{
	return tell(job, i, "", "drivers_probe", "loose-probed", reterr);
}

static int check_sane(const struct lease_func *f, int dirfd, struct err *reterr)
{
	_cleanup_close_ int fd = openat(dirfd, "config", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	uint8_t config[CONFIG_BYTES];
	char power[16];

	if (fd < 0 || pread(fd, config, sizeof(config), 0) != (ssize_t)sizeof(config))
		return fail(f, -EIO, "its configuration space cannot be read", "", reterr);
	if ((config[0] | config[1] << 8) != f->vendor || (config[2] | config[3] << 8) != f->device)
		return fail(f, -EIO, "its configuration space is not what it was", "", reterr);
	attr_read(dirfd, "power_state", power, sizeof(power));
	/* Of a device without power management the kernel says that it does not know. */
	if (power[0] != '\0' && !STR_EQ(power, "D0") && !STR_EQ(power, "unknown"))
		return fail(f, -EIO, "it does not wake up: ", power, reterr);
	return 0;
}

int func_reset(const struct job *job, uint32_t i, struct err *reterr)
{
	const struct lease_func *f = &job->lease.funcs[i];
	_cleanup_close_ int dirfd = func_open(job->env, f);
	int r = 0;

	if (dirfd < 0)
		return fail(f, dirfd, "is gone", "", reterr);
	/* After an interrupted return it may be the host's again, which must not be reset. */
	if (!driver_is(dirfd, func_guest_driver(f)))
		return 0;
	if (faccessat(dirfd, "reset", F_OK, 0) == 0)
		r = put(job, i, dirfd, "reset", "1", "reset", reterr);
	/*
	 * -ENOTTY: there is no way to reset this function alone. VFIO has then reset all of its
	 * slot at once when the last descriptor of them was closed.
	 */
	return r < 0 && r != -ENOTTY ? r : check_sane(f, dirfd, reterr);
}

/* To the driver that had it, even when another one would come first; to none if none had. */
static int restore_driver(const struct job *job, uint32_t i, int dirfd, bool on_guest,
			  struct err *reterr)
{
	const struct lease_func *f = &job->lease.funcs[i];
	int r = put(job, i, dirfd, "driver_override", f->driver[0] != '\0' ? f->driver : "\n",
		    "return-override", reterr);

	if (r == 0 && on_guest)
		r = tell(job, i, func_guest_driver(f), "unbind", "return-unbound", reterr);
	if (r == 0 && f->driver[0] != '\0')
		r = tell(job, i, "", "drivers_probe", "return-probed", reterr);
	if (r == 0 && !driver_is(dirfd, f->driver))
		r = fail(f, -EIO, "it did not go back to ",
			 f->driver[0] != '\0' ? f->driver : "no driver", reterr);
	return r;
}

int func_return(const struct job *job, uint32_t i, struct err *reterr)
{
	const struct lease_func *f = &job->lease.funcs[i];
	_cleanup_close_ int dirfd = func_open(job->env, f);
	char now[PCI_DRIVER_SIZE + 1];
	bool on_guest;
	int r = 0;

	if (dirfd < 0)
		return fail(f, dirfd, "is gone", "", reterr);
	link_read(dirfd, "driver", now, sizeof(now));
	on_guest = STR_EQ(now, func_guest_driver(f));
	if (now[0] != '\0' && !on_guest && !STR_EQ(now, f->driver))
		return fail(f, -EBUSY, "someone has bound it to ", now, reterr);
	if (f->driver[0] != '\0' && !driver_exists(job->env, f->driver))
		return fail(f, -ENOENT, "its driver is not loaded any more: ", f->driver, reterr);
	if (!STR_EQ(now, f->driver))
		r = restore_driver(job, i, dirfd, on_guest, reterr);
	if (r == 0)
		r = put(job, i, dirfd, "driver_override",
			f->override[0] != '\0' ? f->override : "\n", "return-cleared", reterr);
	if (r == 0 && f->d3cold[0] != '\0')
		r = put(job, i, dirfd, "d3cold_allowed", f->d3cold, "return-d3cold", reterr);
	if (r == 0 && f->power[0] != '\0')
		r = put(job, i, dirfd, "power/control", f->power, "return-power", reterr);
	return r;
}
