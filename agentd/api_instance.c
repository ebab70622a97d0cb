/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances over HTTP: create, look, order, destroy, wait.
 * Trust: runs inside agentd; reads bodies and queries of strangers.
 */
#include "agentd/later.h"
#include "agentd/ports.h"
#include "agentd/reply.h"
#include "agentd/report.h"
#include "agentd/route.h"
#include "agentd/store.h"
#include "agentd/view.h"
#include "common/log.h"
#include "common/registry.h"

#include <fcntl.h>
#include <time.h>

#define WAIT_DEFAULT_S 30
#define WAIT_MAX_S     300

void api_ping(struct agentd *a, struct http_request *req, struct instance *inst)
{
	(void)a;
	(void)inst;
	reply_text(req, "{\"ok\":true,\"data\":null}");
}

void api_list(struct agentd *a, struct http_request *req, struct instance *inst)
{
	(void)inst;
	reply_text(req, view_list(a));
}

/* Creation. */

static bool port_taken(void *ctx, uint16_t port)
{
	struct agentd *a = ctx;
	struct instance *inst;

	TAILQ_FOREACH(inst, &a->instances, link)
	for (size_t i = 0; i < proto_ports_count(inst->ports); i++)
		if (inst->ports[i].host == port)
			return true;
	return port == a->http_port || ports_in_use(port);
}

/* Environment and command go to the guest in one piece. */
static unsigned check_container(const struct instance *inst, struct err *why)
{
	char *wish = instance_has_container(inst) ? instance_container_wish(inst) : NULL;
	size_t len = wish ? strlen(wish) : 0;

	if (wish)
		explicit_bzero(wish, len);
	free(wish);
	if (len <= PROTO_WISH_MAX)
		return 0;
	(void)err_set(why, 0, "env_variables: with the command they have %zu bytes; %d are allowed",
		      len, PROTO_WISH_MAX);
	return 422;
}

static unsigned over(struct err *why, const char *field, uint32_t asked, uint32_t max,
		     const char *unit)
{
	if (asked <= max)
		return 0;
	(void)err_set(why, 0, "%s: %u%s is more than the %u%s that this host allows", field, asked,
		      unit, max, unit);
	return 422;
}

/* The helper's ceilings, said before anything is begun; it checks them again itself. */
static unsigned check_ceilings(const struct agentd *a, const struct instance *inst, struct err *why)
{
	const struct peers_limits *limits = peers_limits(a->peers);
	unsigned status;

	if (!limits->known)
		return 0;
	status = over(why, "cpus", inst->cpus, limits->max_cpus, "");
	if (status == 0)
		status = over(why, "memory", inst->memory_mib, limits->max_memory_mib, " MiB");
	if (status == 0)
		status = over(why, "storage_gb (disk)", inst->disk_mib, limits->max_disk_mib,
			      " MiB");
	return status;
}

static unsigned check_room(const struct agentd *a, struct err *why)
{
	const struct peers_limits *limits = peers_limits(a->peers);
	uint32_t max = limits->known ? limits->max_vms : INSTANCE_MAX;

	if (agentd_count(a) < max)
		return 0;
	(void)err_set(why, 0, "this host holds at most %u instances; delete one first", max);
	return 409;
}

static unsigned choose_ports(struct agentd *a, const struct create_request *create,
			     struct instance *inst, struct err *why)
{
	const struct peers_limits *limits = peers_limits(a->peers);
	const struct ports_host host = {
		.low = limits->port_low,
		.high = limits->port_high,
		.taken = port_taken,
		.ctx = a,
	};
	int r = ports_allocate(create->ports, create->n_ports, &host, inst->ports, why);

	if (r == 0)
		r = tunnels_choose(a, inst, create->ports, create->n_ports, why);

	return r == 0 ? 0 : r == -ERANGE ? 422 : 409;
}

