/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One handler per operation that agentd may ask for.
 * Trust: runs in vmmon; reads decoded messages of agentd, which may be hostile.
 */
#include "common/ipc.h"
#include "common/log.h"
#include "common/pubkey.h"
#include "vmmon/vmmon.h"

#define PROTO_CTX struct vmmon
#define PROTO_SERVE_VMMON
#define PROTO_DISPATCH
#include "proto/dispatch.inc"

static enum proto_status status_of(int r)
{
	switch (r) {
	case -ENOENT:
		return PROTO_NOT_FOUND;
	case -ENOSPC:
	case -EDQUOT:
		return PROTO_NO_SPACE;
	case -EUSERS:
	case -EMFILE:
		return PROTO_LIMIT;
	case -ENOTCONN:
	case -ECONNREFUSED:
	case -EAGAIN:
	case -EACCES:
	case -EPIPE:
		return PROTO_UNREACHABLE;
	case -EBUSY:
		return PROTO_BUSY;
	default:
		return PROTO_FAILED;
	}
}

static struct guest **find_guest(struct vmmon *m, const char *vm)
{
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (m->guests[i] && STR_EQ(m->guests[i]->vm, vm))
			return &m->guests[i];
	return NULL;
}

static struct host_container *find_host(struct vmmon *m, const char *instance)
{
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (m->hosts[i] && STR_EQ(m->hosts[i]->instance, instance))
			return m->hosts[i];
	return NULL;
}

static struct guest **free_slot(struct vmmon *m)
{
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (!m->guests[i])
			return &m->guests[i];
	return NULL;
}

static void forget(struct guest **slot)
{
	if (slot)
		guest_free(TAKE_PTR(*slot));
}

int vmmon_dispatch(void *ctx, struct peer *peer, const struct proto_op *op,
		   const union proto_body *req, union proto_body *rep, struct fdlist *fds)
{
	return proto_dispatch(ctx, peer, op, req, rep, fds);
}

void vmmon_on_state(void *ctx, const struct guest *g)
{
	struct vmmon *m = ctx;
	struct guest_state_ev ev = {.generation = g->generation, .state = g->state};

	memcpy(ev.vm, g->vm, sizeof(ev.vm));
	log_event(LOG_INFO, "guest state", LOG_STR("VM", g->vm), LOG_NUM("STATE", g->state));
	server_event(&m->service.server, PROTO_AGENTD, OP_GUEST_STATE, &ev);
}

static void tell_container(struct vmmon *m, const char *vm, uint64_t generation,
			   const struct engine_status *status)
{
	struct container_state_ev ev = {
		.generation = generation,
		.state = status->state,
		.percent = status->percent,
		.exit_code = status->exit_code,
		.login = status->login.place,
	};

	memcpy(ev.vm, vm, sizeof(ev.vm));
	proto_text_set(ev.id, sizeof(ev.id), status->id);
	proto_text_set(ev.words, sizeof(ev.words), status->words);
	proto_text_set(ev.login_key, sizeof(ev.login_key), status->login.host_key);
	proto_text_set(ev.login_words, sizeof(ev.login_words), status->login.words);
	if (status->state != PROTO_CONTAINER_PULLING)
		log_event(LOG_INFO, "container state", LOG_STR("VM", vm),
			  LOG_NUM("STATE", status->state), LOG_STR("WORDS", status->words));
	server_event(&m->service.server, PROTO_AGENTD, OP_CONTAINER_STATE, &ev);
}

void vmmon_on_health(void *ctx, const struct guest *g, enum proto_health health, const char *words)
{
	struct vmmon *m = ctx;
	struct guest_health_ev ev = {.generation = g->generation, .health = health};

	memcpy(ev.vm, g->vm, sizeof(ev.vm));
	proto_text_set(ev.words, sizeof(ev.words), words);
	if (health == PROTO_HEALTH_BAD)
		log_event(LOG_WARNING, "guest is unhealthy", LOG_STR("VM", g->vm),
			  LOG_STR("WORDS", words));
	server_event(&m->service.server, PROTO_AGENTD, OP_GUEST_HEALTH, &ev);
}

