/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading of request bodies.
 * Trust: runs inside agentd; reads JSON of strangers.
 */
#include "agentd/request.h"

#include "agentd/gpus.h"
#include "common/cmdline.h"
#include "common/imageref.h"
#include "common/json_text.h"

#include <math.h>

#define IMAGE_MAX           255
#define TAG_MAX             128
#define ENV_NAME_MAX        256
#define SSH_PORT            22
#define CONTAINER_SSH_FIRST 2222
#define MIB_PER_GIB         1024.0
#define NESTING_MAX         16
#define MEMORY_MIN          128  /* MiB; as the protocol has it */
#define HOST_PORT_MIN       1024 /* the lower ones are the administrator's */

#define ALNUM  "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
#define DIGITS "0123456789"

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

#define _cleanup_json_ _cleanup_(cleanup_json)

void create_request_done(struct create_request *req)
{
	json_decref(TAKE_PTR(req->tenant));
}

static int load_object(const void *body, size_t len, json_t **ret_json, struct err *reterr)
{
	json_error_t error;
	json_t *json;

	if (len == 0)
		return err_set(reterr, -EINVAL, "the body is empty; a JSON object is expected");
	if (!json_nesting_ok(body, len, NESTING_MAX))
		return err_set(reterr, -EINVAL, "the body nests deeper than %d levels",
			       NESTING_MAX);
	json = json_loadb(body, len, JSON_REJECT_DUPLICATES, &error);
	if (!json)
		return err_set(reterr, -EINVAL,
			       "the body is not valid JSON: %s (line %d, column %d)", error.text,
			       error.line, error.column);
	if (!json_is_object(json)) {
		json_decref(json);
		return err_set(reterr, -EINVAL, "the body must be a JSON object");
	}
	*ret_json = json;
	return 0;
}

/* A member that is there and says something: null and "" are what some clients send for nothing. */
static const json_t *member(const json_t *object, const char *key)
{
	const json_t *v = json_object_get(object, key);

	if (!v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0))
		return NULL;
	return v;
}

/* The text of a member, NULL when absent; at most @max bytes, without control characters. */
static int get_text(const json_t *object, const char *key, size_t max, bool lines,
		    const char **ret_text, struct err *reterr)
{
	const json_t *v = member(object, key);
	const char *text;

	*ret_text = NULL;
	if (!v)
		return 0;
	if (!json_is_string(v))
		return err_set(reterr, -EINVAL, "%s must be a string", key);
	if (json_string_length(v) > max)
		return err_set(reterr, -EINVAL, "%s is longer than %zu bytes", key, max);
	text = json_string_value(v);
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 &&
		    !(lines && (*p == '\n' || *p == '\t' || *p == '\r')))
			return err_set(reterr, -EINVAL, "%s has a control character in it", key);
	*ret_text = text;
	return 0;
}

static bool made_of(const char *text, const char *chars)
{
	return text[strspn(text, chars)] == '\0';
}

/* A plain decimal number with an optional fraction; *@ret_end is behind it. */
static int parse_decimal(const char *text, double *ret_value, const char **ret_end)
{
	size_t whole = strspn(text, DIGITS), fraction = 0;
	char buf[32];

	if (whole == 0)
		return -EINVAL;
	if (text[whole] == '.') {
		fraction = 1 + strspn(text + whole + 1, DIGITS);
		if (fraction == 1)
			return -EINVAL;
	}
	if (whole + fraction >= sizeof(buf))
		return -ERANGE;
	memcpy(buf, text, whole + fraction);
	buf[whole + fraction] = '\0';
	*ret_value = strtod(buf, NULL);
	*ret_end = text + whole + fraction;
	return 0;
}

static int to_mib(double mib, uint32_t *ret_mib)
{
	mib = ceil(mib);
	if (!(mib >= 1.0 && mib <= (double)PROTO_MAX_DISK_MIB))
		return -ERANGE;
	*ret_mib = (uint32_t)mib;
	return 0;
}

