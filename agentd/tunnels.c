/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tunnels, as far as agentd knows of them.
 * Trust: runs inside agentd; reads answers and events of frp-supervisor.
 */
#include "agentd/tunnels.h"

#include "agentd/agentd.h"
#include "agentd/identity.h"
#include "agentd/ports.h"
#include "agentd/store.h"
#include "common/log.h"

#define API_OWNER "api"
#define ASK_MS    10000
#define RETRY_MS  5000

/* Start. */

/* The UUID without its dashes is a NAME. */
static int read_id(int data_fd, char agent[static PROTO_NAME_SIZE], struct err *reterr)
{
	char text[IDENTITY_SIZE], name[IDENTITY_SIZE];
	size_t n = 0;
	int r = identity_load(data_fd, text, reterr);

	if (r < 0)
		return r;
	for (const char *p = text; *p; p++)
		if (*p != '-')
			name[n++] = *p;
	name[n] = '\0';
	return proto_name_set(agent, name);
}

int tunnels_open(struct tunnels *t, const struct agentd_config *config, int data_fd,
		 struct err *reterr)
{
	int r = read_id(data_fd, t->agent, reterr);

	if (r < 0 || config->frp_server[0] == '\0')
		return r;
	if (config->frp_domain[0] == '\0')
		return err_set(reterr, -EINVAL, "frp_server needs frp_domain, too");
	if (config->frp_token_file[0] != '\0')
		r = identity_read_secret(config->frp_token_file, "the tunnels' token", t->token,
					 sizeof(t->token), reterr);
	if (r < 0)
		return r;
	t->on = true;
	t->server.port = config->frp_port;
	t->server.tls = (uint32_t)config->frp_tls;
	t->server.naming = (uint32_t)config->frp_naming;
	memcpy(t->server.agent, t->agent, sizeof(t->server.agent));
	proto_text_set(t->server.server, sizeof(t->server.server), config->frp_server);
	proto_text_set(t->server.server_name, sizeof(t->server.server_name),
		       config->frp_server_name);
	proto_text_set(t->server.domain, sizeof(t->server.domain), config->frp_domain);
	return 0;
}

void tunnels_offered(struct agentd *a, const struct control_init *init)
{
	struct tunnels *t = &a->tunnels;
	bool label = a->config.frp_naming == PROTO_NAMING_LABEL && init->tunnel_token[0] != '\0';
	struct instance *inst;

	if (a->config.frp_server[0] != '\0')
		return;
	t->on = init->frp_port != 0;
	t->configured = t->api_set = t->kept = false;
	memset(&t->server, 0, sizeof(t->server));
	t->server.port = init->frp_port;
	t->server.tls = (uint32_t)a->config.frp_tls;
	t->server.naming = label ? PROTO_NAMING_LABEL : PROTO_NAMING_COLON;
	memcpy(t->server.agent, t->agent, sizeof(t->server.agent));
	proto_text_set(t->server.server, sizeof(t->server.server), init->frp_server);
	proto_text_set(t->server.domain, sizeof(t->server.domain),
		       label ? init->tunnel_token : init->frp_subdomain);
	explicit_bzero(t->token, sizeof(t->token));
	(void)snprintf(t->token, sizeof(t->token), "%s", init->frp_token);
	TAILQ_FOREACH(inst, &a->instances, link)
	tunnels_changed(a, inst);
	agentd_kick(a);
}

/* Ports. */

struct taken {
	const struct agentd *a;
	const struct instance *except;
	bool tcp;
};

/* Is @port at the server promised to an instance, or the API's? */
static bool remote_taken(void *ctx, uint16_t port)
{
	const struct taken *t = ctx;
	const struct instance *inst;

	if (!t->tcp && port == t->a->http_port)
		return true;
	TAILQ_FOREACH(inst, &t->a->instances, link)
	for (size_t i = 0; i < proto_ports_count(inst->ports) && inst != t->except; i++)
		if (inst->tunnels[i].tcp == t->tcp && inst->tunnels[i].remote == port)
			return true;
	return false;
}

