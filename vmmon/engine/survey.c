/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asking this host's engine what it is and can do.
 * Trust: runs in vmmon; reads answers of this host's container engine.
 */
#include "vmmon/engine/survey.h"

#include "vmmon/engine/answers.h"
#include "vmmon/engine/call.h"
#include "vmmon/engine/link_unix.h"
#include "vmmon/engine/space.h"

#define SILENCE_MS 5000 /* one that is busy answers all the same */

struct survey {
	struct survey_config config;
	struct engine_link *link; /* owned, as the next two */
	struct call *call;
	struct event *ending; /* for what fails before anything was sent */
	unsigned int version;
	struct engine_status_rep found;
};

static void finish(struct survey *s, enum proto_engine state)
{
	s->found.state = state;
	s->config.on_done(s->config.arg, &s->found);
}

static enum proto_engine state_of(int error)
{
	switch (error) {
	case -EPERM:
		return PROTO_ENGINE_ROOT;
	case -EACCES:
		return PROTO_ENGINE_CLOSED;
	case -EBADMSG:
	case -EFBIG:
		return PROTO_ENGINE_SENSELESS;
	default:
		return PROTO_ENGINE_ABSENT;
	}
}

static void ask(struct survey *s, const char *path,
		void (*on_done)(void *arg, const struct call_result *r))
{
	const struct timeval now = {0};
	const struct call_request request = {.method = "GET",
					     .path = path,
					     .silence_ms = SILENCE_MS,
					     .arg = s,
					     .on_done = on_done};
	int r;

	call_free(TAKE_PTR(s->call));
	r = call_start(s->config.base, s->link, &request, &s->call);
	if (r == 0)
		return;
	s->call = NULL;
	s->found.state = state_of(r);
	(void)event_add(s->ending, &now);
}

static void on_ending(evutil_socket_t fd, short what, void *arg)
{
	struct survey *s = arg;

	(void)fd;
	(void)what;
	finish(s, (enum proto_engine)s->found.state);
}

static void on_info(void *arg, const struct call_result *r)
{
	struct survey *s = arg;
	struct answer_info info;
	uint64_t mib;

	if (r->error < 0 || r->status != 200 || answer_info(r->body, r->len, &info) < 0) {
		finish(s, r->error < 0 ? state_of(r->error) : PROTO_ENGINE_SENSELESS);
		return;
	}
	s->found.memory = info.memory;
	s->found.cpus = info.cpus;
	s->found.processes = info.processes;
	s->found.cgroup = info.cgroup;
	s->found.rootless = info.rootless || link_unix_uid(s->link) != 0;
	proto_text_set(s->found.version, sizeof(s->found.version), info.version);
	proto_text_set(s->found.driver, sizeof(s->found.driver), info.driver);
	proto_text_set(s->found.backing, sizeof(s->found.backing), info.backing);
	proto_text_set(s->found.root, sizeof(s->found.root), info.root);
	s->found.free_known = info.root[0] != '\0' && space_free_mib(info.root, &mib);
	if (s->found.free_known)
		s->found.free_mib = MIN_OF(mib, (uint64_t)PROTO_FIGURE_MAX);
	finish(s, PROTO_ENGINE_OK);
}

static void on_version(void *arg, const struct call_result *r)
{
	struct survey *s = arg;
	char path[32];
	int error = r->error;

	if (error == 0)
		error = r->status == 200 ? answer_version(r->body, r->len, &s->version) : -EBADMSG;
	if (error < 0) {
		finish(s, error == -EPROTONOSUPPORT ? PROTO_ENGINE_OLD : state_of(error));
		return;
	}
	s->found.podman = answer_is_podman(r->body, r->len);
	(void)snprintf(path, sizeof(path), "/v%u.%u/info", s->version / 1000, s->version % 1000);
	ask(s, path, on_info);
}

struct survey *survey_start(const struct survey_config *config)
{
	struct survey *s = calloc(1, sizeof(*s));
	const struct link_unix_config link = {
		.base = config->base, .path = config->socket, .rootful = config->rootful};

	if (!s)
		return NULL;
	s->config = *config;
	s->link = link_unix_new(&link);
	s->ending = event_new(config->base, -1, 0, on_ending, s);
	if (!s->link || !s->ending) {
		survey_free(s);
		return NULL;
	}
	ask(s, "/version", on_version);
	return s;
}

void survey_free(struct survey *s)
{
	if (!s)
		return;
	call_free(s->call);
	if (s->ending)
		event_free(s->ending);
	link_unix_free(s->link);
	free(s);
}
