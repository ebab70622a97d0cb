/* SPDX-License-Identifier: Apache-2.0 */
/*
 * keys list, keys add, keys remove.
 *
 * Trust: runs as the operator; reads key files, prints the agent's answers escaped.
 */
#include "ctl/instance.h"
#include "ctl/keyfile.h"
#include "ctl/text.h"

/* "[ID] WHAT": the last argument, and before it maybe the instance. */
static enum ctl_exit pick_for_key(struct ctl *c, char ret_id[static PARSE_NAME_MAX + 1],
				  const char **ret_what)
{
	*ret_what = ctl_arg(c, c->n_args - 1);
	return instance_pick(c, c->n_args > 1 ? ctl_arg(c, 0) : NULL, ret_id);
}

static enum ctl_exit get_keys(struct ctl *c, const char *id, struct api_reply *ret_reply)
{
	enum ctl_exit r = instance_call(c, "GET", id, "/ssh", NULL, ret_reply);

	if (r != CTL_OK)
		return r;
	if (json_is_array(json_object_get(ret_reply->data, "keys")))
		return CTL_OK;
	return ctl_fail(c, CTL_FAILED, "%s: the agent's answer holds no list of keys", id);
}

enum ctl_exit cmd_keys_list(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	char id[PARSE_NAME_MAX + 1];
	enum ctl_exit r = instance_pick(c, ctl_arg(c, 0), id);
	const json_t *key;
	size_t i;

	if (r == CTL_OK)
		r = get_keys(c, id, &reply);
	if (r != CTL_OK)
		return r;
	if (c->json) {
		ctl_print_json(reply.data);
		return CTL_OK;
	}
	json_array_foreach (json_object_get(reply.data, "keys"), i, key) {
		const char *text = json_string_value(key);

		if (!text)
			continue;
		text_put(stdout, text, strlen(text));
		putchar('\n');
	}
	return CTL_OK;
}

/* POST or DELETE of one key, and its report. */
static enum ctl_exit change_key(struct ctl *c, const char *method, const char *id, const char *key,
				const char *said)
{
	_cleanup_reply_ struct api_reply reply = {0};
	json_t *body = json_pack("{s:s}", "ssh_pubkey", key);
	enum ctl_exit r;

	if (!body)
		return ctl_fail(c, CTL_USAGE, "the key is not UTF-8 text");
	r = instance_call(c, method, id, "/ssh", body, &reply);
	json_decref(body);
	if (r != CTL_OK)
		return r;
	ctl_note(c, "%s: %s %s", id, said, parse_key_comment(key));
	if (c->json)
		ctl_print_json(reply.data ? reply.data : json_null());
	return CTL_OK;
}

enum ctl_exit cmd_keys_add(struct ctl *c)
{
	_cleanup_free_ char *key = NULL;
	char id[PARSE_NAME_MAX + 1];
	const char *path;
	enum ctl_exit r = pick_for_key(c, id, &path);

	if (r != CTL_OK)
		return r;
	key = file_read_public_key(c, path, &r);
	return key ? change_key(c, "POST", id, key, "added key") : r;
}

/* The key in @keys that equals @line, or whose comment is @line; NULL if none or several. */
static const char *find_key(const json_t *keys, const char *line, size_t *ret_n)
{
	const char *found = NULL;
	const json_t *json;
	size_t i;

	*ret_n = 0;
	json_array_foreach (keys, i, json) {
		const char *key = json_string_value(json);

		if (!key || !(parse_same_key(key, line) || STR_EQ(parse_key_comment(key), line)))
			continue;
		found = key;
		(*ret_n)++;
	}
	return *ret_n == 1 ? found : NULL;
}

enum ctl_exit cmd_keys_remove(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	_cleanup_free_ char *line = NULL;
	char id[PARSE_NAME_MAX + 1];
	const char *what, *key;
	enum ctl_exit r = pick_for_key(c, id, &what);
	size_t n;

	if (r != CTL_OK)
		return r;
	if (STR_EQ(what, "-") || access(what, F_OK) == 0) {
		line = file_read_public_key(c, what, &r);
		if (!line)
			return r;
		what = line;
	}
	r = get_keys(c, id, &reply);
	if (r != CTL_OK)
		return r;
	key = find_key(json_object_get(reply.data, "keys"), what, &n);
	if (!key)
		return ctl_fail(c, n ? CTL_USAGE : CTL_NOT_FOUND, "%s: %s this key: %s", id,
				n ? "more than one key matches" : "does not have", what);
	return change_key(c, "DELETE", id, key, "removed key");
}