static int choose_one(const struct agentd *a, struct instance *inst, size_t i, uint16_t wish,
		      struct err *reterr)
{
	struct taken taken = {a, inst, inst->tunnels[i].tcp};
	struct ports_remote remote = {
		.proto = taken.tcp ? PORT_TCP : PORT_HTTP,
		.wish = wish,
		/* Names are ours alone, so there the host's port is free, most likely. */
		.first = taken.tcp ? 0 : inst->ports[i].host,
		.taken = remote_taken,
		.ctx = &taken,
	};
	uint16_t port = 0;
	int r = ports_choose_remote(&remote, inst->tunnels, proto_ports_count(inst->ports), &port,
				    reterr);

	if (r < 0)
		return r;
	inst->tunnels[i].remote = port;
	inst->tunnels[i].fixed = wish != 0;
	return 0;
}

int tunnels_choose(struct agentd *a, struct instance *inst, const struct port_request *wanted,
		   size_t n, struct err *reterr)
{
	for (size_t i = 0; i < n; i++)
		inst->tunnels[i] = (struct port_tunnel){.tcp = wanted[i].proto == PORT_TCP};
	for (size_t pass = 0; pass < 2; pass++) /* wishes first */
		for (size_t i = 0; i < n; i++) {
			int r = 0;

			if ((wanted[i].host != 0) == (pass == 0))
				r = choose_one(a, inst, i, wanted[i].host, reterr);
			if (r < 0 && a->tunnels.on)
				return r;
			if (r < 0) /* without a server a wish is for the host's port only */
				r = choose_one(a, inst, i, 0, NULL);
			if (r < 0)
				return r;
		}
	return 0;
}

uint16_t tunnels_client_port(const struct instance *inst, size_t i)
{
	bool remote = inst->agentd && inst->agentd->tunnels.on && inst->tunnels[i].remote != 0;

	return remote ? inst->tunnels[i].remote : inst->ports[i].host;
}

/* What was made before there were tunnels gets its ports now. */
static bool complete(struct agentd *a, struct instance *inst)
{
	bool changed = false;

	for (size_t i = 0; i < proto_ports_count(inst->ports); i++) {
		if (inst->tunnels[i].remote != 0)
			continue;
		inst->tunnels[i].tcp = ports_is_tcp(inst->ports[i].host);
		if (choose_one(a, inst, i, 0, NULL) < 0)
			return false;
		changed = true;
	}
	return !changed || store_save(a->store_fd, inst) == 0;
}

/* What frp-supervisor is told. */

/* It will not have an instance's tunnels, however often they are asked for. */
static void instance_refused(struct agentd *a, struct instance *inst, enum proto_status status)
{
	log_event(LOG_WARNING, "frp-supervisor refuses an instance's tunnels",
		  LOG_STR("INSTANCE", inst->id), LOG_STR("STATUS", proto_status_name(status)));
	for (size_t i = 0; i < proto_ports_count(inst->ports); i++) {
		inst->tunnels[i].state = PROTO_PROXY_REFUSED;
		proto_text_set(inst->tunnels[i].detail, sizeof(inst->tunnels[i].detail),
			       proto_status_text(status));
	}
	agentd_changed(a, inst);
}

/* From the start again, after a while. */
static void refused(struct tunnels *t, enum proto_status status)
{
	if (t->trouble[0] == '\0')
		log_event(LOG_WARNING, "frp-supervisor refuses the server",
			  LOG_STR("STATUS", proto_status_name(status)));
	(void)snprintf(t->trouble, sizeof(t->trouble), "frp-supervisor refuses: %.60s",
		       proto_status_text(status));
	t->configured = t->api_set = t->kept = false;
	t->retry_ms = rpc_now_ms() + RETRY_MS;
}

