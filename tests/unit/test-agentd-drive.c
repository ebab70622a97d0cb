/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances driven against scripted peers: the real connections, store, decisions and steps of
 * agentd, with a vfio-helper and a vmmon that keep one VM in memory and fail when told to.
 * Trust: test.
 */
#include "agentd/agentd.h"
#include "agentd/lastwords.h"
#include "agentd/report.h"
#include "agentd/store.h"
#include "agentd/view.h"
#include "common/ipc.h"
#include "common/server.h"
#include "tests/unit/gpu-records.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/time.h>
/* cmocka wants the two above first */
#include <cmocka.h>

#define PATIENCE_MS 60000 /* of a machine that does much else */

#define HOST_KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICW+hJCWuo50RrP/NlSoUiybmtUhiglewSC8ZFcgLNtR"

/* What the two peers know, and what they were asked. */
struct world {
	char dir[64];
	struct event_base *base;
	struct server helper, vmmon;
	struct event *listen_helper, *listen_vmmon;
	int helper_fd, vmmon_fd;
	char vm[PROTO_NAME_SIZE];
	enum proto_vm_state state;
	uint64_t generation;
	uint32_t exit_kind, exit_code;
	enum proto_guest_state guest;
	bool keeps_up; /* the guest ignores its power button */
	char boot_id[40];
	uint32_t fail_op; /* answered with fail_status, fail_times times */
	enum proto_status fail_status;
	unsigned int fail_times;
	unsigned int asked[0x400]; /* by the low bits of the number */
	unsigned int total;        /* all requests */
	unsigned int crash_at;     /* agentd dies before the answer to this one; 0: never */
	uint32_t n_keys;
	bool slow_keys;              /* GUEST_SET_KEYS is answered only when the VM ends */
	struct ticket ticket;        /* of such a request */
	char wish[4096];             /* the last that CONTAINER_SET brought */
	const char *console;         /* what CONSOLE_READ gives; NULL: nothing */
	uint64_t console_generation; /* whose it is */
	uint64_t sample;             /* number of METRICS_READ's only one; 0: none */
	uint32_t cpu_permille;       /* in it */
	enum proto_health health;    /* what GUEST_WATCH says */
	uint64_t leased[PROTO_MAX_GPUS];
	uint32_t quarantined;       /* what GPU_RELEASE will say */
	struct gpu_records records; /* what GPU_LIST says */
	struct agentd a;
};

static struct world w;

static unsigned int *asked(uint32_t op)
{
	return &w.asked[op & 0x3ff];
}

static void vm_ends(uint32_t kind, uint32_t code)
{
	struct vm_exited_ev ev = {.generation = w.generation, .exit_kind = kind, .exit_code = code};

	w.state = PROTO_VM_SEEDED;
	w.exit_kind = kind;
	w.exit_code = code;
	w.guest = PROTO_GUEST_UNWATCHED;
	memcpy(ev.vm, w.vm, sizeof(ev.vm));
	server_event(&w.helper, PROTO_AGENTD, OP_VM_EXITED, &ev);
}

static void guest_becomes(enum proto_guest_state state)
{
	struct guest_state_ev ev = {.generation = w.generation, .state = state};

	w.guest = state;
	memcpy(ev.vm, w.vm, sizeof(ev.vm));
	server_event(&w.vmmon, PROTO_AGENTD, OP_GUEST_STATE, &ev);
}

static void container_becomes(enum proto_container_state state, uint32_t code, const char *words)
{
	struct container_state_ev ev = {
		.generation = w.generation, .state = state, .percent = 43, .exit_code = code};

	memcpy(ev.vm, w.vm, sizeof(ev.vm));
	proto_text_set(ev.id, sizeof(ev.id), "0123");
	proto_text_set(ev.words, sizeof(ev.words), words);
	server_event(&w.vmmon, PROTO_AGENTD, OP_CONTAINER_STATE, &ev);
}

static int answer_gpu_bind(const struct gpu_bind_req *req, struct gpu_bind_rep *rep)
{
	if (!STR_EQ(req->vm, w.vm) || w.state == PROTO_VM_ABSENT)
		return PROTO_NOT_FOUND;
	if (w.leased[0] != 0 && memcmp(w.leased, req->gpus, sizeof(w.leased)) != 0)
		return PROTO_CONFLICT;
	memcpy(w.leased, req->gpus, sizeof(w.leased));
	rep->functions = 2 * (uint32_t)proto_gpus_count(w.leased);
	return PROTO_OK;
}

static int answer_gpu_release(struct gpu_release_rep *rep)
{
	if (w.state == PROTO_VM_ABSENT || w.leased[0] == 0)
		return PROTO_NOT_FOUND;
	if (w.state == PROTO_VM_RUNNING)
		return PROTO_BUSY;
	rep->released = (uint32_t)proto_gpus_count(w.leased) - w.quarantined;
	rep->quarantined = w.quarantined;
	memset(w.leased, 0, sizeof(w.leased));
	return PROTO_OK;
}

static int answer_gpu_list(struct gpu_list_rep *rep, struct fdlist *fds)
{
	*rep = (struct gpu_list_rep){w.records.n, (uint32_t)w.records.len};
	(void)fdlist_add(fds, fd_memfd_sealed("gpus", w.records.bytes, w.records.len));
	return PROTO_OK;
}

static int answer_helper(uint32_t op, const void *req, void *rep, struct fdlist *fds)
{
	struct helper_hello_rep *hello = rep;
	struct vm_describe_rep *describe = rep;
	struct vm_start_rep *start = rep;

	switch (op) {
	case OP_HELPER_HELLO:
		*hello = (struct helper_hello_rep){
			.version = PROTO_VERSION,
			.max_vms = 2,
			.max_cpus = 8,
			.max_memory_mib = 8192,
			.max_disk_mib = 65536,
			.port_low = 10000,
			.port_high = 65535,
		};
		memcpy(hello->boot_id, w.boot_id, sizeof(hello->boot_id));
		return PROTO_OK;
	case OP_VM_PREPARE:
		memcpy(w.vm, ((const struct vm_prepare_req *)req)->vm, sizeof(w.vm));
		w.state = PROTO_VM_PREPARED;
		((struct vm_prepare_rep *)rep)->disk_mib = 2048;
		return PROTO_OK;
	case OP_VM_DESCRIBE:
		describe->state = w.state;
		describe->generation = w.generation;
		describe->accel = w.state == PROTO_VM_RUNNING ? PROTO_ACCEL_TCG : 0;
		describe->exit_kind = w.exit_kind;
		describe->exit_code = w.exit_code;
		describe->gpus = (uint32_t)proto_gpus_count(w.leased);
		return PROTO_OK;
	case OP_VM_START:
		if (w.state != PROTO_VM_SEEDED)
			return PROTO_ALREADY;
		if (((const struct vm_start_req *)req)->gpus != proto_gpus_count(w.leased))
			return PROTO_INVALID;
		w.state = PROTO_VM_RUNNING;
		w.exit_kind = PROTO_EXIT_NONE;
		*start = (struct vm_start_rep){++w.generation, PROTO_ACCEL_TCG, 0};
		return PROTO_OK;
	case OP_VM_KILL:
		vm_ends(PROTO_EXIT_SIGNAL, 9);
		return PROTO_OK;
	case OP_VM_FORGET:
		if (w.leased[0] != 0)
			return PROTO_CONFLICT;
		w.state = PROTO_VM_ABSENT;
		return PROTO_OK;
	case OP_GPU_BIND:
		return answer_gpu_bind(req, rep);
	case OP_GPU_RELEASE:
		return answer_gpu_release(rep);
	case OP_GPU_LIST:
		return answer_gpu_list(rep, fds);
	default:
		return PROTO_OK;
	}
}

