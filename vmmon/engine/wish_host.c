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
#define VISIBLE_GPUS  "NVIDIA_VISIBLE_DEVICES="

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

int wish_host_check(const struct wish_host *h, bool has_ports, bool ssh, struct err *reterr)
{
	if (!h->instance)
		return !h->publish && h->cpus == 0 && h->memory_mib == 0 && h->disk_mib == 0
			       ? 0
			       : err_set(reterr, -EINVAL, "limits are for containers on the host");
	if (ssh)
		return err_set(reterr, -EINVAL, "ssh is for containers in a guest");
	if (has_ports || !ports_ok(h->publish))
		return err_set(reterr, -EINVAL, "publish holds something else than pairs of ports");
	if (h->cpus < 1 || h->cpus > CPUS_MAX || h->memory_mib < 1 || h->memory_mib > MIB_MAX ||
	    h->disk_mib < 0 || h->disk_mib > MIB_MAX)
		return err_set(reterr, -EINVAL, "cpus, memory_mib or disk_mib is out of range");
	return 0;
}

static int put_ports(json_t *body, json_t *host, const json_t *publish)
{
	json_t *exposed = json_object(), *bound = json_object();

	if (json_object_set_new(body, "ExposedPorts", exposed) < 0 ||
	    json_object_set_new(host, "PortBindings", bound) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < json_array_size(publish); i++) {
		const json_t *pair = json_array_get(publish, i);
		char key[16], number[8];

		(void)snprintf(key, sizeof(key), "%u/tcp",
			       (unsigned int)json_integer_value(json_array_get(pair, 0)));
		(void)snprintf(number, sizeof(number), "%u",
			       (unsigned int)json_integer_value(json_array_get(pair, 1)));
		if (json_object_set_new(exposed, key, json_object()) < 0 ||
		    json_object_set_new(bound, key,
					json_pack("[{s:s, s:s}]", "HostIp", "127.0.0.1", "HostPort",
						  number)) < 0)
			return -ENOMEM;
	}
	return 0;
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

/*
 * As many as were asked for, not all. Where NVIDIA's runtime is the engine's default, a variable
 * is enough to get them, and images bring it along: whoever has asked for none gets none, and the
 * variable is the engine's matter.
 */
static int put_gpus(json_t *body, json_t *host, json_int_t gpus)
{
	json_t *request = json_array_get(json_object_get(host, "DeviceRequests"), 0);
	json_t *env = json_object_get(body, "Env");

	for (size_t i = json_array_size(env); i-- > 0;)
		if (strncmp(json_string_value(json_array_get(env, i)), VISIBLE_GPUS,
			    strlen(VISIBLE_GPUS)) == 0)
			(void)json_array_remove(env, i);
	if (gpus > 0)
		return json_object_set_new(request, "Count", json_integer(gpus));
	return json_array_append_new(env, json_string(VISIBLE_GPUS "void"));
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
	if (put_ports(body, host, h->publish) < 0 || put_limits(host, h, name) < 0 ||
	    put_gpus(body, host, h->gpus) < 0 || put_log(host) < 0 ||
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
