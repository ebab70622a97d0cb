/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's GPUs as vfio-helper describes them.
 * Trust: runs inside agentd; checks what vfio-helper says, record by record.
 */
#include "agentd/gpus.h"

#include "agentd/sealed.h"
#include "vfio-helper/pci/pci.h"

_Static_assert(GPUS_TEXT_SIZE == PCI_TEXT_SIZE, "addresses differ in size");

void gpus_done(struct gpus *gpus)
{
	free(gpus->entries);
	free(gpus->parts);
	free(gpus->reasons);
	free(gpus->holders);
	*gpus = (struct gpus){0};
}

/* Addresses. */

int gpus_parse_address(const char *text, uint64_t *ret_address)
{
	char lower[GPUS_TEXT_SIZE];
	size_t len = strlen(text);
	pci_addr address;

	if (len > strlen("00000000:00:00.0"))
		return -EINVAL;
	/* "00000000:3B:00.0" is what nvidia-smi prints. */
	while (len > strlen("0000:00:00.0") && *text == '0') {
		text++;
		len--;
	}
	for (size_t i = 0; i <= len; i++)
		lower[i] = (char)(text[i] >= 'A' && text[i] <= 'F' ? text[i] - 'A' + 'a' : text[i]);
	if (pci_addr_parse(lower, &address) < 0 || address == 0)
		return -EINVAL;
	*ret_address = address;
	return 0;
}

void gpus_address_text(uint64_t address, char ret_text[static GPUS_TEXT_SIZE])
{
	pci_addr_text(address, ret_text);
}

int gpus_add_address(uint64_t addresses[static PROTO_MAX_GPUS], uint64_t address)
{
	size_t n = proto_gpus_count(addresses), at = 0;

	while (at < n && addresses[at] < address)
		at++;
	if (at < n && addresses[at] == address)
		return -EEXIST;
	if (n == PROTO_MAX_GPUS)
		return -E2BIG;
	memmove(&addresses[at + 1], &addresses[at], (n - at) * sizeof(addresses[0]));
	addresses[at] = address;
	return 0;
}

/* Reading the list. */

static int bad(struct err *reterr, const char *what)
{
	return err_set(reterr, -EBADMSG, "the list of GPUs breaks its own rules: %s", what);
}

/* As many as @len bytes can hold of records with a body of @size, and one for nothing at all. */
static void *room_for(size_t len, size_t size)
{
	return calloc(len / (sizeof(struct proto_header) + size) + 1, size);
}

/* Entries are larger than what they are read from, but not so that it would matter. */
static int make_room(struct gpus *gpus, size_t len)
{
	gpus->entries = calloc(len / (sizeof(struct proto_header) + sizeof(struct gpu_card_ev)) + 1,
			       sizeof(*gpus->entries));
	gpus->parts = room_for(len, sizeof(*gpus->parts));
	gpus->reasons = room_for(len, sizeof(*gpus->reasons));
	gpus->holders = room_for(len, sizeof(*gpus->holders));
	return gpus->entries && gpus->parts && gpus->reasons && gpus->holders ? 0 : -ENOMEM;
}

static int add_card(struct gpus *gpus, const struct gpu_card_ev *card, struct err *reterr)
{
	if (gpus->n > 0 && gpus->entries[gpus->n - 1].card.gpu >= card->gpu)
		return bad(reterr, "GPUs are not in ascending order");
	gpus->entries[gpus->n] = (struct gpu_entry){
		.card = *card,
		.parts = &gpus->parts[gpus->n_parts],
		.reasons = &gpus->reasons[gpus->n_reasons],
		.holders = &gpus->holders[gpus->n_holders],
		.set = gpus->n,
	};
	gpus->n++;
	return 0;
}

static int add_part(struct gpus *gpus, struct gpu_entry *entry, const struct gpu_part_ev *part,
		    struct err *reterr)
{
	/* Members of a group that are no PCI functions have address 0: there may be several. */
	if (entry->n_parts > 0 && part->address != 0 &&
	    entry->parts[entry->n_parts - 1].address >= part->address)
		return bad(reterr, "parts are not in ascending order");
	if (part->address == 0 && part->role != PROTO_ROLE_FOREIGN)
		return bad(reterr, "something that is no PCI function is a part of a card");
	if (part->address == entry->card.gpu && part->role != PROTO_ROLE_GPU)
		return bad(reterr, "a GPU is a part of itself in another role");
	gpus->parts[gpus->n_parts++] = *part;
	entry->n_parts++;
	return 0;
}

static int add_reason(struct gpus *gpus, struct gpu_entry *entry,
		      const struct gpu_reason_ev *reason, struct err *reterr)
{
	if (entry->n_reasons > 0 && entry->reasons[entry->n_reasons - 1].reason > reason->reason)
		return bad(reterr, "reasons are not in their order");
	gpus->reasons[gpus->n_reasons++] = *reason;
	entry->n_reasons++;
	return 0;
}

/* Every record begins with the GPU that it is about. */
_Static_assert(offsetof(struct gpu_card_ev, gpu) == 0 && offsetof(struct gpu_part_ev, gpu) == 0 &&
		       offsetof(struct gpu_reason_ev, gpu) == 0 &&
		       offsetof(struct gpu_holder_ev, gpu) == 0,
	       "a record does not begin with its GPU");

static int add_record(struct gpus *gpus, uint32_t number, const union proto_body *body,
		      struct err *reterr)
{
	struct gpu_entry *entry = gpus->n > 0 ? &gpus->entries[gpus->n - 1] : NULL;
	uint64_t gpu;