static int answer_console(struct console_read_rep *rep, struct fdlist *fds)
{
	uint32_t len = w.console ? (uint32_t)strlen(w.console) : 0;

	*rep = (struct console_read_rep){
		.generation = w.console_generation, .bytes = len, .fresh = len};
	(void)fdlist_add(fds, fd_memfd_sealed("console", w.console ? w.console : "", len));
	return PROTO_OK;
}

static int answer_metrics(struct metrics_read_rep *rep, struct fdlist *fds)
{
	struct {
		struct proto_header header;
		struct metrics_sample_ev sample;
		struct proto_header gpu_header;
		struct metrics_gpu_ev gpu;
	} records = {
		.header = {.op = OP_METRICS_SAMPLE,
			   .kind = PROTO_EVENT,
			   .len = sizeof(records.sample)},
		.sample = {.number = w.sample,
			   .cpu_permille = w.cpu_permille,
			   .memory_kib = 1000,
			   .available_kib = 250,
			   .gpus = 1},
		.gpu_header = {.op = OP_METRICS_GPU,
			       .kind = PROTO_EVENT,
			       .len = sizeof(records.gpu)},
		.gpu = {.number = w.sample,
			.percent = 97,
			.celsius = 61,
			.used_mib = 1,
			.total_mib = 4},
	};

	*rep = (struct metrics_read_rep){
		.newest = w.sample, .samples = 1, .bytes = sizeof(records), .interval_ms = 500};
	(void)fdlist_add(fds, fd_memfd_sealed("metrics", &records, sizeof(records)));
	return w.sample ? PROTO_OK : PROTO_NOT_FOUND;
}

static int answer_vmmon(uint32_t op, void *rep, struct fdlist *fds)
{
	int fd = fdlist_take(fds);
	char text[4096];
	ssize_t n;

	switch (op) {
	case OP_VMMON_HELLO:
		((struct vmmon_hello_rep *)rep)->version = PROTO_VERSION;
		return PROTO_OK;
	case OP_GUEST_ENROL:
		w.state = PROTO_VM_SEEDED;
		proto_text_set(((struct guest_enrol_rep *)rep)->host_key, 128, HOST_KEY);
		return PROTO_OK;
	case OP_GUEST_WATCH:
		if (w.guest == PROTO_GUEST_UNWATCHED)
			w.guest = PROTO_GUEST_BOOTING;
		((struct guest_watch_rep *)rep)->state = w.guest;
		((struct guest_watch_rep *)rep)->health = w.health;
		return PROTO_OK;
	case OP_GUEST_POWERDOWN:
		if (!w.keeps_up)
			vm_ends(PROTO_EXIT_CODE, 0);
		return PROTO_OK;
	case OP_GUEST_SET_KEYS:
		n = fd_memfd_check(fd, PROTO_KEYS_MAX) < 0 ? -1
							   : fd_read_text(fd, text, sizeof(text));
		(void)close(fd);
		w.n_keys = 0;
		for (ssize_t i = 1; i < n; i++)
			w.n_keys += text[i] == '\n' && text[i - 1] != '\n';
		((struct guest_set_keys_rep *)rep)->keys = w.n_keys;
		return n < 0 ? PROTO_INVALID : PROTO_OK;
	case OP_METRICS_READ:
		return answer_metrics(rep, fds);
	case OP_CONSOLE_READ:
		return answer_console(rep, fds);
	case OP_CONTAINER_SET:
		memset(w.wish, 0, sizeof(w.wish));
		n = fd_memfd_check(fd, PROTO_WISH_MAX) < 0
			    ? -1
			    : fd_read_text(fd, w.wish, sizeof(w.wish));
		(void)close(fd);
		return n < 0 ? PROTO_INVALID : PROTO_OK;
	default:
		return PROTO_OK;
	}
}

static int dispatch(void *ctx, struct peer *peer, const struct proto_op *op,
		    const union proto_body *req, union proto_body *rep, struct fdlist *fds)
{
	const struct server *s = *(struct server **)ctx;

	++*asked(op->number);
	if (++w.total == w.crash_at)
		(void)event_base_loopbreak(w.base);
	if (op->states == PROTO_ST_NEW)
		peer->conn.state = PROTO_ST_READY;
	if (op->number == OP_VM_SUBSCRIBE || op->number == OP_VMMON_HELLO)
		peer->subscribed = true;
	if (op->number == OP_GUEST_SET_KEYS && w.slow_keys) {
		w.ticket = server_defer(peer);
		fdlist_done(fds);
		return PROTO_DEFERRED;
	}
	if (op->number == w.fail_op && w.fail_times > 0) {
		w.fail_times--;
		fdlist_done(fds);
		return (int)w.fail_status;
	}
	return s == &w.helper ? answer_helper(op->number, req, rep, fds)
			      : answer_vmmon(op->number, rep, fds);
}

static void on_peer_readable(evutil_socket_t fd, short what, void *arg)
{
	struct peer *peer = arg;
	bool is_helper = peer >= w.helper.peers && peer < w.helper.peers + SERVER_MAX_PEERS;

	(void)fd;
	(void)what;
	server_receive(is_helper ? &w.helper : &w.vmmon, peer);
}

static int watch(void *ctx, struct peer *peer, bool on)
{
	(void)ctx;
	if (!on) {
		event_free(peer->watch);
		return 0;
	}
	peer->watch = event_new(w.base, peer->fd, EV_READ | EV_PERSIST, on_peer_readable, peer);
	return event_add(peer->watch, NULL);
}

static void refused(void *ctx, const struct peer *peer, enum server_refusal why, int detail)
{
	(void)ctx;
	(void)peer;
	fail_msg("a peer refused agentd: %d (%s)", (int)why, strerror(-detail));
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
	(void)what;
	server_accept(arg, fd);
}

static struct server *const helper_ctx = &w.helper, *const vmmon_ctx = &w.vmmon;

static int serve(struct server *s, struct server *const *ctx, enum proto_role self,
		 const char *name, struct event **ret_event)
{
	const struct server_config config = {
		.self = self,
		.roles = {{getuid(), PROTO_AGENTD}},
		.n_roles = 1,
		.max_per_role = 4,
		.ctx = (void *)ctx,
		.dispatch = dispatch,
		.watch = watch,
		.refused = refused,
	};
	struct err why;
	char path[108];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s", w.dir, name);
	server_init(s, &config);
	fd = ipc_listen(path, SOCK_SEQPACKET, 0600, IPC_KEEP_GID, &why);
	assert_true(fd >= 0);
	*ret_event = event_new(w.base, fd, EV_READ | EV_PERSIST, on_accept, s);
	assert_int_equal(event_add(*ret_event, NULL), 0);
	return fd;
}

static void unserve(struct server *s, int *fd, struct event **ev)
{
	server_done(s);
	event_free(TAKE_PTR(*ev));
	(void)close(TAKE_FD(*fd));
}

static void helper_up(void)
{
	w.helper_fd = serve(&w.helper, &helper_ctx, PROTO_HELPER, "helper", &w.listen_helper);
}

static void vmmon_up(void)
{
	w.vmmon_fd = serve(&w.vmmon, &vmmon_ctx, PROTO_VMMON, "vmmon", &w.listen_vmmon);
}

/* agentd without HTTP. */

static void on_work(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	drive_all(arg);
}