int request_parse_size(const char *text, uint32_t *ret_mib)
{
	static const struct {
		const char *unit;
		double mib;
	} units[] = {
		{"", 1.0}, {"k", 1.0 / 1024}, {"m", 1.0}, {"g", 1024.0}, {"t", 1024.0 * 1024},
	};
	static const char *const tails[] = {"", "b", "i", "ib"};
	const char *end;
	double value;
	int r = parse_decimal(text, &value, &end);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_LEN(units); i++)
		for (size_t j = 0; j < ARRAY_LEN(tails); j++) {
			char unit[8];

			if (i == 0 && j > 0)
				continue;
			(void)snprintf(unit, sizeof(unit), "%s%s", units[i].unit, tails[j]);
			if (strcasecmp(end, unit) == 0)
				return to_mib(value * units[i].mib, ret_mib);
		}
	return -EINVAL;
}

/* A number or a string that holds one. */
static int get_decimal(const json_t *v, const char *field, double *ret_value, struct err *reterr)
{
	const char *end = "";
	double value = 0;
	int r = -EINVAL;

	if (json_is_number(v)) {
		value = json_number_value(v);
		r = 0;
	} else if (json_is_string(v)) {
		r = parse_decimal(json_string_value(v), &value, &end);
	}
	if (r < 0 || *end != '\0' || !(value >= 0))
		return err_set(reterr, -EINVAL, "%s must be a number", field);
	*ret_value = value;
	return 0;
}

/* 0 when absent. */
static int get_count(const json_t *v, const char *field, uint32_t low, uint32_t high,
		     uint32_t *ret_count, struct err *reterr)
{
	double value;
	int r;

	if (!v)
		return 0;
	r = get_decimal(v, field, &value, reterr);
	if (r < 0)
		return r;
	if (value != floor(value) || value < low || value > high)
		return err_set(reterr, -EINVAL, "%s must be a whole number from %u to %u", field,
			       low, high);
	*ret_count = (uint32_t)value;
	return 0;
}

static int get_gib(const json_t *v, const char *field, uint32_t *ret_mib, struct err *reterr)
{
	double gib;
	int r;

	if (!v)
		return 0;
	r = get_decimal(v, field, &gib, reterr);
	if (r < 0)
		return r;
	if (to_mib(gib * MIB_PER_GIB, ret_mib) < 0)
		return err_set(reterr, -EINVAL, "%s must be more than 0 and at most %u (GiB)",
			       field, PROTO_MAX_DISK_MIB / 1024);
	return 0;
}

static int get_memory(const json_t *body, uint32_t *ret_mib, struct err *reterr)
{
	const json_t *v = member(body, "memory");
	uint32_t mib = 0;
	char number[32];
	int r;

	if (!v)
		return 0;
	if (json_is_integer(v)) {
		(void)snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
			       json_integer_value(v));
		r = request_parse_size(number, &mib);
	} else {
		r = json_is_string(v) ? request_parse_size(json_string_value(v), &mib) : -EINVAL;
	}
	if (r == 0 && (mib < MEMORY_MIN || mib > PROTO_MAX_MEMORY_MIB))
		r = -ERANGE;
	if (r < 0)
		return err_set(reterr, -EINVAL,
			       "memory must be a size such as \"8G\" or \"512M\", from %uM to %uG",
			       MEMORY_MIN, PROTO_MAX_MEMORY_MIB / 1024);
	*ret_mib = mib;
	return 0;
}

static int get_disk(const json_t *body, uint32_t *ret_mib, struct err *reterr)
{
	uint32_t storage = 0, disk = 0;
	int r = get_gib(member(body, "storage_gb"), "storage_gb", &storage, reterr);

	if (r == 0)
		r = get_gib(member(body, "disk_size_gb"), "disk_size_gb", &disk, reterr);
	if (r < 0)
		return r;
	if (storage && disk && storage != disk)
		return err_set(reterr, -EINVAL,
			       "storage_gb and disk_size_gb mean the same and differ; give one");
	*ret_mib = storage ? storage : disk;
	return 0;
}

/* Ports. */

