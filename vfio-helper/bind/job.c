/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lease in the making or in the ending: its locks, its record, and the way back.
 * Trust: runs as root; works on what the journal says.
 */
#include "vfio-helper/bind/act.h"

#include "common/log.h"

enum proto_status act_status(int r)
{
	switch (r) {
	case 0:
		return PROTO_OK;
	case -EBUSY:
		return PROTO_BUSY;
	case -ETIMEDOUT:
		return PROTO_TIMEOUT;
	case -ENOENT:
		return PROTO_NOT_FOUND;
	case -EPERM:
		return PROTO_DENIED;
	case -ENOSPC:
		return PROTO_NO_SPACE;
	default:
		return PROTO_FAILED;
	}
}

void job_init(struct job *job, const struct bind_env *env)
{
	*job = (struct job){.env = env};
	for (size_t i = 0; i < ARRAY_LEN(job->locks); i++)
		job->locks[i] = -EBADF;
}

void job_done(struct job *job)
{
	for (size_t i = 0; i < ARRAY_LEN(job->locks); i++)
		job->locks[i] = safe_close(job->locks[i]);
}

int job_lock(struct job *job, unsigned int wait_ms, struct err *reterr)
{
	char address[PCI_TEXT_SIZE];

	for (uint32_t i = 0; i < job->lease.n_funcs; i++) {
		int fd = lock_open(job->env->state_fd), r;

		if (fd < 0)
			return err_errno(reterr, fd, "cannot open the file of locks");
		job->locks[i] = fd;
		r = lock_function(fd, job->lease.funcs[i].address, wait_ms);
		if (r == 0)
			continue;
		pci_addr_text(job->lease.funcs[i].address, address);
		return err_errno(reterr, r, "%s: another act is at work on it, or a write hangs",
				 address);
	}
	return 0;
}

int job_save(const struct job *job, const char *point, struct err *reterr)
{
	int r = lease_save(job->env->state_fd, &job->lease);

	bind_point(point);
	return r < 0 ? err_errno(reterr, r, "cannot write the lease's record") : 0;
}

/* Who may be the cause that a write to it hangs. */
static void name_holders(const struct job *job, const struct lease_func *f, struct err *why)
{
	char who[100];

	if (func_holders(job->env, f, 1, false, who, sizeof(who)) > 0)
		(void)snprintf(why->text + strlen(why->text), sizeof(why->text) - strlen(why->text),
			       "; %s", who);
}

int job_lose(struct job *job, uint32_t index, int r, const struct err *why)
{
	struct lease_func *f = &job->lease.funcs[index];
	struct err told = *why;

	if (r == -ETIMEDOUT)
		name_holders(job, f, &told);
	log_event(LOG_ERR, "a function is quarantined", LOG_STR("WHY", told.text));
	job->lost++;
	f->step = STEP_LOST;
	r = quarantine_save(job->env->state_fd, f, told.text);
	bind_point("quarantined");
	return r < 0 ? r : job_save(job, "loss-recorded", NULL);
}

static bool is_touched(const struct lease_func *f)
{
	return f->step == STEP_TAKING || f->step == STEP_BOUND;
}

/* What was interrupted in it may be done again from its beginning, so that needs no record. */
static int return_one(struct job *job, uint32_t i, struct err *reterr)
{
	int r = func_return(job, i, reterr);

	job->lease.funcs[i].step = STEP_BACK;
	return r < 0 ? job_lose(job, i, r, reterr) : 0;
}

int job_end(struct job *job, bool reset, struct err *reterr)
{
	struct lease *l = &job->lease;
	struct err why = {0}, first = {0};
	int r = 0;

	/* A node that stays, of an adopted or a lost function, is no user's. */
	if (nodes_revoke(job, &why) < 0)
		log_event(LOG_ERR, "a device node is still lent", LOG_STR("WHY", why.text));
	for (uint32_t i = 0; r == 0 && reset && i < l->n_funcs; i++) {
		int failed = is_touched(&l->funcs[i]) ? func_reset(job, i, &why) : 0;

		if (failed < 0)
			r = job_lose(job, i, failed, &why);
		if (failed < 0 && first.text[0] == '\0')
			first = why;
	}
	for (uint32_t i = l->n_funcs; r == 0 && i-- > 0;) {
		if (!is_touched(&l->funcs[i]))
			continue;
		why.text[0] = '\0';
		r = return_one(job, i, &why);
		if (first.text[0] == '\0')
			first = why;
	}
	if (r < 0)
		return err_errno(reterr, -EIO, "a record cannot be written; the lease stays");
	console_take_back(job);
	services_start(job);
	if (first.text[0] != '\0' && reterr)
		*reterr = first;
	r = lease_remove(job->env->state_fd, l->vm);
	bind_point("lease-removed");
	return r;
}
