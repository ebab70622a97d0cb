/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Under which name or address a tunnel is reached at its server.
 * Trust: runs in agentd and frp-supervisor; reads values that were checked before.
 */
#include "common/frpname.h"

/* "domain", "domain:port", or "label-port.rest". */
void frpname_http(const struct frp_configure_req *server, const struct proto_proxy *proxy,
		  char *ret_name, size_t size)
{
	size_t label = strcspn(server->domain, ".");

	if (server->naming == PROTO_NAMING_LABEL)
		(void)snprintf(ret_name, size, "%.*s-%u%s", (int)label, server->domain,
			       proxy->remote, server->domain + label);
	else if (proxy->kind == PROTO_PROXY_API)
		(void)snprintf(ret_name, size, "%s", server->domain);
	else
		(void)snprintf(ret_name, size, "%s:%u", server->domain, proxy->remote);
}

void frpname_public(const struct frp_configure_req *server, const struct proto_proxy *proxy,
		    char *ret_name, size_t size)
{
	bool bare_ipv6 = strchr(server->server, ':') != NULL;

	if (proxy->kind != PROTO_PROXY_TCP)
		frpname_http(server, proxy, ret_name, size);
	else
		(void)snprintf(ret_name, size, "%s%s%s:%u", bare_ipv6 ? "[" : "", server->server,
			       bare_ipv6 ? "]" : "", proxy->remote);
}
