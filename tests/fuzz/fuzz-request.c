/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of HTTP requests and stored records: the first byte chooses the reader, the rest is its
 * input. Whatever is accepted must hold what the rest of agentd takes for granted.
 * Trust: test.
 */
#include "agentd/request.h"
#include "agentd/store.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ports(const struct create_request *req)
{
	bool ssh = false;

	assert(req->n_ports >= 1 && req->n_ports <= PROTO_MAX_PORTS);
	for (size_t i = 0; i < req->n_ports; i++) {
		assert(req->ports[i].guest != 0);
		assert(req->ports[i].host == 0 || req->ports[i].host >= 1024);
		ssh |= req->ports[i].guest == 22;
		for (size_t j = 0; j < i; j++)
			assert(req->ports[i].guest != req->ports[j].guest);
	}
	assert(ssh);
}

static void read_create(const void *body, size_t len)
{
	struct create_request req = {0};
	struct err why = {0};

	if (request_parse_create(body, len, &req, &why) < 0) {
		assert(why.text[0] != '\0' && !req.tenant);
		return;
	}
	check_ports(&req);
	assert(req.cpus <= PROTO_MAX_CPUS && req.disk_mib <= PROTO_MAX_DISK_MIB);
	assert(req.memory_mib == 0 ||
	       (req.memory_mib >= 128 && req.memory_mib <= PROTO_MAX_MEMORY_MIB));
	assert(json_is_object(req.tenant));
	assert(req.has_image == (json_object_get(req.tenant, "image") != NULL));
	create_request_done(&req);
}

static void read_key(const void *body, size_t len)
{
	char line[PUBKEY_LINE_MAX];
	struct pubkey key;
	struct err why = {0};

	if (request_parse_key(body, len, line, &why) < 0) {
		assert(why.text[0] != '\0');
		return;
	}
	assert(!strchr(line, '\n') && pubkey_parse(line, strlen(line), &key, NULL) == 0);
}

static void read_record(const void *text, size_t len)
{
	struct instance *inst = instance_new(NULL);
	struct err why = {0};

	assert(inst);
	(void)snprintf(inst->id, sizeof(inst->id), "0123456789abcdef");
	if (store_parse(text, len, inst, &why) < 0)
		assert(why.text[0] != '\0');
	else
		assert(inst->run.goal >= GOAL_RUN && inst->run.goal <= GOAL_DELETE &&
		       inst->cpus >= 1 && inst->n_keys <= INSTANCE_KEYS_MAX);
	instance_free(inst);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum request_action action = 0;
	struct err why = {0};

	if (size == 0)
		return 0;
	switch (data[0]) {
	case 'a':
		if (request_parse_action(data + 1, size - 1, &action, &why) == 0)
			assert(action >= ACTION_START && action <= ACTION_RESTART);
		break;
	case 'k':
		read_key(data + 1, size - 1);
		break;
	case 's':
		read_record(data + 1, size - 1);
		break;
	default:
		read_create(data + 1, size - 1);
	}
	return 0;
}
