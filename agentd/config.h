/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentd's settings: agentd.conf, then the environment variables of its predecessors.
 * Trust: runs inside agentd before it is confined; reads what the administrator wrote.
 */
#pragma once

#include "common/base.h"
#include "common/conf.h"
#include "proto/proto.h"

#define CONFIG_PATH_SIZE 108 /* of a socket path, see unix(7) */

/* What to do when a VM that should run is found gone. */
enum on_end {
	ON_END_REPORT,  /* say so and wait for the operator */
	ON_END_RESTART, /* start it again */
};

/* What a new instance runs in. */
enum backend {
	BACKEND_VM,
	BACKEND_CONTAINER, /* its container is on this host, without a VM */
};

/* Whether nvml-probe is asked about the GPUs of the host's own driver. */
enum nvml_choice {
	NVML_AUTO, /* while sysfs shows that NVIDIA's driver has one */
	NVML_NO,
	NVML_YES, /* whatever sysfs shows */
};

struct agentd_config {
	char data_dir[256];
	char ctl_socket[CONFIG_PATH_SIZE];
	char helper_socket[CONFIG_PATH_SIZE];
	char vmmon_socket[CONFIG_PATH_SIZE];
	char frp_socket[CONFIG_PATH_SIZE];
	char nvml_socket[CONFIG_PATH_SIZE];
	char control_plane[256];      /* URL, or "none" */
	char control_ca_file[256];    /* authorities of its certificate; "": the system's */
	char control_pinned_key[128]; /* "sha256//BASE64", or "" */
	char api_key_file[256];       /* "": environment or credential */
	char api_key[128];            /* secret; "" without a control plane */
	char public_address[64];      /* "": the one that reaches the control plane */
	char location_city[64], location_country[64], location_region[64];
	uint32_t stats_interval_ms;
	char frp_server[256];      /* "": what the control plane says */
	char frp_server_name[256]; /* in its certificate; "": frp_server */
	char frp_token_file[256];  /* "": none */
	char frp_domain[128];
	uint32_t frp_port;
	int frp_naming;            /* enum proto_naming */
	int frp_tls;               /* enum proto_tls */
	int backend;               /* enum backend */
	char container_gpus[1024]; /* as gpus_named_parse() has them; "": those of the driver */
	int nvml;                  /* enum nvml_choice */
	char base_image[PROTO_NAME_SIZE];
	char pci_ids[256]; /* names of GPUs; need not exist */
	uint32_t port;     /* 0: the first free one of 15001-15300 */
	uint32_t default_cpus;
	uint32_t default_memory_mib;
	uint32_t default_disk_mib; /* 0: what the image asks for */
	uint32_t stop_grace_s;     /* from the power button to the hard stop */
	uint32_t delete_grace_s;   /* the same when the disk is deleted anyway */
	uint32_t boot_timeout_s;
	uint32_t tcg_factor; /* how much longer a boot may take without KVM */
	int on_host_reboot;  /* enum on_end */
	int on_exit;         /* enum on_end */
	bool debug;          /* no GPU is expected on this host: one is made up; more is logged */
};

/* The built-in values. */
void config_defaults(struct agentd_config *ret_config);

/*
 * Reads @path over the defaults, then the environment over that. A missing file is an error only
 * when @required. Returns 0 or a negative errno with
 * words in @reterr.
 */
int config_load(const char *path, bool required, struct agentd_config *ret_config,
		struct err *reterr);

/* The same from memory and without the environment, for tests. */
int config_parse(char *text, struct agentd_config *ret_config, struct err *reterr);

/*
 * Takes the API key from QUDATA_API_KEY (and removes it there), the credential `api-key`, or
 * api_key_file, when there is a control plane. Errors name the remedy and never the key.
 */
int config_load_key(struct agentd_config *config, struct err *reterr);

/* The environment alone, read over what @config holds. */
int config_environment(struct agentd_config *config, struct err *reterr);
