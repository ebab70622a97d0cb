/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's HTTP API, over its control socket or over TCP with the agent secret.
 *
 * Trust: runs as the operator; answers are bounded and parsed strictly, texts in them are hostile.
 */
#include "ctl/api.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include "ctl/text.h"

#define ANSWER_MAX         (16u * 1024 * 1024)
#define HEAD_MAX           16384
#define SECRET_MAX         256
#define CONNECT_TIMEOUT_MS 5000L
#define UPGRADE_TIMEOUT_MS 15000

struct api {
	char *socket; /* owned; NULL with a URL */
	char *base;   /* owned; without a trailing slash */
	char *secret; /* owned; NULL without one */
	char error[CURL_ERROR_SIZE];
};

struct api_stream {
	CURL *curl;          /* owned; keeps the connection */
	int fd;              /* borrowed from curl */
	char head[HEAD_MAX]; /* the answer's head, then what came with it */
	size_t n_head, used; /* bytes in head; bytes already given out */
};

static void cleanup_curl(CURL **curl)
{
	if (*curl)
		curl_easy_cleanup(*curl);
}

static void cleanup_slist(struct curl_slist **list)
{
	curl_slist_free_all(*list);
}

static void cleanup_url(CURLU **url)
{
	curl_url_cleanup(*url);
}

static void cleanup_curl_string(char **s)
{
	curl_free(*s);
}

enum ctl_exit api_exit_of_status(long status)
{
	switch (status) {
	case 401:
	case 403:
		return CTL_DENIED;
	case 404:
	case 410:
		return CTL_NOT_FOUND;
	case 408:
	case 504:
		return CTL_TIMEOUT;
	case 409:
		return CTL_CONFLICT;
	default:
		return status >= 200 && status < 300 ? CTL_OK : CTL_FAILED;
	}
}

bool api_url_keeps_secret(const char *url)
{
	_cleanup_(cleanup_url) CURLU *u = curl_url();
	_cleanup_(cleanup_curl_string) char *scheme = NULL;
	_cleanup_(cleanup_curl_string) char *host = NULL;
	struct in_addr v4;

	if (!u || curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK ||
	    curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
	    curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK)
		return false;
	if (STR_EQ(scheme, "https"))
		return true;
	if (!STR_EQ(scheme, "http"))
		return false;
	if (STR_EQ(host, "localhost") || STR_EQ(host, "[::1]"))
		return true;
	return inet_pton(AF_INET, host, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127;
}

static enum ctl_exit read_secret(const char *path, char **ret_secret, char **ret_error)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	char buf[SECRET_MAX + 1];
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0) {
		*ret_error =
			text_format("cannot read the secret file %s: %s", path, strerror(errno));
		return errno == EACCES ? CTL_DENIED : CTL_FAILED;
	}
	if (!S_ISREG(st.st_mode) || (st.st_mode & 0007)) {
		*ret_error =
			text_format("the secret file %s %s", path,
				    S_ISREG(st.st_mode) ? "is accessible to everyone; chmod o= it"
							: "is not a regular file");
		return CTL_FAILED;
	}
	n = read(fd, buf, sizeof(buf) - 1);
	while (n > 0 && strchr(" \t\r\n", buf[n - 1]))
		n--;
	buf[MAX_OF(n, 0)] = 0;
	for (ssize_t i = 0; i < n; i++)
		if (buf[i] <= 0x20 || buf[i] == 0x7f)
			n = 0;
	if (n <= 0 || n == SECRET_MAX) {
		explicit_bzero(buf, sizeof(buf));
		*ret_error = text_format("the secret file %s does not hold one secret", path);
		return CTL_FAILED;
	}
	*ret_secret = text_format("%s", buf);
	explicit_bzero(buf, sizeof(buf));
	return CTL_OK;
}

enum ctl_exit api_open(const struct api_config *config, struct api **ret_api, char **ret_error)
{
	struct api *api = calloc(1, sizeof(*api));
	enum ctl_exit r = CTL_OK;
	size_t len;

	if (!api || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
		free(api);
		*ret_error = text_format("cannot initialise the HTTP client");
		return CTL_FAILED;
	}
	api->base = text_format("%s", config->url ? config->url : "http://qudata");
	len = strlen(api->base);
	while (len > 0 && api->base[len - 1] == '/')
		api->base[--len] = 0;
	if (!config->url) {
		api->socket = text_format("%s", config->socket);
	} else if (config->secret_file && !api_url_keeps_secret(config->url)) {
		*ret_error = text_format(
			"will not send the secret to %s in clear text: use https, or an "
			"address of this machine",
			config->url);
		r = CTL_USAGE;
	} else if (config->secret_file) {
		r = read_secret(config->secret_file, &api->secret, ret_error);
	}
	if (r != CTL_OK)
		api_free(api);
	else
		*ret_api = api;
	return r;
}