static int add_port(struct create_request *req, const struct port_request *port, const char *field,
		    struct err *reterr)
{
	for (size_t i = 0; i < req->n_ports; i++) {
		if (req->ports[i].guest == port->guest)
			return err_set(reterr, -EINVAL, "%s names port %u twice", field,
				       port->guest);
		if (port->host && req->ports[i].host == port->host)
			return err_set(reterr, -EINVAL, "%s gives host port %u to two ports", field,
				       port->host);
	}
	if (req->n_ports == PROTO_MAX_PORTS)
		return err_set(reterr, -EINVAL,
			       "%s holds more than %d ports (22 counts, with ssh_enabled and an "
			       "image twice)",
			       field, PROTO_MAX_PORTS);
	req->ports[req->n_ports++] = *port;
	return 0;
}

/* A whole number up to 65535 at the start of @text; its length in *@ret_len. */
static int parse_port_number(const char *text, uint16_t *ret_port, size_t *ret_len)
{
	size_t len = strspn(text, DIGITS);
	unsigned long value;

	if (len == 0 || len > 5)
		return -EINVAL;
	value = strtoul(text, NULL, 10);
	if (value > UINT16_MAX)
		return -EINVAL;
	*ret_port = (uint16_t)value;
	*ret_len = len;
	return 0;
}

static int parse_proto(const char *word, enum port_proto *ret_proto)
{
	if (strcasecmp(word, "tcp") == 0)
		*ret_proto = PORT_TCP;
	else if (strcasecmp(word, "http") == 0)
		*ret_proto = PORT_HTTP;
	else
		return -EINVAL;
	return 0;
}

/* "8080", "8080/tcp" or 8080. */
static int parse_guest_port(const json_t *v, const char *field, struct port_request *ret_port,
			    struct err *reterr)
{
	struct port_request port = {0};
	const char *text;
	char number[24];
	size_t len;
	int r = -EINVAL;

	if (json_is_integer(v)) {
		(void)snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
			       json_integer_value(v));
		text = number;
	} else {
		text = json_is_string(v) ? json_string_value(v) : "";
	}
	if (parse_port_number(text, &port.guest, &len) == 0 && port.guest != 0) {
		port.proto = port.guest == SSH_PORT ? PORT_TCP : PORT_HTTP;
		r = text[len] == '\0'  ? 0
		    : text[len] == '/' ? parse_proto(text + len + 1, &port.proto)
				       : -EINVAL;
	}
	if (r < 0)
		return err_set(reterr, -EINVAL, "%s must be a port from 1 to 65535", field);
	*ret_port = port;
	return 0;
}

/* "auto", "", null and 0 mean any. */
static int parse_host_port(const json_t *v, const char *field, uint16_t *ret_port,
			   struct err *reterr)
{
	json_int_t n = -1;
	uint16_t port = 0;
	size_t len = 0;

	if (!v || json_is_null(v)) {
		n = 0;
	} else if (json_is_integer(v)) {
		n = json_integer_value(v);
	} else if (json_is_string(v)) {
		const char *text = json_string_value(v);

		if (*text == '\0' || strcasecmp(text, "auto") == 0)
			n = 0;
		else if (parse_port_number(text, &port, &len) == 0 && text[len] == '\0')
			n = port;
	}
	if (n != 0 && (n < HOST_PORT_MIN || n > UINT16_MAX))
		return err_set(reterr, -EINVAL, "%s must be \"auto\" or a port from %d to 65535",
			       field, HOST_PORT_MIN);
	*ret_port = (uint16_t)n;
	return 0;
}

/* {"8080": "auto", "3000": "3000"} */
static int ports_from_object(const json_t *ports, struct create_request *req, struct err *reterr)
{
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)ports, key, value) {
		_cleanup_json_ json_t *guest = json_string(key);
		struct port_request port;
		char field[32];
		int r;

		(void)snprintf(field, sizeof(field), "ports.%.20s", key);
		r = parse_guest_port(guest, field, &port, reterr);
		if (r == 0)
			r = parse_host_port(value, field, &port.host, reterr);
		if (r == 0)
			r = add_port(req, &port, "ports", reterr);
		if (r < 0)
			return r;
	}
	return 0;
}

