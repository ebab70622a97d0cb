/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What agentd and the service manager hear of the tunnels.
 * Trust: runs in frp-supervisor; tells what watch.c has learned.
 */
#include "common/log.h"
#include "common/notify.h"
#include "frp-supervisor/supervisor.h"

#define BURST   32 /* events at once: a reader that is awake keeps up with so many */
#define REST_MS 20

static enum proto_tunnel_state overall(const struct supervisor *s, size_t n)
{
	if (!s->wanted.configured)
		return PROTO_TUNNEL_OFF;
	if (s->frpc.broken)
		return PROTO_TUNNEL_BROKEN;
	if (s->frpc.phase != FRPC_UP || !s->watch.reached)
		return PROTO_TUNNEL_STARTING;
	if (n == 0)
		return PROTO_TUNNEL_IDLE;
	return s->watch.connected ? PROTO_TUNNEL_CONNECTED : PROTO_TUNNEL_CONNECTING;
}

void tell_state(const struct supervisor *s, struct frp_state_ev *ret_ev)
{
	size_t running, n = wanted_count(&s->wanted, &running);
	const char *detail = "";

	memset(ret_ev, 0, sizeof(*ret_ev));
	ret_ev->state = overall(s, n);
	ret_ev->proxies = (uint32_t)n;
	ret_ev->running = (uint32_t)running;
	ret_ev->starts = s->frpc.starts;
	if (ret_ev->state == PROTO_TUNNEL_BROKEN || ret_ev->state == PROTO_TUNNEL_STARTING)
		detail = s->frpc.trouble;
	else if (ret_ev->state == PROTO_TUNNEL_CONNECTING)
		detail = s->watch.trouble;
	proto_text_set(ret_ev->detail, sizeof(ret_ev->detail), detail);
}

void tell_proxy(const struct owner *owner, const struct tunnel *tunnel, struct frp_proxy_ev *ret_ev)
{
	*ret_ev = (struct frp_proxy_ev){
		.local = tunnel->proxy.local,
		.remote = tunnel->proxy.remote,
		.guest = tunnel->proxy.guest,
		.kind = tunnel->proxy.kind,
		.state = tunnel->state,
	};
	memcpy(ret_ev->owner, owner->name, sizeof(ret_ev->owner));
	proto_text_set(ret_ev->detail, sizeof(ret_ev->detail), tunnel->detail);
}

void tell_set(struct tunnel *tunnel, enum proto_proxy_state state, const char *detail)
{
	if (tunnel->state == state && STR_EQ(tunnel->detail, detail))
		return;
	tunnel->state = state;
	tunnel->told = false;
	proto_text_set(tunnel->detail, sizeof(tunnel->detail), detail);
}

static void tell_overall(struct supervisor *s)
{
	struct frp_state_ev ev;
	char text[SUPERVISOR_DETAIL_MAX + 64];

	tell_state(s, &ev);
	if (memcmp(&ev, &s->told, sizeof(ev)) == 0)
		return;
	if (ev.state != s->told.state || !STR_EQ(ev.detail, s->told.detail))
		log_event(LOG_NOTICE, "tunnels", LOG_STR("STATE", proto_tunnel_name(ev.state)),
			  LOG_NUM("TUNNELS", ev.proxies), LOG_NUM("RUNNING", ev.running),
			  LOG_STR("DETAIL", ev.detail));
	s->told = ev;
	server_event(&s->service.server, PROTO_AGENTD, OP_FRP_STATE, &ev);
	(void)snprintf(text, sizeof(text), "%s%s%s, tunnels: %u, running: %u",
		       proto_tunnel_name(ev.state), ev.detail[0] ? ": " : "", ev.detail, ev.proxies,
		       ev.running);
	notify_status(text);
}

void tell(struct supervisor *s)
{
	const struct timeval rest = {.tv_usec = REST_MS * 1000};
	struct frp_proxy_ev ev;
	size_t sent = 0;

	for (size_t i = 0; i < s->wanted.n_owners; i++)
		for (size_t j = 0; j < s->wanted.owners[i].n; j++) {
			struct tunnel *tunnel = &s->wanted.owners[i].tunnels[j];

			if (tunnel->told)
				continue;
			if (sent++ == BURST) {
				(void)event_add(s->watch.telling, &rest);
				return;
			}
			tunnel->told = true;
			tell_proxy(&s->wanted.owners[i], tunnel, &ev);
			if (tunnel->state == PROTO_PROXY_CONFLICT ||
			    tunnel->state == PROTO_PROXY_REFUSED)
				log_event(LOG_WARNING, "tunnel does not run",
					  LOG_STR("OWNER", ev.owner), LOG_NUM("REMOTE", ev.remote),
					  LOG_STR("REASON", ev.detail));
			server_event(&s->service.server, PROTO_AGENTD, OP_FRP_PROXY, &ev);
		}
	tell_overall(s);
}

void tell_again(struct supervisor *s)
{
	const struct timeval soon = {.tv_usec = REST_MS * 1000};

	for (size_t i = 0; i < s->wanted.n_owners; i++)
		for (size_t j = 0; j < s->wanted.owners[i].n; j++)
			s->wanted.owners[i].tunnels[j].told = false;
	s->told.proxies = UINT32_MAX; /* no state is like this one */
	(void)event_add(s->watch.telling, &soon);
}
