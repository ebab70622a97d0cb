/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading of the engine's answers.
 * Trust: runs in vmmon; reads JSON of a container engine in a guest, which its tenant owns.
 */
#include "vmmon/engine/answers.h"

#include "common/json_text.h"

#include <jansson.h>

#define NESTING_MAX 32 /* jansson recurses; an inspection nests about eight deep */

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

#define _cleanup_json_ _cleanup_(cleanup_json)

static json_t *load(const char *body, size_t len)
{
	json_t *json = json_nesting_ok(body, len, NESTING_MAX)
			       ? json_loadb(body, len, JSON_ALLOW_NUL, NULL)
			       : NULL;

	if (json_is_object(json))
		return json;
	json_decref(json);
	return NULL;
}

static void printable(char *to, size_t size, const char *from)
{
	size_t n = 0;

	for (; from && *from && n < size - 1; from++)
		to[n++] = (char)(*from >= 0x20 && *from <= 0x7e ? *from : '?');
	to[n] = '\0';
}

/* "1.41" as 1041 */
static bool parse_version(const char *text, unsigned int *ret_version)
{
	unsigned int major, minor;
	int end = 0;

	if (!text || strspn(text, "0123456789.") != strlen(text) || strlen(text) > 8 ||
	    sscanf(text, "%3u.%3u%n", &major, &minor, &end) != 2 || text[end] != '\0')
		return false;
	*ret_version = major * 1000 + minor;
	return true;
}

int answer_version(const char *body, size_t len, unsigned int *ret_version)
{
	_cleanup_json_ json_t *json = load(body, len);
	const char *least = json_string_value(json_object_get(json, "MinAPIVersion"));
	unsigned int newest, oldest = 0;

	if (!parse_version(json_string_value(json_object_get(json, "ApiVersion")), &newest))
		return -EBADMSG;
	if (least && *least && !parse_version(least, &oldest))
		return -EBADMSG;
	if (newest < ANSWER_API_MIN)
		return -EPROTONOSUPPORT;
	*ret_version = MAX_OF(oldest, (unsigned int)ANSWER_API_MIN);
	return 0;
}

bool answer_is_podman(const char *body, size_t len)
{
	_cleanup_json_ json_t *json = load(body, len);
	const json_t *component = json_array_get(json_object_get(json, "Components"), 0);
	const char *name = json_string_value(json_object_get(component, "Name"));

	return name && STR_EQ(name, "Podman Engine");
}

/* Is GPU @name, of @len bytes, among the engine's @devices? @len 0: is any? */
static bool has_device(const json_t *devices, const char *name, size_t len)
{
	static const char kind[] = "nvidia.com/gpu=";
	const json_t *device;
	size_t i;

	json_array_foreach (devices, i, device) {
		const char *id = json_string_value(json_object_get(device, "ID"));

		if (!id || strncmp(id, kind, sizeof(kind) - 1) != 0)
			continue;
		id += sizeof(kind) - 1;
		if (len == 0 || (strlen(id) == len && memcmp(id, name, len) == 0))
			return true;
	}
	return false;
}

/* Newer engines list the devices; those before only say that they look for descriptions. */
static bool knows_cdi(const json_t *info)
{
	const json_t *devices = json_object_get(info, "DiscoveredDevices");

	if (!json_is_array(devices))
		return json_array_size(json_object_get(info, "CDISpecDirs")) > 0;
	return has_device(devices, NULL, 0);
}

int answer_missing_gpu(const char *body, size_t len, const char *names,
		       char ret_name[static ANSWER_GPU_SIZE])
{
	_cleanup_json_ json_t *json = load(body, len);
	const json_t *devices = json_object_get(json, "DiscoveredDevices");

	if (!json)
		return -EBADMSG;
	ret_name[0] = '\0';
	while (json_is_array(devices) && *names) {
		size_t n = strcspn(names, ",");

		if (!has_device(devices, names, n)) {
			(void)snprintf(ret_name, ANSWER_GPU_SIZE, "%.*s", (int)n, names);
			return 0;
		}
		names += n + (names[n] == ',');
	}
	return 0;
}

int answer_root(const char *body, size_t len, char ret_path[static ANSWER_PATH_SIZE])
{
	_cleanup_json_ json_t *json = load(body, len);
	const char *path = json_string_value(json_object_get(json, "DockerRootDir"));

	if (!json)
		return -EBADMSG;
	ret_path[0] = '\0';
	if (path && path[0] == '/' && strlen(path) < ANSWER_PATH_SIZE)
		(void)snprintf(ret_path, ANSWER_PATH_SIZE, "%s", path);
	return 0;
}

