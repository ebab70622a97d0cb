/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentd's side of the control plane.
 * Trust: runs inside agentd; reads messages of control-client, which reads the network.
 */
#include "agentd/controlplane.h"

#include "agentd/control/keeper.h"
#include "agentd/identity.h"
#include "agentd/offer.h"
#include "common/fd.h"
#include "common/ipc.h"
#include "common/log.h"

#include <fcntl.h>

#define SECRET_FILE  "control_secret" /* the secret when it came from the control plane */
#define HOST_WAIT_MS 15000            /* for the GPUs, before the host is described without them */
#define HOST_TRY_MS  500

struct controlplane {
	int fd;      /* owned; to control-client */
	int data_fd; /* owned */
	struct auth *auth;
	struct hostinfo info;
	struct controlplane_calls calls;
	struct event *readable, *sample, *host; /* owned */
	struct timeval interval;
	uint64_t host_tries_left;
	struct control_setup setup; /* secret */
	struct control_state state;
	char location[3][64];
	uint32_t capacity;
};

static void cleanup_controlplane(struct controlplane **cp)
{
	controlplane_free(*cp);
}

/* ---- who we are ---- */

/* One line of a file of ours; 0 when it is not there. */
static ssize_t read_line(int dirfd, const char *name, char *buf, size_t size)
{
	ssize_t n = fd_read_file(dirfd, name, buf, size);

	if (n == -ENOENT)
		return 0;
	if (n > 0 && buf[n - 1] == '\n')
		buf[--n] = '\0';
	return n;
}

/* Only a secret that is still ours is of use: a crash may have come between the two files. */
static void load_secret(struct controlplane *cp)
{
	char text[CONTROL_SECRET_SIZE + 2] = "";

	if (read_line(cp->data_fd, SECRET_FILE, text, sizeof(text)) > 0 &&
	    control_secret_ok(text) && auth_matches(cp->auth, text))
		proto_text_set(cp->setup.secret, sizeof(cp->setup.secret), text);
	explicit_bzero(text, sizeof(text));
}

static void load_fingerprint(struct controlplane *cp)
{
	_cleanup_close_ int etc = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char text[64] = "";

	if (etc >= 0 && read_line(etc, "machine-id", text, sizeof(text)) > 0)
		proto_text_set(cp->setup.fingerprint, sizeof(cp->setup.fingerprint), text);
}

static void fill_setup(struct controlplane *cp, const struct agentd_config *config, uint16_t port)
{
	struct control_setup *s = &cp->setup;

	s->version = CONTROL_VERSION;
	s->agent_port = port;
	s->pid = (uint32_t)getpid();
	s->test_mode = config->debug;
	proto_text_set(s->url, sizeof(s->url), config->control_plane);
	proto_text_set(s->ca_file, sizeof(s->ca_file), config->control_ca_file);
	proto_text_set(s->pinned_key, sizeof(s->pinned_key), config->control_pinned_key);
	proto_text_set(s->api_key, sizeof(s->api_key), config->api_key);
	proto_text_set(s->address, sizeof(s->address), config->public_address);
	proto_text_set(s->agent_version, sizeof(s->agent_version), QUDATA_VERSION);
	proto_text_set(cp->location[0], sizeof(cp->location[0]), config->location_city);
	proto_text_set(cp->location[1], sizeof(cp->location[1]), config->location_country);
	proto_text_set(cp->location[2], sizeof(cp->location[2]), config->location_region);
	cp->interval.tv_sec = config->stats_interval_ms / 1000;
	cp->interval.tv_usec = (suseconds_t)(config->stats_interval_ms % 1000) * 1000;
}

int controlplane_open(const struct agentd_config *config, int data_fd, uint16_t port,
		      struct auth *auth, struct controlplane **ret_cp, struct err *reterr)
{
	_cleanup_(cleanup_controlplane) struct controlplane *cp = NULL;
	int r;

