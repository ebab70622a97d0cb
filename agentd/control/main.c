/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control-client: speaks with the control plane for agentd, which starts it and is its only master.
 * It may block: nobody waits for it. It ends when agentd does.
 * Trust: runs as qudata without agentd's files or peers; reads what the network sends.
 */
#include "agentd/control/client.h"
#include "common/ipc.h"
#include "common/log.h"
#include "common/priv.h"
#include "control-client.filter.h"

#include <netdb.h>
#include <poll.h>
#include <sys/random.h>

#define SETUP_WAIT_MS  5000
#define TRIES          3
#define BACKOFF_LOW_S  1
#define BACKOFF_HIGH_S 10
#define REST_S         30  /* after TRIES failures in a row */
#define REFUSED_S      60  /* between attempts with an API key that is not known */
#define REINIT_S       60  /* emergency_reinit is obeyed no more often than that */
#define RETRY_AFTER_S  300 /* the longest pause that the control plane can ask for */

enum stage_of_link {
	LINK_PING,
	LINK_INIT,
	LINK_HOST, /* the host has to be registered */
	LINK_UP,
};

struct link {
	struct control_setup setup;
	struct control_host host;
	struct control_stats stats;
	struct call call;
	enum stage_of_link stage;
	bool have_host, have_stats;
	bool use_key;          /* the secret was refused: the API key is all we have */
	unsigned int failures; /* in a row */
	uint64_t next_ms;      /* nothing is asked before */
	uint64_t reinit_ms;    /* when emergency_reinit was obeyed last; 0: never */
	struct control_state told;
	bool lost; /* agentd is gone */
};

static struct link the_link;

/* ---- towards agentd ---- */

static void tell(struct link *l, enum control_op op, const void *body, size_t len)
{
	const struct proto_header header = {.op = op, .len = (uint32_t)len};
	int r = ipc_send(CONTROL_FD, &header, body, NULL, 0);

	/* agentd reads everything; when it does not, it is on its way out. */
	if (r < 0)
		l->lost = true;
}

static void tell_state(struct link *l, enum control_phase phase, const char *why)
{
	struct control_state state = {.phase = phase, .http = (uint32_t)l->call.http};

	proto_text_set(state.why, sizeof(state.why), why);
	if (memcmp(&state, &l->told, sizeof(state)) == 0)
		return;
	l->told = state;
	tell(l, CONTROL_STATE, &state, sizeof(state));
}

static void take(void *member, size_t size, bool *have, const uint8_t *body, size_t len)
{
	if (len != size)
		return; /* only agentd writes here, and it is of our version */
	memcpy(member, body, size);
	*have = true;
}

/* Takes all that waits: the newest sample is the only one that counts. */
static void hear(struct link *l)
{
	for (;;) {
		_cleanup_(fdlist_done) struct fdlist none = {0};
		uint8_t buf[PROTO_MSG_MAX];
		struct proto_header header;
		ssize_t n = ipc_recv_fds(CONTROL_FD, buf, sizeof(buf), &none, 0);

		if (n == -EAGAIN)
			return;
		if (n < (ssize_t)sizeof(header)) {
			l->lost = true;
			return;
		}
		memcpy(&header, buf, sizeof(header));
		if (header.op == CONTROL_HOST)
			take(&l->host, sizeof(l->host), &l->have_host, buf + sizeof(header),
			     header.len);
		else if (header.op == CONTROL_STATS)
			take(&l->stats, sizeof(l->stats), &l->have_stats, buf + sizeof(header),
			     header.len);
	}
}

/* ---- time ---- */

static void wait_s(struct link *l, uint32_t seconds)
{
	l->next_ms = call_now_ms() + seconds * MSEC_PER_SEC;
}

/* Between half and all of @seconds, so that a crowd of agents does not come back as one. */
static void wait_about(struct link *l, uint32_t seconds)
{
	uint32_t random = 0, half = seconds * 500;

	(void)!getrandom(&random, sizeof(random), 0);
	l->next_ms = call_now_ms() + half + random % (half + 1);
}

