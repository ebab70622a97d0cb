/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes to the control plane and what comes from it, as JSON. Pure.
 * Trust: runs in control-client; reads the answers of whoever speaks in the control plane's name.
 */
#include "agentd/control/client.h"

#include "common/json_text.h"

#include <jansson.h>

#define NESTING_MAX 16 /* an answer nests three deep */

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}
#define _cleanup_json_ _cleanup_(cleanup_json)

/* ---- out ---- */

/* Members that would say nothing are left out rather than guessed. */
static void put_text(json_t *object, const char *key, const char *value)
{
	if (value[0] != '\0')
		(void)json_object_set_new(object, key, json_string(value));
}

static void put_number(json_t *object, const char *key, uint32_t value)
{
	if (value != CONTROL_UNKNOWN)
		(void)json_object_set_new(object, key, json_integer(value));
}

/* A number that is kept in @unit-ths. */
static void put_real(json_t *object, const char *key, uint32_t value, uint32_t unit)
{
	if (value != CONTROL_UNKNOWN)
		(void)json_object_set_new(object, key, json_real((double)value / unit));
}

static char *dump(json_t *object)
{
	return json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(6));
}

char *body_init(const struct control_setup *s, const char *address)
{
	_cleanup_json_ json_t *object = json_object();

	put_text(object, "agent_id", s->agent_id);
	put_number(object, "agent_port", s->agent_port);
	put_text(object, "address", s->address[0] != '\0' ? s->address : address);
	put_text(object, "fingerprint", s->fingerprint);
	put_number(object, "pid", s->pid);
	put_text(object, "version", s->agent_version);
	if (s->test_mode)
		(void)json_object_set_new(object, "test_mode", json_true());
	return dump(object);
}

/* {"amount": in GiB, "unit": "GB"}, as the control plane's form has it. */
static void put_size(json_t *object, const char *key, uint32_t mib)
{
	if (mib != CONTROL_UNKNOWN)
		(void)json_object_set_new(
			object, key,
			json_pack("{s:f, s:s}", "amount", (double)mib / 1024, "unit", "GB"));
}

static json_t *host_configuration(const struct control_host *h)
{
	json_t *object = json_object();

	put_size(object, "ram", h->ram_mib);
	put_size(object, "disk", h->disk_mib);
	put_text(object, "cpu_name", h->cpu_name);
	put_number(object, "cpu_cores", h->cpu_cores);
	put_number(object, "vcpu", h->vcpu);
	put_real(object, "cpu_freq", h->cpu_mhz, 1000);
	put_number(object, "memory_speed", h->memory_mhz);
	put_real(object, "ethernet_in", h->ethernet_mbit, 1000);
	put_real(object, "ethernet_out", h->ethernet_mbit, 1000);
	put_number(object, "capacity", h->capacity);
	put_text(object, "max_cuda_version", h->max_cuda);
	return object;
}

char *body_host(const struct control_host *h)
{
	_cleanup_json_ json_t *object = json_object();
	json_t *location = json_object();

	put_text(object, "gpu_name", h->gpu_name);
	put_number(object, "gpu_amount", h->gpu_amount);
	put_real(object, "vram", h->vram_mib, 1024);
	put_text(object, "max_cuda", h->max_cuda);
	put_text(location, "city", h->city);
	put_text(location, "country", h->country);
	put_text(location, "region", h->region);
	(void)json_object_set_new(object, "location", location);
	(void)json_object_set_new(object, "configuration", host_configuration(h));
	return dump(object);
}

char *body_stats(const struct control_stats *s)
{
	_cleanup_json_ json_t *object = json_object();

	put_real(object, "gpu_util", s->gpu_util, 1000);
	put_real(object, "gpu_temp", s->gpu_temp, 1000);
	put_real(object, "cpu_util", s->cpu_util, 1000);
	put_real(object, "ram_util", s->ram_util, 1000);
	put_real(object, "mem_util", s->mem_util, 1000);
	(void)json_object_set_new(object, "inet_in", json_integer((json_int_t)s->inet_in));
	(void)json_object_set_new(object, "inet_out", json_integer((json_int_t)s->inet_out));
	put_text(object, "status", s->status);
	return dump(object);
}

