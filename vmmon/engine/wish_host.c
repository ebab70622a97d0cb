/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The container's confinement on this host.
 * Trust: runs in vmmon; reads JSON of agentd, which may be hostile.
 */
#include "vmmon/engine/wish_host.h"

#include "vmmon/engine/wish.h"

#define CPUS_MAX      512
#define MIB_MAX       (64 * 1024 * 1024)
#define CPU_PERIOD_US 100000
#define PROCESSES_MAX 4096
#define LOG_SIZE      "16m" /* of what it prints */
#define SSH_PORT      22    /* of the container */

void wish_name(const char *instance, char ret_name[static WISH_NAME_SIZE])
{
	(void)snprintf(ret_name, WISH_NAME_SIZE, WISH_CONTAINER "%s%.32s", instance ? "-" : "",
		       instance ? instance : "");
}

void wish_volume(const char *instance, char ret_name[static WISH_NAME_SIZE])
{
	(void)snprintf(ret_name, WISH_NAME_SIZE, WISH_CONTAINER "-%.32s-data", instance);
}

static bool is_port(const json_t *number)
{
	return json_integer_value(number) >= 1 && json_integer_value(number) <= UINT16_MAX;
}

static bool ports_ok(const json_t *publish)
{
	for (size_t i = 0; i < json_array_size(publish); i++) {
		const json_t *pair = json_array_get(publish, i);

		if (json_array_size(pair) != 2 || !is_port(json_array_get(pair, 0)) ||
		    !is_port(json_array_get(pair, 1)))
			return false;
	}
	return json_is_array(publish);
}

static bool gpus_ok(const json_t *ids)
{
	for (size_t i = 0; i < json_array_size(ids); i++) {
		const char *name = json_string_value(json_array_get(ids, i));

		if (!name || !gpuname_ok(name))
			return false;
	}
	return !ids || (json_is_array(ids) && json_array_size(ids) <= WISH_GPUS_MAX);
}

int wish_host_check(const struct wish_host *h, bool has_ports, struct err *reterr)
{
	if (!h->instance)
		return !h->publish && !h->gpu_ids && h->cpus == 0 && h->memory_mib == 0 &&
				       h->disk_mib == 0
			       ? 0
			       : err_set(reterr, -EINVAL, "limits are for containers on the host");
	if (!gpus_ok(h->gpu_ids))
		return err_set(reterr, -EINVAL, "gpu_ids holds something else than names of GPUs");
	if (has_ports || !ports_ok(h->publish))
		return err_set(reterr, -EINVAL, "publish holds something else than pairs of ports");
	if (h->cpus < 1 || h->cpus > CPUS_MAX || h->memory_mib < 1 || h->memory_mib > MIB_MAX ||
	    h->disk_mib < 0 || h->disk_mib > MIB_MAX)
		return err_set(reterr, -EINVAL, "cpus, memory_mib or disk_mib is out of range");
	return 0;
}

/* Publishes @port of the container as @number of 127.0.0.1. */
static int publish_port(json_t *exposed, json_t *bound, json_int_t port, json_int_t number)
{
	char key[16], text[8];

	(void)snprintf(key, sizeof(key), "%u/tcp", (unsigned int)port);
	(void)snprintf(text, sizeof(text), "%u", (unsigned int)number);
	if (json_object_set_new(exposed, key, json_object()) < 0)
		return -ENOMEM;
	return json_object_set_new(
		       bound, key,
		       json_pack("[{s:s, s:s}]", "HostIp", "127.0.0.1", "HostPort", text)) < 0
		       ? -ENOMEM
		       : 0;
}

static int put_ports(json_t *body, json_t *host, const struct wish_host *h)
{
	json_t *exposed = json_object(), *bound = json_object();

	if (json_object_set_new(body, "ExposedPorts", exposed) < 0 ||
	    json_object_set_new(host, "PortBindings", bound) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < json_array_size(h->publish); i++) {
		const json_t *pair = json_array_get(h->publish, i);

		if (publish_port(exposed, bound, json_integer_value(json_array_get(pair, 0)),
				 json_integer_value(json_array_get(pair, 1))) < 0)
			return -ENOMEM;
	}
	return h->ssh > 0 ? publish_port(exposed, bound, SSH_PORT, h->ssh) : 0;
}

/*
 * Of Docker's default capabilities those are left out that make device nodes, forge packets and
 * give capabilities to files. The quota is one of time, as engines refuse more processors than
 * there are; a VM may have more, too.
 */
static int put_limits(json_t *host, const struct wish_host *h, const char *name)
{
	json_t *limits = json_pack(
		"{s:s, s:b, s:s, s:[s], s:[s], s:[s,s,s,s,s,s,s,s,s,s,s], s:i, s:I, s:I, s:I, s:i}",
		"NetworkMode", name, "Privileged", 0, "IpcMode", "private", "SecurityOpt",
		"no-new-privileges", "CapDrop", "ALL", "CapAdd", "AUDIT_WRITE", "CHOWN",
		"DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP",
		"SETUID", "SYS_CHROOT", "CpuPeriod", CPU_PERIOD_US, "CpuQuota",
		h->cpus * CPU_PERIOD_US, "Memory", h->memory_mib << 20, "MemorySwap",
		h->memory_mib << 20, "PidsLimit", PROCESSES_MAX);
	int r = limits ? json_object_update(host, limits) : -1;

	json_decref(limits);
	return r;
}