static void agentd_up(void)
{
	struct agentd *a = &w.a;
	struct peers_config config = {
		.ctx = a, .changed = drive_peer_changed, .on_event = drive_peer_event};
	struct instance *inst;
	struct err why;

	memset(a, 0, sizeof(*a));
	config_defaults(&a->config);
	(void)snprintf(a->config.helper_socket, CONFIG_PATH_SIZE, "%s/helper", w.dir);
	(void)snprintf(a->config.vmmon_socket, CONFIG_PATH_SIZE, "%s/vmmon", w.dir);
	(void)snprintf(a->config.frp_socket, CONFIG_PATH_SIZE, "%s/frp", w.dir);
	(void)snprintf(a->config.nvml_socket, CONFIG_PATH_SIZE, "%s/nvml", w.dir);
	a->config.stop_grace_s = 1;
	a->config.delete_grace_s = 0;
	TAILQ_INIT(&a->instances);
	TAILQ_INIT(&a->waiters);
	LIST_INIT(&a->relays);
	a->base = w.base;
	a->work = evtimer_new(w.base, on_work, a);
	a->timer = evtimer_new(w.base, on_work, a);
	a->store_fd = open(w.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	config.paths[PEER_HELPER] = a->config.helper_socket;
	config.paths[PEER_VMMON] = a->config.vmmon_socket;
	config.paths[PEER_FRP] = a->config.frp_socket;
	assert_int_equal(peers_new(w.base, &config, &a->peers, &why), 0);
	assert_int_equal(hostgpus_new(&a->config, w.base, a->peers, w.dir, &a->hostgpus, &why), 0);
	/* The sockets lie in the same directory: they are none of ours to the store, by name. */
	assert_int_equal(store_load(a->store_fd, a, &a->instances, &why), 0);
	TAILQ_FOREACH(inst, &a->instances, link)
	agentd_changed(a, inst);
	peers_start(a->peers);
}

static void agentd_down(void)
{
	struct instance *inst;

	hostgpus_stop(w.a.hostgpus);
	peers_free(w.a.peers);
	hostgpus_free(w.a.hostgpus);
	w.a.peers = NULL;
	while ((inst = TAILQ_FIRST(&w.a.instances))) {
		TAILQ_REMOVE(&w.a.instances, inst, link);
		instance_free(inst);
	}
	free(w.a.list_view);
	free(w.a.bare_view);
	event_free(w.a.work);
	event_free(w.a.timer);
	(void)close(w.a.store_fd);
}

static struct instance *only(void)
{
	return TAILQ_FIRST(&w.a.instances);
}

static void add_instance(void)
{
	struct instance *inst = instance_new(&w.a);

	(void)strcpy(inst->image, "debian-12");
	inst->cpus = 1;
	inst->memory_mib = 512;
	inst->disk_mib = 2048;
	inst->ports[0] = (struct proto_port){.host = 10001, .guest = 22};
	inst->run.goal = GOAL_RUN;
	assert_int_equal(store_save(w.a.store_fd, inst), 0);
	TAILQ_INSERT_TAIL(&w.a.instances, inst, link);
	agentd_changed(&w.a, inst);
}

static void order(enum request_action action)
{
	struct run next = only()->run;
	struct err why;

	assert_int_equal(instance_order(&next, action, instance_alive(only()), &why), 0);
	assert_int_equal(agentd_commit(&w.a, only(), &next), 0);
}

/* Runs the loop until the instance has that status ("": is gone). */
static void until(const char *status)
{
	uint64_t end_ms = rpc_now_ms() + PATIENCE_MS;

	while (only() ? !STR_EQ(only()->status, status) : *status != '\0') {
		const struct timeval tick = {.tv_usec = 20000};

		if (rpc_now_ms() > end_ms)
			fail_msg("not \"%s\" in time: %s, doing: %s, trouble: %s", status,
				 only() ? only()->status : "gone", only() ? only()->doing : "",
				 only() ? only()->trouble : "");
		(void)event_base_loopexit(w.base, &tick);
		(void)event_base_dispatch(w.base);
	}
}

/* Runs the loop for a while. */
static void settle(unsigned int ms)
{
	const struct timeval tv = {.tv_usec = (suseconds_t)ms * 1000};

	(void)event_base_loopexit(w.base, &tv);
	(void)event_base_dispatch(w.base);
}

static void until_doing(const char *doing)
{
	uint64_t end_ms = rpc_now_ms() + PATIENCE_MS;

	while (!only()->doing || !strstr(only()->doing, doing)) {
		if (rpc_now_ms() > end_ms)
			fail_msg("never \"%s\", but \"%s\"", doing, only()->doing);
		settle(10);
	}
}

static int setup(void **state)
{
	(void)state;
	memset(&w, 0, sizeof(w));
	(void)strcpy(w.dir, "/tmp/test-agentd-drive-XXXXXX");
	(void)strcpy(w.boot_id, "boot-1");
	if (!mkdtemp(w.dir))
		return -1;
	w.base = event_base_new();
	helper_up();
	vmmon_up();
	agentd_up();
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	agentd_down();
	if (w.listen_helper)
		unserve(&w.helper, &w.helper_fd, &w.listen_helper);
	if (w.listen_vmmon)
		unserve(&w.vmmon, &w.vmmon_fd, &w.listen_vmmon);
	event_base_free(w.base);
	(void)snprintf(command, sizeof(command), "rm -rf %s", w.dir);
	return system(command);
}

/* GPUs. */

static void add_gpu_instance(void)
{
	add_instance();
	only()->gpus[0] = 0x100;
	only()->gpus[1] = 0x8100;
	assert_int_equal(store_save(w.a.store_fd, only()), 0);
}

static void bring_up(void)
{
	add_instance();
	until_doing("booting");
	guest_becomes(PROTO_GUEST_READY);
	until("running");
}

static void test_life(void **state)
{
	(void)state;
	bring_up();
	assert_int_equal(*asked(OP_VM_PREPARE), 1);
	assert_int_equal(*asked(OP_GUEST_ENROL), 1);
	assert_int_equal(*asked(OP_VM_START), 1);
	assert_int_equal(*asked(OP_GUEST_WATCH), 1);
	assert_int_equal(*asked(OP_GUEST_SET_KEYS), 0);
	assert_string_equal(only()->run.host_key, HOST_KEY);
	order(ACTION_STOP);
	until("paused");
	assert_int_equal(*asked(OP_GUEST_POWERDOWN), 1);
	assert_int_equal(*asked(OP_VM_KILL), 0);
	order(ACTION_START);
	until_doing("booting");
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	order(ACTION_RESTART);
	assert_string_equal(only()->status, "rebooting");
	until_doing("booting");
	assert_string_equal(only()->status, "rebooting");
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	assert_int_equal(w.generation, 3);
	assert_int_equal(*asked(OP_VM_PREPARE), 1);
	only()->run.goal = GOAL_DELETE;
	agentd_changed(&w.a, only());
	until("");
	assert_int_equal(*asked(OP_VM_FORGET), 1);
	assert_int_equal(*asked(OP_GUEST_DISCARD), 1);
}

static void test_idle_is_idle(void **state)
{
	unsigned int before;

	(void)state;
	bring_up();
	do { /* what it had still to do */
		before = *asked(OP_VM_DESCRIBE);
		settle(100);
	} while (*asked(OP_VM_DESCRIBE) != before || evtimer_pending(w.a.timer, NULL));
	settle(700);
	assert_int_equal(*asked(OP_VM_DESCRIBE), before);
	assert_false(evtimer_pending(w.a.timer, NULL));
}

static void test_hard_stop(void **state)
{
	uint64_t begin_ms;

	(void)state;
	bring_up();
	w.keeps_up = true;
	begin_ms = rpc_now_ms();
	order(ACTION_STOP);
	until("paused");
	assert_true(rpc_now_ms() - begin_ms >= 1000);
	assert_int_equal(*asked(OP_VM_KILL), 1);
	assert_int_equal(only()->run.fault, FAULT_NONE);
}

/* vmmon cannot help: the hard stop comes in its time all the same. */
static void test_hard_stop_without_vmmon(void **state)
{
	uint64_t end_ms = rpc_now_ms() + PATIENCE_MS;
	const struct timeval stop_time = {.tv_sec = 1, .tv_usec = 200000};
	struct timeval now, latest, wakes;

	(void)state;
	bring_up();
	w.fail_op = OP_GUEST_WATCH;
	w.fail_status = PROTO_CONFLICT;
	w.fail_times = 1000;
	only()->seen.watched = false;
	order(ACTION_STOP);
	(void)gettimeofday(&now, NULL);
	timeradd(&now, &stop_time, &latest);
	/* However long this machine takes: what agentd waits for is never later than the hard stop.
	 */
	while (!STR_EQ(only()->status, "paused")) {
		assert_true(rpc_now_ms() < end_ms);
		settle(10);
		if (evtimer_pending(w.a.timer, &wakes) && *asked(OP_VM_KILL) == 0)
			assert_true(timercmp(&wakes, &latest, <));
	}
	assert_int_equal(*asked(OP_VM_KILL), 1);
}

static void test_keys_come_before_running(void **state)
{
	(void)state;
	add_instance();
	only()->run.had_keys = true;
	assert_int_equal(instance_key_add(only(), HOST_KEY), 1);
	until_doing("booting");
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	assert_int_equal(*asked(OP_GUEST_SET_KEYS), 1);
	assert_int_equal(w.n_keys, 1);
	/* Removed: an empty list is sent. */
	assert_int_equal(instance_key_remove(only(), HOST_KEY), 1);
	only()->seen.keys_wanted++;
	agentd_kick(&w.a);
	settle(50);
	assert_int_equal(*asked(OP_GUEST_SET_KEYS), 2);
	assert_int_equal(w.n_keys, 0);
}

/* Containers. */

static const char *shown(const char *member)
{
	static char text[512];
	json_t *json = view_instance_json(only());

	(void)snprintf(text, sizeof(text), "%s", json_string_value(json_object_get(json, member)));
	json_decref(json);
	return text;
}

static void bring_up_container(void)
{
	add_instance();
	only()->tenant = json_pack("{s:s, s:s, s:{s:s}, s:s}", "image", "a:1", "password", "p",
				   "env", "A", "b\n", "tunnel_token", "t");
	only()->ports[1] = (struct proto_port){.host = 10002, .guest = 8080};
	assert_int_equal(store_save(w.a.store_fd, only()), 0);
	until_doing("booting");
	guest_becomes(PROTO_GUEST_READY);
	while (*asked(OP_CONTAINER_SET) == 0)
		settle(10);
	settle(20);
}

static void test_container_before_running(void **state)
{
	(void)state;
	bring_up_container();
	assert_string_equal(w.wish,
			    "{\"image\":\"a:1\",\"password\":\"p\",\"env\":{\"A\":\"b\\n\"},"
			    "\"ports\":[8080],\"gpus\":0}");
	assert_string_equal(only()->status, "pending");
	container_becomes(PROTO_CONTAINER_PULLING, 0, "");
	settle(20);
	assert_string_equal(only()->status, "pending");
	assert_string_equal(shown("detail"), "pulling the image, 43 %");
	container_becomes(PROTO_CONTAINER_RUNNING, 0, "");
	until("running");
	assert_string_equal(shown("container_id"), "0123");
	assert_string_equal(shown("detail"), "");
	assert_int_equal(*asked(OP_CONTAINER_SET), 1);
}

static void test_container_fails(void **state)
{
	(void)state;
	bring_up_container();
	container_becomes(PROTO_CONTAINER_FAILED, 0, "no such image");
	until("error");
	assert_string_equal(shown("error"), "no such image");
	/* It is no fault of the run: the VM goes on, and a later word puts it right. */
	assert_int_equal(only()->run.fault, FAULT_NONE);
	container_becomes(PROTO_CONTAINER_RUNNING, 0, "");
	until("running");
	assert_string_equal(shown("error"), "");
	container_becomes(PROTO_CONTAINER_EXITED, 7, "");
	until("error");
	assert_string_equal(shown("error"), "the container has ended with exit code 7");
	order(ACTION_STOP);
	until("paused");
	order(ACTION_START);
	until_doing("booting");
	assert_string_equal(shown("container_id"), "");
	guest_becomes(PROTO_GUEST_READY);
	while (*asked(OP_CONTAINER_SET) < 2)
		settle(10);
	assert_string_equal(only()->status, "pending");
}

/* Neither a new vmmon nor a new agentd makes a running container look otherwise. */
static void test_container_survives_restarts(void **state)
{
	(void)state;
	bring_up_container();
	container_becomes(PROTO_CONTAINER_RUNNING, 0, "");
	until("running");
	unserve(&w.vmmon, &w.vmmon_fd, &w.listen_vmmon);
	settle(20);
	assert_string_equal(only()->status, "running");
	vmmon_up();
	while (*asked(OP_CONTAINER_SET) < 2)
		settle(10);
	settle(20);
	container_becomes(PROTO_CONTAINER_WAITING, 0, "");
	container_becomes(PROTO_CONTAINER_STARTING, 0, "");
	settle(20);
	assert_string_equal(only()->status, "running");
	agentd_down();
	agentd_up();
	while (*asked(OP_CONTAINER_SET) < 3)
		settle(10);
	settle(20);
	assert_string_equal(only()->status, "running");
	/* The guest's own reboot does. */
	guest_becomes(PROTO_GUEST_RESETTING);
	until("rebooting");
	guest_becomes(PROTO_GUEST_READY);
	until("pending");
	container_becomes(PROTO_CONTAINER_RUNNING, 0, "");
	until("running");
}

/* SSH into the container. */

static void login_becomes(enum proto_login login, const char *key, const char *words)
{
	struct container_state_ev ev = {
		.generation = w.generation, .state = PROTO_CONTAINER_RUNNING, .login = login};

	memcpy(ev.vm, w.vm, sizeof(ev.vm));
	proto_text_set(ev.login_key, sizeof(ev.login_key), key);
	proto_text_set(ev.login_words, sizeof(ev.login_words), words);
	server_event(&w.vmmon, PROTO_AGENTD, OP_CONTAINER_STATE, &ev);
	settle(20);
}

static void expect_ssh(const char *in, int port, const char *shown_as, const char *words)
{
	json_t *json = view_instance_json(only());
	json_t *ssh = json_object_get(json, "ssh"), *ports = json_object_get(json, "ports");

	assert_string_equal(json_string_value(json_object_get(ssh, "in")), in);
	assert_int_equal(json_integer_value(json_object_get(ssh, "port")), port);
	assert_string_equal(json_string_value(json_object_get(ssh, "detail")), words);
	assert_string_equal(json_string_value(json_object_get(ports, "22")), shown_as);
	assert_int_equal(json_object_size(ports), 2);
	json_decref(json);
}

static void test_ssh_into_the_container(void **state)
{
	char *wish;
	unsigned int before;

	(void)state;
	bring_up_container();
	only()->ports[2] = (struct proto_port){.host = 10003, .guest = 2222};
	only()->container_ssh = 2222;
	only()->run.had_keys = true;
	assert_int_equal(instance_key_add(only(), HOST_KEY), 1);
	assert_int_equal(store_save(w.a.store_fd, only()), 0);
	wish = instance_container_wish(only());
	assert_non_null(strstr(wish, "\"ports\":[8080],\"ssh\":2222"));
	free(wish);
	login_becomes(PROTO_LOGIN_TRYING, "", "looking");
	expect_ssh("vm", 10001, "10003", "looking");
	login_becomes(PROTO_LOGIN_CONTAINER, HOST_KEY, "");
	expect_ssh("container", 10003, "10003", "");
	login_becomes(PROTO_LOGIN_CONTAINER, "", "");
	expect_ssh("vm", 10001, "10003", "the host key of the container's sshd is not known");
	login_becomes(PROTO_LOGIN_VM, "", "no sshd");
	expect_ssh("vm", 10001, "10001", "no sshd");
	/* A vmmon that begins anew does not know the keys, whatever the VM's disk holds. */
	only()->run.keys_on_disk = true;
	before = *asked(OP_GUEST_SET_KEYS);
	unserve(&w.vmmon, &w.vmmon_fd, &w.listen_vmmon);
	settle(20);
	vmmon_up();
	while (*asked(OP_GUEST_SET_KEYS) == before)
		settle(10);
	agentd_down();
	agentd_up();
	assert_int_equal(only()->container_ssh, 2222);
}

static void answer_keys(enum proto_status status)
{
	const struct guest_set_keys_rep rep = {.keys = 1};
	struct fdlist none = {0};

	server_reply(&w.vmmon, &w.ticket, status, status == PROTO_OK ? &rep : NULL, &none);
}

/* A guest that keeps vmmon busy with its keys does not put off its own end. */
static void test_end_does_not_wait_for_keys(void **state)
{
	(void)state;
	add_instance();
	only()->run.had_keys = true;
	only()->seen.keys_wanted = 1;
	w.slow_keys = true;
	until_doing("booting");
	guest_becomes(PROTO_GUEST_READY);
	until_doing("installing the SSH keys");
	settle(50);
	assert_int_equal(*asked(OP_GUEST_SET_KEYS), 1);
	order(ACTION_STOP);
	until("paused");
	/* The answer comes after the run that it was for: it proves nothing of the next one. */
	w.slow_keys = false;
	order(ACTION_START);
	until_doing("booting");
	answer_keys(PROTO_OK);
	settle(50);
	assert_int_equal(only()->seen.keys_applied, 0);
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	assert_int_equal(*asked(OP_GUEST_SET_KEYS), 2);
	assert_int_equal(only()->seen.keys_applied, only()->seen.keys_wanted);
	/* Nor does it put off its deletion; only the record waits for vmmon's answer. */
	w.slow_keys = true;
	only()->seen.keys_wanted++;
	agentd_kick(&w.a);
	settle(50);
	assert_int_equal(*asked(OP_GUEST_SET_KEYS), 3);
	only()->run.goal = GOAL_DELETE;
	agentd_kick(&w.a);
	for (int i = 0; i < 100 && w.state != PROTO_VM_ABSENT; i++)
		settle(20);
	assert_int_equal(w.state, PROTO_VM_ABSENT);
	until_doing("installing the SSH keys");
	answer_keys(PROTO_UNREACHABLE);
	until("");
}

static void test_guest_refuses_keys(void **state)
{
	(void)state;
	add_instance();
	only()->run.had_keys = true;
	w.fail_op = OP_GUEST_SET_KEYS;
	w.fail_status = PROTO_UNREACHABLE;
	w.fail_times = 2;
	until_doing("booting");
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	for (int i = 0; i < 40 && only()->seen.keys_applied == 0; i++)
		settle(50);
	assert_int_equal(*asked(OP_GUEST_SET_KEYS), 3);
	assert_int_equal(only()->seen.keys_applied, only()->seen.keys_wanted);
}

static void test_transient_failure_is_tried_again(void **state)
{
	static const uint32_t ops[] = {OP_VM_DESCRIBE, OP_VM_PREPARE, OP_GUEST_ENROL, OP_VM_START,
				       OP_GUEST_WATCH};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		w.fail_op = ops[i];
		w.fail_status = PROTO_BUSY;
		w.fail_times = 2;
		w.state = PROTO_VM_ABSENT;
		w.guest = PROTO_GUEST_UNWATCHED;
		bring_up();
		assert_int_equal(w.fail_times, 0);
		assert_string_equal(only()->trouble, "");
		only()->run.goal = GOAL_DELETE;
		agentd_changed(&w.a, only());
		until("");
	}
}

