/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One PCI function: from the host's driver to the guest's and back.
 * Trust: runs as root; writes what the journal says, and believes no write: only what the links in
 * sysfs say afterwards.
 */
#include "vfio-helper/bind/act.h"

#include "common/fd.h"

#include <fcntl.h>

#define CONFIG_BYTES 64 /* what the kernel shows without CAP_SYS_ADMIN */

/* A function that is being changed. */
struct change {
	const struct lease_func *f;
	int dirfd;
	struct writer writer;
};

static void change_done(struct change *c)
{
	writer_end(&c->writer);
	c->dirfd = safe_close(c->dirfd);
}

/* One write on behalf of a function. @point is where tests may end the process. */
static int put_at(struct change *c, bool of_func, const char *name, const char *text,
		  const char *point, struct err *reterr)
{
	char address[PCI_TEXT_SIZE];
	int r = writer_write(&c->writer, of_func, name, text);

	bind_point(point);
	if (r == 0)
		return 0;
	pci_addr_text(c->f->address, address);
	if (r == -ETIMEDOUT)
		return err_set(reterr, r, "%s: writing %s hangs; only a reboot may end that",
			       address, name);
	return err_errno(reterr, r, "%s: cannot write %s", address, name);
}

static int put(struct change *c, const char *name, const char *text, const char *point,
	       struct err *reterr)
{
	return put_at(c, true, name, text, point, reterr);
}

/* Tells a driver, or the bus when @driver is "", something about the function. */
static int tell(struct change *c, const char *driver, const char *what, const char *point,
		struct err *reterr)
{
	char name[80], address[PCI_TEXT_SIZE];

	(void)snprintf(name, sizeof(name),
		       driver[0] != '\0' ? "bus/pci/drivers/%s/%s" : "bus/pci/%s%s", driver, what);
	pci_addr_text(c->f->address, address);
	return put_at(c, false, name, address, point, reterr);
}

static int fail(const struct lease_func *f, int r, const char *what, const char *whom,
		struct err *reterr)
{
	char address[PCI_TEXT_SIZE];

	pci_addr_text(f->address, address);
	return err_set(reterr, r, "%s: %s%s", address, what, whom);
}

/* -ENODEV when the function is gone. End it in any case. */
static int change_begin(const struct job *job, uint32_t i, struct change *c, struct err *reterr)
{
	int r;

	*c = (struct change){.f = &job->lease.funcs[i], .writer = {.fd = -EBADF, .pidfd = -EBADF}};
	c->dirfd = func_open(job->env, c->f);
	if (c->dirfd < 0)
		return fail(c->f, c->dirfd, "is gone", "", reterr);
	r = writer_start(job->env, c->dirfd, job->locks[i], &c->writer);
	return r < 0 ? fail(c->f, r, "no process for its writes", "", reterr) : 0;
}

const char *func_guest_driver(const struct lease_func *func)
{
	return func->adopted != 0 ? func->driver : "vfio-pci";
}

/* From the driver it had to the guest's, by way of none. */
static int change_driver(struct change *c, struct err *reterr)
{
	const struct lease_func *f = c->f;
	int r = 0;

	if (f->driver[0] != '\0')
		r = tell(c, f->driver, "unbind", "function-unbound", reterr);
	if (r == 0 && !driver_is(c->dirfd, ""))
		r = fail(f, -EBUSY, "could not be taken from ", f->driver, reterr);
	if (r == 0)
		r = tell(c, "", "drivers_probe", "function-probed", reterr);
	if (r == 0 && !driver_is(c->dirfd, func_guest_driver(f)))
		r = fail(f, -EIO, func_guest_driver(f), " did not take it; see the kernel's log",
			 reterr);
	return r;
}