/* {"container_port" or "guest_port": 8080, "remote_port": 20000, "proto": "http"} */
static int port_from_object(const json_t *entry, const char *field, struct port_request *ret_port,
			    struct err *reterr)
{
	const json_t *guest = member(entry, "container_port");
	const json_t *other = member(entry, "guest_port");
	const json_t *proto = member(entry, "proto");
	char name[64];
	int r;

	if (guest && other && !json_equal(guest, other))
		return err_set(reterr, -EINVAL,
			       "%s.container_port and guest_port mean the same and differ", field);
	(void)snprintf(name, sizeof(name), "%s.%s", field, guest ? "container_port" : "guest_port");
	guest = guest ? guest : other;
	if (!guest)
		return err_set(reterr, -EINVAL, "%s needs container_port or guest_port", field);
	r = parse_guest_port(guest, name, ret_port, reterr);
	if (r < 0)
		return r;
	(void)snprintf(name, sizeof(name), "%s.remote_port", field);
	r = parse_host_port(json_object_get(entry, "remote_port"), name, &ret_port->host, reterr);
	if (r < 0)
		return r;
	if (proto &&
	    (!json_is_string(proto) || parse_proto(json_string_value(proto), &ret_port->proto) < 0))
		return err_set(reterr, -EINVAL, "%s.proto must be \"tcp\" or \"http\"", field);
	return 0;
}

static int ports_from_array(const json_t *ports, struct create_request *req, struct err *reterr)
{
	for (size_t i = 0; i < json_array_size(ports); i++) {
		const json_t *entry = json_array_get(ports, i);
		struct port_request port = {0};
		char field[32];
		int r;

		(void)snprintf(field, sizeof(field), "ports[%zu]", i);
		r = json_is_object(entry) ? port_from_object(entry, field, &port, reterr)
					  : parse_guest_port(entry, field, &port, reterr);
		if (r == 0)
			r = add_port(req, &port, field, reterr);
		if (r < 0)
			return r;
	}
	return 0;
}

static int get_ports(const json_t *body, struct create_request *req, struct err *reterr)
{
	const struct port_request ssh = {.guest = SSH_PORT, .proto = PORT_TCP};
	const json_t *ports = member(body, "ports");
	const json_t *enabled = member(body, "ssh_enabled");
	int r = 0;

	if (enabled && !json_is_boolean(enabled))
		return err_set(reterr, -EINVAL, "ssh_enabled must be true or false");
	if (json_is_object(ports))
		r = ports_from_object(ports, req, reterr);
	else if (json_is_array(ports))
		r = ports_from_array(ports, req, reterr);
	else if (ports)
		r = err_set(reterr, -EINVAL, "ports must be an object or an array");
	if (r < 0)
		return r;
	for (size_t i = 0; i < req->n_ports; i++)
		if (req->ports[i].guest == SSH_PORT)
			return 0;
	/* Without a container there is no other way in than SSH, whatever ssh_enabled says. */
	return add_port(req, &ssh, "ports", reterr);
}

/* The tenant's part. */

static int put(struct create_request *req, const char *key, json_t *value, struct err *reterr)
{
	if (!value || json_object_set_new(req->tenant, key, value) < 0)
		return err_set(reterr, -ENOMEM, "out of memory");
	return 0;
}

static int copy_text(const json_t *body, const char *key, size_t max, bool lines,
		     struct create_request *req, struct err *reterr)
{
	const char *text;
	int r = get_text(body, key, max, lines, &text, reterr);

	if (r < 0 || !text)
		return r;
	return put(req, key, json_string(text), reterr);
}

bool request_image_has_tag(const char *image)
{
	const char *slash = strrchr(image, '/');

	return strchr(image, '@') || strchr(slash ? slash : image, ':');
}

static bool image_ok(const char *image)
{
	return strchr(ALNUM, image[0]) && made_of(image, ALNUM "._/:@-") && !strstr(image, "//") &&
	       image[strlen(image) - 1] != '/' && image[strlen(image) - 1] != ':';
}