	if (number == OP_GPU_CARD)
		return add_card(gpus, (const struct gpu_card_ev *)body, reterr);
	memcpy(&gpu, body, sizeof(gpu));
	if (!entry || entry->card.gpu != gpu)
		return bad(reterr, "a record is not behind its GPU");
	if (number == OP_GPU_PART)
		return add_part(gpus, entry, (const struct gpu_part_ev *)body, reterr);
	if (number == OP_GPU_REASON)
		return add_reason(gpus, entry, (const struct gpu_reason_ev *)body, reterr);
	if (number != OP_GPU_HOLDER)
		return bad(reterr, "a record is none of a GPU");
	gpus->holders[gpus->n_holders++] = *(const struct gpu_holder_ev *)body;
	entry->n_holders++;
	return 0;
}

static int read_records(const uint8_t *bytes, size_t len, struct gpus *gpus, struct err *reterr)
{
	const struct proto_conn conn = {
		.self = PROTO_AGENTD, .peer = PROTO_HELPER, .state = PROTO_ST_READY};
	size_t at = 0;

	while (at < len) {
		const struct proto_op *op;
		struct proto_header header;
		union proto_body body;
		size_t size;
		int r;

		if (len - at < sizeof(header))
			return bad(reterr, "it ends in the middle of a record");
		memcpy(&header, bytes + at, sizeof(header));
		size = sizeof(header) + header.len;
		if (size > len - at)
			return bad(reterr, "it ends in the middle of a record");
		if (proto_decode_answer(&conn, bytes + at, size, /* n_fds= */ 0, &op, &header,
					&body) < 0 ||
		    !op->is_event)
			return bad(reterr, "a record is malformed");
		r = add_record(gpus, op->number, &body, reterr);
		if (r < 0)
			return r;
		at += size;
	}
	return 0;
}

/* Does the verdict follow from the reasons, and is a GPU that somebody has never rentable? */
static int check_entry(const struct gpu_entry *entry, struct err *reterr)
{
	uint32_t first = entry->n_reasons > 0 ? entry->reasons[0].reason : PROTO_GPU_RENTABLE;

	if (entry->card.verdict != first)
		return bad(reterr, "a verdict is not the first reason");
	if (entry->card.verdict == PROTO_GPU_RENTABLE && entry->card.vm[0] != '\0')
		return bad(reterr, "a GPU that a VM has can be rented");
	if (entry->card.verdict == PROTO_GPU_RENTABLE && entry->card.group == PROTO_NO_GROUP)
		return bad(reterr, "a GPU without a group can be rented");
	return 0;
}

static size_t index_of(const struct gpus *gpus, uint64_t address)
{
	size_t low = 0, high = gpus->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (gpus->entries[middle].card.gpu < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low < gpus->n && gpus->entries[low].card.gpu == address ? low : SIZE_MAX;
}

const struct gpu_entry *gpus_find(const struct gpus *gpus, uint64_t address)
{
	size_t i = index_of(gpus, address);

	return i == SIZE_MAX ? NULL : &gpus->entries[i];
}

/* The first of the set that entry @i is in so far. */
static size_t set_root(const struct gpus *gpus, size_t i)
{
	while (gpus->entries[i].set != i)
		i = gpus->entries[i].set;
	return i;
}

/* Entries that name each other among their parts are one set, by way of third ones, too. */
static int join_sets(struct gpus *gpus, struct err *reterr)
{
	for (size_t i = 0; i < gpus->n; i++)
		for (size_t k = 0; k < gpus->entries[i].n_parts; k++) {
			const struct gpu_part_ev *part = &gpus->entries[i].parts[k];
			size_t a = set_root(gpus, i), b;

			if (part->role != PROTO_ROLE_GPU)
				continue;
			b = index_of(gpus, part->address);
			if (b == SIZE_MAX)
				return bad(reterr, "a part is a GPU that is not in the list");
			b = set_root(gpus, b);
			gpus->entries[MAX_OF(a, b)].set = MIN_OF(a, b);
		}
	for (size_t i = 0; i < gpus->n; i++)
		gpus->entries[i].set = set_root(gpus, i);
	return 0;
}

int gpus_decode(const void *bytes, size_t len, uint32_t n_cards, struct gpus *ret_gpus,
		struct err *reterr)
{
	_cleanup_(gpus_done) struct gpus gpus = {0};
	int r = make_room(&gpus, len);

	if (r < 0)
		return err_set(reterr, r, "out of memory");
	r = read_records(bytes, len, &gpus, reterr);
	for (size_t i = 0; r == 0 && i < gpus.n; i++)
		r = check_entry(&gpus.entries[i], reterr);
	if (r == 0 && gpus.n != n_cards)
		r = bad(reterr, "it holds another number of GPUs than was said");
	if (r == 0)
		r = join_sets(&gpus, reterr);
	if (r < 0)
		return r;
	*ret_gpus = gpus;
	gpus = (struct gpus){0};
	return 0;
}

int gpus_receive(const struct gpu_list_rep *rep, struct fdlist *fds, struct gpus *ret_gpus,
		 struct err *reterr)
{
	_cleanup_close_ int fd = fdlist_take(fds);
	_cleanup_free_ char *bytes = NULL;
	size_t len;
	int r;

	/* An empty memfd is no list, and none is needed. */
	if (rep->gpus == 0 && rep->bytes == 0) {
		*ret_gpus = (struct gpus){0};
		return 0;
	}
	r = sealed_read(fd, PROTO_GPU_LIST_MAX, &bytes, &len);
	if (r < 0)
		return err_errno(reterr, r, "the list of GPUs cannot be read");
	if (len != rep->bytes)
		return bad(reterr, "it has another size than was said");
	return gpus_decode(bytes, len, rep->gpus, ret_gpus, reterr);
}
