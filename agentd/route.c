/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The URL table.
 * Trust: runs inside agentd; reads paths of strangers, decoded and checked by http_parse.c.
 */
#include "agentd/route.h"

#include "agentd/gpus.h"

#define GPU_PREFIX "/v1/gpus/"

const struct route routes[] = {
	{HTTP_GET, "/ping", ROUTE_HOST, api_ping, false, false},

	{HTTP_GET, "/instances", ROUTE_BARE, api_get_bare, false, false},
	{HTTP_POST, "/instances", ROUTE_BARE, api_create_bare, true, false},
	{HTTP_PUT, "/instances", ROUTE_BARE, api_put, true, false},
	{HTTP_DELETE, "/instances", ROUTE_BARE, api_delete, true, false},
	{HTTP_GET, "/ssh", ROUTE_BARE, api_keys_get, false, false},
	{HTTP_POST, "/ssh", ROUTE_BARE, api_keys_add, true, false},
	{HTTP_DELETE, "/ssh", ROUTE_BARE, api_keys_remove, true, false},

	{HTTP_GET, "/v1/instances", ROUTE_HOST, api_list, false, false},
	{HTTP_POST, "/v1/instances", ROUTE_HOST, api_create, true, false},
	{HTTP_GET, "/v1/instances/{id}", ROUTE_ID, api_get, false, false},
	{HTTP_PUT, "/v1/instances/{id}", ROUTE_ID, api_put, true, false},
	{HTTP_DELETE, "/v1/instances/{id}", ROUTE_ID, api_delete, true, false},
	{HTTP_GET, "/v1/instances/{id}/ssh", ROUTE_ID, api_keys_get, false, false},
	{HTTP_POST, "/v1/instances/{id}/ssh", ROUTE_ID, api_keys_add, true, false},
	{HTTP_DELETE, "/v1/instances/{id}/ssh", ROUTE_ID, api_keys_remove, true, false},
	{HTTP_GET, "/v1/instances/{id}/wait", ROUTE_ID, api_wait, false, false},
	{HTTP_GET, "/v1/instances/{id}/console", ROUTE_ID, api_console, true, false},
	{HTTP_GET, "/v1/instances/{id}/console/log", ROUTE_ID, api_console_log, false, false},
	{HTTP_GET, "/v1/instances/{id}/metrics", ROUTE_ID, api_figures, false, false},
	{HTTP_GET, "/v1/host", ROUTE_HOST, api_host, false, false},
	{HTTP_GET, "/v1/engine", ROUTE_HOST, api_engine, false, true},
	{HTTP_GET, "/v1/tunnels", ROUTE_HOST, api_tunnels, false, true},
	{HTTP_GET, "/metrics", ROUTE_HOST, api_metrics, false, false},
	{HTTP_GET, "/v1/gpus", ROUTE_HOST, api_gpus, false, true},
	{HTTP_GET, "/v1/gpus/figures", ROUTE_HOST, api_gpu_figures, false, true},
	{HTTP_POST, "/v1/gpus/recover", ROUTE_HOST, api_gpu_recover, true, true},
	{HTTP_POST, "/v1/gpus/{address}/recover", ROUTE_HOST, api_gpu_recover, true, true},
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

/* What a pattern has in braces, and one segment of a path, from @path on. */
static bool segment_matches(const char *pattern, const char *path, size_t len,
			    char ret_id[static INSTANCE_ID_LEN + 1])
{
	char segment[32];
	uint64_t address;

	if (len >= sizeof(segment))
		return false;
	(void)snprintf(segment, sizeof(segment), "%.*s", (int)len, path);
	if (strncmp(pattern, "{address}", strlen("{address}")) == 0)
		return gpus_parse_address(segment, &address) == 0;
	if (!instance_id_valid(segment))
		return false;
	(void)snprintf(ret_id, INSTANCE_ID_LEN + 1, "%.*s", INSTANCE_ID_LEN, segment);
	return true;
}

static bool path_matches(const char *pattern, const char *path,
			 char ret_id[static INSTANCE_ID_LEN + 1])
{
	const char *brace = strchr(pattern, '{');
	size_t n = brace ? (size_t)(brace - pattern) : 0, len;

	if (!brace)
		return STR_EQ(pattern, path);
	if (strncmp(pattern, path, n) != 0)
		return false;
	len = strcspn(path + n, "/");
	return STR_EQ(strchr(brace, '}') + 1, path + n + len) &&
	       segment_matches(brace, path + n, len, ret_id);
}

uint64_t route_address(const char *path)
{
	uint64_t address;
	char text[32];

	if (strncmp(path, GPU_PREFIX, strlen(GPU_PREFIX)) != 0)
		return 0;
	path += strlen(GPU_PREFIX);
	(void)snprintf(text, sizeof(text), "%.*s", (int)strcspn(path, "/"), path);
	return gpus_parse_address(text, &address) < 0 ? 0 : address;
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