/* This host's GPUs for containers, with those marked that instances have. */
static void list_host_gpus(const struct agentd *a, struct gpus_named *ret_gpus)
{
	_cleanup_close_ int proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct instance *inst;

	*ret_gpus = (struct gpus_named){0};
	if (a->config.container_gpus[0] != '\0')
		(void)gpus_named_parse(a->config.container_gpus, ret_gpus, NULL); /* was checked */
	else if (proc_fd >= 0)
		gpus_named_find(proc_fd, ret_gpus);
	TAILQ_FOREACH(inst, &a->instances, link)
	for (size_t i = 0; i < instance_n_host_gpus(inst); i++)
		for (size_t k = 0; k < ret_gpus->n; k++)
			if (STR_EQ(ret_gpus->gpus[k].name, inst->host_gpus[i]))
				ret_gpus->gpus[k].taken = true;
}

/* Engines give GPUs to whoever names them: that each goes to one instance is seen to here. */
static unsigned choose_host_gpus(const struct agentd *a, const struct create_request *create,
				 struct instance *inst, struct err *why)
{
	struct gpus_named gpus;
	struct err text = {0};
	int r;

	if (create->gpus == 0)
		return 0;
	list_host_gpus(a, &gpus);
	/* With `debug = yes` a host without GPUs goes through everything but the GPUs. */
	if (gpus.n == 0 && a->config.debug)
		return 0;
	r = gpus_named_take(&gpus, create->gpus, create->gpu_addresses, inst->host_gpus, &text);
	if (r == 0)
		return 0;
	(void)err_set(why, 0, "%s: %.200s", create->gpu_field, text.text);
	return r == -ENODEV ? 422 : 409;
}

/* May the image come from where it says? vmmon looks again; while it is away, it alone does. */
static unsigned check_registry(const struct agentd *a, const struct instance *inst, struct err *why)
{
	const char *image = json_string_value(json_object_get(inst->tenant, "image"));
	const char *list = peers_registries(a->peers);
	struct err text = {0};

	if (!list || registry_allowed(list, image, &text) == 0)
		return 0;
	(void)err_set(why, 0, "image: %.220s", text.text);
	return 422;
}

/* Without VMs. */
static unsigned check_on_host(const struct agentd *a, const struct create_request *create,
			      struct instance *inst, struct err *why)
{
	unsigned status;

	if (!create->has_image) {
		(void)err_set(why, 0,
			      "image: this host runs containers without VMs (backend = container "
			      "in agentd.conf), so an image is needed");
		return 422;
	}
	status = check_registry(a, inst, why);
	return status == 0 ? choose_host_gpus(a, create, inst, why) : status;
}

/* What nobody has asked for is cut to what the host allows. */
static uint32_t default_disk_mib(const struct agentd *a)
{
	const struct peers_limits *limits = peers_limits(a->peers);
	uint32_t mib = a->config.default_disk_mib;

	return limits->known ? MIN_OF(mib, limits->max_disk_mib) : mib;
}

/* Fills a new instance from the request. Returns 0, or the HTTP status of the refusal. */
static unsigned fill(struct agentd *a, const struct create_request *create, struct instance *inst,
		     struct err *why)
{
	unsigned status;

	inst->cpus = create->cpus ? create->cpus : a->config.default_cpus;
	inst->memory_mib = create->memory_mib ? create->memory_mib : a->config.default_memory_mib;
	inst->disk_mib = create->disk_mib ? create->disk_mib : default_disk_mib(a);
	inst->created_s = (int64_t)time(NULL);
	inst->run.goal = GOAL_RUN;
	inst->run.since_s = inst->created_s;
	inst->tenant = json_incref(create->tenant);
	inst->container_ssh = create->container_ssh;
	(void)snprintf(inst->name, sizeof(inst->name), "%s", create->name);
	(void)snprintf(inst->image, sizeof(inst->image), "%s", a->config.base_image);
	inst->on_host = a->config.backend == BACKEND_CONTAINER;
	status = inst->on_host ? check_on_host(a, create, inst, why) : 0;
	if (status == 0)
		status = check_ceilings(a, inst, why);
	if (status == 0)
		status = check_room(a, why);
	if (status == 0)
		status = choose_ports(a, create, inst, why);
	return status == 0 ? check_container(inst, why) : status;
}

