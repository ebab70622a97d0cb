/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frpc's configuration file.
 * Trust: runs in frp-supervisor; writes what wanted.c has checked, and checks it once more.
 */
#include "frp-supervisor/render.h"

#include "common/frpname.h"

#define PROXY_HEADER "\n[[proxies]]\n"

/* What may stand between quotes. The grammars have seen to it before: this is the last line. */
static bool plain(const char *value)
{
	for (const char *p = value; *p; p++)
		if (*p < 0x20 || *p > 0x7e || strchr("\"\\{}'`", *p))
			return false;
	return true;
}

static bool put_string(FILE *f, const char *key, const char *value)
{
	if (!plain(value))
		return false;
	(void)fprintf(f, "%s = \"%s\"\n", key, value);
	return true;
}

static void put_number(FILE *f, const char *key, uint32_t value)
{
	(void)fprintf(f, "%s = %u\n", key, value);
}

static bool put_tls(FILE *f, const struct frp_configure_req *server, const char *ca_file)
{
	bool ok = true;

	(void)fprintf(f, "transport.tls.enable = %s\n",
		      server->tls == PROTO_TLS_OFF ? "false" : "true");
	if (server->tls == PROTO_TLS_VERIFY)
		ok = grammar_path(ca_file) && put_string(f, "transport.tls.trustedCaFile", ca_file);
	if (server->tls != PROTO_TLS_OFF && server->server_name[0] != '\0')
		ok = ok && put_string(f, "transport.tls.serverName", server->server_name);
	return ok;
}

static bool put_common(FILE *f, const struct wanted *w, const struct render_admin *admin,
		       const char *ca_file)
{
	bool ok;

	(void)fputs("# Written by frp-supervisor(8), and again at every change.\n", f);
	ok = put_string(f, "serverAddr", w->server.server);
	put_number(f, "serverPort", w->server.port);
	(void)fputs("loginFailExit = false\n"
		    "log.to = \"console\"\n"
		    "log.level = \"warn\"\n"
		    "log.disablePrintColor = true\n"
		    "transport.protocol = \"tcp\"\n"
		    /* A dead connection is noticed within 20 s instead of a minute. */
		    "transport.tcpMuxKeepaliveInterval = 10\n"
		    "auth.method = \"token\"\n",
		    f);
	if (w->token[0] != '\0')
		ok = ok && put_string(f, "auth.token", w->token);
	ok = ok && put_tls(f, &w->server, ca_file);
	(void)fputs("webServer.addr = \"127.0.0.1\"\n"
		    "webServer.user = \"supervisor\"\n",
		    f);
	put_number(f, "webServer.port", admin->port);
	return ok && put_string(f, "webServer.password", admin->password);
}

static bool put_proxy(FILE *f, const struct wanted *w, const struct owner *owner,
		      const struct tunnel *tunnel)
{
	const struct proto_proxy *p = &tunnel->proxy;
	char name[96], domain[160];
	bool ok;

	wanted_name(w, owner, tunnel, name, sizeof(name));
	frpname_http(&w->server, p, domain, sizeof(domain));
	(void)fputs(PROXY_HEADER, f);
	ok = put_string(f, "name", name);
	(void)fprintf(f, "type = \"%s\"\n", p->kind == PROTO_PROXY_TCP ? "tcp" : "http");
	(void)fputs("localIP = \"127.0.0.1\"\n", f);
	put_number(f, "localPort", p->local);
	if (p->kind == PROTO_PROXY_TCP)
		put_number(f, "remotePort", p->remote);
	else if (plain(domain))
		(void)fprintf(f, "customDomains = [\"%s\"]\n", domain);
	else
		ok = false;
	return ok;
}

char *render_file(const struct wanted *w, const struct render_admin *admin, const char *ca_file)
{
	char *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);
	bool ok;

	if (!f)
		return NULL;
	ok = put_common(f, w, admin, ca_file);
	for (size_t i = 0; i < w->n_owners; i++)
		for (size_t j = 0; j < w->owners[i].n; j++)
			ok = ok && put_proxy(f, w, &w->owners[i], &w->owners[i].tunnels[j]);
	if (fclose(f) == 0 && ok)
		return text;
	render_free(text);
	return NULL;
}

void render_free(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

void render_digest(const char *text, char ret_digest[static RENDER_DIGEST_SIZE])
{
	static const char hex[] = "0123456789abcdef";
	const char *end = strstr(text, PROXY_HEADER);
	uint8_t digest[SHA256_SIZE];
	struct sha256 s;

	sha256_init(&s);
	sha256_add(&s, text, end ? (size_t)(end - text) : strlen(text));
	sha256_end(&s, digest);
	for (size_t i = 0; i < sizeof(digest); i++) {
		ret_digest[2 * i] = hex[digest[i] >> 4];
		ret_digest[2 * i + 1] = hex[digest[i] & 15];
	}
	ret_digest[2 * sizeof(digest)] = '\0';
}
