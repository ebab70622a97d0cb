/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between agentd and control-client, the process that speaks HTTPS with the control plane: agentd
 * has neither a TLS library nor a route out, and control-client nothing of the instances. One
 * SOCK_SEQPACKET datagram is one message: a struct proto_header, whose `op` is an enum control_op,
 * and the struct named there. Private to the two, which are of one package.
 */
#pragma once

#include "common/base.h"
#include "proto/proto.h"

#define CONTROL_VERSION     1
#define CONTROL_FD          3 /* control-client's end */
#define CONTROL_TEXT        128
#define CONTROL_SECRET_SIZE 64
#define CONTROL_URL_SIZE    256

enum control_op {
	CONTROL_SETUP = 1, /* to the client, first: struct control_setup */
	CONTROL_HOST,      /* to the client: struct control_host */
	CONTROL_STATS, /* to the client: struct control_stats; a newer one replaces an unsent one */
	CONTROL_STATE, /* from the client: struct control_state */
	CONTROL_INIT,  /* from the client: struct control_init */
	CONTROL_HELLO, /* from the client, first: it has been started and knows nothing; no body */
};

/* Texts are printable ASCII, NUL-padded; "" is unknown or not set. */
struct control_setup {
	uint32_t version; /* CONTROL_VERSION */
	uint32_t agent_port;
	uint32_t pid; /* agentd's */
	uint32_t test_mode;
	char url[CONTROL_URL_SIZE];     /* https; http on loopback only */
	char ca_file[CONTROL_URL_SIZE]; /* "" : the system's authorities */
	char pinned_key[CONTROL_TEXT];  /* "sha256//BASE64" or "" */
	char api_key[CONTROL_TEXT];
	char secret[CONTROL_SECRET_SIZE]; /* what the control plane gave us before, or "" */
	char agent_id[40];                /* a UUID */
	char fingerprint[40];             /* the machine-id */
	char address[64];                 /* "" : the address that reaches the control plane */
	char agent_version[32];
};

#define CONTROL_UNKNOWN UINT32_MAX /* of a number that this host does not tell */

/* What is told about this host once. Numbers are thousandths where a unit says so. */
struct control_host {
	uint32_t gpu_amount;
	uint32_t vram_mib; /* of each GPU */
	uint32_t ram_mib, disk_mib;
	uint32_t cpu_cores, vcpu; /* of all sockets: cores, and threads */
	uint32_t cpu_mhz, memory_mhz;
	uint32_t ethernet_mbit; /* both ways */
	uint32_t capacity;      /* instances that fit */
	char gpu_name[CONTROL_TEXT];
	char cpu_name[CONTROL_TEXT];
	char max_cuda[16];
	char city[64], country[64], region[64];
};

struct control_stats {
	uint64_t inet_in, inet_out; /* bytes since the host started; a guest could say anything */
	/*
	 * Thousandths of % or of °C, of the instance's guest. Processor and memory are the host's
	 * until the guest tells of its own, and where it has none.
	 */
	uint32_t gpu_util, gpu_temp, cpu_util, ram_util, mem_util;
	uint32_t reserved;
	char status[16];
};

enum control_phase {
	CONTROL_CONNECTING, /* not reached yet */
	CONTROL_UP,
	CONTROL_DOWN,    /* it does not answer, or not usefully; tried again */
	CONTROL_REFUSED, /* it does not know the API key; tried again, seldom */
	CONTROL_PHASE_MAX = CONTROL_REFUSED,
};

struct control_state {
	uint32_t phase;         /* enum control_phase */
	uint32_t http;          /* status of the last answer; 0: none came */
	char why[CONTROL_TEXT]; /* words for the log; nothing secret */
};

/* What POST /init answered. */
struct control_init {
	uint32_t agent_created, host_exists, instance_running, emergency_reinit;
	uint32_t frp_port; /* 0: no frp */
	uint32_t reserved;
	char secret[CONTROL_SECRET_SIZE]; /* "" : as before */
	char tunnel_token[CONTROL_TEXT];
	char frp_server[CONTROL_TEXT];
	char frp_token[CONTROL_TEXT];
	char frp_subdomain[CONTROL_TEXT];
};

/* The grammars of what the control plane may give us; both sides check. grammar.c */
bool control_secret_ok(const char *text); /* sk- and 20 to 60 of [A-Za-z0-9_-] */
bool control_token_ok(const char *text);  /* 1 to 120 of [A-Za-z0-9._~+/=-] */
bool control_host_ok(const char *text);   /* a host name or an address, at most 120 */
bool control_init_ok(const struct control_init *init);
