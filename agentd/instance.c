/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances and the orders that clients give about them.
 * Trust: runs inside agentd; holds values that request.c and the protocol's codec have checked.
 */
#include "agentd/instance.h"

#include <sys/random.h>

#define SSH_PORT 22 /* the VM's own sshd has it */

static const char hex[] = "0123456789abcdef";

struct instance *instance_new(struct agentd *a)
{
	struct instance *inst = calloc(1, sizeof(*inst));
	uint8_t bytes[INSTANCE_ID_LEN / 2];

	if (!inst)
		return NULL;
	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes)) {
		free(inst);
		return NULL;
	}
	for (size_t i = 0; i < sizeof(bytes); i++) {
		inst->id[2 * i] = hex[bytes[i] >> 4];
		inst->id[2 * i + 1] = hex[bytes[i] & 15];
	}
	inst->agentd = a;
	inst->wake_ms = UINT64_MAX;
	inst->status = "pending";
	inst->seen.keys_wanted = 1;
	return inst;
}

void instance_free(struct instance *inst)
{
	if (!inst)
		return;
	for (size_t i = 0; i < inst->n_keys; i++)
		free(inst->keys[i]);
	json_decref(inst->tenant);
	free(inst->view);
	free(inst);
}

bool instance_id_valid(const char *id)
{
	return strlen(id) == INSTANCE_ID_LEN && id[strspn(id, hex)] == '\0';
}

uint16_t instance_host_port(const struct instance *inst, uint16_t guest)
{
	for (size_t i = 0; i < proto_ports_count(inst->ports); i++)
		if (inst->ports[i].guest == guest)
			return inst->ports[i].host;
	return 0;
}

uint16_t instance_shown_port(const struct instance *inst, size_t i)
{
	bool in_vm = !inst->on_host && inst->seen.container.login == PROTO_LOGIN_VM;
	uint16_t guest = inst->ports[i].guest;

	if (inst->container_ssh == 0)
		return guest;
	if (guest == inst->container_ssh)
		return in_vm ? 0 : SSH_PORT;
	return guest == SSH_PORT && !in_vm ? 0 : guest;
}

size_t instance_n_host_gpus(const struct instance *inst)
{
	size_t n = 0;

	while (n < PROTO_MAX_GPUS && inst->host_gpus[n][0] != '\0')
		n++;
	return n;
}

bool instance_alive(const struct instance *inst)
{
	if (inst->on_host)
		return inst->run.started_generation != 0;
	/* Until it is described anew, what the record says is the best that is known. */
	if (!inst->seen.described)
		return inst->run.started_generation != 0;
	return inst->seen.vm == PROTO_VM_RUNNING || inst->seen.vm == PROTO_VM_STARTING;
}

bool instance_has_container(const struct instance *inst)
{
	return json_object_get(inst->tenant, "image") != NULL;
}

enum proto_container_state instance_container_state(const struct instance *inst)
{
	const struct run *run = &inst->run;

	if (inst->seen.container.state != PROTO_CONTAINER_NONE)
		return inst->seen.container.state;
	/* While vmmon is away, the last that is known stands. */
	return run->container_generation != 0 &&
			       run->container_generation == run->started_generation
		       ? PROTO_CONTAINER_RUNNING
		       : PROTO_CONTAINER_WAITING;
}

/*
 * What a wish for this host has in place of ports of a guest. There is no VM between the tenant and
 * the container's port 22: instance_shown_port() names the one that leads there.
 */
static void put_host(json_t *wish, const struct instance *inst)
{
	json_t *publish = json_array(), *gpus = json_array();

	for (size_t i = 0; i < proto_ports_count(inst->ports); i++) {
		uint16_t port = instance_shown_port(inst, i);

		if (inst->container_ssh != 0 && port == SSH_PORT)
			(void)json_object_set_new(wish, "ssh", json_integer(inst->ports[i].host));
		else if (port != 0)
			(void)json_array_append_new(
				publish, json_pack("[i, i]", (int)port, (int)inst->ports[i].host));
	}
	(void)json_object_set_new(wish, "publish", publish);
	(void)json_object_set_new(wish, "cpus", json_integer(inst->cpus));
	(void)json_object_set_new(wish, "memory_mib", json_integer(inst->memory_mib));
	(void)json_object_set_new(wish, "disk_mib", json_integer(inst->disk_mib));
	for (size_t i = 0; i < instance_n_host_gpus(inst); i++)
		(void)json_array_append_new(gpus, json_string(inst->host_gpus[i]));
	(void)json_object_set_new(wish, "gpu_ids", gpus);
}