void vmmon_on_container(void *ctx, const struct guest *g, const struct engine_status *status)
{
	tell_container(ctx, g->vm, g->generation, status);
}

void vmmon_on_host_container(void *ctx, const char *instance, const struct engine_status *status)
{
	tell_container(ctx, instance, PROTO_HOST_GENERATION, status);
}

void vmmon_reply(void *ctx, struct ticket *ticket, enum proto_status status, uint32_t n_keys)
{
	struct vmmon *m = ctx;
	const struct guest_set_keys_rep set_keys = {.keys = n_keys};
	const struct guest_powerdown_rep powerdown = {0};
	struct fdlist none = {0};
	bool is_keys = ticket->op_number == OP_GUEST_SET_KEYS;

	server_reply(&m->service.server, ticket, status,
		     is_keys ? (const void *)&set_keys : (const void *)&powerdown, &none);
}

int on_vmmon_hello(struct vmmon *ctx, struct peer *peer, const struct vmmon_hello_req *req,
		   struct vmmon_hello_rep *rep, struct fdlist *fds)
{
	(void)fds;
	if (req->version != PROTO_VERSION)
		return PROTO_MISMATCH;
	peer->conn.state = PROTO_ST_READY;
	peer->subscribed = true;
	rep->version = PROTO_VERSION;
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		rep->watched += ctx->guests[i] ? 1 : 0;
	proto_text_set(rep->registries, sizeof(rep->registries), ctx->config.engine_registries);
	return PROTO_OK;
}

/* vfio-helper has the seed, now or since an attempt whose end we did not see. */
static void on_seed_sent(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct enrolment *e = arg;
	struct guest_enrol_rep enrolled = {0};

	(void)rep;
	if (status == PROTO_OK || status == PROTO_ALREADY) {
		int r = keys_seed_delivered(&e->vmmon->keys, e->vm);

		if (r < 0)
			log_event(LOG_ERR, "cannot delete a delivered seed", LOG_STR("VM", e->vm),
				  LOG_ERRNO(r));
		status = PROTO_OK;
	}
	e->vm[0] = '\0';
	proto_text_set(enrolled.host_key, sizeof(enrolled.host_key), e->line);
	server_reply(&e->vmmon->service.server, &e->ticket, status, &enrolled, fds);
}

static struct enrolment *find_enrolment(struct vmmon *m, const char *vm)
{
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (STR_EQ(m->enrolments[i].vm, vm))
			return &m->enrolments[i];
	return NULL;
}

int on_guest_enrol(struct vmmon *ctx, struct peer *peer, const struct guest_enrol_req *req,
		   struct guest_enrol_rep *rep, struct fdlist *fds)
{
	_cleanup_close_ int seed_fd = -EBADF;
	struct enrolment *e = find_enrolment(ctx, "");
	int r;

	(void)fds;
	if (!e || find_enrolment(ctx, req->vm))
		return PROTO_BUSY;
	r = keys_enrol(&ctx->keys, req->vm, e->line);
	if (r == 0)
		seed_fd = keys_pending_seed(&ctx->keys, req->vm);
	if (r == 0 && seed_fd == -ENOENT) { /* enrolled before */
		proto_text_set(rep->host_key, sizeof(rep->host_key), e->line);
		return PROTO_OK;
	}
	if (r == 0 && seed_fd < 0)
		r = seed_fd;
	if (r < 0) {
		log_event(LOG_ERR, "cannot enrol", LOG_STR("VM", req->vm), LOG_ERRNO(r));
		return (int)status_of(r);
	}
	e->vmmon = ctx;
	e->ticket = server_defer(peer);
	memcpy(e->vm, req->vm, sizeof(e->vm));
	r = helper_client_send_seed(&ctx->helper, req->vm, seed_fd, on_seed_sent, e);
	if (r < 0) {
		e->vm[0] = '\0';
		log_event(LOG_WARNING, "cannot ask vfio-helper", LOG_STR("VM", req->vm),
			  LOG_ERRNO(r));
		return PROTO_UNREACHABLE;
	}
	return PROTO_DEFERRED;
}

