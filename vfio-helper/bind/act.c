/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which acts there are, and which of them policy has to allow.
 * Trust: runs in vfio-bind, as root, for vfio-broker, which may be hostile.
 */
#include "vfio-helper/bind/act.h"

enum proto_status act_run(const struct bind_env *env, const struct bind_request *req,
			  struct bind_answer *ans, int *ret_fd, struct err *why)
{
	bool rents = env->policy.n_vendors > 0;

	switch ((enum bind_act)req->act) {
	case BIND_LIST:
		return rents ? act_list(env, ans, ret_fd, why) : PROTO_DENIED;
	case BIND_TAKE:
		return rents ? act_take(env, req, ans, why) : PROTO_DENIED;
	case BIND_GRANT:
		return rents ? act_grant(env, req, ans, ret_fd, why) : PROTO_DENIED;
	case BIND_REVOKE:
		return act_revoke(env, req, ans, why);
	case BIND_RELEASE:
		return act_release(env, req, ans, why);
	case BIND_RECOVER:
		return act_recover(env, req, ans, why);
	}
	return PROTO_INVALID;
}
