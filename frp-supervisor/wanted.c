/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What agentd wants of the tunnels.
 * Trust: runs in frp-supervisor; reads decoded messages of agentd, which may be hostile.
 */
#include "frp-supervisor/wanted.h"

#include "common/fd.h"
#include "frp-supervisor/files.h"

#define FILE_NAME "wanted"
#define FILE_MAX  (8 * 1024)

/* The server. */

int wanted_configure(struct wanted *w, const struct wanted_policy *policy,
		     const struct frp_configure_req *req, const char *token)
{
	if (!grammar_host(req->server) || !grammar_domain(req->domain) ||
	    (req->server_name[0] != '\0' && !grammar_host(req->server_name)) ||
	    (token[0] != '\0' && !grammar_token(token)))
		return -EINVAL;
	if ((int)req->tls < policy->tls)
		return -EPERM;
	if (w->configured && memcmp(&w->server, req, sizeof(*req)) == 0 && STR_EQ(w->token, token))
		return 0;
	w->configured = true;
	w->server = *req;
	explicit_bzero(w->token, sizeof(w->token));
	(void)snprintf(w->token, sizeof(w->token), "%s", token);
	return 1;
}

void wanted_clear(struct wanted *w)
{
	explicit_bzero(w, sizeof(*w));
}

/* Owners and their tunnels. */

static struct owner *find_owner(struct wanted *w, const char *name)
{
	for (size_t i = 0; i < w->n_owners; i++)
		if (STR_EQ(w->owners[i].name, name))
			return &w->owners[i];
	return NULL;
}

static bool within(uint32_t port, uint32_t low, uint32_t high)
{
	return port >= low && port <= high;
}

static bool allowed(const struct wanted_policy *policy, const char *owner,
		    const struct proto_proxy *p)
{
	bool api = STR_EQ(owner, WANTED_API_OWNER);

	switch ((enum proto_proxy_kind)p->kind) {
	case PROTO_PROXY_TCP:
		return !api && within(p->local, policy->local_low, policy->local_high) &&
		       within(p->remote, policy->tcp_low, policy->tcp_high);
	case PROTO_PROXY_HTTP:
		return !api && within(p->local, policy->local_low, policy->local_high) &&
		       within(p->remote, policy->http_low, policy->http_high);
	case PROTO_PROXY_API:
		return api && within(p->local, policy->api_low, policy->api_high);
	}
	return false;
}

/* Tunnels by name (HTTP and API) share one set of ports, those with a port of their own another. */
static bool clash(const struct proto_proxy *a, const struct proto_proxy *b)
{
	return a->local == b->local ||
	       (a->remote == b->remote &&
		(a->kind == PROTO_PROXY_TCP) == (b->kind == PROTO_PROXY_TCP));
}

static bool is_free(const struct wanted *w, const struct owner *except, const struct proto_proxy *p)
{
	for (size_t i = 0; i < w->n_owners; i++)
		for (size_t j = 0; &w->owners[i] != except && j < w->owners[i].n; j++)
			if (clash(&w->owners[i].tunnels[j].proxy, p))
				return false;
	return true;
}

static int check_set(const struct wanted *w, const struct wanted_policy *policy,
		     const struct owner *owner, const struct frp_set_req *req)
{
	size_t n = proto_proxies_count(req->proxies);

	for (size_t i = 0; i < n; i++) {
		if (!allowed(policy, req->owner, &req->proxies[i]))
			return -EPERM;
		if (!is_free(w, owner, &req->proxies[i]))
			return -EEXIST;
		for (size_t j = 0; j < i; j++)
			if (clash(&req->proxies[j], &req->proxies[i]))
				return -EEXIST;
	}
	return 0;
}

static bool same(const struct owner *owner, const struct frp_set_req *req)
{
	if (owner->n != proto_proxies_count(req->proxies))
		return false;
	for (size_t i = 0; i < owner->n; i++)
		if (memcmp(&owner->tunnels[i].proxy, &req->proxies[i], sizeof(req->proxies[i])) !=
		    0)
			return false;
	return true;
}

/* The tunnel as it was, if it was; else a new one. */
static struct tunnel carry_over(const struct owner *old, const struct proto_proxy *proxy)
{
	for (size_t i = 0; i < old->n; i++)
		if (memcmp(&old->tunnels[i].proxy, proxy, sizeof(*proxy)) == 0)
			return old->tunnels[i];
	return (struct tunnel){.proxy = *proxy};
}

int wanted_set(struct wanted *w, const struct wanted_policy *policy, const struct frp_set_req *req)
{
	struct owner *owner = find_owner(w, req->owner), next = {0};
	int r = check_set(w, policy, owner, req);

	if (r < 0)
		return r;
	next.n = proto_proxies_count(req->proxies);
	if (next.n == 0)
		return wanted_remove(w, req->owner);
	if (owner && same(owner, req))
		return 0;
	if (!owner && w->n_owners == PROTO_MAX_OWNERS)
		return -ENOSPC;
	memcpy(next.name, req->owner, sizeof(next.name));
	if (!owner)
		owner = &w->owners[w->n_owners++];
	for (size_t i = 0; i < next.n; i++)
		next.tunnels[i] = carry_over(owner, &req->proxies[i]);
	*owner = next;
	return 1;
}

