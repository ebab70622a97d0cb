/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's GPUs over HTTP, for its operators: look, and bring back what was kept from rent.
 * Trust: runs inside agentd; shows what vfio-helper says.
 */
#include "agentd/later.h"
#include "agentd/reply.h"
#include "agentd/route.h"
#include "common/log.h"

static json_t *address_json(uint64_t address)
{
	char text[GPUS_TEXT_SIZE];

	if (address == 0)
		return json_null();
	gpus_address_text(address, text);
	return json_string(text);
}

/* A number that is not there is null. */
static json_t *index_json(uint32_t index, uint32_t none)
{
	return index == none ? json_null() : json_integer(index);
}

static json_t *hex_json(uint32_t value, int digits)
{
	char text[16];

	(void)snprintf(text, sizeof(text), "%0*x", digits, value);
	return json_string(text);
}

static json_t *bars_json(const struct gpu_card_ev *card)
{
	const uint64_t bars[] = {card->bar0, card->bar1, card->bar2,
				 card->bar3, card->bar4, card->bar5};
	json_t *array = json_array();

	for (size_t i = 0; i < ARRAY_LEN(bars); i++)
		(void)json_array_append_new(array, json_integer((json_int_t)bars[i]));
	return array;
}

static json_t *resets_json(uint32_t resets)
{
	static const char *const words[] = {
#define X(name, word) [PROTO_RESET_##name] = word,
		PROTO_RESET_LIST(X)
#undef X
	};
	json_t *array = json_array();

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (resets & 1u << i)
			(void)json_array_append_new(array, json_string(words[i]));
	return array;
}

static json_t *parts_json(const struct gpu_entry *entry)
{
	static const char *const roles[] = {
		[PROTO_ROLE_GPU] = "gpu",         [PROTO_ROLE_COMPANION] = "companion",
		[PROTO_ROLE_BRIDGE] = "bridge",   [PROTO_ROLE_ALONG] = "along",
		[PROTO_ROLE_FOREIGN] = "foreign",
	};
	json_t *array = json_array();

	for (size_t i = 0; i < entry->n_parts; i++) {
		const struct gpu_part_ev *part = &entry->parts[i];

		(void)json_array_append_new(
			array,
			json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:s, s:s}", "address",
				  address_json(part->address), "role", roles[part->role], "vendor",
				  hex_json(part->vendor, 4), "device", hex_json(part->device, 4),
				  "class", hex_json(part->class_code, 6), "group",
				  index_json(part->group, PROTO_NO_GROUP), "driver", part->driver,
				  "what", part->what));
	}
	return array;
}

static json_t *reasons_json(const struct gpu_entry *entry)
{
	json_t *array = json_array();

	for (size_t i = 0; i < entry->n_reasons; i++) {
		const struct gpu_reason_ev *reason = &entry->reasons[i];
		enum proto_gpu_reason word = (enum proto_gpu_reason)reason->reason;

		(void)json_array_append_new(array, json_pack("{s:s, s:o, s:s, s:s}", "reason",
							     proto_gpu_reason_name(word), "address",
							     address_json(reason->address), "what",
							     reason->what, "text",
							     proto_gpu_reason_text(word)));
	}
	return array;
}

static json_t *holders_json(const struct gpu_entry *entry)
{
	json_t *array = json_array();

	for (size_t i = 0; i < entry->n_holders; i++) {
		const struct gpu_holder_ev *holder = &entry->holders[i];

		(void)json_array_append_new(array, json_pack("{s:I, s:s, s:s, s:s}", "pid",
							     (json_int_t)holder->pid, "program",
							     holder->program, "node", holder->node,
							     "service", holder->service));
	}
	return array;
}

/* The other GPUs that can only be rented together with entry @i. */
static json_t *together_json(const struct gpus *gpus, size_t i)
{
	json_t *array = json_array();

	for (size_t k = gpus->entries[i].set; k < gpus->n; k++)
		if (k != i && gpus->entries[k].set == gpus->entries[i].set)
			(void)json_array_append_new(array, address_json(gpus->entries[k].card.gpu));
	return array;
}

/* The part of a name in brackets is what people know a card by: "GA102 [GeForce RTX 3090]". */
static json_t *short_name(const struct pciids_name *name, const struct gpu_card_ev *card)
{
	const char *open = name ? strchr(name->device_name, '[') : NULL;
	const char *close = open ? strrchr(open, ']') : NULL;
	char ids[16];

	if (close && close > open + 1)
		return json_stringn(open + 1, (size_t)(close - open - 1));
	if (name && name->device_name[0] != '\0')
		return json_string(name->device_name);
	(void)snprintf(ids, sizeof(ids), "%04x:%04x", card->vendor, card->device);
	return json_string(ids);
}

/* The instance that was promised the GPU, or whose VM has it: its id, or NULL. */
static const char *owner_of(const struct agentd *a, const struct gpu_card_ev *card)
{
	struct gpu_claim claims[AGENTD_CLAIMS_MAX];
	size_t n = agentd_gpu_claims(a, claims);

	for (size_t i = 0; i < n; i++)
		if (claims[i].address == card->gpu)
			return claims[i].owner;
	return card->vm[0] != '\0' ? card->vm : NULL;
}

/* What the host's driver says of it, while it is that driver's. */
static json_t *figures_json(const struct agentd *a, const struct gpu_card_ev *card)
{
	struct hostgpus_view view = hostgpus_view(a->hostgpus);
	bool is_host = STR_EQ(card->driver, "nvidia") && !view.fake;

	return hostgpus_gpu_json(is_host ? hostgpus_find(&view, card->gpu) : NULL);
}