/* ---- in ---- */

/* The `data` of an answer that is {"ok":true,…}; *ret_root is to be released. */
static int open_envelope(const char *text, size_t len, json_t **ret_root, json_t **ret_data,
			 struct err *reterr)
{
	json_t *root = json_nesting_ok(text, len, NESTING_MAX)
			       ? json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL)
			       : NULL;

	*ret_root = root;
	if (!json_is_object(root))
		return err_set(reterr, -EBADMSG, "the answer is no JSON object");
	if (!json_is_true(json_object_get(root, "ok")))
		return err_set(reterr, -EBADMSG, "the answer does not say ok");
	*ret_data = json_object_get(root, "data");
	return 0;
}

int body_parse_ok(const char *text, size_t len, struct err *reterr)
{
	_cleanup_json_ json_t *root = NULL;
	json_t *data = NULL;

	return open_envelope(text, len, &root, &data, reterr);
}

static int take_flag(const json_t *data, const char *key, uint32_t *ret_flag, struct err *reterr)
{
	const json_t *value = json_object_get(data, key);

	if (value && !json_is_boolean(value) && !json_is_null(value))
		return err_set(reterr, -EBADMSG, "%s is neither true nor false", key);
	*ret_flag = json_is_true(value);
	return 0;
}

static int take_text(const json_t *data, const char *key, bool (*ok)(const char *text), char *field,
		     size_t size, struct err *reterr)
{
	const json_t *value = json_object_get(data, key);
	const char *text = json_string_value(value);
	size_t len = json_string_length(value);

	if (!value || json_is_null(value) || (text && len == 0))
		return 0;
	if (!text || len >= size || strlen(text) != len || !ok(text))
		return err_set(reterr, -EBADMSG, "%s is not of its form", key);
	memcpy(field, text, len);
	return 0;
}

static int take_frp(const json_t *data, struct control_init *init, struct err *reterr)
{
	const json_t *frp = json_object_get(data, "frp");
	json_int_t port;
	int r;

	if (!frp || json_is_null(frp))
		return 0;
	port = json_integer_value(json_object_get(frp, "server_port"));
	if (port < 1 || port > UINT16_MAX)
		return err_set(reterr, -EBADMSG, "frp.server_port is no port");
	init->frp_port = (uint32_t)port;
	r = take_text(frp, "server_addr", control_host_ok, init->frp_server,
		      sizeof(init->frp_server), reterr);
	if (r == 0)
		r = take_text(frp, "token", control_token_ok, init->frp_token,
			      sizeof(init->frp_token), reterr);
	if (r == 0)
		r = take_text(frp, "subdomain", control_host_ok, init->frp_subdomain,
			      sizeof(init->frp_subdomain), reterr);
	return r;
}

int body_parse_init(const char *text, size_t len, struct control_init *ret_init, struct err *reterr)
{
	struct control_init init = {0};
	_cleanup_json_ json_t *root = NULL;
	json_t *data = NULL;
	int r = open_envelope(text, len, &root, &data, reterr);

	if (r == 0 && !json_is_object(data))
		r = err_set(reterr, -EBADMSG, "the answer has no data");
	if (r == 0)
		r = take_flag(data, "agent_created", &init.agent_created, reterr);
	if (r == 0)
		r = take_flag(data, "host_exists", &init.host_exists, reterr);
	if (r == 0)
		r = take_flag(data, "instance_running", &init.instance_running, reterr);
	if (r == 0)
		r = take_flag(data, "emergency_reinit", &init.emergency_reinit, reterr);
	if (r == 0)
		r = take_text(data, "secret_key", control_secret_ok, init.secret,
			      sizeof(init.secret), reterr);
	if (r == 0)
		r = take_text(data, "tunnel_token", control_token_ok, init.tunnel_token,
			      sizeof(init.tunnel_token), reterr);
	if (r == 0)
		r = take_frp(data, &init, reterr);
	if (r == 0 && !control_init_ok(&init))
		r = err_set(reterr, -EBADMSG, "the values of the answer do not go together");
	if (r == 0)
		*ret_init = init;
	explicit_bzero(&init, sizeof(init));
	return r;
}
