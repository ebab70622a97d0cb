/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The framebuffer console: released when a leased GPU draws it, and taken back.
 * Trust: runs as root; reads and writes class/vtconsole and the platform's framebuffers.
 */
#include "vfio-helper/bind/act.h"

#include <fcntl.h>

#define CONSOLES 8

/* What the firmware's framebuffer may be bound to; the device is named NAME.0. */
static const char *const framebuffers[] = {"efi-framebuffer", "vesa-framebuffer",
					   "simple-framebuffer"};

static bool draws_console(const struct job *job, const struct view *view)
{
	for (uint32_t i = 0; i < job->lease.n_funcs; i++) {
		uint32_t at = pci_find(&view->tree, job->lease.funcs[i].address);

		if (at != PCI_NO_INDEX &&
		    (view->tree.funcs[at].boot_vga || view->tree.funcs[at].display))
			return true;
	}
	return false;
}

static int console_write(struct writer *w, uint32_t number, const char *text)
{
	char name[48];
	int r;

	(void)snprintf(name, sizeof(name), "class/vtconsole/vtcon%u/bind", number);
	r = writer_write(w, false, name, text);
	bind_point("console");
	return r;
}

static int framebuffer_write(struct writer *w, uint32_t number, const char *what)
{
	char name[64], device[32];
	int r;

	(void)snprintf(name, sizeof(name), "bus/platform/drivers/%s/%s", framebuffers[number],
		       what);
	(void)snprintf(device, sizeof(device), "%s.0", framebuffers[number]);
	r = writer_write(w, false, name, device);
	bind_point("framebuffer");
	return r;
}

static uint32_t bound_consoles(const struct bind_env *env)
{
	char name[48], text[64];
	uint32_t mask = 0;

	for (uint32_t i = 0; i < CONSOLES; i++) {
		(void)snprintf(name, sizeof(name), "class/vtconsole/vtcon%u/name", i);
		attr_read(env->sysfs_fd, name, text, sizeof(text));
		if (!strstr(text, "frame buffer"))
			continue;
		(void)snprintf(name, sizeof(name), "class/vtconsole/vtcon%u/bind", i);
		attr_read(env->sysfs_fd, name, text, sizeof(text));
		mask |= STR_EQ(text, "1") ? 1u << i : 0;
	}
	return mask;
}

static uint32_t bound_framebuffers(const struct bind_env *env)
{
	uint32_t mask = 0;
	char name[96];

	for (uint32_t i = 0; i < ARRAY_LEN(framebuffers); i++) {
		(void)snprintf(name, sizeof(name), "bus/platform/drivers/%s/%s.0", framebuffers[i],
			       framebuffers[i]);
		mask |= faccessat(env->sysfs_fd, name, F_OK, 0) == 0 ? 1u << i : 0;
	}
	return mask;
}

int console_release(struct job *job, const struct view *view, struct err *reterr)
{
	_cleanup_(writer_end) struct writer w = {.fd = -EBADF, .pidfd = -EBADF};
	struct lease *l = &job->lease;
	int r;

	/* The judge lets such a GPU pass only where policy does. */
	if (!draws_console(job, view))
		return 0;
	l->consoles = bound_consoles(job->env);
	l->framebuffers = bound_framebuffers(job->env);
	r = job_save(job, "console-recorded", reterr);
	if (r == 0)
		r = writer_start(job->env, job->env->sysfs_fd, job->locks[0], &w);
	for (uint32_t i = 0; r == 0 && i < CONSOLES; i++)
		if (l->consoles & 1u << i)
			r = console_write(&w, i, "0");
	for (uint32_t i = 0; r == 0 && i < ARRAY_LEN(framebuffers); i++)
		if (l->framebuffers & 1u << i)
			r = framebuffer_write(&w, i, "unbind");
	return r < 0 ? err_errno(reterr, r, "cannot release the framebuffer console") : 0;
}

void console_take_back(struct job *job)
{
	_cleanup_(writer_end) struct writer w = {.fd = -EBADF, .pidfd = -EBADF};
	struct lease *l = &job->lease;

	if ((l->framebuffers | l->consoles) == 0 ||
	    writer_start(job->env, job->env->sysfs_fd, job->locks[0], &w) < 0)
		return;
	/* The firmware's framebuffer is not there any more once a driver has drawn: that is well.
	 */
	for (uint32_t i = ARRAY_LEN(framebuffers); i-- > 0;)
		if (l->framebuffers & 1u << i)
			(void)framebuffer_write(&w, i, "bind");
	for (uint32_t i = CONSOLES; i-- > 0;)
		if (l->consoles & 1u << i)
			(void)console_write(&w, i, "1");
}