static void test_refusal_is_final_and_says_why(void **state)
{
	(void)state;
	w.fail_op = OP_VM_PREPARE;
	w.fail_status = PROTO_NOT_FOUND;
	w.fail_times = 1;
	add_instance();
	until("error");
	assert_non_null(strstr(only()->run.error, "no base image debian-12"));
	settle(400);
	assert_int_equal(*asked(OP_VM_PREPARE), 1);
	order(ACTION_START); /* the operator has put the image there */
	until_doing("booting");
	guest_becomes(PROTO_GUEST_READY);
	until("running");
}

static void test_vm_dies(void **state)
{
	(void)state;
	bring_up();
	vm_ends(PROTO_EXIT_SIGNAL, 9);
	until("error");
	assert_non_null(strstr(only()->run.error, "signal 9"));
	settle(300);
	assert_int_equal(*asked(OP_VM_START), 1);
	order(ACTION_START);
	until_doing("booting");
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	vm_ends(PROTO_EXIT_CODE, 0);
	until("paused");
	assert_non_null(strstr(only()->run.note, "powered itself off"));
}

static void test_agentd_restarts(void **state)
{
	(void)state;
	bring_up();
	agentd_down();
	agentd_up();
	assert_string_equal(only()->status,
			    "running"); /* from the record, before anyone is asked */
	settle(100);
	assert_string_equal(only()->status, "running");
	assert_true(only()->seen.watched);
	assert_int_equal(*asked(OP_VM_START), 1);
	assert_int_equal(*asked(OP_GUEST_WATCH), 2);
}