static void drop_owner(struct wanted *w, struct owner *owner)
{
	size_t index = (size_t)(owner - w->owners);

	w->n_owners--;
	memmove(owner, owner + 1, (w->n_owners - index) * sizeof(*owner));
	memset(&w->owners[w->n_owners], 0, sizeof(*owner));
}

int wanted_remove(struct wanted *w, const char *name)
{
	struct owner *owner = find_owner(w, name);

	if (!owner)
		return 0;
	drop_owner(w, owner);
	return 1;
}

size_t wanted_keep(struct wanted *w, const char names[static PROTO_MAX_VMS][PROTO_NAME_SIZE])
{
	size_t removed = 0;

	for (size_t i = w->n_owners; i-- > 0;) {
		bool keep = STR_EQ(w->owners[i].name, WANTED_API_OWNER);

		for (size_t j = 0; j < PROTO_MAX_VMS && !keep; j++)
			keep = STR_EQ(names[j], w->owners[i].name);
		if (keep)
			continue;
		drop_owner(w, &w->owners[i]);
		removed++;
	}
	return removed;
}

size_t wanted_count(const struct wanted *w, size_t *ret_running)
{
	size_t n = 0, running = 0;

	for (size_t i = 0; i < w->n_owners; i++)
		for (size_t j = 0; j < w->owners[i].n; j++) {
			n++;
			running += w->owners[i].tunnels[j].state == PROTO_PROXY_RUNNING;
		}
	*ret_running = running;
	return n;
}

void wanted_name(const struct wanted *w, const struct owner *owner, const struct tunnel *tunnel,
		 char *ret_name, size_t size)
{
	(void)snprintf(ret_name, size, "%s-%s-%u", w->server.agent, owner->name,
		       tunnel->proxy.local);
}

/* The file: the token's line, then one datagram for the server and one for each owner. */

static size_t put(char *buf, uint32_t op_number, const void *body)
{
	const struct proto_op *op = proto_find(op_number);
	const struct proto_header header = {
		.op = op_number,
		.kind = PROTO_REQUEST,
		.request_id = 1,
		.len = (uint32_t)op->req_size,
	};

	memcpy(buf, &header, sizeof(header));
	memcpy(buf + sizeof(header), body, op->req_size);
	return sizeof(header) + op->req_size;
}

int wanted_save(const struct wanted *w, int dirfd)
{
	char buf[FILE_MAX];
	size_t len = 0;
	int r;

	_Static_assert(FILE_MAX > GRAMMAR_TOKEN_MAX + 16 + sizeof(struct frp_configure_req) +
					  PROTO_MAX_OWNERS * (16 + sizeof(struct frp_set_req)),
		       "the file can be larger than its bound");
	if (w->configured) {
		len = (size_t)snprintf(buf, sizeof(buf), "%s\n", w->token);
		len += put(buf + len, OP_FRP_CONFIGURE, &w->server);
	}
	for (size_t i = 0; i < w->n_owners && w->configured; i++) {
		struct frp_set_req req = {0};

		memcpy(req.owner, w->owners[i].name, sizeof(req.owner));
		for (size_t j = 0; j < w->owners[i].n; j++)
			req.proxies[j] = w->owners[i].tunnels[j].proxy;
		len += put(buf + len, OP_FRP_SET, &req);
	}
	r = files_replace(dirfd, FILE_NAME, buf, len);
	explicit_bzero(buf, sizeof(buf));
	return r;
}

/* Takes one datagram from the front. Returns its length, or -EBADMSG. */
static ssize_t take(struct wanted *w, const struct wanted_policy *policy, const char *token,
		    const char *p, size_t left)
{
	struct proto_header header;
	union proto_body body;
	const struct proto_op *op;

	if (left < sizeof(header))
		return -EBADMSG;
	memcpy(&header, p, sizeof(header));
	op = proto_find(header.op);
	if (!op || (op->number != OP_FRP_CONFIGURE && op->number != OP_FRP_SET) ||
	    header.len != op->req_size || left - sizeof(header) < header.len ||
	    proto_split(p, sizeof(header) + header.len, &header, &body) < 0 ||
	    op->check_req(&body) < 0)
		return -EBADMSG;
	if (op->number == OP_FRP_SET)
		(void)wanted_set(w, policy, (const struct frp_set_req *)(const void *)&body);
	else
		(void)wanted_configure(
			w, policy, (const struct frp_configure_req *)(const void *)&body, token);
	return (ssize_t)(sizeof(header) + header.len);
}

int wanted_load(struct wanted *w, const struct wanted_policy *policy, int dirfd)
{
	char buf[FILE_MAX + 1];
	ssize_t len = fd_read_file(dirfd, FILE_NAME, buf, sizeof(buf)), n = 0;
	char *end = len > 0 ? memchr(buf, '\n', (size_t)len) : NULL;

	if (len < 0)
		return (int)len;
	if (end)
		*end = '\0';
	for (char *p = end ? end + 1 : buf + len; p < buf + len && n >= 0; p += MAX_OF(n, 0))
		n = take(w, policy, buf, p, (size_t)(buf + len - p));
	explicit_bzero(buf, sizeof(buf));
	if (!w->configured)
		wanted_clear(w);
	return n < 0 ? (int)n : 0;
}
