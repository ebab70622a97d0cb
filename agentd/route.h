/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The URL table: which function answers which method and path.
 * Trust: runs inside agentd; reads paths of strangers, decoded and checked by http_parse.c.
 */
#pragma once

#include "agentd/http.h"
#include "agentd/instance.h"

struct agentd;

/* Answers a request; @inst is the instance that the path names, NULL where it names none. */
typedef void api_fn(struct agentd *a, struct http_request *req, struct instance *inst);

enum route_target {
	ROUTE_HOST, /* no instance */
	ROUTE_BARE, /* the one made through /instances; NULL when there is none */
	ROUTE_ID,   /* the one that {id} names: 404 when there is none */
};

struct route {
	enum http_method method;
	const char *path; /* {id} stands for an instance's id, {address} for a PCI address */
	enum route_target target;
	api_fn *answer;
	bool changes;  /* something: logged with who asked */
	bool operator; /* only for whoever may use the local socket */
};

#define ROUTE_ALLOW_MAX 64

/*
 * Finds the row for @method and @path. Returns 0 with the row and, for ROUTE_ID, the id (always
 * well-formed); -ENOENT: no such path; -EOPNOTSUPP: not with this method, @ret_allow lists those
 * that it knows.
 */
int route_find(enum http_method method, const char *path, const struct route **ret_route,
	       char ret_id[static INSTANCE_ID_LEN + 1], char ret_allow[static ROUTE_ALLOW_MAX]);

extern const struct route routes[];
extern const size_t n_routes;

/*
 * The PCI address in @path, which a row with {address} has matched; 0 when there is none.
 */
uint64_t route_address(const char *path);

/*
 * api_hostgpus.c: answers @req by @answer once the figures of the host's own GPUs are recent, or
 * after a few seconds; at once with `?wait=no`. @inst may be NULL; @answer gets it again, and is
 * not asked when it was destroyed meanwhile.
 */
typedef void hostgpus_answer_fn(struct agentd *a, struct http_request *req, struct instance *inst);
void api_with_hostgpus(struct agentd *a, struct http_request *req, const struct instance *inst,
		       hostgpus_answer_fn *answer);

/* The rows' functions. */
#define API(name) void api_##name(struct agentd *a, struct http_request *req, struct instance *inst)
API(ping);
API(host);
API(list);
API(create);
API(create_bare);
API(get);
API(get_bare);
API(put);
API(delete);
API(keys_get);
API(keys_add);
API(keys_remove);
API(wait);
API(console);
API(console_log);
API(figures);
API(engine);
API(gpus);
API(gpu_figures);
API(gpu_recover);
API(tunnels);
API(metrics);
#undef API
