/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation of host ports.
 * Trust: runs inside agentd; serves requests that were checked by request.c.
 */
#include "agentd/ports.h"

#include <arpa/inet.h>
#include <sys/random.h>
#include <sys/socket.h>

/*
 * Where the search for a free port begins, and where it ends, per kind. The ports that the agent
 * itself may listen on (15001-15300) are never chosen: its next start has to find its own again.
 */
static const struct {
	uint16_t low, high, first;
} ranges[] = {
	[PORT_HTTP] = {15301, 65535, 20000},
	[PORT_TCP] = {10000, 15000, 10001},
};

bool ports_in_use(uint16_t port)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int on = 1;

	/* Connections that wait for their end (TIME_WAIT) do not count, listeners do. */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return true;
	return bind(fd, (const struct sockaddr *)&sin, sizeof(sin)) < 0;
}

static bool given(const struct proto_port ports[static PROTO_MAX_PORTS], size_t n, uint16_t port)
{
	for (size_t i = 0; i < n; i++)
		if (ports[i].host == port)
			return true;
	return false;
}

static bool outside(const struct ports_host *host, uint16_t port)
{
	return host->low != 0 && (port < host->low || port > host->high);
}

static int grant_wish(const struct port_request *wish, const struct ports_host *host,
		      struct proto_port *port, struct err *reterr)
{
	if (outside(host, wish->host))
		return err_set(reterr, -ERANGE,
			       "ports: host port %u (for %u) is outside %u to %u, "
			       "which this host forwards",
			       wish->host, wish->guest, host->low, host->high);
	if (host->taken(host->ctx, wish->host))
		return err_set(reterr, -EADDRINUSE, "ports: host port %u (for %u) is taken",
			       wish->host, wish->guest);
	port->host = wish->host;
	return 0;
}

static uint16_t find_free(enum port_proto proto, const struct ports_host *host,
			  const struct proto_port ports[static PROTO_MAX_PORTS], size_t n)
{
	uint32_t low = ranges[proto].low, span = ranges[proto].high - low + 1u;
	uint32_t start = ranges[proto].first - low;

	for (uint32_t i = 0; i < span; i++) {
		uint16_t port = (uint16_t)(low + (start + i) % span);

		if (!outside(host, port) && !given(ports, n, port) && !host->taken(host->ctx, port))
			return port;
	}
	return 0;
}

int ports_allocate(const struct port_request *wanted, size_t n, const struct ports_host *host,
		   struct proto_port ret_ports[static PROTO_MAX_PORTS], struct err *reterr)
{
	struct proto_port ports[PROTO_MAX_PORTS] = {0};

	for (size_t i = 0; i < n; i++) {
		int r = 0;

		ports[i].guest = wanted[i].guest;
		if (wanted[i].host != 0)
			r = grant_wish(&wanted[i], host, &ports[i], reterr);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < n; i++) {
		if (wanted[i].host != 0)
			continue;
		ports[i].host = find_free(wanted[i].proto, host, ports, n);
		if (ports[i].host == 0)
			return err_set(reterr, -ENOSPC,
				       "ports: no free host port is left for port %u",
				       wanted[i].guest);
	}
	memcpy(ret_ports, ports, sizeof(ports));
	return 0;
}

bool ports_is_tcp(uint16_t port)
{
	return port >= ranges[PORT_TCP].low && port <= ranges[PORT_TCP].high;
}

static bool mine_has(const struct port_tunnel *mine, size_t n, enum port_proto proto, uint16_t port)
{
	for (size_t i = 0; i < n; i++)
		if (mine[i].remote == port && mine[i].tcp == (proto == PORT_TCP))
			return true;
	return false;
}

static uint32_t random_number(void)
{
	uint32_t value = 0;

	/* Failing that, all begin at the same place, which costs time only. */
	return getrandom(&value, sizeof(value), 0) == (ssize_t)sizeof(value) ? value : 0;
}

static int grant_remote(const struct ports_remote *remote, const struct port_tunnel *mine, size_t n,
			struct err *reterr)
{
	/* At the server agentd's own ports are numbers like others, but for its own one. */
	uint16_t low = remote->proto == PORT_TCP ? ranges[PORT_TCP].low : ranges[PORT_TCP].high + 1;
	uint16_t high = ranges[remote->proto].high;

	if (remote->wish < low || remote->wish > high)
		return err_set(reterr, -ERANGE,
			       "ports: port %u at the server is outside %u to %u, which %s has",
			       remote->wish, low, high, remote->proto == PORT_TCP ? "tcp" : "http");
	if (mine_has(mine, n, remote->proto, remote->wish) ||
	    remote->taken(remote->ctx, remote->wish))
		return err_set(reterr, -EADDRINUSE, "ports: port %u at the server is taken",
			       remote->wish);
	return 0;
}

int ports_choose_remote(const struct ports_remote *remote, const struct port_tunnel *mine, size_t n,
			uint16_t *ret_port, struct err *reterr)
{
	uint32_t low = ranges[remote->proto].low, span = ranges[remote->proto].high - low + 1u;
	uint32_t start = remote->first >= low ? remote->first - low : random_number() % span;

	if (remote->wish != 0) {
		int r = grant_remote(remote, mine, n, reterr);

		if (r == 0)
			*ret_port = remote->wish;
		return r;
	}
	for (uint32_t i = 0; i < span; i++) {
		uint16_t port = (uint16_t)(low + (start + i) % span);

		if (mine_has(mine, n, remote->proto, port) || remote->taken(remote->ctx, port))
			continue;
		*ret_port = port;
		return 0;
	}
	return err_set(reterr, -ENOSPC, "ports: no free port is left at the server");
}