int func_take(const struct job *job, uint32_t i, struct err *reterr)
{
	const struct lease_func *f = &job->lease.funcs[i];
	const char *guest = func_guest_driver(f);
	_cleanup_(change_done) struct change c;
	int r = change_begin(job, i, &c, reterr);

	if (r < 0)
		return r;
	if (!driver_is(c.dirfd, f->driver))
		return fail(f, -EBUSY, "is no longer bound to ", f->driver, reterr);
	if (f->d3cold[0] != '\0')
		r = put(&c, "d3cold_allowed", "0", "function-d3cold", reterr);
	if (r == 0)
		r = put(&c, "driver_override", guest, "function-override", reterr);
	if (r == 0 && !STR_EQ(f->driver, guest))
		r = change_driver(&c, reterr);
	/* After the probe: vfio-pci allows the device to sleep when it takes it. */
	if (r == 0 && f->power[0] != '\0')
		r = put(&c, "power/control", "on", "function-power", reterr);
	return r < 0 ? r : node_check(job->env, f->group, reterr);
}

int func_probe(const struct job *job, uint32_t i, struct err *reterr)
{
	_cleanup_(change_done) struct change c;
	int r = change_begin(job, i, &c, reterr);

	return r < 0 ? r : tell(&c, "", "drivers_probe", "loose-probed", reterr);
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
	_cleanup_(change_done) struct change c;
	int r = change_begin(job, i, &c, reterr);

	if (r < 0)
		return r;
	/* After an interrupted return it may be the host's again, which must not be reset. */
	if (!driver_is(c.dirfd, func_guest_driver(f)))
		return 0;
	if (faccessat(c.dirfd, "reset", F_OK, 0) == 0)
		r = put(&c, "reset", "1", "reset", reterr);
	/*
	 * -ENOTTY: there is no way to reset this function alone. VFIO has then reset all of its
	 * slot at once when the last descriptor of them was closed.
	 */
	return r < 0 && r != -ENOTTY ? r : check_sane(f, c.dirfd, reterr);
}

/* To the driver that had it, even when another one would come first; to none if none had. */
static int restore_driver(struct change *c, bool on_guest, struct err *reterr)
{
	const struct lease_func *f = c->f;
	int r = put(c, "driver_override", f->driver[0] != '\0' ? f->driver : "\n",
		    "return-override", reterr);

	if (r == 0 && on_guest)
		r = tell(c, func_guest_driver(f), "unbind", "return-unbound", reterr);
	if (r == 0 && f->driver[0] != '\0')
		r = tell(c, "", "drivers_probe", "return-probed", reterr);
	if (r == 0 && !driver_is(c->dirfd, f->driver))
		r = fail(f, -EIO, "it did not go back to ",
			 f->driver[0] != '\0' ? f->driver : "no driver", reterr);
	return r;
}

int func_return(const struct job *job, uint32_t i, struct err *reterr)
{
	const struct lease_func *f = &job->lease.funcs[i];
	_cleanup_(change_done) struct change c;
	char now[PCI_DRIVER_SIZE + 1];
	bool on_guest;
	int r = change_begin(job, i, &c, reterr);

	if (r < 0)
		return r;
	link_read(c.dirfd, "driver", now, sizeof(now));
	on_guest = STR_EQ(now, func_guest_driver(f));
	if (now[0] != '\0' && !on_guest && !STR_EQ(now, f->driver))
		return fail(f, -EBUSY, "someone has bound it to ", now, reterr);
	if (f->driver[0] != '\0' && !driver_exists(job->env, f->driver))
		return fail(f, -ENOENT, "its driver is not loaded any more: ", f->driver, reterr);
	if (!STR_EQ(now, f->driver))
		r = restore_driver(&c, on_guest, reterr);
	if (r == 0)
		r = put(&c, "driver_override", f->override[0] != '\0' ? f->override : "\n",
			"return-cleared", reterr);
	if (r == 0 && f->d3cold[0] != '\0')
		r = put(&c, "d3cold_allowed", f->d3cold, "return-d3cold", reterr);
	if (r == 0 && f->power[0] != '\0')
		r = put(&c, "power/control", f->power, "return-power", reterr);
	return r;
}