/* What a watch means for a guest that is watched already. */
static int watch_again(struct guest **slot, const struct guest_watch_req *req)
{
	struct guest *g = *slot;

	if (req->generation < g->generation ||
	    (req->generation == g->generation && req->ssh_port != g->ssh_port))
		return PROTO_CONFLICT;
	if (req->generation == g->generation)
		guest_reconnect(g);
	else
		forget(slot);
	return PROTO_OK;
}

int on_guest_watch(struct vmmon *ctx, struct peer *peer, const struct guest_watch_req *req,
		   struct guest_watch_rep *rep, struct fdlist *fds)
{
	struct guest **slot = find_guest(ctx, req->vm);
	int r;

	(void)peer;
	(void)fds;
	if (slot) {
		r = watch_again(slot, req);
		if (r != PROTO_OK)
			return r;
	} else {
		slot = free_slot(ctx);
	}
	if (!slot)
		return PROTO_LIMIT;
	if (!*slot) {
		r = guest_new(&ctx->env, req->vm, req->generation, (uint16_t)req->ssh_port, slot);
		if (r < 0) {
			log_event(LOG_ERR, "cannot watch", LOG_STR("VM", req->vm), LOG_ERRNO(r));
			return (int)status_of(r);
		}
	}
	rep->state = (*slot)->state;
	if ((*slot)->metrics)
		rep->health = metrics_health((*slot)->metrics);
	return PROTO_OK;
}

int on_guest_unwatch(struct vmmon *ctx, struct peer *peer, const struct guest_unwatch_req *req,
		     struct guest_unwatch_rep *rep, struct fdlist *fds)
{
	(void)peer;
	(void)rep;
	(void)fds;
	forget(find_guest(ctx, req->vm));
	return PROTO_OK;
}

int on_guest_discard(struct vmmon *ctx, struct peer *peer, const struct guest_discard_req *req,
		     struct guest_discard_rep *rep, struct fdlist *fds)
{
	int r;

	(void)peer;
	(void)rep;
	(void)fds;
	if (find_enrolment(ctx, req->vm))
		return PROTO_BUSY;
	forget(find_guest(ctx, req->vm));
	r = keys_discard(&ctx->keys, req->vm);
	if (r == 0)
		r = ring_remove(ctx->run_fd, req->vm);
	if (r < 0)
		log_event(LOG_ERR, "cannot discard", LOG_STR("VM", req->vm), LOG_ERRNO(r));
	return r < 0 ? (int)status_of(r) : PROTO_OK;
}

int on_guest_powerdown(struct vmmon *ctx, struct peer *peer, const struct guest_powerdown_req *req,
		       struct guest_powerdown_rep *rep, struct fdlist *fds)
{
	struct guest **slot = find_guest(ctx, req->vm);
	struct ticket ticket = server_defer(peer);

	(void)rep;
	(void)fds;
	if (!slot || (*slot)->generation != req->generation)
		return PROTO_NOT_FOUND;
	return guest_powerdown(*slot, &ticket);
}

/* Reads the whole memfd, whose seals were checked; the caller frees. */
static int read_sealed(int fd, size_t max, char **ret_text, size_t *ret_len)
{
	_cleanup_free_ char *text = NULL;
	ssize_t size = fd_memfd_check(fd, max);

	if (size < 0)
		return (int)size;
	text = malloc((size_t)size);
	if (!text)
		return -ENOMEM;
	if (pread(fd, text, (size_t)size, 0) != size)
		return -EIO;
	*ret_text = TAKE_PTR(text);
	*ret_len = (size_t)size;
	return 0;
}