/* A start whose answer agentd never saw is adopted, not repeated. */
static void test_start_took_effect_unseen(void **state)
{
	(void)state;
	add_instance();
	until_doing("booting");
	only()->run.started_generation = 0;
	assert_int_equal(store_save(w.a.store_fd, only()), 0);
	agentd_down();
	agentd_up();
	until_doing("booting");
	assert_int_equal(only()->run.started_generation, 1);
	assert_int_equal(*asked(OP_VM_START), 1);
}

static void test_peers_restart(void **state)
{
	(void)state;
	bring_up();
	unserve(&w.helper, &w.helper_fd, &w.listen_helper);
	unserve(&w.vmmon, &w.vmmon_fd, &w.listen_vmmon);
	settle(100);
	assert_false(peers_up(w.a.peers, PEER_HELPER));
	assert_string_equal(only()->status, "running");
	helper_up();
	vmmon_up();
	settle(300);
	assert_true(peers_up(w.a.peers, PEER_HELPER) && peers_up(w.a.peers, PEER_VMMON));
	assert_true(only()->seen.watched);
	assert_string_equal(only()->status, "running");
	assert_int_equal(*asked(OP_VM_START), 1);
	/* And events come through again. */
	guest_becomes(PROTO_GUEST_RESETTING);
	until("rebooting");
	guest_becomes(PROTO_GUEST_READY);
	until("running");
}

static void test_host_reboot(void **state)
{
	(void)state;
	bring_up();
	agentd_down();
	unserve(&w.helper, &w.helper_fd, &w.listen_helper);
	w.state = PROTO_VM_SEEDED;
	w.exit_kind = PROTO_EXIT_UNKNOWN;
	(void)strcpy(w.boot_id, "boot-2");
	helper_up();
	agentd_up();
	until("error");
	assert_non_null(strstr(only()->run.error, "rebooted"));
}