void wish_host_gpus(const struct wish_host *h, char ret_names[static WISH_GPUS_SIZE])
{
	size_t len = 0;

	ret_names[0] = '\0';
	for (size_t i = 0; i < json_array_size(h->gpu_ids); i++)
		len += (size_t)snprintf(ret_names + len, WISH_GPUS_SIZE - len, "%s%s",
					i > 0 ? "," : "",
					json_string_value(json_array_get(h->gpu_ids, i)));
}

int wish_host_put_gpus(json_t *host, const struct wish_host *h, bool cdi)
{
	json_t *ids = json_array();

	for (size_t i = 0; i < json_array_size(h->gpu_ids); i++)
		if (json_array_append_new(ids, json_sprintf("%s%s", cdi ? "nvidia.com/gpu=" : "",
							    json_string_value(json_array_get(
								    h->gpu_ids, i)))) < 0) {
			json_decref(ids);
			return -ENOMEM;
		}
	return json_object_set_new(
		host, "DeviceRequests",
		cdi ? json_pack("[{s:s, s:o}]", "Driver", "cdi", "DeviceIDs", ids)
		    : json_pack("[{s:s, s:o, s:[[s]]}]", "Driver", "nvidia", "DeviceIDs", ids,
				"Capabilities", "gpu"));
}

/*
 * Where NVIDIA's runtime is the engine's default, variables are enough to get devices of this host,
 * and images bring them along: neither those nor the tenant's own ever count. What is not for
 * tenants has a value by which NVIDIA's toolkit gives nothing.
 */
static const struct {
	const char *name, *value; /* NULL: the names of the GPUs that were asked for */
} gpu_env[] = {
	{"NVIDIA_VISIBLE_DEVICES", NULL},
	{"DOCKER_RESOURCE_GPU", NULL}, /* goes before it, where the toolkit is set up for swarms */
	{"NVIDIA_GDRCOPY", "disabled"},
	{"NVIDIA_GDS", "disabled"},
	{"NVIDIA_MOFED", "disabled"},
	{"NVIDIA_NVSWITCH", "disabled"},
	{"NVIDIA_IMEX_CHANNELS", "void"},
	{"NVIDIA_MIG_CONFIG_DEVICES", ""},
	{"NVIDIA_MIG_MONITOR_DEVICES", ""},
	{"NVIDIA_REQUIRE_JETPACK", ""}, /* mounts more of the host on boards with Tegra */
};

static void remove_env(json_t *env, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = json_array_size(env); i-- > 0;) {
		const char *text = json_string_value(json_array_get(env, i));

		if (strncmp(text, name, n) == 0 && text[n] == '=')
			(void)json_array_remove(env, i);
	}
}

static int put_gpus(json_t *body, json_t *host, const struct wish_host *h)
{
	json_t *env = json_object_get(body, "Env");
	char names[WISH_GPUS_SIZE];

	wish_host_gpus(h, names);
	for (size_t i = 0; i < ARRAY_LEN(gpu_env); i++) {
		const char *value = gpu_env[i].value;

		if (!value)
			value = names[0] ? names : "void";
		remove_env(env, gpu_env[i].name);
		if (json_array_append_new(env, json_sprintf("%s=%s", gpu_env[i].name, value)) < 0)
			return -ENOMEM;
	}
	return names[0] ? wish_host_put_gpus(host, h, /* cdi= */ false) : 0;
}

/* What it prints is kept by the engine, on the host's disk and without end by default. */
static int put_log(json_t *host)
{
	return json_object_set_new(
		host, "LogConfig",
		json_pack("{s:s, s:{s:s}}", "Type", "json-file", "Config", "max-size", LOG_SIZE));
}

int wish_host_put(json_t *body, json_t *host, const struct wish_host *h)
{
	char name[WISH_NAME_SIZE], volume[WISH_NAME_SIZE];

	wish_name(h->instance, name);
	wish_volume(h->instance, volume);
	if (put_ports(body, host, h) < 0 || put_limits(host, h, name) < 0 ||
	    put_gpus(body, host, h) < 0 || put_log(host) < 0 ||
	    json_object_set_new(host, "Binds", json_pack("[s+]", volume, ":/data")) < 0 ||
	    json_object_set_new(body, "Labels", json_pack("{s:s}", WISH_INSTANCE, h->instance)) < 0)
		return -ENOMEM;
	return 0;
}

char *wish_host_network(const char *instance)
{
	char name[WISH_NAME_SIZE];
	json_t *json;
	char *text;

	wish_name(instance, name);
	json = json_pack("{s:s, s:s, s:b, s:{s:s}}", "Name", name, "Driver", "bridge",
			 "CheckDuplicate", 1, "Labels", WISH_INSTANCE, instance);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	return text;
}

char *wish_host_volume(const char *instance, json_int_t disk_mib, bool podman)
{
	char name[WISH_NAME_SIZE], size[32];
	json_t *json, *options = json_object();
	char *text;

	wish_volume(instance, name);
	(void)snprintf(size, sizeof(size), "%s%lldm", podman ? "size=" : "", (long long)disk_mib);
	if (disk_mib > 0)
		(void)json_object_set_new(options, podman ? "o" : "size", json_string(size));
	json = json_pack("{s:s, s:s, s:o, s:{s:s}}", "Name", name, "Driver", "local", "DriverOpts",
			 options, "Labels", WISH_INSTANCE, instance);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	return text;
}