static int get_image(const json_t *body, struct create_request *req, struct err *reterr)
{
	const char *image, *tag, *registry;
	char full[2 * IMAGE_MAX + TAG_MAX + 3];
	struct err why = {0};
	struct imageref ref;
	size_t n;
	int r = get_text(body, "image", IMAGE_MAX, false, &image, reterr);

	if (r == 0)
		r = get_text(body, "image_tag", TAG_MAX, false, &tag, reterr);
	if (r == 0)
		r = get_text(body, "registry", IMAGE_MAX, false, &registry, reterr);
	if (r < 0)
		return r;
	if (tag && (!made_of(tag, ALNUM "._-") || strchr(".-", tag[0])))
		return err_set(reterr, -EINVAL, "image_tag is not a valid tag");
	if (registry && !image_ok(registry))
		return err_set(reterr, -EINVAL, "registry must be host[:port][/path]");
	if (!image)
		return 0;
	if (!image_ok(image))
		return err_set(reterr, -EINVAL, "image is not a valid image reference");
	n = registry ? strlen(registry) : 0;
	if (registry && strncmp(image, registry, n) == 0 && image[n] == '/')
		registry = NULL; /* already named in full */
	(void)snprintf(full, sizeof(full), "%s%s%s%s%s", registry ? registry : "",
		       registry ? "/" : "", image, request_image_has_tag(image) ? "" : ":",
		       request_image_has_tag(image) ? ""
		       : tag                        ? tag
						    : "latest");
	if (imageref_parse(full, &ref, &why) < 0)
		return err_set(reterr, -EINVAL, "image: %s", why.text);
	req->has_image = true;
	return put(req, "image", json_string(full), reterr);
}

static bool env_name_ok(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len <= ENV_NAME_MAX && !strchr(DIGITS, name[0]) &&
	       made_of(name, ALNUM "_");
}

/* Numbers and booleans are what some clients send; a container's environment is text. */
static json_t *env_text(const json_t *value)
{
	char text[64];

	if (json_is_string(value))
		return json_incref((json_t *)value);
	if (json_is_boolean(value))
		return json_string(json_is_true(value) ? "true" : "false");
	if (json_is_integer(value)) {
		(void)snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT,
			       json_integer_value(value));
		return json_string(text);
	}
	if (json_is_real(value)) {
		(void)snprintf(text, sizeof(text), "%.17g", json_real_value(value));
		return json_string(text);
	}
	return NULL;
}

/* QUDATA_* variables that say the size; they are no environment. */
static int take_sizing(const char *name, const json_t *value, struct create_request *req,
		       bool *ret_taken, struct err *reterr)
{
	const json_t *v =
		json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0)
			? NULL
			: value;
	char field[64];
	int r = 0;

	(void)snprintf(field, sizeof(field), "env_variables.%.40s", name);
	*ret_taken = true;
	if (STR_EQ(name, "QUDATA_CPU_CORES")) {
		r = get_count(v, field, 1, PROTO_MAX_CPUS, &req->cpus, reterr);
	} else if (STR_EQ(name, "QUDATA_MEMORY_GB")) {
		r = get_gib(v, field, &req->memory_mib, reterr);
		if (r == 0 && v &&
		    (req->memory_mib < MEMORY_MIN || req->memory_mib > PROTO_MAX_MEMORY_MIB))
			r = err_set(reterr, -EINVAL, "%s must be from 0.125 to %u", field,
				    PROTO_MAX_MEMORY_MIB / 1024);
	} else if (STR_EQ(name, "QUDATA_GPU_COUNT")) {
		r = get_count(v, field, 0, PROTO_MAX_GPUS, &req->gpus, reterr);
		if (r == 0 && req->gpus > 0)
			req->gpu_field = "env_variables.QUDATA_GPU_COUNT";
	} else {
		*ret_taken = false;
	}
	return r;
}

static int add_env(const char *name, const json_t *value, json_t *env, struct err *reterr)
{
	json_t *text = env_text(value);

	if (!text)
		return err_set(reterr, -EINVAL, "env_variables.%.40s must be a string", name);
	if (json_string_length(text) > REQUEST_LONG_MAX) {
		json_decref(text);
		return err_set(reterr, -EINVAL, "env_variables.%.40s is longer than %d bytes", name,
			       REQUEST_LONG_MAX);
	}
	if (json_object_set_new(env, name, text) < 0)
		return err_set(reterr, -ENOMEM, "out of memory");
	return 0;
}