static void on_answer(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct agentd *a = arg;
	struct tunnels *t = &a->tunnels;
	struct instance *inst = t->asking[0] ? agentd_find(a, t->asking) : NULL;

	(void)rep;
	(void)fds;
	t->in_flight = false;
	if (status == PROTO_OK && t->kept)
		t->trouble[0] = '\0';
	else if (status == PROTO_OK || status == PROTO_UNREACHABLE)
		; /* it goes on, or it starts again when the connection is back */
	else if (t->asking[0] == '\0')
		refused(t, status);
	else if (inst)
		instance_refused(a, inst, status);
	agentd_kick(a);
}

static bool say(struct agentd *a, uint32_t op_number, const void *req, int fd, const char *asking)
{
	struct tunnels *t = &a->tunnels;

	(void)snprintf(t->asking, sizeof(t->asking), "%s", asking);
	t->in_flight =
		peers_call(a->peers, PEER_FRP, op_number, req, fd, ASK_MS, on_answer, a) == 0;
	return t->in_flight;
}

static void say_server(struct agentd *a)
{
	struct tunnels *t = &a->tunnels;
	char line[sizeof(t->token) + 1];
	_cleanup_close_ int fd = -EBADF;

	(void)snprintf(line, sizeof(line), "%s\n", t->token);
	fd = fd_memfd_sealed("frp-token", line, strlen(line));
	explicit_bzero(line, sizeof(line));
	if (fd >= 0)
		t->configured = say(a, OP_FRP_CONFIGURE, &t->server, fd, "");
}

struct proto_proxy tunnels_proxy(const struct instance *inst, size_t i)
{
	return (struct proto_proxy){
		.local = inst->ports[i].host,
		.remote = inst->tunnels[i].remote,
		.guest = inst->ports[i].guest,
		.kind = inst->tunnels[i].tcp ? PROTO_PROXY_TCP : PROTO_PROXY_HTTP,
	};
}

struct proto_proxy tunnels_api_proxy(const struct agentd *a)
{
	return (struct proto_proxy){a->http_port, a->http_port, 0, PROTO_PROXY_API};
}

static void say_api(struct agentd *a)
{
	struct frp_set_req req = {0};

	(void)proto_name_set(req.owner, API_OWNER);
	if (a->http_port != 0)
		req.proxies[0] = tunnels_api_proxy(a);
	a->tunnels.api_set = say(a, OP_FRP_SET, &req, -EBADF, "");
}

static void say_instance(struct agentd *a, struct instance *inst)
{
	struct frp_set_req req = {0};

	memcpy(req.owner, inst->id, sizeof(req.owner));
	for (size_t i = 0; i < proto_ports_count(inst->ports); i++)
		req.proxies[i] = tunnels_proxy(inst, i);
	inst->tunnels_told = say(a, OP_FRP_SET, &req, -EBADF, inst->id);
}

static bool wants_tunnels(const struct instance *inst)
{
	return !inst->quarantined && inst->run.goal != GOAL_DELETE &&
	       proto_ports_count(inst->ports) > 0;
}

static void say_keep(struct agentd *a)
{
	struct frp_keep_req req = {0};
	const struct instance *inst;
	size_t n = 0;

	TAILQ_FOREACH(inst, &a->instances, link)
	if (wants_tunnels(inst) && n < PROTO_MAX_VMS)
		memcpy(req.owners[n++], inst->id, sizeof(req.owners[0]));
	a->tunnels.kept = say(a, OP_FRP_KEEP, &req, -EBADF, "");
}

static struct instance *untold(struct agentd *a)
{
	struct instance *inst;

	TAILQ_FOREACH(inst, &a->instances, link)
	if (wants_tunnels(inst) && !inst->tunnels_told && complete(a, inst))
		return inst;
	return NULL;
}

