/* SPDX-License-Identifier: Apache-2.0 */
/*
 * create: from options to a request, and from the answer to a running instance.
 *
 * Trust: runs as the operator; reads argv, key files and the agent's answers.
 */
#include <inttypes.h>

#include "ctl/instance.h"
#include "ctl/keyfile.h"
#include "ctl/text.h"

#define CPUS_MAX 1024

static enum ctl_exit add_size(struct ctl *c, json_t *body)
{
	const char *cpus = ctl_value(c, OPT_CPUS), *memory = ctl_value(c, OPT_MEMORY);
	const char *disk = ctl_value(c, OPT_DISK);
	uint32_t value;
	char text[24];

	if (cpus) {
		if (parse_u32(cpus, 1, CPUS_MAX, &value) < 0)
			return ctl_fail(c, CTL_USAGE, "--cpus: not a number of CPUs: %s", cpus);
		snprintf(text, sizeof(text), "%" PRIu32, value);
		json_object_set_new(body, "cpus", json_string(text));
	}
	if (memory) {
		if (parse_size_mib(memory, &value) < 0)
			return ctl_fail(c, CTL_USAGE, "--memory: not a size such as 8G or 512M: %s",
					memory);
		snprintf(text, sizeof(text), "%" PRIu32 "%c", value % 1024 ? value : value / 1024,
			 value % 1024 ? 'M' : 'G');
		json_object_set_new(body, "memory", json_string(text));
	}
	if (disk) {
		if (parse_size_mib(disk, &value) < 0 || value % 1024 != 0)
			return ctl_fail(c, CTL_USAGE,
					"--disk: not a size in whole GiB, such as "
					"50G: %s",
					disk);
		json_object_set_new(body, "storage_gb", json_integer(value / 1024));
	}
	return CTL_OK;
}

/* A number of GPUs, or their addresses; whether they can be had, the agent says. */
static enum ctl_exit add_gpus(struct ctl *c, json_t *body)
{
	const char *gpus = ctl_value(c, OPT_GPUS);
	uint32_t count;
	json_t *list;

	if (!gpus)
		return CTL_OK;
	if (parse_u32(gpus, 0, UINT32_MAX, &count) == 0) {
		json_object_set_new(body, "gpus", json_integer(count));
		return CTL_OK;
	}
	list = parse_gpus(gpus);
	if (!list)
		return ctl_fail(c, CTL_USAGE,
				"--gpus: not a number, nor addresses such as "
				"0000:01:00.0,0000:02:00.0: %s",
				gpus);
	json_object_set_new(body, "gpus", list);
	return CTL_OK;
}

static enum ctl_exit add_port(struct ctl *c, json_t *ports, const char *text)
{
	struct parse_port port;
	json_t *json;

	if (parse_port(text, &port) < 0)
		return ctl_fail(c, CTL_USAGE, "--port: not PORT[:HOST_PORT|:auto][/tcp|/http]: %s",
				text);
	json = json_pack("{s:i}", "container_port", (int)port.container_port);
	if (port.remote_port)
		json_object_set_new(json, "remote_port", json_integer(port.remote_port));
	if (port.proto)
		json_object_set_new(json, "proto", json_string(port.proto));
	json_array_append_new(ports, json);
	return CTL_OK;
}

static enum ctl_exit add_env(struct ctl *c, json_t *env, const char *option, const char *text)
{
	int r = parse_env(text, env);

	if (r == 0)
		return CTL_OK;
	/* The value may be a secret: only the name is repeated. */
	return ctl_fail(c, CTL_USAGE, "%s: %s: %.*s", option,
			r == -ENOENT ? "not set in the environment"
				     : "not KEY=VALUE with a name of letters, digits and _",
			(int)strcspn(text, "="), text);
}

static enum ctl_exit add_env_file(struct ctl *c, json_t *env, const char *path)
{
	enum ctl_exit r = CTL_FAILED;
	_cleanup_free_ char *text = file_read_text(c, path, &r);
	char *line, *save = NULL;

	if (!text)
		return r;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		line += strspn(line, " \t");
		if (*line == '#' || *line == 0)
			continue;
		r = add_env(c, env, path, line);
		if (r != CTL_OK)
			return r;
	}
	return CTL_OK;
}

/* Options whose text goes into the request as it is; others are none of its business. */
static enum ctl_exit add_text(struct ctl *c, json_t *body, const struct ctl_given *given)
{
	static const struct {
		enum ctl_opt id;
		const char *key;
	} texts[] = {{OPT_NAME, "name"}, {OPT_IMAGE, "image"}, {OPT_COMMAND, "command"}};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		if (texts[i].id != given->id)
			continue;
		if (json_object_set_new(body, texts[i].key, json_string(given->value)) < 0)
			return ctl_fail(c, CTL_USAGE, "--%s: not UTF-8 text", texts[i].key);
	}
	return CTL_OK;
}