int on_guest_set_keys(struct vmmon *ctx, struct peer *peer, const struct guest_set_keys_req *req,
		      struct guest_set_keys_rep *rep, struct fdlist *fds)
{
	_cleanup_close_foreign_ int fd = fdlist_take(fds);
	_cleanup_free_ char *text = NULL;
	struct guest **slot = find_guest(ctx, req->vm);
	struct host_container *host = find_host(ctx, req->vm);
	struct ticket ticket = server_defer(peer);
	struct err err = {0};
	size_t len = 0, n_keys;

	if (read_sealed(fd, PROTO_KEYS_MAX, &text, &len) < 0)
		return PROTO_INVALID;
	if (pubkey_check_list(text, len, &n_keys, &err) < 0 || n_keys > UINT16_MAX) {
		log_event(LOG_WARNING, "agentd sent a list of keys that is not one",
			  LOG_STR("VM", req->vm), LOG_STR("WHY", err.text));
		return PROTO_INVALID;
	}
	rep->keys = (uint32_t)n_keys;
	if (host)
		return host_container_set_keys(host, text, len, (uint32_t)n_keys, &ticket);
	if (!slot)
		return PROTO_NOT_FOUND;
	return guest_set_keys(*slot, TAKE_PTR(text), len, (uint32_t)n_keys, &ticket);
}

/* The wish in the memfd of a request about @vm; @on_host: a container there. */
static enum proto_status take_wish(struct fdlist *fds, const char *vm, bool on_host,
				   struct wish *ret_wish)
{
	_cleanup_close_ int fd = fdlist_take(fds);
	_cleanup_free_ char *text = NULL;
	struct err err = {0};
	size_t len = 0;
	int r;

	if (read_sealed(fd, PROTO_WISH_MAX, &text, &len) < 0 || !text)
		return PROTO_INVALID;
	r = wish_parse(text, len, on_host ? vm : NULL, ret_wish, &err);
	explicit_bzero(text, len);
	if (r == 0)
		return PROTO_OK;
	log_event(LOG_WARNING, "agentd sent a wish that is not one", LOG_STR("VM", vm),
		  LOG_STR("WHY", err.text));
	return PROTO_INVALID;
}

int on_container_set(struct vmmon *ctx, struct peer *peer, const struct container_set_req *req,
		     struct container_set_rep *rep, struct fdlist *fds)
{
	_cleanup_(wish_done) struct wish wish = {0};
	struct guest **slot = find_guest(ctx, req->vm);

	(void)peer;
	(void)rep;
	if (take_wish(fds, req->vm, false, &wish) != PROTO_OK)
		return PROTO_INVALID;
	if (!slot || (*slot)->generation != req->generation)
		return PROTO_NOT_FOUND;
	return guest_set_container(*slot, &wish);
}

/* Containers on this host. */

/* The one of @instance, known or not; NULL when there is no room or memory. */
static struct host_container *take_host(struct vmmon *m, const char *instance)
{
	struct host_container *h = find_host(m, instance);

	for (size_t i = 0; !h && i < PROTO_MAX_VMS; i++) {
		if (m->hosts[i] && !host_container_is_gone(m->hosts[i]))
			continue;
		host_container_free(TAKE_PTR(m->hosts[i]));
		h = m->hosts[i] = host_container_new(&m->host_env, instance);
	}
	return h;
}

/* What agentd has refused already, unless it was taken over. */
static enum proto_status may_run(const struct vmmon *m, const char *instance,
				 const struct wish *wish)
{
	struct err err = {0};

	if (registry_allowed(m->config.engine_registries, wish->image, &err) < 0) {
		log_event(LOG_WARNING, "registry refused", LOG_STR("VM", instance),
			  LOG_STR("WHY", err.text));
		return PROTO_DENIED;
	}
	for (size_t i = 0; i < PROTO_MAX_VMS; i++) {
		const struct host_container *other = m->hosts[i];

		if (!other || STR_EQ(other->instance, instance) || host_container_is_gone(other) ||
		    !host_container_has_gpu(other, wish->gpu_names))
			continue;
		log_event(LOG_WARNING, "GPU refused", LOG_STR("VM", instance),
			  LOG_STR("HAS_IT", other->instance));
		return PROTO_CONFLICT;
	}
	return PROTO_OK;
}

