/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HTTP exchange at a time, by libcurl. Names are resolved here, before: libcurl would start a
 * thread for it, and this process has none.
 * Trust: runs in control-client; reads what the network sends.
 */
#include "agentd/control/client.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <time.h>

#define RESOLVE_AGAIN_MS 60000
#define ADDRESSES_MAX    8

uint64_t call_now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * MSEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000000;
}

static bool is_loopback(const char *host)
{
	return STR_EQ(host, "127.0.0.1") || STR_EQ(host, "[::1]") || STR_EQ(host, "localhost");
}

static bool is_numeric(const char *host)
{
	struct in_addr v4;

	return host[0] == '[' || inet_pton(AF_INET, host, &v4) == 1;
}

static void cleanup_curl(char **text)
{
	curl_free(*text);
}
#define _cleanup_curl_ _cleanup_(cleanup_curl)

static void cleanup_url(CURLU **url)
{
	curl_url_cleanup(*url);
}

static int read_url(const struct control_setup *setup, struct call *call, struct err *reterr)
{
	_cleanup_(cleanup_url) CURLU *url = curl_url();
	_cleanup_curl_ char *scheme = NULL, *host = NULL, *port = NULL, *user = NULL;

	if (!url)
		return -ENOMEM;
	if (curl_url_set(url, CURLUPART_URL, setup->url, 0) == CURLUE_OK) {
		(void)curl_url_get(url, CURLUPART_SCHEME, &scheme, 0);
		(void)curl_url_get(url, CURLUPART_HOST, &host, 0);
		(void)curl_url_get(url, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT);
		(void)curl_url_get(url, CURLUPART_USER, &user, 0);
	}
	if (!scheme || !host || !port || strlen(host) >= sizeof(call->host))
		return err_set(reterr, -EINVAL, "control_plane is no URL");
	if (user)
		return err_set(reterr, -EINVAL, "control_plane must not hold a user or password");
	if (!STR_EQ(scheme, "https") && !(STR_EQ(scheme, "http") && is_loopback(host)))
		return err_set(
			reterr, -EINVAL,
			"control_plane must begin with https:// (http:// only to this host)");
	(void)snprintf(call->host, sizeof(call->host), "%s", host);
	call->port = (uint16_t)strtoul(port, NULL, 10);
	call->numeric = is_numeric(host);
	return 0;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct call *call = arg;

	if (n > sizeof(call->answer) - call->answer_len) {
		call->too_long = true;
		return 0; /* ends the transfer */
	}
	memcpy(call->answer + call->answer_len, data, n);
	call->answer_len += n;
	return size * n;
}

/* Whatever the environment and the answers say: this host, this protocol, these limits. */
static int set_options(const struct control_setup *setup, CURL *curl, struct call *call)
{
	CURLcode c = CURLE_OK;

#define SET(option, value) c = c ? c : curl_easy_setopt(curl, (option), (value))
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_PROTOCOLS_STR, "https,http");
	SET(CURLOPT_FOLLOWLOCATION, 0L);
	SET(CURLOPT_PROXY, "");
	SET(CURLOPT_TIMEOUT, (long)CALL_TIMEOUT_S);
	SET(CURLOPT_CONNECTTIMEOUT, (long)CALL_TIMEOUT_S / 2);
	SET(CURLOPT_SSL_VERIFYPEER, 1L);
	SET(CURLOPT_SSL_VERIFYHOST, 2L);
	SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_USERAGENT, "qudata-agent/" QUDATA_VERSION);
	SET(CURLOPT_WRITEFUNCTION, on_body);
	SET(CURLOPT_WRITEDATA, call);
	if (setup->ca_file[0] != '\0')
		SET(CURLOPT_CAINFO, setup->ca_file);
	if (setup->pinned_key[0] != '\0')
		SET(CURLOPT_PINNEDPUBLICKEY, setup->pinned_key);
#undef SET
	return c == CURLE_OK ? 0 : -EINVAL;
}

int call_open(const struct control_setup *setup, struct call *ret_call, struct err *reterr)
{
	struct call *call = ret_call;
	int r;

	memset(call, 0, sizeof(*call));
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return err_set(reterr, -ENOMEM, "libcurl cannot be started");
	r = read_url(setup, call, reterr);
	if (r < 0)
		return r;
	call->curl = curl_easy_init();
	r = call->curl ? set_options(setup, call->curl, call) : -ENOMEM;
	return r < 0 ? err_set(reterr, r, "libcurl does not take its settings (pinned key?)") : 0;
}

void call_done(struct call *call)
{
	curl_easy_cleanup(call->curl);
	curl_slist_free_all(call->resolve);
	*call = (struct call){0};
}