void tunnels_drive(struct agentd *a)
{
	const struct frp_off_req off = {0};
	struct tunnels *t = &a->tunnels;
	struct instance *inst;

	if (t->in_flight || !peers_up(a->peers, PEER_FRP) || rpc_now_ms() < t->retry_ms)
		return;
	if (!t->on && !t->configured)
		t->configured = say(a, OP_FRP_OFF, &off, -EBADF, "");
	else if (!t->on)
		return;
	else if (!t->configured)
		say_server(a);
	else if (!t->api_set)
		say_api(a);
	else if (!t->kept) /* before the others: it makes room, also for their ports */
		say_keep(a);
	else if ((inst = untold(a)))
		say_instance(a, inst);
}

void tunnels_peer_changed(struct agentd *a)
{
	struct tunnels *t = &a->tunnels;
	struct instance *inst;

	t->configured = t->api_set = t->kept = false;
	t->in_flight = false;
	t->retry_ms = 0;
	t->trouble[0] = '\0';
	memset(&t->state, 0, sizeof(t->state));
	TAILQ_FOREACH(inst, &a->instances, link)
	{
		inst->tunnels_told = false;
		for (size_t i = 0; i < PROTO_MAX_PORTS; i++)
			inst->tunnels[i].state = PROTO_PROXY_WAITING;
	}
}

void tunnels_changed(struct agentd *a, struct instance *inst)
{
	inst->tunnels_told = false;
	agentd_changed(a, inst);
}

void tunnels_gone(struct agentd *a)
{
	a->tunnels.kept = false;
	agentd_kick(a);
}

/* What it tells. */

/* Somebody else has that port at the server: another one, if nobody has asked for this very one. */
static void move(struct agentd *a, struct instance *inst, size_t i)
{
	struct port_tunnel *tunnel = &inst->tunnels[i];
	uint16_t before = tunnel->remote;

	if (tunnel->fixed || choose_one(a, inst, i, 0, NULL) < 0 || tunnel->remote == before)
		return;
	if (store_save(a->store_fd, inst) < 0) {
		tunnel->remote = before;
		return;
	}
	log_event(LOG_NOTICE, "port at the server is taken, another one is tried",
		  LOG_STR("INSTANCE", inst->id), LOG_NUM("PORT", before),
		  LOG_NUM("NEXT", tunnel->remote));
	tunnel->state = PROTO_PROXY_WAITING;
	inst->tunnels_told = false;
}

static void take_state(struct port_tunnel *tunnel, const struct frp_proxy_ev *ev)
{
	tunnel->breaks += tunnel->state == PROTO_PROXY_RUNNING && ev->state != PROTO_PROXY_RUNNING;
	tunnel->state = (enum proto_proxy_state)ev->state;
	memcpy(tunnel->detail, ev->detail, sizeof(tunnel->detail));
}

static void on_proxy(struct agentd *a, const struct frp_proxy_ev *ev)
{
	struct instance *inst = agentd_find(a, ev->owner);

	for (size_t i = 0; inst && i < proto_ports_count(inst->ports); i++) {
		struct port_tunnel *tunnel = &inst->tunnels[i];

		/* An event about an earlier port of this tunnel says nothing of the present one. */
		if (inst->ports[i].host != ev->local || tunnel->remote != ev->remote)
			continue;
		take_state(tunnel, ev);
		if (tunnel->state == PROTO_PROXY_CONFLICT)
			move(a, inst, i);
		agentd_changed(a, inst);
	}
	if (STR_EQ(ev->owner, API_OWNER))
		take_state(&a->tunnels.api, ev);
}

void tunnels_event(struct agentd *a, uint32_t op_number, const void *body)
{
	const struct frp_state_ev *state = body;

	if (op_number == OP_FRP_PROXY) {
		on_proxy(a, body);
	} else if (op_number == OP_FRP_STATE) {
		a->tunnels.connects += state->state == PROTO_TUNNEL_CONNECTED &&
				       a->tunnels.state.state != PROTO_TUNNEL_CONNECTED;
		a->tunnels.state = *state;
		log_event(
			LOG_INFO, "tunnels",
			LOG_STR("STATE", proto_tunnel_name((enum proto_tunnel_state)state->state)),
			LOG_STR("DETAIL", state->detail));
	}
	agentd_kick(a);
}