static void test_late_guest(void **state)
{
	(void)state;
	w.a.config.boot_timeout_s = 1;
	w.a.config.tcg_factor = 1;
	add_instance();
	until_doing("booting");
	until("error");
	assert_non_null(strstr(only()->run.error, "within 1 s"));
	assert_int_equal(w.state, PROTO_VM_RUNNING); /* left for inspection */
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	assert_string_equal(only()->run.error, "");
}

/* A boot that fails takes the console's last lines along, as far as they are of that run. */
static void test_failed_boot_has_last_words(void **state)
{
	(void)state;
	w.console =
		"early\r\n\033[0;31m[FAILED]\033[0m mounting /\r\n\n\001odd\xff\nKernel panic\n";
	w.console_generation = 1;
	add_instance();
	until_doing("booting");
	vm_ends(PROTO_EXIT_SIGNAL, 6);
	until("error");
	assert_non_null(strstr(only()->run.error, "signal 6"));
	assert_non_null(strstr(only()->run.error, "the console said last: early | [FAILED] "
						  "mounting / | ?odd? | Kernel panic"));
	/* Of the second run it says nothing: what is there is of the first. */
	order(ACTION_START);
	until_doing("booting");
	vm_ends(PROTO_EXIT_SIGNAL, 7);
	until("error");
	assert_non_null(strstr(only()->run.error, "signal 7"));
	assert_null(strstr(only()->run.error, "console said"));
	/* Late, and still there. */
	w.console_generation = 3;
	w.a.config.boot_timeout_s = 1;
	w.a.config.tcg_factor = 1;
	order(ACTION_START);
	until_doing("booting");
	until("error");
	assert_non_null(strstr(only()->run.error, "within 1 s"));
	assert_non_null(strstr(only()->run.error, "Kernel panic"));
	/* It comes in the end; then its death is no failed boot. */
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	vm_ends(PROTO_EXIT_SIGNAL, 9);
	until("error");
	assert_null(strstr(only()->run.error, "console said"));
}

static void test_last_words(void **state)
{
	char text[3 * LASTWORDS_SIZE], words[LASTWORDS_SIZE];

	(void)state;
	lastwords_text("", 0, words);
	assert_string_equal(words, "");
	lastwords_text("\n\r\n\033[2J\033", 8, words);
	assert_string_equal(words, "");
	lastwords_text("1\n2\n3\n4\n5\n6\n7\n8\n9\n10", 20, words);
	assert_string_equal(words, "3 | 4 | 5 | 6 | 7 | 8 | 9 | 10");
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 2] = '\n';
	lastwords_text(text, sizeof(text), words);
	assert_true(strlen(words) > LASTWORDS_SIZE / 2);
	assert_string_equal(words + strlen(words) - 5, "x | x");
	memset(text, '\n', sizeof(text));
	for (size_t i = 0; i < sizeof(text); i += 2)
		text[i] = 'y';
	lastwords_text(text, sizeof(text), words);
	assert_string_equal(words, "y | y | y | y | y | y | y | y");
}

static void guest_feels(enum proto_health health, uint64_t generation, const char *why)
{
	struct guest_health_ev ev = {.generation = generation, .health = health};

	memcpy(ev.vm, w.vm, sizeof(ev.vm));
	proto_text_set(ev.words, sizeof(ev.words), why);
	server_event(&w.vmmon, PROTO_AGENTD, OP_GUEST_HEALTH, &ev);
	settle(50);
}

static void test_health(void **state)
{
	(void)state;
	bring_up();
	assert_non_null(strstr(view_instance(only()), "\"health\":\"unknown\""));
	guest_feels(PROTO_HEALTH_GOOD, w.generation, "");
	assert_non_null(strstr(view_instance(only()), "\"health\":\"healthy\""));
	guest_feels(PROTO_HEALTH_BAD, w.generation, "silent");
	assert_non_null(strstr(view_instance(only()), "\"health\":\"unhealthy\""));
	assert_non_null(strstr(view_instance(only()), "\"health_detail\":\"silent\""));
	assert_string_equal(only()->status, "running");
	guest_feels(PROTO_HEALTH_GOOD, w.generation + 1, ""); /* of another run */
	assert_non_null(strstr(view_instance(only()), "\"health\":\"unhealthy\""));
	/* What vmmon knows when agentd asks again. */
	agentd_down();
	w.health = PROTO_HEALTH_BAD;
	agentd_up();
	settle(200);
	assert_non_null(strstr(view_instance(only()), "\"health\":\"unhealthy\""));
	order(ACTION_STOP);
	until("paused");
	assert_non_null(strstr(view_instance(only()), "\"health\":\"unknown\""));
	assert_non_null(strstr(view_instance(only()), "\"health_detail\":\"\""));
}

/* The control plane gets what came last, at once, and nothing that is not known. */
static void test_figures_for_the_control_plane(void **state)
{
	/* Processor and memory as the host has them. */
	const struct control_stats unknown = {.gpu_util = CONTROL_UNKNOWN,
					      .gpu_temp = CONTROL_UNKNOWN,
					      .mem_util = CONTROL_UNKNOWN,
					      .cpu_util = 11000,
					      .ram_util = 12000};
	struct control_stats stats = unknown;

	(void)state;
	report_figures(&w.a, &stats);
	assert_int_equal(*asked(OP_METRICS_READ), 0); /* there is no instance */
	bring_up();
	report_figures(&w.a, &stats);
	settle(50);
	report_figures(&w.a, &stats);
	assert_memory_equal(&stats, &unknown, sizeof(stats)); /* and no sample */
	settle(50);
	w.sample = 7;
	w.cpu_permille = 423;
	report_figures(&w.a, &stats);
	report_figures(&w.a, &stats); /* one question at a time */
	assert_memory_equal(&stats, &unknown, sizeof(stats));
	settle(50);
	assert_int_equal(*asked(OP_METRICS_READ), 3);
	report_figures(&w.a, &stats);
	assert_int_equal(stats.gpu_util, 97000);
	assert_int_equal(stats.gpu_temp, 61000);
	assert_int_equal(stats.mem_util, 25000);
	assert_int_equal(stats.cpu_util, 42300);
	assert_int_equal(stats.ram_util, 75000);
	/* vmmon goes away, and agentd does not wait for it. */
	unserve(&w.vmmon, &w.vmmon_fd, &w.listen_vmmon);
	settle(50);
	stats = unknown;
	report_figures(&w.a, &stats);
	assert_int_equal(stats.gpu_util, 97000);
	vmmon_up();
	settle(100);
	/* A sample that has stayed is old some time. */
	w.a.figures.told_ms -= 5000;
	stats = unknown;
	report_figures(&w.a, &stats);
	settle(50);
	report_figures(&w.a, &stats);
	assert_memory_equal(&stats, &unknown, sizeof(stats));
	w.sample = 8;
	w.cpu_permille = PROTO_NO_FIGURE; /* its first look has nothing to compare with */
	settle(50);
	report_figures(&w.a, &stats);
	settle(50);
	report_figures(&w.a, &stats);
	assert_int_equal(stats.gpu_util, 97000);
	assert_int_equal(stats.cpu_util, 11000);
	assert_int_equal(stats.ram_util, 75000);
}

/* Somebody has removed the disk: said, and never replaced by an empty one. */
static void test_disk_is_lost(void **state)
{
	(void)state;
	bring_up();
	order(ACTION_STOP);
	until("paused");
	w.state = PROTO_VM_ABSENT;
	order(ACTION_START);
	only()->seen.described = false;
	until("error");
	assert_non_null(strstr(only()->run.error, "no longer on this host"));
	assert_int_equal(*asked(OP_VM_PREPARE), 1);
}

