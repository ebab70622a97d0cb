/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that need another daemon's word before they can be answered.
 * Trust: runs inside agentd; holds requests of clients that may go away.
 */
#pragma once

#include "agentd/agentd.h"

#define LATER_TIMEOUT_MS 10000

/* A request that waits for another daemon. */
struct later {
	struct agentd *agentd;    /* borrowed */
	struct http_request *req; /* owned; never NULL in @answer */
	char id[PROTO_NAME_SIZE]; /* of the instance, "" without one */
	void *data;               /* owned; see later_ask() */
	void (*free_data)(void *data);
	/*
	 * Answers @req; not called when the client has gone. @rep is NULL unless @status is
	 * PROTO_OK.
	 */
	void (*answer)(struct later *later, enum proto_status status, const void *rep,
		       struct fdlist *fds);
};

struct later_question {
	enum peer_id peer;
	uint32_t op_number;
	const void *req;     /* borrowed during the call */
	uint32_t timeout_ms; /* 0: LATER_TIMEOUT_MS */
	void (*answer)(struct later *later, enum proto_status status, const void *rep,
		       struct fdlist *fds);
	void *data; /* the caller's to give away, or NULL */
	void (*free_data)(void *data);
};

/*
 * Asks, and has @req answered with what comes back: at once with PROTO_UNREACHABLE when the peer
 * is away. @question's data is freed in any case, after the answer.
 */
void later_ask(struct agentd *a, struct http_request *req, const struct instance *inst,
	       const struct later_question *question);
