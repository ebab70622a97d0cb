/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The URL table.
 * Trust: runs inside agentd; reads paths of strangers, decoded and checked by http_parse.c.
 */
#include "agentd/route.h"

#define ID "{id}"

const struct route routes[] = {
	{HTTP_GET, "/ping", ROUTE_HOST, api_ping, false},

	{HTTP_GET, "/instances", ROUTE_BARE, api_get_bare, false},
	{HTTP_POST, "/instances", ROUTE_BARE, api_create_bare, true},
	{HTTP_PUT, "/instances", ROUTE_BARE, api_put, true},
	{HTTP_DELETE, "/instances", ROUTE_BARE, api_delete, true},
	{HTTP_GET, "/ssh", ROUTE_BARE, api_keys_get, false},
	{HTTP_POST, "/ssh", ROUTE_BARE, api_keys_add, true},
	{HTTP_DELETE, "/ssh", ROUTE_BARE, api_keys_remove, true},

	{HTTP_GET, "/v1/instances", ROUTE_HOST, api_list, false},
	{HTTP_POST, "/v1/instances", ROUTE_HOST, api_create, true},
	{HTTP_GET, "/v1/instances/{id}", ROUTE_ID, api_get, false},
	{HTTP_PUT, "/v1/instances/{id}", ROUTE_ID, api_put, true},
	{HTTP_DELETE, "/v1/instances/{id}", ROUTE_ID, api_delete, true},
	{HTTP_GET, "/v1/instances/{id}/ssh", ROUTE_ID, api_keys_get, false},
	{HTTP_POST, "/v1/instances/{id}/ssh", ROUTE_ID, api_keys_add, true},
	{HTTP_DELETE, "/v1/instances/{id}/ssh", ROUTE_ID, api_keys_remove, true},
	{HTTP_GET, "/v1/instances/{id}/wait", ROUTE_ID, api_wait, false},
	{HTTP_GET, "/v1/instances/{id}/console", ROUTE_ID, api_console, true},
	{HTTP_GET, "/v1/instances/{id}/console/log", ROUTE_ID, api_console_log, false},
	{HTTP_GET, "/v1/host", ROUTE_HOST, api_host, false},
};
const size_t n_routes = ARRAY_LEN(routes);

static const char *method_word(enum http_method method)
{
	static const char *const words[] = {
		[HTTP_GET] = "GET", [HTTP_HEAD] = "HEAD",     [HTTP_POST] = "POST",
		[HTTP_PUT] = "PUT", [HTTP_DELETE] = "DELETE", [HTTP_OPTIONS] = "OPTIONS",
	};

	return words[method];
}

static bool path_matches(const char *pattern, const char *path,
			 char ret_id[static INSTANCE_ID_LEN + 1])
{
	const char *id = strstr(pattern, ID);
	size_t n = id ? (size_t)(id - pattern) : 0;

	if (!id)
		return STR_EQ(pattern, path);
	if (strncmp(pattern, path, n) != 0 || strlen(path) < n + INSTANCE_ID_LEN)
		return false;
	(void)snprintf(ret_id, INSTANCE_ID_LEN + 1, "%s", path + n);
	return instance_id_valid(ret_id) && STR_EQ(id + strlen(ID), path + n + INSTANCE_ID_LEN);
}

static bool method_matches(enum http_method asked, enum http_method method)
{
	return asked == method || (asked == HTTP_HEAD && method == HTTP_GET);
}

int route_find(enum http_method method, const char *path, const struct route **ret_route,
	       char ret_id[static INSTANCE_ID_LEN + 1], char ret_allow[static ROUTE_ALLOW_MAX])
{
	size_t len = 0;

	ret_allow[0] = '\0';
	for (size_t i = 0; i < n_routes; i++) {
		if (!path_matches(routes[i].path, path, ret_id))
			continue;
		if (method_matches(method, routes[i].method)) {
			*ret_route = &routes[i];
			ret_allow[0] = '\0';
			return 0;
		}
		len += (size_t)snprintf(ret_allow + len, ROUTE_ALLOW_MAX - len, "%s%s",
					len > 0 ? ", " : "", method_word(routes[i].method));
	}
	return len > 0 ? -EOPNOTSUPP : -ENOENT;
}
