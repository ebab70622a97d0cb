/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tunnels as JSON.
 * Trust: runs inside agentd; shows nothing secret.
 */
#include "agentd/agentd.h"
#include "agentd/reply.h"
#include "agentd/route.h"
#include "common/frpname.h"

/* What there is to say of one tunnel; NULL when out of memory. */
static json_t *tunnel_json(const struct agentd *a, const struct port_tunnel *tunnel,
			   const struct proto_proxy *proxy)
{
	char address[FRPNAME_SIZE];

	frpname_public(&a->tunnels.server, proxy, address, sizeof(address));
	return json_pack("{s:i, s:s, s:s, s:s, s:s}", "port", (int)proxy->remote, "address",
			 address, "kind", proxy->kind == PROTO_PROXY_TCP ? "tcp" : "http", "state",
			 proto_proxy_name(tunnel->state), "detail", tunnel->detail);
}

json_t *tunnels_instance_json(const struct instance *inst)
{
	json_t *all;

	if (!inst->agentd || !inst->agentd->tunnels.on)
		return json_null();
	all = json_object();
	for (size_t i = 0; i < proto_ports_count(inst->ports); i++) {
		const struct proto_proxy proxy = tunnels_proxy(inst, i);
		uint16_t shown = instance_shown_port(inst, i);
		char guest[8];

		if (shown == 0)
			continue;
		(void)snprintf(guest, sizeof(guest), "%u", shown);
		(void)json_object_set_new(all, guest,
					  tunnel_json(inst->agentd, &inst->tunnels[i], &proxy));
	}
	return all;
}

json_t *tunnels_host_json(const struct agentd *a)
{
	const struct tunnels *t = &a->tunnels;
	const struct frp_state_ev *s = &t->state;
	const char *detail = t->trouble[0] ? t->trouble : s->detail;

	return json_pack("{s:s, s:s, s:i, s:i}", "state",
			 t->on ? proto_tunnel_name((enum proto_tunnel_state)s->state) : "off",
			 "detail", t->on ? detail : "", "tunnels", (int)s->proxies, "running",
			 (int)s->running);
}

static void append(json_t *list, const struct agentd *a, const struct instance *inst,
		   const struct port_tunnel *tunnel, const struct proto_proxy *proxy)
{
	json_t *json = tunnel_json(a, tunnel, proxy);

	if (json)
		(void)json_object_update_new(
			json, json_pack("{s:s?, s:s, s:i, s:i}", "instance", inst ? inst->id : NULL,
					"name", inst ? inst->name : "api", "guest_port",
					(int)proxy->guest, "host_port", (int)proxy->local));
	(void)json_array_append_new(list, json);
}

json_t *tunnels_list_json(const struct agentd *a)
{
	const struct proto_proxy api = tunnels_api_proxy(a);
	json_t *all = tunnels_host_json(a), *list = json_array();
	const struct instance *inst;

	if (a->tunnels.on && a->http_port != 0)
		append(list, a, NULL, &a->tunnels.api, &api);
	TAILQ_FOREACH(inst, &a->instances, link)
	for (size_t i = 0; a->tunnels.on && i < proto_ports_count(inst->ports); i++) {
		const struct proto_proxy proxy = tunnels_proxy(inst, i);

		append(list, a, inst, &inst->tunnels[i], &proxy);
	}
	(void)json_object_set_new(all, "server", json_string(a->tunnels.server.server));
	(void)json_object_set_new(all, "server_port", json_integer(a->tunnels.server.port));
	(void)json_object_set_new(all, "list", list);
	return all;
}

void api_tunnels(struct agentd *a, struct http_request *req, struct instance *inst)
{
	(void)inst;
	reply_data(req, tunnels_list_json(a));
}