/* "Prefer: respond-async" among the preferences, as one dialect's clients send it. */
static bool prefers_async(const struct http_request *req)
{
	const char *prefer;

	return http_header(req, "Prefer", &prefer) == 0 && strcasestr(prefer, "respond-async");
}

static void answer_created(struct http_request *req, const struct instance *inst, bool bare)
{
	json_t *data = bare ? json_object() : view_instance_json(inst), *json;
	_cleanup_free_ char *text = NULL;

	(void)json_object_set_new(data, "success", json_true());
	(void)json_object_set_new(data, "ports", view_ports(inst));
	json = json_pack("{s:b, s:o}", "ok", 1, "data", data);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (text && prefers_async(req))
		http_reply(req, 202, "application/json", text, strlen(text));
	else
		reply_text(req, text);
}

static void refuse_second(struct http_request *req, const struct instance *inst)
{
	reply_error(req, 409,
		    inst->run.goal == GOAL_DELETE
			    ? "the instance before (%s) is still being destroyed"
			    : "there is an instance already (%s); use /v1/instances for more",
		    inst->id);
}

/* Makes the instance and answers; @gpus are those that it gets. */
static void create_now(struct agentd *a, struct http_request *req,
		       const struct create_request *wish, bool bare,
		       const uint64_t gpus[static PROTO_MAX_GPUS])
{
	struct instance *inst = instance_new(a);
	struct err why = {0};
	unsigned status;
	int r;

	if (!inst) {
		reply_error(req, 500, "out of memory");
		return;
	}
	inst->bare = bare;
	memcpy(inst->gpus, gpus, sizeof(inst->gpus));
	status = fill(a, wish, inst, &why);
	if (status != 0) {
		instance_free(inst);
		reply_error(req, status, "%s", why.text);
		return;
	}
	TAILQ_INSERT_TAIL(&a->instances, inst, link);
	/*
	 * The tunnels come up while the disk is waited for. Without a record, after a failure or a
	 * crash, they are not among those that frp-supervisor is then told to keep.
	 */
	tunnels_drive(a);
	r = store_create(a->store_fd, inst);
	if (r < 0) {
		log_event(LOG_ERR, "instance record cannot be written", LOG_ERRNO(r));
		TAILQ_REMOVE(&a->instances, inst, link);
		instance_free(inst);
		tunnels_gone(a);
		reply_error(req, 507, "the instance cannot be stored: %s", log_errno_text(r));
		return;
	}
	report_changed(a);
	log_event(LOG_NOTICE, "instance created", LOG_STR("INSTANCE", inst->id),
		  LOG_NUM("CPUS", inst->cpus), LOG_NUM("MEMORY_MIB", inst->memory_mib),
		  LOG_NUM("GPUS", proto_gpus_count(inst->gpus) + instance_n_host_gpus(inst)));
	agentd_changed(a, inst);
	answer_created(req, inst, bare);
}

/* GPUs: chosen from what vfio-helper says of the host just now. */

struct gpu_create {
	struct create_request wish;
	bool bare;
};

static void free_gpu_create(void *data)
{
	struct gpu_create *create = data;

	create_request_done(&create->wish);
	free(create);
}

/* Chooses or checks. Returns 0, or the HTTP status of the refusal with *@ret_why (owned). */
static unsigned choose_gpus(const struct agentd *a, const struct create_request *wish,
			    const struct gpus *host, uint64_t ret_gpus[static PROTO_MAX_GPUS],
			    char **ret_why)
{
	struct gpu_claim claims[AGENTD_CLAIMS_MAX];
	size_t n = agentd_gpu_claims(a, claims);
	int r;

	if (wish->gpu_addresses[0] != 0) {
		memcpy(ret_gpus, wish->gpu_addresses, sizeof(wish->gpu_addresses));
		r = gpus_check(host, ret_gpus, claims, n, ret_why);
	} else {
		r = gpus_choose(host, wish->gpus, claims, n, ret_gpus, ret_why);
	}
	if (r == -ENOMEM)
		return 500;
	/* What this host can never give is another mistake than what it cannot give now. */
	return r == 0 ? 0 : r == -ENODEV || wish->gpus > host->n ? 422 : 409;
}

