/* SPDX-License-Identifier: Apache-2.0 */
/*
 * version and completion.
 *
 * Trust: runs as the operator; reads the agent's answer.
 */
#include "ctl/api.h"
#include "ctl/text.h"

#define VERSION_TIMEOUT_MS 3000

enum ctl_exit cmd_version(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(c, &r);
	const char *agent = NULL;
	json_t *json;

	if (!api)
		return r;
	if (api_call(api, "GET", "/v1/host", NULL, VERSION_TIMEOUT_MS, &reply) == CTL_OK)
		agent = json_string_value(json_object_get(reply.data, "version"));
	if (c->json) {
		json = json_pack("{s:s, s:s?}", "qudatactl", QUDATA_VERSION, "agent", agent);
		ctl_print_json(json);
		json_decref(json);
		return CTL_OK;
	}
	puts("qudatactl " QUDATA_VERSION);
	fputs("agent     ", stdout);
	if (agent)
		text_put(stdout, agent, strlen(agent));
	else
		fputs("not reachable", stdout);
	putchar('\n');
	return CTL_OK;
}

enum ctl_exit cmd_completion(struct ctl *c)
{
	static const struct {
		const char *word;
		void (*print)(FILE *f);
	} kinds[] = {
		{"bash", ctl_completion_bash},
		{"zsh", ctl_completion_zsh},
		{"mdoc", ctl_mdoc},
	};

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		if (!STR_EQ(ctl_arg(c, 0), kinds[i].word))
			continue;
		kinds[i].print(stdout);
		return CTL_OK;
	}
	return ctl_fail(c, CTL_USAGE, "no completion for %s", ctl_arg(c, 0));
}
