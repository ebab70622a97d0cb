/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP server with a handler that does nothing, to measure the server alone (bench-http.sh):
 * GET /ping and GET /instances answer constant bytes. Usage: http-demo PORT
 * Trust: runs as whoever measures; listens on loopback.
 */
#include "agentd/http.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>

#include <event2/event.h>

static const char ping_answer[] = "{\"ok\":true,\"data\":null}";
static char instances_answer[600];

static void on_request(struct http_request *req, void *arg _unused_)
{
	const char *path = http_path(req);

	if (STR_EQ(path, "/ping"))
		http_reply(req, 200, "application/json", ping_answer, sizeof(ping_answer) - 1);
	else if (STR_EQ(path, "/instances"))
		http_reply(req, 200, "application/json", instances_answer,
			   sizeof(instances_answer));
	else
		http_reply(req, 404, NULL, NULL, 0);
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, (struct sockaddr *)&sin, sizeof(sin)) < 0 || listen(fd, 511) < 0) {
		perror("http-demo: listen");
		exit(1);
	}
	return fd;
}

int main(int argc, char *argv[])
{
	struct http_config config = {.handler = on_request};
	struct event_base *base = event_base_new();
	struct http_server *server;
	long port = argc == 2 ? strtol(argv[1], NULL, 10) : 0;

	if (port < 1 || port > 65535 || !base) {
		fprintf(stderr, "usage: http-demo PORT\n");
		return 2;
	}
	/* As long as a typical answer of GET /instances, and the bytes that nginx serves too. */
	memset(instances_answer, 'x', sizeof(instances_answer));
	memcpy(instances_answer, "{\"ok\":true,\"data\":\"", 19);
	memcpy(instances_answer + sizeof(instances_answer) - 2, "\"}", 2);
	if (http_server_new(base, &config, &server) < 0 ||
	    http_server_add_fd(server, listen_on((uint16_t)port), 0, 256, NULL) < 0)
		return 1;
	return event_base_dispatch(base);
}