static void refuse_gpus(const struct later *later, const char *field, enum proto_status status)
{
	const struct peers *peers = later->agentd->peers;

	if (!peers_up(peers, PEER_HELPER))
		reply_error(later->req, 503,
			    "%s: vfio-helper is not connected (%s); GPUs cannot be chosen", field,
			    peers_trouble(peers, PEER_HELPER));
	else if (status == PROTO_BUSY || status == PROTO_TIMEOUT || status == PROTO_UNREACHABLE)
		reply_error(later->req, 503, "%s: vfio-helper does not list the GPUs now: %s",
			    field, proto_status_text(status));
	else
		reply_error(later->req, 422, "%s: %s", field,
			    status == PROTO_DENIED ? "no GPU of this host may be rented out"
						   : proto_status_text(status));
}

static void answer_gpu_create(struct later *later, enum proto_status status, const void *rep,
			      struct fdlist *fds)
{
	const struct gpu_create *create = later->data;
	const char *field = create->wish.gpu_field;
	struct agentd *a = later->agentd;
	_cleanup_(gpus_done) struct gpus host = {0};
	_cleanup_free_ char *words = NULL;
	uint64_t chosen[PROTO_MAX_GPUS] = {0};
	struct err why = {0};
	unsigned refusal = 0;

	if (status == PROTO_OK && gpus_receive(rep, fds, &host, &why) < 0) {
		log_event(LOG_ERR, "list of GPUs refused", LOG_STR("REASON", why.text));
		reply_error(later->req, 500, "%s: %s", field, why.text);
		return;
	}
	/* With `debug = yes` a host without GPUs goes through everything but the GPUs. */
	if (host.n == 0 && a->config.debug) {
		create_now(a, later->req, &create->wish, create->bare, chosen);
		return;
	}
	if (status != PROTO_OK) {
		refuse_gpus(later, field, status);
		return;
	}
	if (create->bare && agentd_bare(a)) {
		refuse_second(later->req, agentd_bare(a));
		return;
	}
	refusal = choose_gpus(a, &create->wish, &host, chosen, &words);
	if (refusal != 0)
		reply_error(later->req, refusal, "%s: %s", field, words ? words : "out of memory");
	else
		create_now(a, later->req, &create->wish, create->bare, chosen);
}

/* Goes on with @wish, which is taken over, once the host's GPUs are known. */
static void create_with_gpus(struct agentd *a, struct http_request *req,
			     struct create_request *wish, bool bare)
{
	const struct gpu_list_req op_req = {0};
	struct gpu_create *create = calloc(1, sizeof(*create));
	const struct later_question question = {
		.peer = PEER_HELPER,
		.op_number = OP_GPU_LIST,
		.req = &op_req,
		.timeout_ms = GPU_LIST_TIMEOUT_MS,
		.answer = answer_gpu_create,
		.data = create,
		.free_data = free_gpu_create,
	};

	if (!create) {
		reply_error(req, 500, "out of memory");
		return;
	}
	create->wish = *wish;
	wish->tenant = NULL;
	create->bare = bare;
	later_ask(a, req, NULL, &question);
}

static void create(struct agentd *a, struct http_request *req, bool bare)
{
	static const uint64_t none[PROTO_MAX_GPUS];
	_cleanup_(create_request_done) struct create_request wish = {0};
	struct err why = {0};
	size_t len;
	const void *body = http_body(req, &len);
	int r = request_parse_create(body, len, &wish, &why);

	if (r < 0)
		reply_error(req, r == -ENOMEM ? 500 : 400, "%s", why.text);
	else if (wish.gpus > 0 && a->config.backend == BACKEND_VM)
		create_with_gpus(a, req, &wish, bare);
	else
		create_now(a, req, &wish, bare, none);
}

void api_create(struct agentd *a, struct http_request *req, struct instance *inst)
{
	(void)inst;
	create(a, req, /* bare= */ false);
}

void api_create_bare(struct agentd *a, struct http_request *req, struct instance *inst)
{
	if (inst)
		refuse_second(req, inst);
	else
		create(a, req, /* bare= */ true);
}

/* Orders. */