static void failed(struct link *l, const char *why)
{
	uint32_t pause = BACKOFF_LOW_S << MIN_OF(l->failures, 8U);

	l->failures++;
	tell_state(l, CONTROL_DOWN, why);
	if (l->call.retry_after_s > 0)
		wait_s(l, (uint32_t)MIN_OF(l->call.retry_after_s, RETRY_AFTER_S));
	else if (l->failures >= TRIES)
		wait_about(l, REST_S);
	else
		wait_about(l, MIN_OF(pause, (uint32_t)BACKOFF_HIGH_S));
}

/* ---- calls ---- */

/* The secret was rotated, or we are not known any more: only the API key can help. */
static void denied(struct link *l)
{
	bool key_was_used = l->use_key || l->setup.secret[0] == '\0';

	l->stage = LINK_INIT;
	l->use_key = true;
	if (!key_was_used) {
		l->next_ms = 0;
		return;
	}
	tell_state(l, CONTROL_REFUSED, "the control plane does not know the API key");
	wait_about(l, REFUSED_S);
}

/* Returns 0 when the answer is good, or a negative errno after what follows from it is arranged. */
static int exchange(struct link *l, const char *path, const char *body)
{
	bool key = l->use_key || l->setup.secret[0] == '\0';
	struct err why = {0};
	int r;

	l->call.http = l->call.retry_after_s = 0;
	r = call_exchange(&l->call, &l->setup, path, body, key ? NULL : l->setup.secret,
			  key ? l->setup.api_key : NULL, &why);
	if (r == 0 && (l->call.http == 401 || l->call.http == 403)) {
		denied(l);
		return -EACCES;
	}
	if (r == 0 && l->call.http / 100 != 2)
		r = err_set(&why, -EPROTO, "it answered with status %ld", l->call.http);
	if (r < 0)
		failed(l, why.text);
	return r;
}

static void emergency(struct link *l)
{
	uint64_t now = call_now_ms();

	if (l->reinit_ms != 0 && now - l->reinit_ms < REINIT_S * MSEC_PER_SEC)
		return;
	log_event(LOG_WARNING, "the control plane asks for a new start of the registration");
	l->reinit_ms = now;
	explicit_bzero(l->setup.secret, sizeof(l->setup.secret));
	l->use_key = true;
	l->stage = LINK_INIT;
}

static void do_init(struct link *l)
{
	_cleanup_free_ char *body = body_init(&l->setup, l->call.local);
	struct control_init init = {0};
	struct err why = {0};

	if (!body || exchange(l, "/init", body) < 0)
		return;
	if (body_parse_init(l->call.answer, l->call.answer_len, &init, &why) < 0) {
		failed(l, why.text);
		return;
	}
	l->failures = 0;
	if (init.secret[0] != '\0') {
		memcpy(l->setup.secret, init.secret, sizeof(l->setup.secret));
		l->use_key = false;
	}
	tell(l, CONTROL_INIT, &init, sizeof(init));
	l->stage = init.host_exists ? LINK_UP : LINK_HOST;
	if (init.emergency_reinit)
		emergency(l);
	if (l->stage == LINK_UP)
		tell_state(l, CONTROL_UP, "registered");
	explicit_bzero(&init, sizeof(init));
	explicit_bzero(l->call.answer, sizeof(l->call.answer));
}

static void do_host(struct link *l)
{
	_cleanup_free_ char *body = body_host(&l->host);

	if (!body || exchange(l, "/init/host", body) < 0)
		return;
	l->failures = 0;
	l->stage = LINK_UP;
	tell_state(l, CONTROL_UP, "registered");
}

static void do_ping(struct link *l)
{
	if (exchange(l, "/ping", NULL) < 0)
		return;
	l->failures = 0;
	l->stage = LINK_INIT;
}

/* A sample that does not arrive is not sent again: the next one says more. */
static void do_stats(struct link *l)
{
	_cleanup_free_ char *body = body_stats(&l->stats);

	l->have_stats = false;
	if (!body || exchange(l, "/stats", body) < 0)
		return;
	l->failures = 0;
	tell_state(l, CONTROL_UP, "registered");
}