int answer_gpus(const char *body, size_t len, enum answer_gpus *ret_gpus)
{
	_cleanup_json_ json_t *json = load(body, len);
	const json_t *runtimes = json_object_get(json, "Runtimes");

	if (!json_is_object(runtimes))
		return -EBADMSG;
	if (json_object_get(runtimes, "nvidia"))
		*ret_gpus = ANSWER_GPUS_NVIDIA;
	else
		*ret_gpus = knows_cdi(json) ? ANSWER_GPUS_CDI : ANSWER_GPUS_NONE;
	return 0;
}

int answer_has_limits(const char *body, size_t len, bool *ret_has)
{
	static const char *const members[] = {"MemoryLimit", "CpuCfsQuota", "PidsLimit"};
	_cleanup_json_ json_t *json = load(body, len);
	bool all = true;

	for (size_t i = 0; i < ARRAY_LEN(members); i++) {
		const json_t *value = json_object_get(json, members[i]);

		if (!json_is_boolean(value))
			return -EBADMSG;
		all &= json_is_true(value);
	}
	*ret_has = all;
	return 0;
}

/* The value of @name in [[name, value], …]. */
static const char *status_value(const json_t *status, const char *name)
{
	const json_t *pair;
	size_t i;

	json_array_foreach (status, i, pair) {
		const char *word = json_string_value(json_array_get(pair, 0));

		if (word && STR_EQ(word, name))
			return json_string_value(json_array_get(pair, 1));
	}
	return NULL;
}

static bool has_option(const json_t *options, const char *name)
{
	const json_t *option;
	size_t i;

	json_array_foreach (options, i, option) {
		const char *word = json_string_value(option);

		if (word && STR_EQ(word, name))
			return true;
	}
	return false;
}

int answer_info(const char *body, size_t len, struct answer_info *ret_info)
{
	_cleanup_json_ json_t *json = load(body, len);
	const char *driver = json_string_value(json_object_get(json, "Driver"));
	const char *cgroup = json_string_value(json_object_get(json, "CgroupVersion"));

	*ret_info = (struct answer_info){0};
	if (!driver || answer_root(body, len, ret_info->root) < 0)
		return -EBADMSG;
	ret_info->memory = json_is_true(json_object_get(json, "MemoryLimit"));
	ret_info->cpus = json_is_true(json_object_get(json, "CpuCfsQuota"));
	ret_info->processes = json_is_true(json_object_get(json, "PidsLimit"));
	ret_info->rootless = has_option(json_object_get(json, "SecurityOptions"), "name=rootless");
	if (cgroup && (STR_EQ(cgroup, "1") || STR_EQ(cgroup, "2")))
		ret_info->cgroup = (unsigned int)(cgroup[0] - '0');
	printable(ret_info->driver, sizeof(ret_info->driver), driver);
	printable(ret_info->version, sizeof(ret_info->version),
		  json_string_value(json_object_get(json, "ServerVersion")));
	printable(ret_info->backing, sizeof(ret_info->backing),
		  status_value(json_object_get(json, "DriverStatus"), "Backing Filesystem"));
	return 0;
}

static bool take_id(const json_t *json, char ret_id[static ANSWER_ID_SIZE])
{
	const char *id = json_string_value(json_object_get(json, "Id"));

	if (!id || strlen(id) != 64 || id[strspn(id, "0123456789abcdef")] != '\0')
		return false;
	memcpy(ret_id, id, 65);
	return true;
}

static void take_owner(const json_t *labels, char ret_owner[static ANSWER_OWNER_SIZE])
{
	printable(ret_owner, ANSWER_OWNER_SIZE,
		  json_string_value(json_object_get(labels, "qudata.instance")));
}

int answer_thing(const char *body, size_t len, struct answer_thing *ret_thing)
{
	_cleanup_json_ json_t *json = load(body, len);
	const json_t *options = json_object_get(json, "Options");
	const char *mount = json_string_value(json_object_get(options, "o"));

	if (!json_is_string(json_object_get(json, "Name")))
		return -EBADMSG;
	take_owner(json_object_get(json, "Labels"), ret_thing->owner);
	ret_thing->bounded = json_object_get(options, "size") || (mount && strstr(mount, "size="));
	return 0;
}

