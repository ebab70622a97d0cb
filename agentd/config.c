/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentd's settings.
 * Trust: runs inside agentd before it is confined; reads what the administrator wrote.
 */
#include "agentd/config.h"

#include "agentd/gpus_named.h"

#include "agentd/control/control.h"
#include "agentd/identity.h"
#include "common/log.h"

#define WEEK_S (7u * 24 * 3600)

static const char *const naming_words[] = {"colon", "label", NULL};
static const char *const tls_words[] = {"off", "encrypt", "verify", NULL};
static const char *const backend_words[] = {"vm", "container", NULL};
static const char *const nvml_words[] = {"auto", "no", "yes", NULL};
static const char *const on_end_words[] = {"report", "restart", NULL};

#define KEY(k, t, member)         .name = (k), .type = (t), CONF_MEMBER(struct agentd_config, member)
#define NUMBER(k, member, lo, hi) KEY(k, CONF_U32, member), .low = (lo), .high = (hi)
#define MIB(k, member, lo, hi)    KEY(k, CONF_MIB, member), .low = (lo), .high = (hi)

static const struct conf_key keys[] = {
	{KEY("data_dir", CONF_PATH, data_dir)},
	{KEY("ctl_socket", CONF_PATH, ctl_socket)},
	{KEY("helper_socket", CONF_PATH, helper_socket)},
	{KEY("vmmon_socket", CONF_PATH, vmmon_socket)},
	{KEY("frp_socket", CONF_PATH, frp_socket)},
	{KEY("nvml_socket", CONF_PATH, nvml_socket)},
	{KEY("nvml", CONF_ENUM, nvml), .words = nvml_words},
	{KEY("control_plane", CONF_TEXT, control_plane)},
	{KEY("control_ca_file", CONF_PATH, control_ca_file)},
	{KEY("control_pinned_key", CONF_TEXT, control_pinned_key)},
	{KEY("api_key_file", CONF_PATH, api_key_file)},
	{KEY("public_address", CONF_TEXT, public_address)},
	{KEY("location_city", CONF_TEXT, location_city)},
	{KEY("location_country", CONF_TEXT, location_country)},
	{KEY("location_region", CONF_TEXT, location_region)},
	{NUMBER("stats_interval_ms", stats_interval_ms, 100, 3600 * 1000)},
	{KEY("frp_server", CONF_TEXT, frp_server)},
	{KEY("frp_server_name", CONF_TEXT, frp_server_name)},
	{KEY("frp_token_file", CONF_PATH, frp_token_file)},
	{KEY("frp_domain", CONF_TEXT, frp_domain)},
	{NUMBER("frp_port", frp_port, 1, UINT16_MAX)},
	{KEY("frp_naming", CONF_ENUM, frp_naming), .words = naming_words},
	{KEY("frp_tls", CONF_ENUM, frp_tls), .words = tls_words},
	{KEY("backend", CONF_ENUM, backend), .words = backend_words},
	{KEY("container_gpus", CONF_LIST, container_gpus)},
	{KEY("base_image", CONF_NAME, base_image)},
	{KEY("pci_ids", CONF_PATH, pci_ids)},
	{NUMBER("port", port, 0, UINT16_MAX)},
	{NUMBER("default_cpus", default_cpus, 1, PROTO_MAX_CPUS)},
	{MIB("default_memory", default_memory_mib, 128, PROTO_MAX_MEMORY_MIB)},
	{MIB("default_disk", default_disk_mib, 0, PROTO_MAX_DISK_MIB)},
	{NUMBER("stop_grace_s", stop_grace_s, 0, WEEK_S)},
	{NUMBER("delete_grace_s", delete_grace_s, 0, WEEK_S)},
	{NUMBER("boot_timeout_s", boot_timeout_s, 1, WEEK_S)},
	{NUMBER("tcg_factor", tcg_factor, 1, 100)},
	{KEY("on_host_reboot", CONF_ENUM, on_host_reboot), .words = on_end_words},
	{KEY("on_exit", CONF_ENUM, on_exit), .words = on_end_words},
	{KEY("debug", CONF_BOOL, debug)},
};

/* Variables that clients' scripts and old unit files set, and the key that each one stands for. */
static const struct {
	const char *variable;
	const char *key;
} variables[] = {
	{"QUDATA_SERVICE_URL", "control_plane"}, {"QUDATA_BASE_IMAGE", "base_image"},
	{"QUDATA_DATA_DIR", "data_dir"},         {"QUDATA_VM_CPUS", "default_cpus"},
	{"QUDATA_VM_MEMORY", "default_memory"},  {"QUDATA_DEBUG", "debug"},
	{"QUDATA_AGENT_DEBUG", "debug"},
};

/* Variables whose meaning has moved to another daemon: never taken from an unprivileged process. */
static const struct {
	const char *variable;
	const char *where;
} moved[] = {
	{"QUDATA_GPU_PCI_ADDR", "helper.conf"},
	{"QUDATA_GPU_PCI_ADDRS", "helper.conf"},
	{"QUDATA_IMAGE_DIR", "helper.conf"},
	{"QUDATA_VM_RUN_DIR", "helper.conf"},
	{"QUDATA_QEMU_BINARY", "helper.conf"},
	{"QUDATA_OVMF_CODE", "helper.conf"},
	{"QUDATA_OVMF_VARS", "helper.conf"},
	{"QUDATA_MANAGEMENT_KEY", "vmmon.conf"},
	{"QUDATA_FRPC_BINARY", "frp-supervisor.conf"},
	{"QUDATA_FRPC_CONFIG", "frp-supervisor.conf"},
	{"QUDATA_LOG_DIR", "the journal"},
};

