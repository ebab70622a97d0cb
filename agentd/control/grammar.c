/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a control plane may give us. Pure.
 * Trust: runs in control-client and again in agentd; reads strings of whoever speaks in its name.
 */
#include "agentd/control/control.h"

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS  "0123456789"

static bool of_alphabet(const char *text, size_t min, size_t max, const char *alphabet)
{
	size_t len = strnlen(text, max + 1);

	return len >= min && len <= max && text[strspn(text, alphabet)] == '\0';
}

bool control_secret_ok(const char *text)
{
	return strncmp(text, "sk-", 3) == 0 && of_alphabet(text + 3, 20, 60, LETTERS DIGITS "_-");
}

bool control_token_ok(const char *text)
{
	return of_alphabet(text, 1, 120, LETTERS DIGITS "._~+/=-");
}

bool control_host_ok(const char *text)
{
	return of_alphabet(text, 1, 120, LETTERS DIGITS ".-") && text[0] != '-' && text[0] != '.';
}

static bool flag_ok(uint32_t flag)
{
	return flag <= 1;
}

/* "" or of the grammar @ok, and a well-formed field. */
static bool field_ok(const char *field, size_t size, bool (*ok)(const char *text))
{
	return proto_text_ok(field, size) && (field[0] == '\0' || ok(field));
}

bool control_init_ok(const struct control_init *i)
{
	bool frp = i->frp_port != 0;

	return flag_ok(i->agent_created) && flag_ok(i->host_exists) &&
	       flag_ok(i->instance_running) && flag_ok(i->emergency_reinit) && i->reserved == 0 &&
	       i->frp_port <= UINT16_MAX && frp == (i->frp_server[0] != '\0') &&
	       field_ok(i->secret, sizeof(i->secret), control_secret_ok) &&
	       field_ok(i->tunnel_token, sizeof(i->tunnel_token), control_token_ok) &&
	       field_ok(i->frp_server, sizeof(i->frp_server), control_host_ok) &&
	       field_ok(i->frp_token, sizeof(i->frp_token), control_token_ok) &&
	       field_ok(i->frp_subdomain, sizeof(i->frp_subdomain), control_host_ok);
}