	*ret_cp = NULL;
	if (STR_EQ(config->control_plane, "none"))
		return 0;
	cp = calloc(1, sizeof(*cp));
	if (!cp)
		return err_set(reterr, -ENOMEM, "out of memory");
	cp->fd = -EBADF;
	cp->info = (struct hostinfo){.proc_fd = -EBADF, .sys_fd = -EBADF};
	cp->auth = auth;
	cp->data_fd = fcntl(data_fd, F_DUPFD_CLOEXEC, 3);
	if (cp->data_fd < 0)
		return err_errno(reterr, -errno, "cannot keep the data directory");
	fill_setup(cp, config, port);
	load_fingerprint(cp);
	r = identity_load(cp->data_fd, cp->setup.agent_id, reterr);
	if (r == 0)
		r = hostinfo_open(&cp->info, reterr);
	if (r < 0)
		return r;
	load_secret(cp);
	cp->fd = keeper_start(reterr);
	if (cp->fd < 0)
		return cp->fd;
	*ret_cp = TAKE_PTR(cp);
	return 0;
}

/* ---- to control-client ---- */

static void tell(struct controlplane *cp, enum control_op op, const void *body, size_t len)
{
	const struct proto_header header = {.op = op, .len = (uint32_t)len};
	int r = ipc_send(cp->fd, &header, body, NULL, 0);

	/* Full: it is busy with an answer that does not come, and wants the next sample instead. */
	if (r < 0 && r != -EAGAIN)
		log_event(LOG_WARNING, "control-client cannot be told", LOG_ERRNO(r));
}

static void on_host_timer(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval again = {.tv_usec = HOST_TRY_MS * 1000};
	struct controlplane *cp = arg;
	struct control_host host;

	(void)fd;
	(void)what;
	hostinfo_describe(&cp->info, cp->data_fd, &host);
	memcpy(host.city, cp->location[0], sizeof(host.city));
	memcpy(host.country, cp->location[1], sizeof(host.country));
	memcpy(host.region, cp->location[2], sizeof(host.region));
	if (!cp->calls.describe(cp->calls.ctx, &host) && cp->host_tries_left > 0) {
		cp->host_tries_left--;
		(void)event_add(cp->host, &again);
		return;
	}
	tell(cp, CONTROL_HOST, &host, sizeof(host));
}

static void report(struct controlplane *cp)
{
	const char *status = cp->calls.status(cp->calls.ctx);
	struct control_stats stats;

	if (cp->state.phase != CONTROL_UP)
		return;
	hostinfo_sample(&cp->info, &stats);
	cp->calls.figures(cp->calls.ctx, &stats);
	proto_text_set(stats.status, sizeof(stats.status), status ? status : "destroyed");
	tell(cp, CONTROL_STATS, &stats, sizeof(stats));
	if (status && !evtimer_pending(cp->sample, NULL))
		(void)event_add(cp->sample, &cp->interval);
}

/* No instance, no samples: the timer is not set again. */
static void on_sample(evutil_socket_t fd, short what, void *arg)
{
	struct controlplane *cp = arg;

	(void)fd;
	(void)what;
	if (cp->calls.status(cp->calls.ctx))
		report(cp);
}

void controlplane_kick(struct controlplane *cp)
{
	if (cp)
		report(cp);
}

/* ---- from control-client ---- */

static void on_state(struct controlplane *cp, const struct control_state *state)
{
	bool came_up = state->phase == CONTROL_UP && cp->state.phase != CONTROL_UP;

	if (state->phase > CONTROL_PHASE_MAX || !proto_text_ok(state->why, sizeof(state->why)))
		return;
	cp->state = *state;
	log_event(state->phase == CONTROL_UP ? LOG_NOTICE : LOG_WARNING, "control plane",
		  LOG_STR("PHASE", controlplane_phase(cp)), LOG_STR("WHY", state->why),
		  LOG_NUM("HTTP", state->http));
	if (came_up)
		report(cp);
}

/* Written in this order, so that after a crash between the two the old one is not believed. */
static int keep_secret(struct controlplane *cp, const char *secret)
{
	char line[CONTROL_SECRET_SIZE + 2];
	int r;

	(void)snprintf(line, sizeof(line), "%s\n", secret);
	r = fd_replace_file(cp->data_fd, SECRET_FILE, line, strlen(line), 0600);
	explicit_bzero(line, sizeof(line));
	return r < 0 ? r : auth_replace(cp->data_fd, cp->auth, secret);
}