static json_t *gpu_json(const struct agentd *a, const struct gpus *gpus, size_t i)
{
	const struct gpu_entry *entry = &gpus->entries[i];
	const struct gpu_card_ev *card = &entry->card;
	const struct pciids_name *name = gpu_names_get(&a->gpu_names, card->vendor, card->device);
	json_t *json = json_pack(
		"{s:o, s:o, s:s, s:s, s:s, s:s?, s:b, s:s}", "address", address_json(card->gpu),
		"name", short_name(name, card), "vendor_name", name ? name->vendor_name : "",
		"device_name", name ? name->device_name : "", "verdict",
		proto_gpu_reason_name((enum proto_gpu_reason)card->verdict), "instance",
		owner_of(a, card), "leased", card->vm[0] != '\0', "driver", card->driver);

	if (!json)
		return NULL;
	(void)json_object_update_new(
		json,
		json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "vendor",
			  hex_json(card->vendor, 4), "device", hex_json(card->device, 4),
			  "subvendor", hex_json(card->subvendor, 4), "subdevice",
			  hex_json(card->subdevice, 4), "class", hex_json(card->class_code, 6),
			  "revision", hex_json(card->revision, 2), "group",
			  index_json(card->group, PROTO_NO_GROUP), "node",
			  index_json(card->node, PROTO_NO_NODE)));
	(void)json_object_set_new(json, "figures", figures_json(a, card));
	(void)json_object_update_new(
		json, json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "bars", bars_json(card), "resets",
				resets_json(card->resets), "together", together_json(gpus, i),
				"parts", parts_json(entry), "reasons", reasons_json(entry),
				"holders", holders_json(entry)));
	return json;
}

/* Why the helper has done nothing, as an HTTP answer. */
static void unavailable(const struct later *later, enum proto_status status)
{
	const struct peers *peers = later->agentd->peers;

	if (!peers_up(peers, PEER_HELPER))
		reply_error(later->req, 503, "vfio-helper is not connected (%s)",
			    peers_trouble(peers, PEER_HELPER));
	else if (status == PROTO_NOT_FOUND)
		reply_error(later->req, 404, "there is no GPU at this address");
	else if (status == PROTO_DENIED)
		reply_error(later->req, 409,
			    "no GPU of this host may be rented out: see the gpu_ keys of "
			    "helper.conf");
	else
		reply_error(later->req, 503, "vfio-helper says: %s", proto_status_text(status));
}

static void answer_gpus(struct later *later, enum proto_status status, const void *rep,
			struct fdlist *fds)
{
	_cleanup_(gpus_done) struct gpus gpus = {0};
	struct hostgpus_view view = hostgpus_view(later->agentd->hostgpus);
	struct err why = {0};
	json_t *array;

	if (status != PROTO_OK) {
		unavailable(later, status);
		return;
	}
	if (gpus_receive(rep, fds, &gpus, &why) < 0) {
		log_event(LOG_ERR, "list of GPUs refused", LOG_STR("REASON", why.text));
		reply_error(later->req, 500, "%s", why.text);
		return;
	}
	gpu_names_learn(&later->agentd->gpu_names, &gpus);
	array = json_array();
	for (size_t i = 0; i < gpus.n; i++)
		(void)json_array_append_new(array, gpu_json(later->agentd, &gpus, i));
	reply_data(later->req,
		   json_pack("{s:o, s:o}", "gpus", array, "nvml", hostgpus_view_json(&view)));
}

static void list_gpus(struct agentd *a, struct http_request *req, struct instance *inst)
{
	const struct gpu_list_req op_req = {0};
	const struct later_question question = {
		.peer = PEER_HELPER,
		.op_number = OP_GPU_LIST,
		.req = &op_req,
		.timeout_ms = GPU_LIST_TIMEOUT_MS,
		.answer = answer_gpus,
	};

	(void)inst;
	later_ask(a, req, /* inst= */ NULL, &question);
}

/* The figures first: no probe runs while vfio-helper looks who has a GPU open. */
void api_gpus(struct agentd *a, struct http_request *req, struct instance *inst)
{
	(void)inst;
	api_with_hostgpus(a, req, /* inst= */ NULL, list_gpus);
}

static void answer_recover(struct later *later, enum proto_status status, const void *body,
			   struct fdlist *fds)
{
	const struct gpu_recover_rep *rep = body;

	(void)fds;
	if (status == PROTO_CONFLICT || status == PROTO_ALREADY || status == PROTO_BUSY)
		reply_error(later->req, 409, "vfio-helper says: %s", proto_status_text(status));
	else if (status != PROTO_OK)
		unavailable(later, status);
	else
		reply_data(later->req,
			   json_pack("{s:I, s:I}", "recovered", (json_int_t)rep->recovered, "left",
				     (json_int_t)rep->left));
}

void api_gpu_recover(struct agentd *a, struct http_request *req, struct instance *inst)
{
	/* 0, which no GPU has: all of them. */
	const struct gpu_recover_req op_req = {.gpu = route_address(http_path(req))};
	const struct later_question question = {
		.peer = PEER_HELPER,
		.op_number = OP_GPU_RECOVER,
		.req = &op_req,
		.timeout_ms = GPU_ACT_TIMEOUT_MS,
		.answer = answer_recover,
	};

	later_ask(a, req, inst, &question);
}
