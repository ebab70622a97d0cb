/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What frpc's admin API answers: an HTTP response, and in it the state of the proxies as JSON.
 * Pure. Trust: runs in frp-supervisor; reads bytes of frpc, which reads a server's.
 */
#pragma once

#include "common/base.h"

#define ANSWER_MAX     (256 * 1024) /* bytes of a whole response */
#define ANSWER_ENTRIES 512          /* proxies that are looked at */

struct answer_http {
	unsigned int status; /* 100 to 599 */
	const char *body;    /* within the buffer that was parsed */
	size_t body_len;
};

/*
 * Reads a response to an HTTP/1.0 request; @eof: no more will come. Returns 1 when it is whole, 0
 * when more is needed, -EBADMSG when it is none (or is coded in chunks, which 1.0 does not have).
 */
int answer_http(const char *buf, size_t len, bool eof, struct answer_http *ret_answer);

enum answer_phase {
	ANSWER_WAITING,
	ANSWER_RUNNING,
	ANSWER_ERROR,
};

struct answer_entry {
	char name[96];
	bool http; /* else TCP */
	enum answer_phase phase;
	char error[120];     /* printable */
	uint16_t local_port; /* 0: it is not 127.0.0.1 and a port, or a plugin is at work */
};

/*
 * Reads /api/status: {"tcp": [{…}, …], "http": […], …}. Other types are counted as entries with
 * local port 0. Returns the number of entries, -EBADMSG when it is something else, -E2BIG when
 * there are more than @max.
 */
ssize_t answer_status(const char *body, size_t len, struct answer_entry *entries, size_t max);

/* Does the server's @error say that a port or name is taken? */
bool answer_is_conflict(const char *error);

/*
 * The version that `frpc --version` printed, "0.61.2": its three numbers packed for comparison
 * (0.52.0 is 0x003400), or -EINVAL.
 */
int answer_version(const char *text);