int answer_container(const char *body, size_t len, struct answer_container *ret_container)
{
	_cleanup_json_ json_t *json = load(body, len);
	const json_t *state = json_object_get(json, "State");
	const json_t *running = json_object_get(state, "Running");
	const json_t *restarting = json_object_get(state, "Restarting");
	const json_t *host = json_object_get(json, "HostConfig");
	const json_t *labels = json_object_get(json_object_get(json, "Config"), "Labels");
	json_int_t code = json_integer_value(json_object_get(state, "ExitCode"));
	json_int_t restarts = json_integer_value(json_object_get(json, "RestartCount"));
	struct answer_container c = {0};

	if (!take_id(json, c.id) || !json_is_boolean(running))
		return -EBADMSG;
	/* Between two tries of a container that ends again and again both are true. */
	c.restarting = json_is_true(restarting);
	c.running = json_is_true(running) && !c.restarting;
	c.restarts = restarts > 0 ? (unsigned int)MIN_OF(restarts, (json_int_t)INT32_MAX) : 0;
	c.exit_code = code >= 0 && code <= 255 ? (unsigned int)code : 255;
	printable(c.hash, sizeof(c.hash),
		  json_string_value(json_object_get(labels, "qudata.wish")));
	take_owner(labels, c.owner);
	c.memory_bounded = json_integer_value(json_object_get(host, "Memory")) > 0;
	c.paused = json_is_true(json_object_get(state, "Paused"));
	c.oom = json_is_true(json_object_get(state, "OOMKilled"));
	c.disk_bounded = json_object_get(json_object_get(host, "StorageOpt"), "size") != NULL;
	printable(c.error, sizeof(c.error), json_string_value(json_object_get(state, "Error")));
	printable(c.started, sizeof(c.started),
		  json_string_value(json_object_get(state, "StartedAt")));
	*ret_container = c;
	return 0;
}

int answer_exec(const char *body, size_t len, unsigned int *ret_exit_code)
{
	_cleanup_json_ json_t *json = load(body, len);
	const json_t *code = json_object_get(json, "ExitCode");

	if (!json_is_false(json_object_get(json, "Running")) || !json_is_integer(code))
		return -EBADMSG;
	*ret_exit_code = json_integer_value(code) >= 0 && json_integer_value(code) <= 255
				 ? (unsigned int)json_integer_value(code)
				 : 255;
	return 0;
}

int answer_created(const char *body, size_t len, char ret_id[static ANSWER_ID_SIZE])
{
	_cleanup_json_ json_t *json = load(body, len);

	return take_id(json, ret_id) ? 0 : -EBADMSG;
}

void answer_message(const char *body, size_t len, char ret_text[static ANSWER_TEXT_SIZE])
{
	_cleanup_json_ json_t *json = load(body, len);

	printable(ret_text, ANSWER_TEXT_SIZE, json_string_value(json_object_get(json, "message")));
}

/* Pulls. */

static uint32_t key_of(const char *id)
{
	uint32_t h = 2166136261u;

	for (; *id; id++)
		h = (h ^ (unsigned char)*id) * 16777619u;
	return h;
}

static struct pull_layer *find_layer(struct pull *p, const char *id)
{
	uint32_t key = key_of(id);

	for (size_t i = 0; i < p->n; i++)
		if (p->layers[i].key == key)
			return &p->layers[i];
	if (p->n == PULL_LAYERS_MAX)
		return NULL;
	p->layers[p->n] = (struct pull_layer){.key = key, .total = 1};
	return &p->layers[p->n++];
}

static uint64_t bounded(const json_t *number, uint64_t max)
{
	json_int_t v = json_integer_value(number);

	return v < 0 ? 0 : MIN_OF((uint64_t)v, max);
}

/* What a line's status makes of its layer; lines about anything else are left alone. */
static void layer_line(struct pull_layer *l, const char *status, const json_t *detail)
{
	uint64_t total = bounded(json_object_get(detail, "total"), UINT64_C(1) << 50);
	uint64_t current = bounded(json_object_get(detail, "current"), UINT64_C(1) << 50);

	if (STR_EQ(status, "Downloading") || STR_EQ(status, "Extracting")) {
		if (total > 0)
			l->total = total;
		if (*status == 'D')
			l->downloaded = MIN_OF(current, l->total);
		else
			l->unpacked = MIN_OF(current, l->total);
		if (*status == 'E')
			l->downloaded = l->total;
	} else if (STR_EQ(status, "Download complete") || STR_EQ(status, "Verifying Checksum")) {
		l->downloaded = l->total;
	} else if (STR_EQ(status, "Pull complete") || STR_EQ(status, "Already exists")) {
		l->downloaded = l->unpacked = l->total;
	}
}

static void count(struct pull *p)
{
	double total = 0, done = 0;
	unsigned int percent;

	for (size_t i = 0; i < p->n; i++) {
		const struct pull_layer *l = &p->layers[i];

		total += 2.0 * (double)l->total;
		done += (double)(MIN_OF(l->downloaded, l->total) + MIN_OF(l->unpacked, l->total));
	}
	percent = total > 0 ? (unsigned int)(100.0 * done / total) : 0;
	p->percent = MIN_OF(MAX_OF(p->percent, percent), 100u);
}