void api_put(struct agentd *a, struct http_request *req, struct instance *inst)
{
	enum request_action action;
	struct err why = {0};
	struct run next;
	size_t len;
	const void *body = http_body(req, &len);

	if (request_parse_action(body, len, &action, &why) < 0) {
		reply_error(req, 400, "%s", why.text);
		return;
	}
	if (!inst) {
		reply_error(req, 409, "there is no instance");
		return;
	}
	if (inst->quarantined) {
		reply_error(req, 409, "%s", inst->run.error);
		return;
	}
	next = inst->run;
	if (instance_order(&next, action, instance_alive(inst), &why) < 0) {
		reply_error(req, 409, "%s", why.text);
		return;
	}
	if (agentd_commit(a, inst, &next) < 0) {
		reply_error(req, 507, "the order cannot be stored");
		return;
	}
	inst->seen.boot_deadline_ms = 0; /* whoever gives an order gives it time, too */
	inst->seen.bind_deadline_ms = 0;
	/* Whoever gives an order has a container tried again that has failed or ended. */
	inst->seen.container_set = false;
	if (inst->seen.container.state >= PROTO_CONTAINER_EXITED)
		inst->seen.container = (struct container_seen){.state = PROTO_CONTAINER_WAITING};
	inst->failures = 0;
	inst->crashes = 0;
	inst->retry_ms = 0;
	inst->trouble[0] = '\0';
	agentd_changed(a, inst);
	reply_data(req, json_pack("{s:b, s:s, s:s}", "success", 1, "instance_id", inst->id,
				  "status", inst->status));
}

void api_delete(struct agentd *a, struct http_request *req, struct instance *inst)
{
	struct run next;

	if (!inst) { /* the bare path: gone is gone */
		reply_data(req, json_pack("{s:b}", "success", 1));
		return;
	}
	next = inst->run;
	next.goal = GOAL_DELETE;
	next.restart = RESTART_NONE;
	if (inst->run.goal != GOAL_DELETE) {
		if (agentd_commit(a, inst, &next) < 0) {
			reply_error(req, 507, "the order cannot be stored");
			return;
		}
		inst->failures = 0;
		inst->retry_ms = 0;
		inst->trouble[0] = '\0';
		agentd_changed(a, inst);
	}
	reply_data(req, json_pack("{s:b}", "success", 1));
}

/* Waiting. */

static bool state_known(const char *state)
{
	static const char *const words[] = {"pending",   "running", "paused",
					    "rebooting", "error",   "destroyed"};

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (STR_EQ(words[i], state))
			return true;
	return false;
}

static int get_timeout(const struct http_request *req, uint32_t *ret_timeout_s)
{
	char text[16];
	int r = http_query(req, "timeout_s", text, sizeof(text));

	*ret_timeout_s = WAIT_DEFAULT_S;
	if (r == -ENOENT)
		return 0;
	if (r < 1 || r > 6 || text[strspn(text, "0123456789")] != '\0')
		return -EINVAL;
	*ret_timeout_s = (uint32_t)MIN_OF(strtoul(text, NULL, 10), (unsigned long)WAIT_MAX_S);
	return 0;
}

void api_wait(struct agentd *a, struct http_request *req, struct instance *inst)
{
	char state[16] = "running", detail[640];
	uint32_t timeout_s;
	int r = http_query(req, "state", state, sizeof(state));

	if ((r < 0 && r != -ENOENT) || !state_known(state)) {
		reply_error(req, 400,
			    "state must be one of: pending running paused rebooting error "
			    "destroyed");
		return;
	}
	if (get_timeout(req, &timeout_s) < 0) {
		reply_error(req, 400, "timeout_s must be a number of seconds");
		return;
	}
	r = http_query(req, "since_detail", detail, sizeof(detail));
	if (r == -ENOENT) /* the shorter name of the same */
		r = http_query(req, "detail", detail, sizeof(detail));
	if (r < 0 && r != -ENOENT) {
		reply_error(req, 400, "detail is given twice or too long");
		return;
	}
	waiter_add_state(a, req, inst, state, r >= 0 ? detail : NULL, timeout_s);
}