/* Appends the addresses of @list to "host:port:". */
static size_t list_addresses(const struct addrinfo *list, char *text, size_t size)
{
	size_t n = 0, len = strlen(text);

	for (; list && n < ADDRESSES_MAX; list = list->ai_next) {
		char address[NI_MAXHOST];

		if (getnameinfo(list->ai_addr, list->ai_addrlen, address, sizeof(address), NULL, 0,
				NI_NUMERICHOST) != 0)
			continue;
		len += (size_t)snprintf(text + len, size - len,
					list->ai_family == AF_INET6 ? "%s[%s]" : "%s%s",
					n > 0 ? "," : "", address);
		if (len >= size)
			return 0;
		n++;
	}
	return n;
}

static int resolve(struct call *call, struct err *reterr)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
	struct addrinfo *list = NULL;
	char text[1024];
	int r;

	if (call->numeric ||
	    (call->resolve && call_now_ms() - call->resolved_ms < RESOLVE_AGAIN_MS))
		return 0;
	r = getaddrinfo(call->host, NULL, &hints, &list);
	if (r != 0)
		return err_set(reterr, -EHOSTUNREACH, "the name of the control plane: %s",
			       gai_strerror(r));
	(void)snprintf(text, sizeof(text), "+%s:%u:", call->host, call->port);
	r = list_addresses(list, text, sizeof(text)) > 0 ? 0 : -EHOSTUNREACH;
	freeaddrinfo(list);
	if (r < 0)
		return err_set(reterr, r, "the control plane's name has no usable address");
	curl_slist_free_all(call->resolve);
	call->resolve = curl_slist_append(NULL, text);
	call->resolved_ms = call_now_ms();
	return call->resolve ? 0 : -ENOMEM;
}

static struct curl_slist *headers_of(const char *secret, const char *api_key)
{
	struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
	char line[CONTROL_TEXT + 32];

	(void)snprintf(line, sizeof(line), "%s: %s", secret ? "X-Agent-Secret" : "X-API-Key",
		       secret ? secret : api_key);
	list = curl_slist_append(list, line);
	explicit_bzero(line, sizeof(line));
	return list;
}

static int perform(struct call *call, struct err *reterr)
{
	curl_off_t retry = 0;
	char *local = NULL;
	CURLcode c = curl_easy_perform(call->curl);

	(void)curl_easy_getinfo(call->curl, CURLINFO_RESPONSE_CODE, &call->http);
	(void)curl_easy_getinfo(call->curl, CURLINFO_RETRY_AFTER, &retry);
	call->retry_after_s = (long)retry;
	if (curl_easy_getinfo(call->curl, CURLINFO_LOCAL_IP, &local) == CURLE_OK && local)
		(void)snprintf(call->local, sizeof(call->local), "%s", local);
	if (call->too_long)
		return err_set(reterr, -EFBIG, "the answer is longer than %d bytes", ANSWER_MAX);
	if (c != CURLE_OK)
		return err_set(reterr, -EIO, "%s", curl_easy_strerror(c));
	return 0;
}

int call_exchange(struct call *call, const struct control_setup *setup, const char *path,
		  const char *body, const char *secret, const char *api_key, struct err *reterr)
{
	struct curl_slist *headers;
	char url[CONTROL_URL_SIZE + 32];
	size_t len = strlen(setup->url);
	int r = resolve(call, reterr);

	call->http = call->retry_after_s = 0;
	call->answer_len = 0;
	call->too_long = false;
	if (r < 0)
		return r;
	(void)snprintf(url, sizeof(url), "%.*s%s",
		       (int)(len > 0 && setup->url[len - 1] == '/' ? len - 1 : len), setup->url,
		       path);
	headers = headers_of(secret, api_key);
	(void)curl_easy_setopt(call->curl, CURLOPT_URL, url);
	(void)curl_easy_setopt(call->curl, CURLOPT_RESOLVE, call->resolve);
	(void)curl_easy_setopt(call->curl, CURLOPT_HTTPHEADER, headers);
	(void)curl_easy_setopt(call->curl, CURLOPT_HTTPGET, 1L);
	if (body) {
		(void)curl_easy_setopt(call->curl, CURLOPT_POST, 1L);
		(void)curl_easy_setopt(call->curl, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
		(void)curl_easy_setopt(call->curl, CURLOPT_POSTFIELDS, body);
	}
	r = perform(call, reterr);
	(void)curl_easy_setopt(call->curl, CURLOPT_HTTPHEADER, NULL);
	curl_slist_free_all(headers);
	return r;
}
