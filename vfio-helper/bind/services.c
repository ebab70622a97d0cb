/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Units that hold a GPU's device nodes: stopped through systemctl, and started again. A child that
 * was forked before the filter closed runs it; it knows numbers of units in policy's list only.
 * Trust: the child runs as root with what vfio-bind was started with; it reads from vfio-bind.
 */
#include "vfio-helper/bind/act.h"

#include "common/log.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

struct unit_job {
	uint32_t start; /* 1, or 0 to stop it */
	uint32_t unit;  /* its number in gpu_policy.services */
	int32_t result; /* in the answer */
};

/* ---- the child ---- */

static int systemctl_run(const char *systemctl, bool start, const char *unit)
{
	static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", lang[] = "LANG=C";
	char *const environment[] = {path, lang, NULL};
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		(void)signal(SIGPIPE, SIG_DFL);
		(void)execle(systemctl, "systemctl", "--no-ask-password", start ? "start" : "stop",
			     "--", unit, NULL, environment);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -EIO;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

_noreturn_ void services_serve(int fd, const struct gpu_policy *policy, const char *systemctl)
{
	struct unit_job job;

	if (fd > 3)
		(void)close_range(3, (unsigned int)fd - 1, 0);
	(void)close_range((unsigned int)fd + 1, ~0U, 0);
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	while (read(fd, &job, sizeof(job)) == (ssize_t)sizeof(job)) {
		job.result = job.unit < policy->n_services && job.start <= 1
				     ? systemctl_run(systemctl, job.start == 1,
						     policy->services[job.unit])
				     : -EINVAL;
		if (write(fd, &job, sizeof(job)) != (ssize_t)sizeof(job))
			break;
	}
	_exit(0);
}

/* ---- vfio-bind ---- */

static int ask(const struct bind_env *env, bool start, const char *service)
{
	struct pollfd wait = {.fd = env->services_fd, .events = POLLIN};
	struct unit_job job = {.start = start ? 1 : 0}, answer;

	while (job.unit < env->policy.n_services &&
	       !STR_EQ(env->policy.services[job.unit], service))
		job.unit++;
	if (job.unit == env->policy.n_services)
		return -EPERM; /* policy may have changed since it was stopped */
	if (write(env->services_fd, &job, sizeof(job)) != (ssize_t)sizeof(job))
		return -EIO;
	for (;;) {
		int64_t left_ms = env->deadline_ms - now_ms();

		if (left_ms <= 0 || poll(&wait, 1, (int)left_ms) != 1)
			return -ETIMEDOUT;
		if (read(env->services_fd, &answer, sizeof(answer)) != (ssize_t)sizeof(answer))
			return -EIO;
		if (answer.unit == job.unit && answer.start == job.start)
			return answer.result;
	}
}

static bool is_stopped(const struct lease *l, const char *service)
{
	for (uint32_t i = 0; i < l->n_services; i++)
		if (STR_EQ(l->services[i], service))
			return true;
	return false;
}

static bool is_leased(const struct lease *l, pci_addr address)
{
	for (uint32_t i = 0; i < l->n_funcs; i++)
		if (l->funcs[i].address == address)
			return true;
	return false;
}

int services_stop(struct job *job, const struct view *view, struct err *reterr)
{
	struct lease *l = &job->lease;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < view->state.n_holders; i++) {
		const struct gpu_holder *h = &view->state.holders[i];

		if (!is_leased(l, view->tree.funcs[h->func].address) ||
		    !gpu_policy_may_stop(&job->env->policy, h->service) ||
		    is_stopped(l, h->service))
			continue;
		if (l->n_services == LEASE_SERVICES)
			return err_set(reterr, -EBUSY, "too many services hold it");
		proto_text_set(l->services[l->n_services++], LEASE_SERVICE, h->service);
		r = job_save(job, "service-recorded", reterr);
		if (r == 0 && ask(job->env, false, h->service) < 0)
			r = err_set(reterr, -EBUSY, "%s could not be stopped", h->service);
		bind_point("service-stopped");
	}
	return r;
}

void services_start(struct job *job)
{
	struct lease *l = &job->lease;

	while (l->n_services > 0) {
		const char *service = l->services[--l->n_services];
		int r = ask(job->env, true, service);

		bind_point("service-started");
		if (r < 0)
			log_event(LOG_WARNING, "a service that was stopped for a GPU is not back",
				  LOG_STR("UNIT", service), LOG_ERRNO(r));
	}
}
