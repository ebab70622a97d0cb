/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tunnels.
 *
 * Trust: runs as the operator; prints the agent's answers escaped.
 */
#include "ctl/api.h"
#include "ctl/instance.h"
#include "ctl/table.h"
#include "ctl/text.h"

#define COLOR_RED    31
#define COLOR_GREEN  32
#define COLOR_YELLOW 33

static const char *text_of(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text ? text : "";
}

int tunnel_state_color(const char *state)
{
	if (STR_EQ(state, "running") || STR_EQ(state, "connected"))
		return COLOR_GREEN;
	return STR_EQ(state, "waiting") || STR_EQ(state, "idle") ? COLOR_YELLOW : COLOR_RED;
}

static void add_number(struct table *t, const json_t *json, const char *key)
{
	json_int_t number = json_integer_value(json_object_get(json, key));
	char text[24];

	snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, number);
	table_add(t, number > 0 ? text : "-", 0);
}

static void add_tunnel(struct table *t, const json_t *tunnel)
{
	const char *instance = text_of(tunnel, "instance"), *state = text_of(tunnel, "state");

	table_add(t, *instance ? instance : "api", 0);
	add_number(t, tunnel, "guest_port");
	add_number(t, tunnel, "host_port");
	table_add(t, text_of(tunnel, "kind"), 0);
	table_add(t, text_of(tunnel, "address"), 0);
	table_add(t, state, tunnel_state_color(state));
	table_add(t, text_of(tunnel, "detail"), 0);
}

/* The server's line: "frp.example.org:7000 is connected, 3 of 4 tunnels run". */
static void print_server(const json_t *data)
{
	const char *detail = text_of(data, "detail");

	text_line("%s:%" JSON_INTEGER_FORMAT " %s%s%s, %" JSON_INTEGER_FORMAT
		  " of %" JSON_INTEGER_FORMAT " tunnels run",
		  text_of(data, "server"), json_integer_value(json_object_get(data, "server_port")),
		  text_of(data, "state"), *detail ? ": " : "", detail,
		  json_integer_value(json_object_get(data, "running")),
		  json_integer_value(json_object_get(data, "tunnels")));
}

static void print_tunnels(const struct ctl *c, const json_t *data, const json_t *list)
{
	static const char *const headers[] = {"INSTANCE", ">PORT", ">HOST PORT", "KIND",
					      "ADDRESS",  "STATE", "DETAIL",     NULL};
	_cleanup_(table_done) struct table table = {0};
	const json_t *tunnel;
	size_t i;

	table_init(&table, headers);
	json_array_foreach (list, i, tunnel)
		add_tunnel(&table, tunnel);
	table_print(&table, stdout, c->color_out);
	putchar('\n');
	print_server(data);
}

enum ctl_exit cmd_tunnels(struct ctl *c)
{
	_cleanup_reply_ struct api_reply reply = {0};
	enum ctl_exit r = CTL_FAILED;
	struct api *api = ctl_api(c, &r);
	const json_t *list;

	if (!api)
		return r;
	r = api_call(api, "GET", "/v1/tunnels", NULL, API_TIMEOUT_MS, &reply);
	if (r != CTL_OK)
		return ctl_fail(c, r, "%s", reply.error);
	list = json_object_get(reply.data, "list");
	if (!json_is_array(list))
		return ctl_fail(c, CTL_FAILED, "the agent's answer holds no list of tunnels");
	if (c->json)
		ctl_print_json(reply.data);
	else if (STR_EQ(text_of(reply.data, "state"), "off"))
		ctl_note(c, "There is no server for tunnels: see frp_server in agentd.conf(5)");
	else
		print_tunnels(c, reply.data, list);
	return CTL_OK;
}