struct api *api_free(struct api *api)
{
	if (!api)
		return NULL;
	if (api->secret)
		explicit_bzero(api->secret, strlen(api->secret));
	free(api->secret);
	free(api->socket);
	free(api->base);
	free(api);
	curl_global_cleanup();
	return NULL;
}

/* A handle with what every request has in common. */
static CURL *new_handle(struct api *api, const char *url)
{
	CURL *curl = curl_easy_init();

	if (!curl)
		return NULL;
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, api->error);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	/* A proxy from the environment must see neither the secret nor the requests. */
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	if (api->socket)
		curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, api->socket);
	api->error[0] = 0;
	return curl;
}

static const char *how_to_start(void)
{
	return "Start it with: systemctl start qudata-ctl.socket\n"
	       "or, from a source tree: ./packaging/quickstart --keep";
}

/* Why there is no connection to the control socket, and what helps. */
static char *explain_socket(const struct api *api, long err)
{
	struct stat st;

	if (err == 0 && stat(api->socket, &st) < 0)
		err = errno;
	switch (err) {
	case ENOENT:
		return text_format(
			"cannot reach the agent: %s does not exist, so it is not running here\n%s",
			api->socket, how_to_start());
	case ECONNREFUSED:
		return text_format(
			"cannot reach the agent: %s exists, but nobody listens on it\n%s",
			api->socket, how_to_start());
	case EACCES:
	case EPERM:
		return text_format("no permission to use %s\nIt is for root and the group qudata: "
				   "run this with sudo, or join with: usermod -aG qudata USER",
				   api->socket);
	default:
		return text_format("cannot reach the agent on %s: %s", api->socket,
				   err ? strerror((int)err) : api->error);
	}
}

static enum ctl_exit explain_transport(struct api *api, CURL *curl, CURLcode code, char **ret_error)
{
	const char *text = api->error[0] ? api->error : curl_easy_strerror(code);
	long err = 0;

	curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &err);
	switch ((int)code) {
	case CURLE_OPERATION_TIMEDOUT:
		*ret_error = text_format("the agent did not answer in time (%s)", text);
		return CTL_TIMEOUT;
	case CURLE_COULDNT_CONNECT:
	case CURLE_COULDNT_RESOLVE_HOST:
		if (api->socket)
			*ret_error = explain_socket(api, err);
		else
			*ret_error =
				text_format("cannot reach the agent at %s: %s", api->base, text);
		return err == EACCES || err == EPERM ? CTL_DENIED : CTL_UNREACHABLE;
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		*ret_error = text_format("--url is no http or https address: %s", api->base);
		return CTL_USAGE;
	case CURLE_WRITE_ERROR:
		*ret_error = text_format("the agent's answer is larger than %u bytes", ANSWER_MAX);
		return CTL_FAILED;
	default:
		*ret_error = text_format("the connection to the agent at %s broke: %s",
					 api->socket ? api->socket : api->base, text);
		return CTL_UNREACHABLE;
	}
}

/* Bytes allocated for a text of @n: they double, so that a long answer is copied rarely. */
static size_t room_for(size_t n)
{
	size_t room = CURL_MAX_WRITE_SIZE;

	while (room < n + 1)
		room *= 2;
	return room;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *user)
{
	struct api_reply *reply = user;
	size_t len = size * n, room = room_for(reply->n_text + len);
	char *text = reply->text;

	if (len > ANSWER_MAX - reply->n_text)
		return 0;
	if (!text || room > room_for(reply->n_text))
		text = realloc(text, room);
	if (!text)
		return 0;
	memcpy(text + reply->n_text, bytes, len);
	reply->n_text += len;
	text[reply->n_text] = 0;
	reply->text = text;
	return len;
}

/* The "error" of an answer, or a substitute. */
static char *error_of(const struct api *api, const struct api_reply *reply, long status)
{
	const char *text = json_string_value(json_object_get(reply->body, "error"));

	if ((status == 401 || status == 403) && !api->secret && !api->socket)
		return text_format("the agent wants its secret: give --secret-file (it is root's; "
				   "usually /var/lib/qudata/secret)");
	if (text && *text)
		return text_format("%s", text);
	return text_format("the agent answered with HTTP status %ld", status);
}

/* Headers that every request carries. */
static struct curl_slist *headers(const struct api *api, bool has_body)
{
	struct curl_slist *list = NULL;
	char line[SECRET_MAX + 32];