void config_defaults(struct agentd_config *ret_config)
{
	*ret_config = (struct agentd_config){
		.data_dir = "/var/lib/qudata",
		.ctl_socket = "/run/qudata/ctl.sock",
		.helper_socket = "/run/qudata/helper.sock",
		.vmmon_socket = "/run/qudata/vmmon.sock",
		.frp_socket = "/run/qudata/frp.sock",
		.nvml_socket = "/run/qudata/nvml.sock",
		.control_plane = "none",
		.stats_interval_ms = 500,
		.frp_port = 7000,
		.frp_naming = PROTO_NAMING_LABEL,
		.frp_tls = PROTO_TLS_ENCRYPT,
		.base_image = "debian-12",
		.pci_ids = "/usr/share/misc/pci.ids",
		.default_cpus = 4,
		.default_memory_mib = 8192,
		.default_disk_mib = 500 * 1024,
		.stop_grace_s = 30,
		.delete_grace_s = 10,
		.boot_timeout_s = 120,
		.tcg_factor = 5,
		.on_host_reboot = ON_END_REPORT,
		.on_exit = ON_END_REPORT,
	};
}

static int check(const struct agentd_config *config, struct err *reterr)
{
	struct gpus_named gpus;
	struct err why = {0};

	if (!STR_EQ(config->control_plane, "none") &&
	    strncmp(config->control_plane, "http", strlen("http")) != 0)
		return err_set(reterr, -EINVAL,
			       "control_plane must be none or an URL such as "
			       "https://internal.qudata.ai/v0");
	if (config->port != 0 && config->port < 1024)
		return err_set(reterr, -EINVAL,
			       "port must be 0 (any of 15001 to 15300) or from 1024 to 65535");
	if (gpus_named_parse(config->container_gpus, &gpus, &why) < 0)
		return err_set(reterr, -EINVAL, "container_gpus: %.200s", why.text);
	return 0;
}

static const struct conf_key *find_key(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (STR_EQ(keys[i].name, name))
			return &keys[i];
	abort(); /* the table above names no other */
}

/* The predecessors took any value but these as "on". */
static const char *yes_or_no(const char *value)
{
	static const char *const off[] = {"0", "false", "no", "off"};

	for (size_t i = 0; i < ARRAY_LEN(off); i++)
		if (strcasecmp(value, off[i]) == 0)
			return "no";
	return "yes";
}

/* From the environment, a credential of the service manager, or a file: the first that is there. */
static int find_key_text(const struct agentd_config *config, char *key, size_t size,
			 struct err *reterr)
{
	const char *given = getenv("QUDATA_API_KEY"), *dir = getenv("CREDENTIALS_DIRECTORY");
	char path[512];

	if (given && strlen(given) < size) {
		(void)snprintf(key, size, "%s", given);
		return 0;
	}
	if (dir) {
		(void)snprintf(path, sizeof(path), "%s/api-key", dir);
		if (access(path, F_OK) == 0)
			return identity_read_secret(path, "the API key", key, size, reterr);
	}
	if (config->api_key_file[0] != '\0')
		return identity_read_secret(config->api_key_file, "the API key", key, size, reterr);
	return err_set(reterr, -ENOENT,
		       "a control plane needs an API key: set api_key_file in agentd.conf, or "
		       "LoadCredential=api-key:PATH in the unit, or QUDATA_API_KEY");
}

int config_load_key(struct agentd_config *config, struct err *reterr)
{
	char key[sizeof(config->api_key)] = "";
	int r = 0;

	if (!STR_EQ(config->control_plane, "none"))
		r = find_key_text(config, key, sizeof(key), reterr);
	/* It need not lie about in this process. */
	(void)unsetenv("QUDATA_API_KEY");
	if (r == 0 && key[0] != '\0' &&
	    (strncmp(key, "ak-", strlen("ak-")) != 0 || !control_token_ok(key)))
		r = err_set(reterr, -EINVAL,
			    "the API key is none: it begins with ak- and has no blanks");
	if (r == 0)
		memcpy(config->api_key, key, sizeof(key));
	explicit_bzero(key, sizeof(key));
	return r;
}

int config_environment(struct agentd_config *config, struct err *reterr)
{
	for (size_t i = 0; i < ARRAY_LEN(variables); i++) {
		const char *value = getenv(variables[i].variable);
		const struct conf_key *key = find_key(variables[i].key);
		struct err why = {0};
		int r;

		if (!value || *value == '\0')
			continue;
		r = conf_set(key, key->type == CONF_BOOL ? yes_or_no(value) : value, config, &why);
		if (r < 0)
			return err_set(reterr, r, "%s in the environment: %s",
				       variables[i].variable, why.text);
	}
	for (size_t i = 0; i < ARRAY_LEN(moved); i++)
		if (getenv(moved[i].variable))
			log_event(LOG_NOTICE, "environment variable ignored: its place has moved",
				  LOG_STR("VARIABLE", moved[i].variable),
				  LOG_STR("PLACE", moved[i].where));
	return check(config, reterr);
}

int config_parse(char *text, struct agentd_config *ret_config, struct err *reterr)
{
	int r;

	config_defaults(ret_config);
	r = conf_parse("agentd.conf", text, keys, ARRAY_LEN(keys), ret_config, reterr);
	return r < 0 ? r : check(ret_config, reterr);
}

int config_load(const char *path, bool required, struct agentd_config *ret_config,
		struct err *reterr)
{
	int r;

	config_defaults(ret_config);
	r = conf_load(path, keys, ARRAY_LEN(keys), /* root_owned= */ false, ret_config, reterr);
	if (r < 0 && (r != -ENOENT || required))
		return r;
	return config_environment(ret_config, reterr);
}