/* Is there something to ask, were it time? */
static bool has_work(const struct link *l)
{
	if (l->stage == LINK_HOST)
		return l->have_host;
	return l->stage != LINK_UP || l->have_stats;
}

static void step(struct link *l)
{
	if (!has_work(l) || call_now_ms() < l->next_ms)
		return;
	l->next_ms = 0;
	switch (l->stage) {
	case LINK_PING:
		do_ping(l);
		break;
	case LINK_INIT:
		do_init(l);
		break;
	case LINK_HOST:
		do_host(l);
		break;
	case LINK_UP:
		do_stats(l);
		break;
	}
}

static int wait_ms(const struct link *l)
{
	uint64_t now = call_now_ms();

	if (!has_work(l))
		return -1;
	return l->next_ms > now ? (int)(l->next_ms - now) : 0;
}

static void serve(struct link *l)
{
	struct pollfd wait = {.fd = CONTROL_FD, .events = POLLIN};

	tell_state(l, CONTROL_CONNECTING, "");
	while (!l->lost) {
		if (poll(&wait, 1, wait_ms(l)) > 0)
			hear(l);
		if (!l->lost)
			step(l);
	}
}

/* ---- start ---- */

/* What was meant for a client before this one is passed over. */
static int take_setup(struct link *l, struct err *reterr)
{
	const struct proto_header hello = {.op = CONTROL_HELLO};
	struct pollfd wait = {.fd = CONTROL_FD, .events = POLLIN};
	struct proto_header header = {0};
	uint8_t buf[PROTO_MSG_MAX];
	ssize_t n = ipc_send(CONTROL_FD, &hello, NULL, NULL, 0);

	while (n >= 0 && header.op != CONTROL_SETUP) {
		_cleanup_(fdlist_done) struct fdlist none = {0};

		if (poll(&wait, 1, SETUP_WAIT_MS) != 1)
			return err_set(reterr, -EPIPE, "it is for agentd to start, not for people");
		n = ipc_recv_fds(CONTROL_FD, buf, sizeof(buf), &none, 0);
		if (n < (ssize_t)sizeof(header))
			return err_set(reterr, -EPIPE, "agentd has ended");
		memcpy(&header, buf, sizeof(header));
	}
	if (n != (ssize_t)(sizeof(header) + sizeof(l->setup)))
		return err_set(reterr, -EPROTO, "agentd is of another version");
	memcpy(&l->setup, buf + sizeof(header), sizeof(l->setup));
	explicit_bzero(buf, sizeof(buf));
	if (l->setup.version != CONTROL_VERSION)
		return err_set(reterr, -EPROTO, "agentd is of another version");
	return 0;
}

/* Loads the modules of name resolution, which the filter forbids later. */
static void warm_resolver(const struct link *l)
{
	struct addrinfo *list = NULL;

	if (getaddrinfo(l->call.host, NULL, NULL, &list) == 0)
		freeaddrinfo(list);
}

static int start(struct link *l, struct err *reterr)
{
	int r;

	stage_enter(STAGE_CONFIG);
	log_open("control-client", LOG_INFO);
	r = take_setup(l, reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_OPEN);
	r = call_open(&l->setup, &l->call, reterr);
	if (r < 0)
		return r;
	warm_resolver(l);
	r = priv_confine("control-client", /* keep= */ 0, filter_control_client,
			 filter_control_client_len, reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_RUN);
	return 0;
}

int main(int argc, _unused_ char *argv[])
{
	struct err err = {0};
	int r = priv_sane_start(argc, 1, &err);

	if (r == 0)
		r = start(&the_link, &err);
	if (r < 0) {
		log_event(LOG_ERR, "the control plane's client cannot start",
			  LOG_STR("WHY", err.text));
		return 1;
	}
	serve(&the_link);
	call_done(&the_link.call);
	explicit_bzero(&the_link.setup, sizeof(the_link.setup));
	return 0;
}