static bool is_layer_id(const char *id)
{
	return id && strlen(id) == 12 && id[strspn(id, "0123456789abcdef")] == '\0';
}

int pull_line(struct pull *p, const char *line, size_t len)
{
	_cleanup_json_ json_t *json = load(line, len);
	const char *error = json_string_value(json_object_get(json, "error"));
	const char *status = json_string_value(json_object_get(json, "status"));
	const char *id = json_string_value(json_object_get(json, "id"));
	struct pull_layer *layer;

	if (!json)
		return -EBADMSG;
	if (error && p->error[0] == '\0')
		printable(p->error, sizeof(p->error), *error ? error : "no reason given");
	/* A layer is one from the moment on that it is told of as such: the manifest's tag is none.
	 */
	if (!status || !is_layer_id(id))
		return 0;
	layer = find_layer(p, id);
	if (!layer)
		return 0;
	layer_line(layer, status, json_object_get(json, "progressDetail"));
	count(p);
	return 0;
}

enum trouble_kind trouble_of(const char *text)
{
	/* In this order: "pull access denied … repository does not exist" is a denial. */
	static const struct {
		const char *words;
		enum trouble_kind kind;
	} table[] = {
		{"no space left", TROUBLE_SPACE},
		{"disk quota exceeded", TROUBLE_SPACE},
		{"storage-opt", TROUBLE_QUOTA},
		{"storage option", TROUBLE_QUOTA},
		{"pquota", TROUBLE_QUOTA},
		{"no quota support", TROUBLE_QUOTA},
		{"does not support project quota", TROUBLE_QUOTA},
		{"no matching manifest", TROUBLE_PLATFORM},
		{"does not match the specified platform", TROUBLE_PLATFORM},
		{"image operating system", TROUBLE_PLATFORM},
		{"address already in use", TROUBLE_PORT},
		{"port is already allocated", TROUBLE_PORT},
		{"could not select device driver", TROUBLE_GPU},
		{"nvidia-container-cli", TROUBLE_GPU},
		{"unresolvable cdi device", TROUBLE_GPU},
		{"cdi device injection failed", TROUBLE_GPU},
		{"gave http response to https client", TROUBLE_NO_TLS},
		{"x509:", TROUBLE_CERT},
		{"tls: failed to verify certificate", TROUBLE_CERT},
		{"no basic auth credentials", TROUBLE_DENIED},
		{"access denied", TROUBLE_DENIED},
		{"unauthorized", TROUBLE_DENIED},
		{"authentication required", TROUBLE_DENIED},
		{"access to the resource is denied", TROUBLE_DENIED},
		{"incorrect username or password", TROUBLE_DENIED},
		{"403 forbidden", TROUBLE_DENIED},
		{"401 unauthorized", TROUBLE_DENIED},
		{"manifest unknown", TROUBLE_UNKNOWN_IMAGE},
		{"manifest for", TROUBLE_UNKNOWN_IMAGE},
		{"name unknown", TROUBLE_UNKNOWN_IMAGE},
		{"repository does not exist", TROUBLE_UNKNOWN_IMAGE},
		{"no such image", TROUBLE_UNKNOWN_IMAGE},
		{"not found", TROUBLE_UNKNOWN_IMAGE},
		{"unexpected eof", TROUBLE_NETWORK},
		{": eof", TROUBLE_NETWORK},
		{"connection re", TROUBLE_NETWORK}, /* reset, refused */
		{"i/o timeout", TROUBLE_NETWORK},
		{"timeout exceeded", TROUBLE_NETWORK},
		{"tls handshake timeout", TROUBLE_NETWORK},
		{"deadline exceeded", TROUBLE_NETWORK},
		{"no such host", TROUBLE_NETWORK},
		{"temporary failure", TROUBLE_NETWORK},
		{"network is unreachable", TROUBLE_NETWORK},
		{"no route to host", TROUBLE_NETWORK},
		{"server misbehaving", TROUBLE_NETWORK},
		{"request canceled", TROUBLE_NETWORK},
		{"filesystem layer verification failed", TROUBLE_NETWORK},
		{"toomanyrequests", TROUBLE_NETWORK},
		{"received unexpected http status: 5", TROUBLE_NETWORK},
		{"bad gateway", TROUBLE_NETWORK},
		{"service unavailable", TROUBLE_NETWORK},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (strcasestr(text, table[i].words))
			return table[i].kind;
	return TROUBLE_OTHER;
}
