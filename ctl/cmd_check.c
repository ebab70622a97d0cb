/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check: the capability check of this host, with the agent's word where it answers.
 *
 * Trust: runs as the operator, read only.
 */
#include "ctl/api.h"
#include "ctl/check.h"

#define HOST_TIMEOUT_MS 2000
#define GPUS_TIMEOUT_MS 10000 /* the root helper looks at the machine */

/* Fills in what the agent knows; its absence is a finding and no failure. */
static void ask_agent(struct ctl *c, struct check_env *env, struct api_reply *reply,
		      struct api_reply *gpus_reply, struct api_reply *engine_reply)
{
	enum ctl_exit r;
	struct api *api = ctl_api(c, &r);
	const json_t *accel, *gpus;

	if (!api || api_call(api, "GET", "/v1/host", NULL, HOST_TIMEOUT_MS, reply) != CTL_OK)
		return;
	env->agent_answers = true;
	env->nvml = json_object_get(reply->data, "nvml");
	env->backend = json_string_value(json_object_get(reply->data, "backend"));
	accel = json_object_get(reply->data, "accel");
	env->accel_choice = json_string_value(json_object_get(accel, "choice"));
	env->accel_reason = json_string_value(json_object_get(accel, "reason"));
	if (env->backend && STR_EQ(env->backend, "container") &&
	    api_call(api, "GET", "/v1/engine", NULL, GPUS_TIMEOUT_MS, engine_reply) == CTL_OK)
		env->engine = engine_reply->data;
	if (api_call(api, "GET", "/v1/gpus", NULL, GPUS_TIMEOUT_MS, gpus_reply) != CTL_OK)
		return;
	gpus = json_object_get(gpus_reply->data, "gpus");
	env->gpus = json_is_array(gpus) ? gpus : NULL;
	if (json_object_get(gpus_reply->data, "nvml"))
		env->nvml = json_object_get(gpus_reply->data, "nvml");
}

enum ctl_exit cmd_check(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0}, gpus_reply = {0}, engine_reply = {0};
	_cleanup_(check_report_done) struct check_report report = {0};
	struct check_env env;
	size_t failures;

	check_env_real(&env);
	if (env.root_fd < 0)
		return ctl_fail(c, CTL_FAILED, "cannot open /: %s", strerror(errno));
	if (ctl_value(c, OPT_IMAGES_DIR))
		env.images_dir = ctl_value(c, OPT_IMAGES_DIR);
	ask_agent(c, &env, &reply, &gpus_reply, &engine_reply);
	check_all(&env, &report);
	(void)safe_close(env.root_fd);
	failures = check_count(&report, CHECK_FAIL);
	if (c->json) {
		json_t *json = check_to_json(&report);

		ctl_print_json(json);
		json_decref(json);
	} else {
		check_print(&report, stdout, c->color_out);
	}
	return failures ? CTL_FAILED : CTL_OK;
}