static json_t *container_ports(const struct instance *inst)
{
	json_t *ports = json_array();

	for (size_t i = 0; i < proto_ports_count(inst->ports); i++)
		if (inst->ports[i].guest != SSH_PORT && inst->ports[i].guest != inst->container_ssh)
			(void)json_array_append_new(ports, json_integer(inst->ports[i].guest));
	return ports;
}

char *instance_container_wish(const struct instance *inst)
{
	static const char *const members[] = {"image", "login", "password", "command", "env"};
	json_t *wish = json_object();
	char *text;

	for (size_t i = 0; i < ARRAY_LEN(members); i++) {
		json_t *value = json_object_get(inst->tenant, members[i]);

		if (value)
			(void)json_object_set(wish, members[i], value);
	}
	if (inst->on_host) {
		put_host(wish, inst);
	} else {
		(void)json_object_set_new(wish, "ports", container_ports(inst));
		if (inst->container_ssh != 0)
			(void)json_object_set_new(wish, "ssh", json_integer(inst->container_ssh));
		(void)json_object_set_new(wish, "gpus",
					  json_integer((json_int_t)proto_gpus_count(inst->gpus)));
	}
	text = json_dumps(wish, JSON_COMPACT);
	json_decref(wish);
	return text;
}

static void clear_fault(struct run *run)
{
	run->fault = FAULT_NONE;
	run->error[0] = '\0';
	run->note[0] = '\0';
}

static void order_start(struct run *run, bool alive)
{
	/* A stop that has begun is finished first: half-stopped guests cannot be called back. */
	if (run->goal == GOAL_STOP && alive)
		run->restart = RESTART_STOPPING;
	if (!alive && run->fault == FAULT_FINAL)
		run->started_generation = 0; /* that run has been reported */
	run->goal = GOAL_RUN;
	clear_fault(run);
}

static int order_restart(struct run *run, bool alive, struct err *reterr)
{
	if (run->goal == GOAL_STOP)
		return err_set(reterr, -EPERM,
			       alive ? "the instance is being stopped; start it afterwards"
				     : "the instance is stopped; start it instead");
	if (!alive) {
		order_start(run, alive);
		return 0;
	}
	if (run->restart != RESTART_STOPPING)
		run->restart = RESTART_STOPPING;
	clear_fault(run);
	return 0;
}

int instance_order(struct run *run, enum request_action action, bool alive, struct err *reterr)
{
	if (run->goal == GOAL_DELETE)
		return err_set(reterr, -EPERM, "the instance is being destroyed");
	switch (action) {
	case ACTION_START:
		order_start(run, alive);
		return 0;
	case ACTION_STOP:
		if (run->goal == GOAL_STOP && run->fault == FAULT_NONE)
			return 0;
		run->goal = GOAL_STOP;
		run->restart = RESTART_NONE;
		clear_fault(run);
		return 0;
	case ACTION_RESTART:
		return order_restart(run, alive, reterr);
	}
	return err_set(reterr, -EPERM, "no such action");
}

static bool same_key(const char *a, const char *b)
{
	struct pubkey ka, kb;

	return pubkey_parse(a, strlen(a), &ka, NULL) == 0 &&
	       pubkey_parse(b, strlen(b), &kb, NULL) == 0 && pubkey_same(&ka, &kb);
}

int instance_key_add(struct instance *inst, const char *line)
{
	for (size_t i = 0; i < inst->n_keys; i++)
		if (same_key(inst->keys[i], line))
			return 0;
	if (inst->n_keys == INSTANCE_KEYS_MAX)
		return -E2BIG;
	inst->keys[inst->n_keys] = strdup(line);
	if (!inst->keys[inst->n_keys])
		return -ENOMEM;
	inst->n_keys++;
	return 1;
}

int instance_key_remove(struct instance *inst, const char *line)
{
	for (size_t i = 0; i < inst->n_keys; i++) {
		if (!same_key(inst->keys[i], line))
			continue;
		free(inst->keys[i]);
		inst->n_keys--;
		memmove(&inst->keys[i], &inst->keys[i + 1],
			(inst->n_keys - i) * sizeof(inst->keys[0]));
		return 1;
	}
	return 0;
}