/* The body of POST /v1/instances (owned by the caller), or NULL with the failure reported. */
static json_t *create_request(struct ctl *c, enum ctl_exit *ret_code)
{
	json_t *body = json_object(), *ports = json_array(), *env = json_object();
	enum ctl_exit r = add_size(c, body);

	if (r == CTL_OK)
		r = add_gpus(c, body);
	for (size_t i = 0; r == CTL_OK && i < c->n_given; i++) {
		const char *value = c->given[i].value;

		if (c->given[i].id == OPT_PORT)
			r = add_port(c, ports, value);
		else if (c->given[i].id == OPT_ENV)
			r = add_env(c, env, "--env", value);
		else if (c->given[i].id == OPT_ENV_FILE)
			r = add_env_file(c, env, value);
		else
			r = add_text(c, body, &c->given[i]);
	}
	if (json_array_size(ports) > 0)
		json_object_set(body, "ports", ports);
	if (json_object_size(env) > 0)
		json_object_set(body, "env_variables", env);
	json_object_set_new(body, "ssh_enabled", json_true());
	json_decref(ports);
	json_decref(env);
	*ret_code = r;
	if (r == CTL_OK)
		return body;
	json_decref(body);
	return NULL;
}

/* The public keys of all --ssh-key options as a JSON array (owned), read before anything is made.
 */
static json_t *read_keys(struct ctl *c, enum ctl_exit *ret_code)
{
	json_t *keys = json_array();

	*ret_code = CTL_OK;
	for (size_t i = 0; i < c->n_given; i++) {
		_cleanup_free_ char *key = NULL;

		if (c->given[i].id != OPT_SSH_KEY)
			continue;
		key = file_read_public_key(c, c->given[i].value, ret_code);
		if (!key) {
			json_decref(keys);
			return NULL;
		}
		json_array_append_new(keys, json_string(key));
	}
	return keys;
}

/* Adds @keys; a conflict (the guest is not up yet) is silent and returned when @early. */
static enum ctl_exit add_keys(struct ctl *c, const char *id, const json_t *keys, bool early)
{
	enum ctl_exit r = CTL_OK;
	struct api *api = ctl_api(c, &r);
	char path[96];
	json_t *key;
	size_t i;

	snprintf(path, sizeof(path), "/v1/instances/%s/ssh", id);
	json_array_foreach (keys, i, key) {
		_cleanup_reply_ struct api_reply reply = {0};
		json_t *body = json_pack("{s:O}", "ssh_pubkey", key);

		r = api_call(api, "POST", path, body, API_TIMEOUT_MS, &reply);
		json_decref(body);
		if (r == CTL_CONFLICT && early)
			return r;
		if (r != CTL_OK)
			return ctl_fail(c, r,
					"%s was created, but the SSH key could not be added: "
					"%s",
					id, reply.error);
	}
	return CTL_OK;
}

static enum ctl_exit post(struct ctl *c, const json_t *body, char ret_id[static PARSE_NAME_MAX + 1],
			  json_t **ret_data)
{
	_cleanup_reply_ struct api_reply reply = {0};
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(c, &r);
	const char *id;

	if (!api)
		return r;
	r = api_call(api, "POST", "/v1/instances", body, API_TIMEOUT_MS, &reply);
	if (r != CTL_OK)
		return ctl_fail(c, r, "%s", reply.error);
	id = json_string_value(json_object_get(reply.data, "instance_id"));
	if (!id || !parse_is_name(id))
		return ctl_fail(c, CTL_FAILED,
				"the agent created an instance, but did not say its "
				"id; see: qudatactl list");
	snprintf(ret_id, PARSE_NAME_MAX + 1, "%s", id);
	*ret_data = json_incref(reply.data);
	return CTL_OK;
}

/* What follows the creation: keys, and the wait if wanted. @data is replaced by a newer
 * description. */
static enum ctl_exit settle(struct ctl *c, const char *id, const json_t *keys, uint32_t timeout_s,
			    json_t **data)
{
	bool wait = ctl_has(c, OPT_WAIT) || (isatty(STDERR_FILENO) && !ctl_has(c, OPT_NO_WAIT));
	enum ctl_exit early, r;
	json_t *json = NULL;

	early = add_keys(c, id, keys, /* early= */ wait);
	if (early != CTL_OK && early != CTL_CONFLICT)
		return early;
	if (!wait)
		return early;
	r = instance_wait(c, id, "running", timeout_s, /* progress= */ true, &json);
	if (r == CTL_OK && early == CTL_CONFLICT)
		r = add_keys(c, id, keys, /* early= */ false);
	if (json) {
		json_decref(*data);
		*data = json;
	}
	return r;
}

enum ctl_exit cmd_create(struct ctl *c)
{
	char id[PARSE_NAME_MAX + 1];
	json_t *body = NULL, *keys = NULL, *data = NULL;
	uint32_t timeout_s;
	enum ctl_exit r = instance_wait_timeout(c, &timeout_s);

	if (r == CTL_OK)
		body = create_request(c, &r);
	if (r == CTL_OK)
		keys = read_keys(c, &r);
	if (r == CTL_OK)
		r = post(c, body, id, &data);
	if (r == CTL_OK) {
		/* Said at once: whatever fails later, the caller knows what to clean up. */
		if (!c->json)
			puts(id);
		(void)fflush(stdout);
		r = settle(c, id, keys, timeout_s, &data);
	}
	if (r == CTL_OK && c->json)
		ctl_print_json(data);
	json_decref(body);
	json_decref(keys);
	json_decref(data);
	return r;
}