static int get_env(const json_t *body, struct create_request *req, struct err *reterr)
{
	const json_t *vars = member(body, "env_variables");
	_cleanup_json_ json_t *env = NULL;
	const char *name;
	json_t *value;

	if (!vars)
		return 0;
	if (!json_is_object(vars))
		return err_set(reterr, -EINVAL, "env_variables must be an object");
	if (json_object_size(vars) > REQUEST_ENV_MAX)
		return err_set(reterr, -EINVAL, "env_variables holds more than %d variables",
			       REQUEST_ENV_MAX);
	env = json_object();
	json_object_foreach ((json_t *)vars, name, value) {
		bool taken;
		int r = take_sizing(name, value, req, &taken, reterr);

		if (r == 0 && !taken && !env_name_ok(name))
			r = err_set(reterr, -EINVAL,
				    "env_variables has a name that is not letters, digits and _");
		if (r == 0 && !taken)
			r = add_env(name, value, env, reterr);
		if (r < 0)
			return r;
	}
	return json_object_size(env) > 0 ? put(req, "env", json_incref(env), reterr) : 0;
}

/* It is split where the container is made; a quote left open is said here. */
static int check_command(const struct create_request *req, struct err *reterr)
{
	const char *command = json_string_value(json_object_get(req->tenant, "command"));
	_cleanup_free_ char **words = NULL;

	if (command && cmdline_split(command, &words) == -EINVAL)
		return err_set(reterr, -EINVAL, "command has a quote that is not closed");
	return 0;
}

static int get_tenant(const json_t *body, struct create_request *req, struct err *reterr)
{
	static const struct {
		const char *key;
		size_t max;
		bool lines;
	} texts[] = {
		{"login", REQUEST_TEXT_MAX, false},
		{"password", REQUEST_TEXT_MAX, false},
		{"command", REQUEST_LONG_MAX, true},
		{"tunnel_token", REQUEST_TEXT_MAX, false},
		{"secret_domain", REQUEST_TEXT_MAX, false},
	};
	int r = get_image(body, req, reterr);

	for (size_t i = 0; r == 0 && i < ARRAY_LEN(texts); i++)
		r = copy_text(body, texts[i].key, texts[i].max, texts[i].lines, req, reterr);
	if (r == 0)
		r = check_command(req, reterr);
	return r == 0 ? get_env(body, req, reterr) : r;
}

/* GPUs. */

/* What the members that ask for GPUs say. */
struct gpu_wish {
	bool counted; /* @count was said */
	uint32_t count;
	const char *count_field, *address_field; /* NULL: not said */
	uint64_t addresses[PROTO_MAX_GPUS];
};

/* "0000:01:00.0" or several of them, separated by commas. */
static int add_gpus(const char *text, const char *field, uint64_t addresses[static PROTO_MAX_GPUS],
		    struct err *reterr)
{
	while (true) {
		size_t len = strcspn(text, ",");
		char one[32] = "";
		uint64_t address;
		int r;

		if (len < sizeof(one))
			(void)snprintf(one, sizeof(one), "%.*s", (int)len, text);
		if (gpus_parse_address(one, &address) < 0)
			return err_set(reterr, -EINVAL,
				       "%s must be a PCI address such as 0000:01:00.0, or several "
				       "with commas between them",
				       field);
		r = gpus_add_address(addresses, address);
		if (r == -EEXIST)
			return err_set(reterr, -EINVAL, "%s names %s twice", field, one);
		if (r < 0)
			return err_set(reterr, -EINVAL, "%s names more than %d GPUs", field,
				       PROTO_MAX_GPUS);
		if (text[len] == '\0')
			return 0;
		text += len + 1;
	}
}

/* A string with addresses, or an array of such. */
static int get_addresses(const json_t *v, const char *field, struct gpu_wish *wish,
			 struct err *reterr)
{
	uint64_t addresses[PROTO_MAX_GPUS] = {0};
	int r = 0;

