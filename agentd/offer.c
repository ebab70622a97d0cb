/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the control plane has said of tunnels, on disk.
 * Trust: runs inside agentd; reads back its own file, which may have been damaged.
 */
#include "agentd/offer.h"

#include "common/fd.h"

#include <jansson.h>

#define FILE_NAME "control_tunnels"
#define FILE_MAX  2048 /* bytes */

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}
#define _cleanup_json_ _cleanup_(cleanup_json)

static void cleanup_secret(char **text)
{
	if (*text)
		explicit_bzero(*text, strlen(*text));
	free(*text);
}

int offer_save(int data_fd, const char *url, const struct control_init *init)
{
	_cleanup_(cleanup_secret) char *text = NULL;
	_cleanup_json_ json_t *json =
		json_pack("{s:s, s:s, s:i, s:s, s:s, s:s}", "control_plane", url, "server",
			  init->frp_server, "port", (int)init->frp_port, "token", init->frp_token,
			  "subdomain", init->frp_subdomain, "tunnel_token", init->tunnel_token);

	text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
	if (!text)
		return -ENOMEM;
	return fd_replace_file(data_fd, FILE_NAME, text, strlen(text), 0600);
}

static bool take(const json_t *json, const char *key, char *field, size_t size)
{
	const char *text = json_string_value(json_object_get(json, key));

	if (!text || strlen(text) >= size)
		return false;
	memcpy(field, text, strlen(text));
	return true;
}

static int parse(const char *text, size_t len, const char *url, struct control_init *init)
{
	_cleanup_json_ json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	const char *whose = json_string_value(json_object_get(json, "control_plane"));
	json_int_t port = json_integer_value(json_object_get(json, "port"));

	if (!whose || port < 0 || port > UINT16_MAX)
		return -EBADMSG;
	if (!STR_EQ(whose, url))
		return -ENOENT;
	init->frp_port = (uint32_t)port;
	if (!take(json, "server", init->frp_server, sizeof(init->frp_server)) ||
	    !take(json, "token", init->frp_token, sizeof(init->frp_token)) ||
	    !take(json, "subdomain", init->frp_subdomain, sizeof(init->frp_subdomain)) ||
	    !take(json, "tunnel_token", init->tunnel_token, sizeof(init->tunnel_token)))
		return -EBADMSG;
	/* The same grammars as when it came. */
	return control_init_ok(init) ? 0 : -EBADMSG;
}

int offer_load(int data_fd, const char *url, struct control_init *ret_init)
{
	struct control_init init = {0};
	char text[FILE_MAX];
	ssize_t len = fd_read_file(data_fd, FILE_NAME, text, sizeof(text));
	int r = len < 0 ? (int)len : parse(text, (size_t)len, url, &init);

	explicit_bzero(text, sizeof(text));
	if (r == 0)
		*ret_init = init;
	explicit_bzero(&init, sizeof(init));
	return r;
}
