/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine's answers say. Pure functions on bodies of bounded length.
 * Trust: runs in vmmon; reads JSON of a container engine in a guest, which its tenant owns.
 */
#pragma once

#include "common/base.h"

#define ANSWER_ID_SIZE    72 /* a container's id and a NUL, as the protocol has it */
#define ANSWER_TEXT_SIZE  256
#define ANSWER_TIME_SIZE  48
#define ANSWER_HASH_SIZE  80
#define ANSWER_OWNER_SIZE 40 /* longer than any of ours */
#define ANSWER_PATH_SIZE  256
#define ANSWER_GPU_SIZE   64 /* of the name of a GPU */
#define PULL_LAYERS_MAX   160

/* Versions of the engine's API, 1.41 as 1041. */
#define ANSWER_API_MIN 1041

/*
 * The version of the API to speak: ANSWER_API_MIN, or more when the engine has dropped that.
 * -EBADMSG when the answer makes no sense, -EPROTONOSUPPORT when the engine is too old.
 */
int answer_version(const char *body, size_t len, unsigned int *ret_version);

/* Is it podman, which takes some requests in another form? The same answer. */
bool answer_is_podman(const char *body, size_t len);

/* How an engine gives NVIDIA's GPUs to a container. */
enum answer_gpus {
	ANSWER_GPUS_NONE,
	ANSWER_GPUS_NVIDIA, /* by NVIDIA's container toolkit, whose runtime it knows */
	ANSWER_GPUS_CDI,    /* by a device's description (Container Device Interface) */
};

/* What /info says of it; the toolkit first. -EBADMSG when it does not say. */
int answer_gpus(const char *body, size_t len, enum answer_gpus *ret_gpus);

/* Does the engine limit memory, processor time and processes? -EBADMSG when it does not say. */
int answer_has_limits(const char *body, size_t len, bool *ret_has);

/* What /info says to those who set the host up; texts are printable ASCII. */
struct answer_info {
	bool memory, cpus, processes; /* it limits them */
	bool rootless;                /* it says so; podman does not always */
	unsigned int cgroup;          /* version 1 or 2; 0: it does not say */
	char version[32];
	char driver[32];  /* of images and containers' disks */
	char backing[32]; /* the file system under it; "": it does not say */
	char root[ANSWER_PATH_SIZE];
};

/* -EBADMSG */
int answer_info(const char *body, size_t len, struct answer_info *ret_info);

/*
 * Of GPUs' names between commas, the first that the engine does not list as a device of NVIDIA's;
 * "" when it has them all, or keeps no list. -EBADMSG
 */
int answer_missing_gpu(const char *body, size_t len, const char *names,
		       char ret_name[static ANSWER_GPU_SIZE]);

/* Where it keeps images, containers and volumes; "" when it does not say. -EBADMSG */
int answer_root(const char *body, size_t len, char ret_path[static ANSWER_PATH_SIZE]);

/* A volume or a network. */
struct answer_thing {
	char owner[ANSWER_OWNER_SIZE]; /* as in struct answer_container */
	bool bounded;                  /* a volume: it has a limit of its size */
};

/* The answer to a question for one. -EBADMSG */
int answer_thing(const char *body, size_t len, struct answer_thing *ret_thing);

struct answer_container {
	char id[ANSWER_ID_SIZE];
	char hash[ANSWER_HASH_SIZE];    /* of its label; "" without one */
	bool running;                   /* its process runs */
	bool disk_bounded;              /* its own file system has a limit */
	bool memory_bounded;            /* it has a limit of memory: engines may ignore one */
	bool paused;                    /* frozen by someone; it counts as running */
	bool oom;                       /* it was killed for want of memory */
	char owner[ANSWER_OWNER_SIZE];  /* the instance in its label; "" without one */
	bool restarting;                /* it does not, but the engine will start it again */
	unsigned int restarts;          /* by the engine, since it was started by someone else */
	unsigned int exit_code;         /* unless it runs: of the last run, 0 to 255 */
	char error[ANSWER_TEXT_SIZE];   /* why it could not be started; "": it could */
	char started[ANSWER_TIME_SIZE]; /* when, in the engine's words: another for each run */
};

/* The answer to an inspection. -EBADMSG */
int answer_container(const char *body, size_t len, struct answer_container *ret_container);

/* The exit code of a program that was run, 0 to 255. -EBADMSG, also when it still runs. */
int answer_exec(const char *body, size_t len, unsigned int *ret_exit_code);

/* {"Id": …} of a creation. -EBADMSG */
int answer_created(const char *body, size_t len, char ret_id[static ANSWER_ID_SIZE]);

/* {"message": …} of a refusal, as printable ASCII; "" when there is none. */
void answer_message(const char *body, size_t len, char ret_text[static ANSWER_TEXT_SIZE]);

/* How far a pull has come: downloading is one half of the work, unpacking the other. */
struct pull_layer {
	uint32_t key;
	uint64_t total, downloaded, unpacked;
};

struct pull {
	struct pull_layer layers[PULL_LAYERS_MAX];
	size_t n;
	unsigned int percent;         /* never falls */
	char error[ANSWER_TEXT_SIZE]; /* "": no line said so */
};

/* Takes one line of a pull's answer. -EBADMSG when it is no JSON object. */
int pull_line(struct pull *p, const char *line, size_t len);

/* What a failure of the engine is, by its words: engines give no codes. */
enum trouble_kind {
	TROUBLE_OTHER,
	TROUBLE_UNKNOWN_IMAGE,
	TROUBLE_DENIED,
	TROUBLE_SPACE,
	TROUBLE_PLATFORM,
	TROUBLE_QUOTA,   /* the engine cannot limit a container's disk */
	TROUBLE_PORT,    /* taken by something else */
	TROUBLE_GPU,     /* the guest cannot give them to a container */
	TROUBLE_CERT,    /* of the registry: it does not verify */
	TROUBLE_NO_TLS,  /* the registry speaks none */
	TROUBLE_NETWORK, /* trying again may help */
};

enum trouble_kind trouble_of(const char *text);