	if (!json_is_string(v) && !json_is_array(v))
		return err_set(reterr, -EINVAL, "%s must be a string or an array of strings",
			       field);
	if (json_is_string(v))
		r = add_gpus(json_string_value(v), field, addresses, reterr);
	for (size_t i = 0; r == 0 && i < json_array_size(v); i++) {
		const char *text = json_string_value(json_array_get(v, i));

		r = text ? add_gpus(text, field, addresses, reterr)
			 : err_set(reterr, -EINVAL, "%s must be an array of strings", field);
	}
	if (r < 0)
		return r;
	if (wish->address_field && memcmp(addresses, wish->addresses, sizeof(addresses)) != 0)
		return err_set(reterr, -EINVAL, "%s and %s mean the same and differ",
			       wish->address_field, field);
	wish->address_field = field;
	memcpy(wish->addresses, addresses, sizeof(addresses));
	return 0;
}

static int get_gpu_count(const json_t *v, const char *field, struct gpu_wish *wish,
			 struct err *reterr)
{
	uint32_t count = 0;
	int r = get_count(v, field, 0, PROTO_MAX_GPUS, &count, reterr);

	if (r < 0)
		return r;
	if (wish->counted && wish->count != count)
		return err_set(reterr, -EINVAL, "%s and %s mean the same and differ",
			       wish->count_field, field);
	wish->counted = true;
	wish->count = count;
	wish->count_field = field;
	return 0;
}

static bool is_number(const json_t *v)
{
	return json_is_number(v) || (json_is_string(v) && made_of(json_string_value(v), DIGITS));
}

/* A number of GPUs, or which ones; these win over the sizing variable. */
static int get_gpus(const json_t *body, struct create_request *req, struct err *reterr)
{
	const json_t *addr = member(body, "gpu_addr"), *count = member(body, "gpu_count");
	const json_t *gpus = member(body, "gpus");
	struct gpu_wish wish = {0};
	uint32_t n;
	int r = addr ? get_addresses(addr, "gpu_addr", &wish, reterr) : 0;

	if (r == 0 && gpus)
		r = is_number(gpus) ? get_gpu_count(gpus, "gpus", &wish, reterr)
				    : get_addresses(gpus, "gpus", &wish, reterr);
	if (r == 0 && count)
		r = get_gpu_count(count, "gpu_count", &wish, reterr);
	if (r < 0 || (!wish.counted && !wish.address_field))
		return r;
	n = (uint32_t)proto_gpus_count(wish.addresses);
	if (wish.counted && wish.address_field && wish.count != n)
		return err_set(reterr, -EINVAL, "%s is %u, but %s names %u", wish.count_field,
			       wish.count, wish.address_field, n);
	req->gpus = wish.counted ? wish.count : n;
	req->gpu_field = wish.address_field ? wish.address_field : wish.count_field;
	if (req->gpus == 0)
		req->gpu_field = NULL;
	memcpy(req->gpu_addresses, wish.addresses, sizeof(req->gpu_addresses));
	return 0;
}

static int get_name(const json_t *body, struct create_request *req, struct err *reterr)
{
	const char *name;
	int r = get_text(body, "name", REQUEST_NAME_MAX, false, &name, reterr);

	if (r < 0 || !name)
		return r;
	if (!strchr(ALNUM, name[0]) || !made_of(name, ALNUM "._-"))
		return err_set(reterr, -EINVAL,
			       "name must be letters, digits, '.', '_' and '-', at most %d",
			       REQUEST_NAME_MAX);
	(void)snprintf(req->name, sizeof(req->name), "%s", name);
	return 0;
}

/* What was asked for as port 22 becomes the container's; the VM gets another port of the host. */
static int lead_ssh_to_container(struct create_request *req, struct err *reterr)
{
	const struct port_request ssh = {.guest = SSH_PORT, .proto = PORT_TCP};
	uint16_t port = CONTAINER_SSH_FIRST;
	size_t at = 0;

	for (size_t i = 0; i < req->n_ports; i++)
		if (req->ports[i].guest == SSH_PORT)
			at = i;
	for (size_t i = 0; i < req->n_ports; i++)
		if (req->ports[i].guest == port) {
			port++;
			i = SIZE_MAX; /* once more from the first on */
		}
	req->ports[at].guest = req->container_ssh = port;
	return add_port(req, &ssh, "ports", reterr);
}