static void test_gpu_life(void **state)
{
	(void)state;
	add_gpu_instance();
	until_doing("booting");
	assert_int_equal(*asked(OP_GPU_BIND), 1);
	assert_int_equal(*asked(OP_VM_START), 1);
	assert_true(w.leased[0] == 0x100 && w.leased[1] == 0x8100);
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	/* The lease outlives the run. */
	order(ACTION_STOP);
	until("paused");
	assert_int_equal(*asked(OP_GPU_RELEASE), 0);
	order(ACTION_START);
	until_doing("booting");
	assert_int_equal(*asked(OP_GPU_BIND), 2);
	guest_becomes(PROTO_GUEST_READY);
	until("running");
	only()->run.goal = GOAL_DELETE;
	agentd_changed(&w.a, only());
	until("");
	assert_int_equal(*asked(OP_GPU_RELEASE), 1);
	assert_int_equal(*asked(OP_VM_FORGET), 1);
	assert_true(w.leased[0] == 0);
	assert_int_equal(*asked(OP_GPU_LIST), 0); /* nothing went wrong */
}

static void test_gpu_refusal_is_final_and_says_why(void **state)
{
	(void)state;
	records_card(&w.records, 0x100, 1, 0, PROTO_GPU_RENTABLE, NULL);
	records_card(&w.records, 0x8100, 2, 0, PROTO_GPU_NOT_VIABLE, NULL);
	records_reason(&w.records, 0x8100, 0x8200, PROTO_GPU_NOT_VIABLE, "e1000e");
	w.fail_op = OP_GPU_BIND;
	w.fail_status = PROTO_DENIED;
	w.fail_times = 1;
	add_gpu_instance();
	until("error");
	assert_string_equal(only()->run.error,
			    "taking the GPUs from the host failed: 0000:81:00.0: not_viable "
			    "(0000:82:00.0: e1000e)");
	settle(400);
	assert_int_equal(*asked(OP_GPU_BIND), 1);
	assert_int_equal(*asked(OP_VM_START), 0);
	order(ACTION_START); /* the operator has taken the card out */
	until_doing("booting");
	assert_int_equal(*asked(OP_GPU_BIND), 2);
}

/* The list cannot be had either: the failure itself is said. */
static void test_gpu_refusal_without_reasons(void **state)
{
	(void)state;
	w.fail_op = OP_GPU_BIND;
	w.fail_status = PROTO_FAILED;
	w.fail_times = 1;
	w.records.n = 3; /* a lie: the list is refused */
	add_gpu_instance();
	until("error");
	assert_non_null(strstr(only()->run.error, proto_status_text(PROTO_FAILED)));
}

static void test_busy_gpu_is_waited_for(void **state)
{
	(void)state;
	records_card(&w.records, 0x100, 1, 0, PROTO_GPU_BUSY, NULL);
	records_reason(&w.records, 0x100, 0x100, PROTO_GPU_BUSY, "");
	records_holder(&w.records, 0x100, 7, "nvidia-smi", "/dev/nvidia0", "");
	records_card(&w.records, 0x8100, 2, 0, PROTO_GPU_RENTABLE, NULL);
	w.fail_op = OP_GPU_BIND;
	w.fail_status = PROTO_BUSY;
	w.fail_times = 2;
	add_gpu_instance();
	for (int i = 0; i < PATIENCE_MS / 10 && only()->trouble[0] == '\0'; i++)
		settle(10);
	assert_string_equal(only()->trouble,
			    "0000:01:00.0: busy (process 7 nvidia-smi has /dev/nvidia0 open)");
	assert_string_equal(only()->status, "pending");
	until_doing("booting");
	assert_int_equal(*asked(OP_GPU_BIND), 3);
	assert_int_equal(only()->seen.bind_deadline_ms, 0);
}

static void test_busy_gpu_is_not_waited_for_forever(void **state)
{
	(void)state;
	records_card(&w.records, 0x100, 1, 0, PROTO_GPU_BUSY, NULL);
	records_reason(&w.records, 0x100, 0x100, PROTO_GPU_BUSY, "");
	records_holder(&w.records, 0x100, 7, "nvidia-smi", "/dev/nvidia0", "");
	records_card(&w.records, 0x8100, 2, 0, PROTO_GPU_RENTABLE, NULL);
	w.fail_op = OP_GPU_BIND;
	w.fail_status = PROTO_BUSY;
	w.fail_times = 1000;
	add_gpu_instance();
	for (int i = 0; i < PATIENCE_MS / 10 && only()->seen.bind_deadline_ms == 0; i++)
		settle(10);
	assert_true(only()->seen.bind_deadline_ms > rpc_now_ms() + 50000);
	only()->seen.bind_deadline_ms = rpc_now_ms() + 100;
	only()->retry_ms = 0;
	until("error");
	assert_non_null(strstr(only()->run.error, "process 7 nvidia-smi has /dev/nvidia0 open"));
	assert_non_null(strstr(only()->run.error, "given up"));
	assert_int_equal(*asked(OP_VM_START), 0);
}

static void test_gpu_release_is_repeated_until_it_is_done(void **state)
{
	(void)state;
	add_gpu_instance();
	until_doing("booting");
	w.quarantined = 1;
	w.fail_op = OP_GPU_RELEASE;
	w.fail_status = PROTO_FAILED;
	w.fail_times = 2;
	only()->run.goal = GOAL_DELETE;
	agentd_changed(&w.a, only());
	until("");
	assert_int_equal(*asked(OP_GPU_RELEASE), 3);
	assert_int_equal(*asked(OP_VM_FORGET), 1);
}

/* A record that cannot be read may have had GPUs: the helper says so. */
static void test_gpu_release_without_record(void **state)
{
	(void)state;
	add_gpu_instance();
	until_doing("booting");
	memset(only()->gpus, 0, sizeof(only()->gpus));
	only()->run.goal = GOAL_DELETE;
	agentd_changed(&w.a, only());
	until("");
	assert_int_equal(*asked(OP_GPU_RELEASE), 1);
	assert_true(w.leased[0] == 0);
}

/* Runs the loop until @done, with agentd dying once, before it sees the answer it waits for. */
static void survive(bool (*done)(void))
{
	uint64_t end_ms = rpc_now_ms() + PATIENCE_MS;

	while (!done()) {
		if (rpc_now_ms() > end_ms)
			fail_msg("stuck after a crash at request %u: %s", w.crash_at,
				 only() ? only()->doing : "gone");
		settle(10);
		if (w.crash_at == 0 || w.total < w.crash_at)
			continue;
		w.crash_at = 0;
		agentd_down();
		agentd_up();
	}
}

static bool is_running(void)
{
	if (w.guest == PROTO_GUEST_BOOTING)
		guest_becomes(PROTO_GUEST_READY);
	return STR_EQ(only()->status, "running") && only()->seen.watched;
}

static bool is_gone(void)
{
	return !only();
}

/* agentd dies at every request of a life, one life after the other. */
static void test_gpu_life_survives_every_crash(void **state)
{
	unsigned int crash_at = 1, crashes = 0;

	(void)state;
	for (bool crashed = true; crashed; crash_at++) {
		w.total = 0;
		w.crash_at = crash_at;
		w.state = PROTO_VM_ABSENT;
		w.guest = PROTO_GUEST_UNWATCHED;
		add_gpu_instance();
		survive(is_running);
		assert_true(w.leased[0] == 0x100 && w.leased[1] == 0x8100);
		only()->run.goal = GOAL_DELETE;
		assert_int_equal(store_save(w.a.store_fd, only()), 0);
		agentd_changed(&w.a, only());
		survive(is_gone);
		assert_true(w.leased[0] == 0);
		assert_int_equal(w.state, PROTO_VM_ABSENT);
		crashed = w.crash_at == 0;
		crashes += crashed;
		w.crash_at = 0;
	}
	assert_true(crashes >= 12);
}