	if (has_body)
		list = curl_slist_append(list, "Content-Type: application/json");
	/* No "100 Continue" round trip for a body of some hundred bytes. */
	list = curl_slist_append(list, "Expect:");
	if (!api->secret)
		return list;
	snprintf(line, sizeof(line), "X-Agent-Secret: %s", api->secret);
	list = curl_slist_append(list, line);
	explicit_bzero(line, sizeof(line));
	return list;
}

static enum ctl_exit exchange(struct api *api, const char *method, const char *path,
			      const char *body, uint32_t timeout_ms, struct api_reply *reply,
			      long *ret_status)
{
	_cleanup_free_ char *url = text_format("%s%s", api->base, path);
	_cleanup_(cleanup_curl) CURL *curl = new_handle(api, url);
	_cleanup_(cleanup_slist) struct curl_slist *list = headers(api, body != NULL);
	CURLcode code;

	if (!curl || !list) {
		reply->error = text_format("out of memory");
		return CTL_FAILED;
	}
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, reply);
	if (body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	code = curl_easy_perform(curl);
	if (code != CURLE_OK)
		return explain_transport(api, curl, code, &reply->error);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, ret_status);
	return CTL_OK;
}

enum ctl_exit api_call(struct api *api, const char *method, const char *path, const json_t *body,
		       uint32_t timeout_ms, struct api_reply *ret_reply)
{
	_cleanup_free_ char *text = NULL;
	enum ctl_exit r;
	long status = 0;

	*ret_reply = (struct api_reply){0};
	if (body) {
		text = json_dumps(body, JSON_COMPACT);
		if (!text) {
			ret_reply->error = text_format("out of memory");
			return CTL_FAILED;
		}
	}
	r = exchange(api, method, path, text, timeout_ms, ret_reply, &status);
	if (r != CTL_OK)
		return r;
	if (ret_reply->n_text > 0)
		ret_reply->body = json_loadb(ret_reply->text, ret_reply->n_text,
					     JSON_REJECT_DUPLICATES, NULL);
	r = api_exit_of_status(status);
	if (r == CTL_OK && !json_is_true(json_object_get(ret_reply->body, "ok")))
		r = CTL_FAILED;
	if (r != CTL_OK) {
		ret_reply->error = error_of(api, ret_reply, status);
		return r;
	}
	ret_reply->data = json_object_get(ret_reply->body, "data");
	return CTL_OK;
}

enum ctl_exit api_get_text(struct api *api, const char *path, uint32_t timeout_ms,
			   struct api_reply *ret_reply)
{
	enum ctl_exit r;
	long status = 0;

	*ret_reply = (struct api_reply){0};
	r = exchange(api, "GET", path, NULL, timeout_ms, ret_reply, &status);
	if (r != CTL_OK)
		return r;
	r = api_exit_of_status(status);
	if (r == CTL_OK)
		return CTL_OK;
	if (ret_reply->n_text > 0)
		ret_reply->body = json_loadb(ret_reply->text, ret_reply->n_text,
					     JSON_REJECT_DUPLICATES, NULL);
	ret_reply->error = error_of(api, ret_reply, status);
	return r;
}

void api_reply_done(struct api_reply *reply)
{
	json_decref(reply->body);
	free(reply->text);
	free(reply->error);
	*reply = (struct api_reply){0};
}

/* ---- upgraded connections ---- */

struct api_stream *api_stream_free(struct api_stream *s)
{
	if (s && s->curl)
		curl_easy_cleanup(s->curl);
	free(s);
	return NULL;
}

int api_stream_fd(const struct api_stream *s)
{
	return s->fd;
}

/* What the connection itself delivers, past the bytes kept in head. */
static ssize_t stream_recv(struct api_stream *s, void *buf, size_t size)
{
	size_t n = 0;
	CURLcode code = curl_easy_recv(s->curl, buf, size, &n);

	if (code == CURLE_AGAIN)
		return -EAGAIN;
	return code == CURLE_OK ? (ssize_t)n : -ECONNRESET;
}

ssize_t api_stream_read(struct api_stream *s, void *buf, size_t size)
{
	size_t n = MIN_OF(size, s->n_head - s->used);

	if (n == 0)
		return stream_recv(s, buf, size);
	memcpy(buf, s->head + s->used, n);
	s->used += n;
	return (ssize_t)n;
}

ssize_t api_stream_write(struct api_stream *s, const void *buf, size_t len)
{
	size_t n = 0;
	CURLcode code = curl_easy_send(s->curl, buf, len, &n);

	if (code == CURLE_AGAIN)
		return -EAGAIN;
	return code == CURLE_OK ? (ssize_t)n : -ECONNRESET;
}