static int parse_create(const json_t *body, struct create_request *req, struct err *reterr)
{
	int r = get_name(body, req, reterr);

	if (r == 0)
		r = get_tenant(body, req, reterr);
	/* After the environment: these win over the sizing variables. */
	if (r == 0)
		r = get_count(member(body, "cpus"), "cpus", 1, PROTO_MAX_CPUS, &req->cpus, reterr);
	if (r == 0)
		r = get_memory(body, &req->memory_mib, reterr);
	if (r == 0)
		r = get_disk(body, &req->disk_mib, reterr);
	if (r == 0)
		r = get_gpus(body, req, reterr);
	if (r == 0)
		r = get_ports(body, req, reterr);
	if (r == 0 && req->has_image && json_is_true(member(body, "ssh_enabled")))
		r = lead_ssh_to_container(req, reterr);
	return r;
}

int request_parse_create(const void *body, size_t len, struct create_request *ret_req,
			 struct err *reterr)
{
	_cleanup_(create_request_done) struct create_request req = {0};
	_cleanup_json_ json_t *json = NULL;
	int r = load_object(body, len, &json, reterr);

	if (r < 0)
		return r;
	req.tenant = json_object();
	if (!req.tenant)
		return err_set(reterr, -ENOMEM, "out of memory");
	r = parse_create(json, &req, reterr);
	if (r < 0)
		return r;
	*ret_req = req;
	req.tenant = NULL;
	return 0;
}

static int parse_word(const json_t *v, const char *field, enum request_action *ret_action,
		      struct err *reterr)
{
	static const struct {
		const char *word;
		enum request_action action;
	} words[] = {{"start", ACTION_START}, {"stop", ACTION_STOP}, {"restart", ACTION_RESTART}};

	for (size_t i = 0; json_is_string(v) && i < ARRAY_LEN(words); i++)
		if (STR_EQ(json_string_value(v), words[i].word)) {
			*ret_action = words[i].action;
			return 0;
		}
	return err_set(reterr, -EINVAL, "%s must be \"start\", \"stop\" or \"restart\"", field);
}

int request_parse_action(const void *body, size_t len, enum request_action *ret_action,
			 struct err *reterr)
{
	_cleanup_json_ json_t *json = NULL;
	const json_t *action, *command;
	int r = load_object(body, len, &json, reterr);

	if (r < 0)
		return r;
	action = member(json, "action");
	command = member(json, "command");
	if (!action && !command)
		return err_set(reterr, -EINVAL, "action is missing (start, stop or restart)");
	if (action && command && !json_equal(action, command))
		return err_set(reterr, -EINVAL, "action and command mean the same and differ");
	return action ? parse_word(action, "action", ret_action, reterr)
		      : parse_word(command, "command", ret_action, reterr);
}

int request_parse_key(const void *body, size_t len, char ret_line[static PUBKEY_LINE_MAX],
		      struct err *reterr)
{
	_cleanup_json_ json_t *json = NULL;
	struct pubkey key;
	struct err why = {0};
	const json_t *v;
	size_t n;
	int r = load_object(body, len, &json, reterr);

	if (r < 0)
		return r;
	v = member(json, "ssh_pubkey");
	if (!json_is_string(v))
		return err_set(reterr, -EINVAL, "ssh_pubkey must be a string with one public key");
	n = json_string_length(v);
	while (n > 0 && strchr("\r\n", json_string_value(v)[n - 1]))
		n--; /* the line's end, as a key file has it */
	if (pubkey_parse(json_string_value(v), n, &key, &why) < 0)
		return err_set(reterr, -EINVAL, "ssh_pubkey: %.200s", why.text);
	if (key.type_len + key.base64_len + key.comment_len + 3 > PUBKEY_LINE_MAX)
		return err_set(reterr, -EINVAL, "ssh_pubkey is too long");
	(void)snprintf(ret_line, PUBKEY_LINE_MAX, "%.*s %.*s%s%.*s", (int)key.type_len, key.type,
		       (int)key.base64_len, key.base64, key.comment ? " " : "",
		       (int)key.comment_len, key.comment ? key.comment : "");
	return 0;
}