static void on_init(struct controlplane *cp, const struct control_init *init)
{
	int r = 0;

	if (!control_init_ok(init)) {
		log_event(LOG_ERR, "control-client has sent what no control plane may");
		return;
	}
	if (init->secret[0] != '\0' && !auth_matches(cp->auth, init->secret))
		r = keep_secret(cp, init->secret);
	if (r < 0) {
		/* The old one stays in force; the next registration brings it again. */
		log_event(LOG_ERR, "the new agent secret cannot be stored", LOG_ERRNO(r));
		return;
	}
	if (init->secret[0] != '\0')
		memcpy(cp->setup.secret, init->secret, sizeof(cp->setup.secret));
	r = offer_save(cp->data_fd, cp->setup.url, init);
	if (r < 0)
		log_event(LOG_ERR, "what the control plane says of tunnels cannot be kept",
			  LOG_ERRNO(r));
	cp->calls.tunnels(cp->calls.ctx, init);
}

static void dispatch(struct controlplane *cp, const struct proto_header *header, const void *body)
{
	if (header->op == CONTROL_HELLO && header->len == 0) {
		tell(cp, CONTROL_SETUP, &cp->setup, sizeof(cp->setup));
		cp->host_tries_left = HOST_WAIT_MS / HOST_TRY_MS;
		on_host_timer(-1, 0, cp);
	} else if (header->op == CONTROL_STATE && header->len == sizeof(struct control_state)) {
		on_state(cp, body);
	} else if (header->op == CONTROL_INIT && header->len == sizeof(struct control_init)) {
		on_init(cp, body);
	} else {
		log_event(LOG_ERR, "control-client has sent an unknown message");
	}
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	_Alignas(8) uint8_t buf[PROTO_MSG_MAX];
	struct proto_header header;
	union proto_body body;
	struct controlplane *cp = arg;
	ssize_t n = ipc_recv_fds((int)fd, buf, sizeof(buf), &none, 0);

	(void)what;
	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		log_event(LOG_ERR, "the keeper of control-client is gone; restart agentd to have a "
				   "control plane again");
		(void)event_del(cp->readable);
		return;
	}
	if (proto_split(buf, (size_t)n, &header, &body) == 0)
		dispatch(cp, &header, &body);
	explicit_bzero(buf, sizeof(buf));
	explicit_bzero(&body, sizeof(body));
}

/* What it has said before holds until it says something else. */
static void recall_tunnels(struct controlplane *cp)
{
	struct control_init init;
	int r = offer_load(cp->data_fd, cp->setup.url, &init);

	if (r == 0)
		cp->calls.tunnels(cp->calls.ctx, &init);
	else if (r != -ENOENT)
		log_event(LOG_WARNING, "what the control plane has said of tunnels cannot be read",
			  LOG_ERRNO(r));
	if (r == 0)
		explicit_bzero(&init, sizeof(init));
}

int controlplane_start(struct controlplane *cp, struct event_base *base,
		       const struct controlplane_calls *calls, struct err *reterr)
{
	if (!cp)
		return 0;
	cp->calls = *calls;
	cp->readable = event_new(base, cp->fd, EV_READ | EV_PERSIST, on_readable, cp);
	cp->sample = evtimer_new(base, on_sample, cp);
	cp->host = evtimer_new(base, on_host_timer, cp);
	if (!cp->readable || !cp->sample || !cp->host || event_add(cp->readable, NULL) < 0)
		return err_set(reterr, -ENOMEM, "out of memory");
	recall_tunnels(cp);
	return 0;
}

const char *controlplane_words(const struct controlplane *cp)
{
	return cp ? cp->state.why : "";
}

const char *controlplane_phase(const struct controlplane *cp)
{
	static const char *const words[] = {"connecting", "up", "down", "refused"};

	return cp ? words[cp->state.phase] : "none";
}

void controlplane_free(struct controlplane *cp)
{
	if (!cp)
		return;
	if (cp->readable)
		event_free(cp->readable);
	if (cp->sample)
		event_free(cp->sample);
	if (cp->host)
		event_free(cp->host);
	hostinfo_done(&cp->info);
	cp->fd = safe_close(cp->fd);
	cp->data_fd = safe_close(cp->data_fd);
	explicit_bzero(cp, sizeof(*cp));
	free(cp);
}