int on_host_run(struct vmmon *ctx, struct peer *peer, const struct host_run_req *req,
		struct host_run_rep *rep, struct fdlist *fds)
{
	_cleanup_(wish_done) struct wish wish = {0};
	struct host_container *h;
	enum proto_status status;

	(void)peer;
	if (take_wish(fds, req->vm, true, &wish) != PROTO_OK)
		return PROTO_INVALID;
	status = may_run(ctx, req->vm, &wish);
	if (status != PROTO_OK)
		return (int)status;
	h = take_host(ctx, req->vm);
	if (!h)
		return PROTO_LIMIT;
	host_container_run(h, &wish);
	rep->state = container_status(h->container)->state;
	return PROTO_OK;
}

int on_host_stop(struct vmmon *ctx, struct peer *peer, const struct host_stop_req *req,
		 struct host_stop_rep *rep, struct fdlist *fds)
{
	struct host_container *h = take_host(ctx, req->vm);

	(void)peer;
	(void)fds;
	if (!h)
		return PROTO_LIMIT;
	container_stop(h->container, req->grace_s);
	rep->state = container_status(h->container)->state;
	return PROTO_OK;
}

int on_host_remove(struct vmmon *ctx, struct peer *peer, const struct host_remove_req *req,
		   struct host_remove_rep *rep, struct fdlist *fds)
{
	struct host_container *h = take_host(ctx, req->vm);

	(void)peer;
	(void)fds;
	if (!h)
		return PROTO_LIMIT;
	container_remove(h->container);
	rep->state = container_status(h->container)->state;
	return PROTO_OK;
}

static void on_survey(void *arg, const struct engine_status_rep *found)
{
	struct vmmon *m = arg;
	struct engine_status_rep rep = *found;
	struct fdlist none = {0};

	rep.unlimited = m->config.engine_unlimited;
	rep.reserve_mib = m->config.engine_reserve_mib;
	proto_text_set(rep.socket, sizeof(rep.socket), m->config.engine_socket);
	server_reply(&m->service.server, &m->survey_ticket, PROTO_OK, &rep, &none);
	survey_free(TAKE_PTR(m->survey));
}

int on_engine_status(struct vmmon *ctx, struct peer *peer, const struct engine_status_req *req,
		     struct engine_status_rep *rep, struct fdlist *fds)
{
	const struct survey_config config = {.base = ctx->host_env.base,
					     .socket = ctx->config.engine_socket,
					     .rootful = ctx->config.engine_rootful,
					     .arg = ctx,
					     .on_done = on_survey};

	(void)req;
	(void)rep;
	(void)fds;
	if (ctx->survey)
		return PROTO_BUSY;
	ctx->survey = survey_start(&config);
	if (!ctx->survey)
		return PROTO_FAILED;
	ctx->survey_ticket = server_defer(peer);
	return PROTO_DEFERRED;
}

/* A read of a container's log that is not answered yet. */
struct log_read {
	struct vmmon *vmmon; /* borrowed */
	struct ticket ticket;
};

static void on_container_log(void *arg, int r, const char *text, size_t len)
{
	struct log_read *read = arg;
	struct container_logs_rep rep = {.bytes = (uint32_t)len};
	struct fdlist fds = {0};
	enum proto_status status = PROTO_OK;
	int fd;

	if (r == 0) {
		fd = fd_memfd_sealed("container-log", text, len);
		r = fd < 0 ? fd : fdlist_add(&fds, fd);
	}
	if (r < 0)
		status = r == -ECANCELED || r == -ETIMEDOUT ? PROTO_UNREACHABLE : status_of(r);
	server_reply(&read->vmmon->service.server, &read->ticket, status, &rep, &fds);
	fdlist_done(&fds);
	free(read);
}