static int stream_wait(const struct api_stream *s, short events)
{
	struct pollfd p = {.fd = s->fd, .events = events};
	int n = poll(&p, 1, UPGRADE_TIMEOUT_MS);

	if (n < 0)
		return -errno;
	return n > 0 ? 0 : -ETIMEDOUT;
}

static int stream_write_all(struct api_stream *s, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = api_stream_write(s, text, len);

		if (n == -EAGAIN) {
			int r = stream_wait(s, POLLOUT);

			if (r < 0)
				return r;
			continue;
		}
		if (n < 0)
			return (int)n;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Reads at least up to the empty line that ends the answer's head. */
static int stream_read_head(struct api_stream *s)
{
	while (s->n_head < sizeof(s->head) - 1) {
		ssize_t n = stream_recv(s, s->head + s->n_head, sizeof(s->head) - 1 - s->n_head);
		char *end;

		if (n == -EAGAIN) {
			int r = stream_wait(s, POLLIN);

			if (r < 0)
				return r;
			continue;
		}
		if (n <= 0)
			return n < 0 ? (int)n : -ECONNRESET;
		s->n_head += (size_t)n;
		s->head[s->n_head] = 0;
		end = memmem(s->head, s->n_head, "\r\n\r\n", 4);
		if (end) {
			s->used = (size_t)(end - s->head) + 4;
			return 0;
		}
	}
	return -EMSGSIZE;
}

/* A refused upgrade: the body is read as far as it comes at once, for its "error". */
static enum ctl_exit upgrade_refused(const struct api *api, struct api_stream *s, long status,
				     char **ret_error)
{
	_cleanup_reply_ struct api_reply reply = {0};
	enum ctl_exit r = api_exit_of_status(status);

	while (s->n_head < sizeof(s->head) - 1) {
		ssize_t n = stream_recv(s, s->head + s->n_head, sizeof(s->head) - 1 - s->n_head);

		if (n > 0)
			s->n_head += (size_t)n;
		reply.body = json_loadb(s->head + s->used, s->n_head - s->used,
					JSON_DISABLE_EOF_CHECK, NULL);
		if (reply.body || (n <= 0 && n != -EAGAIN) ||
		    (n == -EAGAIN && stream_wait(s, POLLIN) < 0))
			break;
	}
	*ret_error = error_of(api, &reply, status);
	return r == CTL_OK ? CTL_FAILED : r;
}

static enum ctl_exit upgrade_on(struct api *api, struct api_stream *s, const char *path,
				const char *protocol, char **ret_error)
{
	_cleanup_free_ char *request = NULL;
	long status = 0;
	int r;

	request = text_format("GET %s HTTP/1.1\r\nHost: qudata\r\nConnection: Upgrade\r\n"
			      "Upgrade: %s\r\n%s%s%s\r\n",
			      path, protocol, api->secret ? "X-Agent-Secret: " : "",
			      api->secret ? api->secret : "", api->secret ? "\r\n" : "");
	r = stream_write_all(s, request, strlen(request));
	explicit_bzero(request, strlen(request));
	if (r == 0)
		r = stream_read_head(s);
	if (r < 0) {
		*ret_error = text_format("the connection to the agent broke: %s", strerror(-r));
		return r == -ETIMEDOUT ? CTL_TIMEOUT : CTL_UNREACHABLE;
	}
	if (sscanf(s->head, "HTTP/1.%*1[01] %3ld", &status) != 1) {
		*ret_error = text_format("the agent's answer is no HTTP");
		return CTL_FAILED;
	}
	return status == 101 ? CTL_OK : upgrade_refused(api, s, status, ret_error);
}

enum ctl_exit api_upgrade(struct api *api, const char *path, const char *protocol,
			  struct api_stream **ret_stream, char **ret_error)
{
	struct api_stream *s = calloc(1, sizeof(*s));
	curl_socket_t fd = CURL_SOCKET_BAD;
	enum ctl_exit r = CTL_FAILED;
	CURLcode code;

	if (s)
		s->curl = new_handle(api, api->base);
	if (!s || !s->curl) {
		*ret_error = text_format("out of memory");
		api_stream_free(s);
		return CTL_FAILED;
	}
	curl_easy_setopt(s->curl, CURLOPT_CONNECT_ONLY, 1L);
	code = curl_easy_perform(s->curl);
	if (code == CURLE_OK)
		code = curl_easy_getinfo(s->curl, CURLINFO_ACTIVESOCKET, &fd);
	if (code != CURLE_OK) {
		r = explain_transport(api, s->curl, code, ret_error);
	} else {
		s->fd = fd;
		r = upgrade_on(api, s, path, protocol, ret_error);
	}
	if (r == CTL_OK)
		*ret_stream = s;
	else
		api_stream_free(s);
	return r;
}
