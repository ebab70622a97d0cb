/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests come in here: who may ask, what was asked, who answers.
 * Trust: runs inside agentd; reads heads of strangers.
 */
#include "agentd/agentd.h"
#include "agentd/reply.h"
#include "agentd/route.h"
#include "common/log.h"

#define REFUSALS_PER_MINUTE 30

/* A flood of refusals must not become a flood of records. */
static bool may_log_refusal(void)
{
	static uint64_t minute;
	static unsigned int n;
	uint64_t now = rpc_now_ms() / 60000;

	if (now != minute) {
		if (n > REFUSALS_PER_MINUTE)
			log_event(LOG_WARNING, "more requests were refused than logged",
				  LOG_NUM("COUNT", n - REFUSALS_PER_MINUTE));
		minute = now;
		n = 0;
	}
	return ++n <= REFUSALS_PER_MINUTE;
}

static void log_refusal(unsigned status, const char *reason, int tag, uid_t peer_uid)
{
	if (!may_log_refusal())
		return;
	if (tag == LISTENER_CTL)
		log_event(LOG_INFO, "request refused", LOG_NUM("STATUS", status),
			  LOG_STR("REASON", reason), LOG_NUM("PEER_UID", peer_uid));
	else
		log_event(LOG_INFO, "request refused", LOG_NUM("STATUS", status),
			  LOG_STR("REASON", reason));
}

void api_on_refusal(const struct http_error *error, int tag, uid_t peer_uid, void *arg)
{
	(void)arg;
	log_refusal(error->status, error->reason, tag, peer_uid);
}

static int deny(struct http_request *req, unsigned status, const char *reason)
{
	log_refusal(status, reason, http_tag(req), http_peer_uid(req));
	reply_error(req, status, "%s", reason);
	return -EACCES;
}

int api_on_head(struct http_request *req, void *arg)
{
	const struct agentd *a = arg;
	const char *given;
	int r;

	/* The Unix socket's mode and group have let this peer in. */
	if (http_tag(req) == LISTENER_CTL)
		return 0;
	if (http_method(req) == HTTP_GET && STR_EQ(http_path(req), "/ping"))
		return 0;
	r = http_header(req, "X-Agent-Secret", &given);
	if (r == -ENOTUNIQ)
		return deny(req, 400, "X-Agent-Secret is given more than once");
	if (r < 0)
		return deny(req, 401, "the header X-Agent-Secret is missing");
	if (!auth_matches(&a->auth, given))
		return deny(req, 403, "X-Agent-Secret is wrong");
	return 0;
}

static void log_change(const struct http_request *req, const struct instance *inst)
{
	const char *id = inst ? inst->id : "";

	if (http_tag(req) == LISTENER_CTL)
		log_event(LOG_INFO, "request", LOG_STR("METHOD", http_method_name(req)),
			  LOG_STR("PATH", http_path(req)), LOG_STR("INSTANCE", id),
			  LOG_NUM("PEER_UID", http_peer_uid(req)));
	else
		log_event(LOG_INFO, "request", LOG_STR("METHOD", http_method_name(req)),
			  LOG_STR("PATH", http_path(req)), LOG_STR("INSTANCE", id));
}

void api_handle(struct http_request *req, void *arg)
{
	struct agentd *a = arg;
	struct instance *inst = NULL;
	const struct route *route;
	char id[INSTANCE_ID_LEN + 1], allow[ROUTE_ALLOW_MAX];
	int r = route_find(http_method(req), http_path(req), &route, id, allow);

	if (r == -EOPNOTSUPP) {
		if (http_reply_header(req, "Allow", allow) < 0)
			log_event(LOG_DEBUG, "reply without Allow");
		reply_error(req, 405, "this path knows only %s", allow);
		return;
	}
	if (r < 0) {
		reply_error(req, 404, "no such path");
		return;
	}
	/* Whoever holds the secret rents; what else is in the host is none of their business. */
	if (route->operator&& http_tag(req) != LISTENER_CTL) {
		(void)deny(req, 403, "this path is for the host's operators, on the local socket");
		return;
	}
	if (route->target == ROUTE_ID) {
		inst = agentd_find(a, id);
		if (!inst) {
			reply_error(req, 404, "there is no instance %s", id);
			return;
		}
	} else if (route->target == ROUTE_BARE) {
		inst = agentd_bare(a);
	}
	if (route->changes)
		log_change(req, inst);
	route->answer(a, req, inst);
}
