/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-bind: one act on GPUs, then the end. Start-up stages, the request, the answer.
 * Trust: runs as root with CAP_CHOWN, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; reads its arguments
 * and helper.conf before it is confined, then one fixed-size struct of vfio-broker, which is not
 * believed.
 */
#include "vfio-helper/bind/act.h"

#include "common/ipc.h"
#include "common/log.h"
#include "common/priv.h"
#include "vfio-bind.filter.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define REQUEST_WAIT_MS  5000
#define ANSWER_MARGIN_MS 10000 /* between the last step and when the broker gives us up */
#define KEPT_CAPS                                                                                  \
	(UINT64_C(1) << CAP_CHOWN | UINT64_C(1) << CAP_SYS_PTRACE |                                \
	 UINT64_C(1) << CAP_DAC_READ_SEARCH)

static int open_dir(const char *path, int *ret_fd, struct err *reterr)
{
	*ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return *ret_fd < 0 ? err_errno(reterr, -errno, "cannot open %s", path) : 0;
}

/* Made by the package, or here the first time. Nobody else has business in it. */
static int open_state(const char *path, int *ret_fd, struct err *reterr)
{
	struct stat st;
	int r;

	if (mkdirat(AT_FDCWD, path, 0700) < 0 && errno != EEXIST)
		return err_errno(reterr, -errno, "cannot make %s", path);
	r = config_check_trusted(path, S_IFDIR, reterr);
	if (r == 0)
		r = open_dir(path, ret_fd, reterr);
	if (r == 0 && (fstat(*ret_fd, &st) < 0 || (st.st_mode & 07777) != 0700))
		r = err_set(reterr, -EPERM, "%s has to have mode 0700", path);
	return r;
}

static int start_services(struct bind_env *env, struct err *reterr)
{
	int pair[2];
	pid_t pid;

	if (env->policy.n_services == 0)
		return 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(reterr, -errno, "cannot make a socket pair");
	pid = fork();
	if (pid == 0)
		services_serve(pair[1], &env->policy, "/usr/bin/systemctl");
	env->services_fd = pair[0];
	(void)close(pair[1]);
	return pid < 0 ? err_errno(reterr, -errno, "cannot fork") : 0;
}

static int open_all(const struct config *config, struct bind_env *env, struct err *reterr)
{
	int r = open_state(config->gpu.state_dir, &env->state_fd, reterr);

	if (r == 0)
		r = open_dir("/sys", &env->sysfs_fd, reterr);
	if (r == 0)
		r = open_dir("/proc", &env->proc_fd, reterr);
	if (r == 0)
		r = open_dir("/dev", &env->dev_fd, reterr);
	if (r < 0)
		return r;
	env->lock_fd = lock_open(env->state_fd);
	if (env->lock_fd < 0)
		return err_errno(reterr, env->lock_fd, "cannot open the file of locks");
	return start_services(env, reterr);
}

static int start(const char *config_path, struct config *config, struct bind_env *env,
		 struct err *reterr)
{
	int r = config_load(config_path, config, reterr);

	if (r == 0)
		r = accounts_load(config, "/etc/passwd", reterr);
	if (r == 0)
		r = gpu_policy_parse(&config->gpu, &env->policy, reterr);
	if (r < 0)
		return r;
	if (geteuid() != 0)
		return err_set(reterr, -EPERM, "vfio-bind has to be started as root");
	env->keys = config->gpu;
	env->users = config->setup.users;
	env->max_vms = config->setup.max_vms;

	stage_enter(STAGE_OPEN);
	r = open_all(config, env, reterr);
	if (r == 0)
		r = priv_confine("vfio-bind", KEPT_CAPS, filter_vfio_bind, filter_vfio_bind_len,
				 reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_RUN);
	return 0;
}

static int receive(uint32_t max_vms, struct proto_header *ret_header, struct bind_request *ret_req,
		   struct err *reterr)
{
	struct pollfd wait = {.fd = BIND_FD, .events = POLLIN};
	_cleanup_(fdlist_done) struct fdlist none = {0};
	uint8_t buf[sizeof(*ret_header) + sizeof(*ret_req)];
	ssize_t n;

	if (poll(&wait, 1, REQUEST_WAIT_MS) != 1)
		return err_set(reterr, -EPIPE, "it is for vfio-helper to start, not for people");
	n = ipc_recv_fds(BIND_FD, buf, sizeof(buf), &none, 0);
	if (n != (ssize_t)sizeof(buf))
		return err_set(reterr, -EBADMSG, "the request is not one");
	memcpy(ret_header, buf, sizeof(*ret_header));
	memcpy(ret_req, buf + sizeof(*ret_header), sizeof(*ret_req));
	if (ret_header->len != sizeof(*ret_req) || ret_header->op != ret_req->act ||
	    ret_header->kind != PROTO_REQUEST || ret_header->status != 0 ||
	    request_check(ret_req, max_vms) < 0)
		return err_set(reterr, -EBADMSG, "the request is not as it has to be");
	return 0;
}

static int serve(struct bind_env *env, struct err *reterr)
{
	struct bind_answer ans = {0};
	struct bind_request req;
	struct proto_header header;
	struct err why = {0};
	int fd = -EBADF, r = receive(env->max_vms, &header, &req, reterr);

	if (r < 0)
		return r;
	env->deadline_ms = now_ms() + BIND_DEADLINE_MS - ANSWER_MARGIN_MS;
	ans.status = act_run(env, &req, &ans, &fd, &why);
	proto_text_set(ans.why, sizeof(ans.why), why.text);
	header.kind = PROTO_REPLY;
	header.len = sizeof(ans);
	return ipc_send(BIND_FD, &header, &ans, &fd, fd >= 0 ? 1 : 0);
}

int main(int argc, char *argv[])
{
	static struct config config;
	static struct bind_env env = {.services_fd = -EBADF};
	struct err err = {0};
	int r;

	if (argc != 3 || !STR_EQ(argv[1], "--config")) {
		(void)fputs("usage: vfio-bind --config FILE (it is for vfio-helper to start)\n",
			    stderr);
		return 2;
	}
	r = priv_sane_start(argc, 1, &err);
	stage_enter(STAGE_CONFIG);
	log_open("vfio-bind", LOG_INFO);
	if (r == 0)
		r = start(argv[2], &config, &env, &err);
	if (r == 0)
		r = serve(&env, &err);
	if (r < 0)
		log_event(LOG_ERR, "no act was done", LOG_STR("WHY", err.text), LOG_ERRNO(r));
	return r < 0 ? 1 : 0;
}