int on_container_logs(struct vmmon *ctx, struct peer *peer, const struct container_logs_req *req,
		      struct container_logs_rep *rep, struct fdlist *fds)
{
	struct guest **slot = find_guest(ctx, req->vm);
	const struct host_container *host = find_host(ctx, req->vm);
	struct container *container = host ? host->container : slot ? (*slot)->container : NULL;
	struct log_read *read;
	int r;

	(void)rep;
	(void)fds;
	if (!container)
		return PROTO_NOT_FOUND;
	read = malloc(sizeof(*read));
	if (!read)
		return PROTO_FAILED;
	*read = (struct log_read){ctx, server_defer(peer)};
	r = container_logs(container, req->lines, on_container_log, read);
	if (r == 0)
		return PROTO_DEFERRED;
	free(read);
	return (int)status_of(r);
}

int on_metrics_read(struct vmmon *ctx, struct peer *peer, const struct metrics_read_req *req,
		    struct metrics_read_rep *rep, struct fdlist *fds)
{
	struct guest **slot = find_guest(ctx, req->vm);
	_cleanup_free_ uint8_t *records = NULL;
	const struct series *series;
	size_t len;
	int fd, r;

	(void)peer;
	if (!slot || !(*slot)->metrics)
		return PROTO_NOT_FOUND;
	series = metrics_series((*slot)->metrics);
	r = series_records(series, req->since, req->max, &records, &len, &rep->samples);
	if (r < 0)
		return (int)status_of(r);
	rep->newest = series_newest(series);
	rep->bytes = (uint32_t)len;
	rep->interval_ms = ctx->config.metrics_interval_ms;
	fd = fd_memfd_sealed("metrics", records, len);
	if (fd < 0)
		return (int)status_of(fd);
	return fdlist_add(fds, fd) < 0 ? PROTO_FAILED : PROTO_OK;
}

int on_console_read(struct vmmon *ctx, struct peer *peer, const struct console_read_req *req,
		    struct console_read_rep *rep, struct fdlist *fds)
{
	struct guest **slot = find_guest(ctx, req->vm);
	struct ring_file *ring = slot ? (*slot)->ring : NULL;
	_cleanup_free_ uint8_t *copy = malloc(req->max_bytes);
	int fd, r = copy ? 0 : -ENOMEM;

	(void)peer;
	if (r == 0 && !slot) /* not watched now: what is left of an earlier time */
		r = ring_open(ctx->run_fd, req->vm, false, &ring);
	if (r < 0)
		return (int)status_of(r);
	rep->bytes = (uint32_t)ring_tail(ring, copy, req->max_bytes);
	rep->total_bytes = ring->total;
	rep->generation = ring->generation;
	rep->fresh = (uint32_t)ring_fresh(ring, rep->bytes);
	if (!slot)
		ring_close(ring);
	fd = fd_memfd_sealed("console", copy, rep->bytes);
	if (fd < 0)
		return (int)status_of(fd);
	return fdlist_add(fds, fd) < 0 ? PROTO_FAILED : PROTO_OK;
}

int on_console_attach(struct vmmon *ctx, struct peer *peer, const struct console_attach_req *req,
		      struct console_attach_rep *rep, struct fdlist *fds)
{
	struct guest **slot = find_guest(ctx, req->vm);
	int fd;

	(void)peer;
	(void)rep;
	if (!slot)
		return PROTO_NOT_FOUND;
	if (!(*slot)->console)
		return PROTO_UNREACHABLE;
	fd = console_attach((*slot)->console);
	if (fd < 0)
		return (int)status_of(fd);
	return fdlist_add(fds, fd) < 0 ? PROTO_FAILED : PROTO_OK;
}