/* The host's own GPUs: a scripted nvml-probe, and a folder of sysfs that shows a GPU. */

static int probe_listen(void)
{
	struct err why = {0};
	int fd = ipc_listen(w.a.config.nvml_socket, SOCK_SEQPACKET, 0600, IPC_KEEP_GID, &why);

	assert_true(fd >= 0);
	return fd;
}

static void show_gpu(void)
{
	char path[512];

	(void)snprintf(path, sizeof(path), "%s/nvidia", w.dir);
	assert_int_equal(mkdir(path, 0700), 0);
	(void)snprintf(path, sizeof(path), "%s/nvidia/bind", w.dir);
	assert_int_equal(mkdir(path, 0700), 0);
	hostgpus_want(w.a.hostgpus);
	assert_false(hostgpus_is_asking(w.a.hostgpus));
	(void)snprintf(path, sizeof(path), "%s/nvidia/0000:01:00.0", w.dir);
	assert_int_equal(mkdir(path, 0700), 0);
	/* It is looked for once a second. */
	for (unsigned int i = 0; i < 1000 && !hostgpus_is_asking(w.a.hostgpus); i++) {
		settle(10);
		hostgpus_want(w.a.hostgpus);
	}
	assert_true(hostgpus_is_asking(w.a.hostgpus));
}

/* The connection of the probe that was asked for. */
static int probe_begun(int listen_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	assert_true(fd >= 0);
	return fd;
}

static bool told_to_end(int probe)
{
	char byte;

	return recv(probe, &byte, 1, 0) == 0;
}

#define GPU_UUID "GPU-00000001-1111-2222-3333-444444444444"

static void probe_tells(int probe, uint32_t state, uint32_t percent)
{
	const struct proto_header header = {.op = PROBE_REPORT, .len = sizeof(struct probe_report)};
	struct probe_report report = {.version = PROBE_VERSION, .state = state};

	if (state == PROBE_OK) {
		report.n_gpus = 1;
		report.gpus[0] = (struct probe_gpu){.address = 0x100,
						    .percent = percent,
						    .celsius = 61,
						    .used_mib = 1024,
						    .total_mib = 4096,
						    .milliwatts = PROBE_UNKNOWN};
		(void)snprintf(report.gpus[0].uuid, sizeof(report.gpus[0].uuid), GPU_UUID);
	}
	assert_int_equal(ipc_send(probe, &header, &report, NULL, 0), 0);
}

static void test_bind_comes_after_the_probe(void **state)
{
	_cleanup_close_ int listen_fd = probe_listen(), probe = -EBADF;

	(void)state;
	show_gpu();
	probe = probe_begun(listen_fd);
	add_gpu_instance();
	while (!told_to_end(probe))
		settle(5);
	assert_int_equal(*asked(OP_GPU_BIND), 0);
	hostgpus_want(w.a.hostgpus); /* nor does another one begin */
	assert_true(accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC) < 0);
	probe = safe_close(probe);
	until_doing("booting");
	assert_int_equal(*asked(OP_GPU_BIND), 1);
	hostgpus_want(w.a.hostgpus);
	probe = probe_begun(listen_fd);
}

static void test_bind_does_not_wait_for_a_hanging_probe(void **state)
{
	_cleanup_close_ int listen_fd = probe_listen(), probe = -EBADF;

	(void)state;
	show_gpu();
	probe = probe_begun(listen_fd);
	probe_tells(probe, PROBE_HUNG, 0);
	settle(20);
	assert_string_equal(hostgpus_view(w.a.hostgpus).state, "hung");
	add_gpu_instance();
	while (*asked(OP_GPU_BIND) == 0)
		settle(20);
	until_doing("booting");
	/* As long as it is there, no other one begins. */
	hostgpus_want(w.a.hostgpus);
	assert_true(accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC) < 0);
}

static void test_host_gpus_for_the_control_plane(void **state)
{
	const struct control_stats unknown = {.gpu_util = CONTROL_UNKNOWN,
					      .gpu_temp = CONTROL_UNKNOWN,
					      .mem_util = CONTROL_UNKNOWN};
	_cleanup_close_ int listen_fd = probe_listen(), probe = -EBADF;
	struct control_stats stats = unknown;

	(void)state;
	bring_up();
	show_gpu();
	probe = probe_begun(listen_fd);
	probe_tells(probe, PROBE_OK, 97);
	probe = safe_close(probe);
	settle(20);
	report_figures(&w.a, &stats);
	assert_int_equal(stats.gpu_util, 97000);
	assert_int_equal(stats.gpu_temp, 61000);
	assert_int_equal(stats.mem_util, 25000);
	assert_true(accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC) < 0); /* not again at once */
	/* An instance with GPUs of its own is never told of others. */
	only()->gpus[0] = 0x8100;
	w.a.figures = (struct report_figures){0};
	stats = unknown;
	report_figures(&w.a, &stats);
	assert_memory_equal(&stats, &unknown, sizeof(stats));
	only()->gpus[0] = 0;
	/* Nor is a container on the host: it has its own. */
	only()->on_host = true;
	(void)snprintf(only()->host_gpus[0], GPU_NAME_SIZE, "GPU-another");
	report_figures(&w.a, &stats);
	assert_memory_equal(&stats, &unknown, sizeof(stats));
	(void)snprintf(only()->host_gpus[0], GPU_NAME_SIZE, GPU_UUID);
	report_figures(&w.a, &stats);
	assert_int_equal(stats.gpu_util, 97000);
	only()->host_gpus[0][0] = '\0';
	only()->on_host = false;
}

static void test_agentd_ends_during_acts(void **state)
{
	_cleanup_close_ int listen_fd = probe_listen(), probe = -EBADF;

	(void)state;
	show_gpu();
	probe = probe_begun(listen_fd);
	add_gpu_instance();
	while (!told_to_end(probe))
		settle(5);
	agentd_down(); /* the act was not begun yet */
	agentd_up();
	until_doing("booting");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_life),
		CASE(test_idle_is_idle),
		CASE(test_hard_stop),
		CASE(test_hard_stop_without_vmmon),
		CASE(test_keys_come_before_running),
		CASE(test_container_before_running),
		CASE(test_container_fails),
		CASE(test_container_survives_restarts),
		CASE(test_end_does_not_wait_for_keys),
		CASE(test_guest_refuses_keys),
		CASE(test_ssh_into_the_container),
		CASE(test_transient_failure_is_tried_again),
		CASE(test_refusal_is_final_and_says_why),
		CASE(test_vm_dies),
		CASE(test_agentd_restarts),
		CASE(test_start_took_effect_unseen),
		CASE(test_peers_restart),
		CASE(test_host_reboot),
		CASE(test_late_guest),
		CASE(test_failed_boot_has_last_words),
		CASE(test_last_words),
		CASE(test_health),
		CASE(test_figures_for_the_control_plane),
		CASE(test_disk_is_lost),
		CASE(test_gpu_life),
		CASE(test_gpu_refusal_is_final_and_says_why),
		CASE(test_gpu_refusal_without_reasons),
		CASE(test_busy_gpu_is_waited_for),
		CASE(test_busy_gpu_is_not_waited_for_forever),
		CASE(test_gpu_release_is_repeated_until_it_is_done),
		CASE(test_gpu_release_without_record),
		CASE(test_gpu_life_survives_every_crash),
		CASE(test_bind_comes_after_the_probe),
		CASE(test_bind_does_not_wait_for_a_hanging_probe),
		CASE(test_host_gpus_for_the_control_plane),
		CASE(test_agentd_ends_during_acts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
