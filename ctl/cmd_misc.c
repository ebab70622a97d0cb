/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host, version and completion.
 *
 * Trust: runs as the operator; reads the agent's answer.
 */
#include "ctl/api.h"
#include "ctl/text.h"

#define VERSION_TIMEOUT_MS 3000

/* "a.b  value" for each leaf of @json. */
static void print_leaves(const json_t *json, const char *prefix)
{
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)json, key, value) {
		_cleanup_free_ char *safe = text_safe(key), *text = NULL;
		char name[256];

		snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", safe);
		if (json_is_object(value)) {
			print_leaves(value, name);
			continue;
		}
		if (json_is_string(value))
			text = text_safe(json_string_value(value));
		else
			text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
		printf("%-32s %s\n", name, text ? text : "");
	}
}

enum ctl_exit cmd_host(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(c, &r);

	if (!api)
		return r;
	r = api_call(api, "GET", "/v1/host", NULL, API_TIMEOUT_MS, &reply);
	if (r != CTL_OK)
		return ctl_fail(c, r, "%s", reply.error);
	if (!json_is_object(reply.data))
		return ctl_fail(c, CTL_FAILED, "the agent's answer describes no host");
	if (c->json)
		ctl_print_json(reply.data);
	else
		print_leaves(reply.data, "");
	return CTL_OK;
}

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
