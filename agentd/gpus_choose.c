/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which GPUs an instance gets, and the words for why it gets none.
 * Trust: runs inside agentd; reads a list that gpus.c has checked.
 */
#include "agentd/gpus.h"

/* Words. */

/* A text that grows up to GPUS_WHY_MAX, then counts what it leaves out. */
struct words {
	FILE *f;
	char *text; /* owned by whoever takes it */
	size_t size;
	size_t n, left_out; /* GPUs */
};

static int words_open(struct words *w)
{
	*w = (struct words){0};
	w->f = open_memstream(&w->text, &w->size);
	return w->f ? 0 : -ENOMEM;
}

/* The text, or NULL when out of memory. */
static char *words_close(struct words *w)
{
	if (w->left_out > 0)
		(void)fprintf(w->f, "; and %zu more", w->left_out);
	if (fclose(w->f) != 0) {
		free(w->text);
		return NULL;
	}
	return w->text;
}

/* Begins what is said of the GPU at @address; false when there is no room for more. */
static bool words_begin(struct words *w, uint64_t address)
{
	char text[GPUS_TEXT_SIZE];

	(void)fflush(w->f);
	if (w->size > GPUS_WHY_MAX) {
		w->left_out++;
		return false;
	}
	gpus_address_text(address, text);
	(void)fprintf(w->f, "%s%s: ", w->n++ > 0 ? "; " : "", text);
	return true;
}

static void put_holder(FILE *f, const struct gpu_holder_ev *holder, const char *before)
{
	(void)fprintf(f, "%sprocess %u %s has %s open", before, holder->pid, holder->program,
		      holder->node);
	if (holder->service[0] != '\0')
		(void)fprintf(f, ", of %s", holder->service);
}

/*
 * Who or what a reason is about, in brackets; nothing when the word says it all. The holders are
 * told where the reason itself names nobody.
 */
static void put_who(FILE *f, const struct gpu_entry *entry, const struct gpu_reason_ev *reason,
		    bool holders)
{
	bool other = reason->address != 0 && reason->address != entry->card.gpu;
	size_t n = holders && reason->what[0] == '\0' ? entry->n_holders : 0;
	char text[GPUS_TEXT_SIZE];
	const char *before = "";

	if (!other && reason->what[0] == '\0' && n == 0)
		return;
	(void)fputs(" (", f);
	if (other) {
		gpus_address_text(reason->address, text);
		(void)fputs(text, f);
		before = ": ";
	}
	if (reason->what[0] != '\0') {
		(void)fprintf(f, "%s%s", before, reason->what);
		before = "; ";
	}
	for (size_t i = 0; i < n; i++) {
		put_holder(f, &entry->holders[i], before);
		before = "; ";
	}
	(void)fputc(')', f);
}

static void put_reasons(FILE *f, const struct gpu_entry *entry)
{
	bool held = false;

	for (size_t i = 0; i < entry->n_reasons; i++) {
		const struct gpu_reason_ev *reason = &entry->reasons[i];
		bool busy = reason->reason == PROTO_GPU_BUSY && !held;

		(void)fprintf(f, "%s%s", i > 0 ? ", " : "",
			      proto_gpu_reason_name((enum proto_gpu_reason)reason->reason));
		put_who(f, entry, reason, busy);
		held = held || busy;
	}
}

char *gpus_explain(const struct gpus *gpus, const uint64_t addresses[static PROTO_MAX_GPUS],
		   const char *vm)
{
	struct words w;

	if (words_open(&w) < 0)
		return NULL;
	for (size_t i = 0; i < proto_gpus_count(addresses); i++) {
		const struct gpu_entry *entry = gpus_find(gpus, addresses[i]);

		if (entry && (entry->n_reasons == 0 || STR_EQ(entry->card.vm, vm)))
			continue;
		if (!words_begin(&w, addresses[i]))
			continue;
		if (entry)
			put_reasons(w.f, entry);
		else
			(void)fputs("there is no GPU at this address", w.f);
	}
	return words_close(&w);
}

/* What can be had. */

struct choice {
	const struct gpus *gpus;
	const struct gpu_claim *claims;
	size_t n_claims;
};

static const char *claimed_by(const struct choice *c, uint64_t address)
{
	for (size_t i = 0; i < c->n_claims; i++)
		if (c->claims[i].address == address)
			return c->claims[i].owner;
	return NULL;
}

static bool is_free(const struct choice *c, const struct gpu_entry *entry)
{
	return entry->card.verdict == PROTO_GPU_RENTABLE && !claimed_by(c, entry->card.gpu);
}

/* The first member of set @set that cannot be had, or NULL. */
static const struct gpu_entry *spoiler(const struct choice *c, size_t set)
{
	for (size_t i = set; i < c->gpus->n; i++)
		if (c->gpus->entries[i].set == set && !is_free(c, &c->gpus->entries[i]))
			return &c->gpus->entries[i];
	return NULL;
}

static bool in_list(const uint64_t *addresses, uint64_t address)
{
	for (size_t i = 0; addresses && i < proto_gpus_count(addresses); i++)
		if (addresses[i] == address)
			return true;
	return false;
}

/* The members of @entry's set that are not among @named (NULL: none is), but itself. */
static void put_company(FILE *f, const struct choice *c, const struct gpu_entry *entry,
			const uint64_t *named)
{
	const char *before = "can only be rented together with ";
	char text[GPUS_TEXT_SIZE];

	for (size_t i = entry->set; i < c->gpus->n; i++) {
		const struct gpu_entry *other = &c->gpus->entries[i];

		if (other->set != entry->set || other == entry || in_list(named, other->card.gpu))
			continue;
		gpus_address_text(other->card.gpu, text);
		(void)fprintf(f, "%s%s", before, text);
		before = " and ";
	}
}

static bool has_company(const struct choice *c, const struct gpu_entry *entry,
			const uint64_t *named)
{
	for (size_t i = entry->set; i < c->gpus->n; i++) {
		const struct gpu_entry *other = &c->gpus->entries[i];

		if (other->set == entry->set && other != entry && !in_list(named, other->card.gpu))
			return true;
	}
	return false;
}

/* Everything that keeps @entry from being had, with nothing else than @named. */
static void put_against(struct words *w, const struct choice *c, const struct gpu_entry *entry,
			const uint64_t *named)
{
	const char *owner = claimed_by(c, entry->card.gpu), *before = "";
	bool company = has_company(c, entry, named);

	if ((entry->n_reasons == 0 && !owner && !company) || !words_begin(w, entry->card.gpu))
		return;
	put_reasons(w->f, entry);
	if (entry->n_reasons > 0)
		before = ", ";
	if (owner && !STR_EQ(owner, entry->card.vm)) {
		(void)fprintf(w->f, "%spromised to instance %s", before, owner);
		before = ", ";
	}
	if (company) {
		(void)fputs(before, w->f);
		put_company(w->f, c, entry, named);
	}
}

/* By address. */

int gpus_check(const struct gpus *gpus, const uint64_t addresses[static PROTO_MAX_GPUS],
	       const struct gpu_claim *claims, size_t n_claims, char **ret_why)
{
	const struct choice c = {gpus, claims, n_claims};
	struct words w;
	int r = 0;

	if (words_open(&w) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < proto_gpus_count(addresses); i++) {
		const struct gpu_entry *entry = gpus_find(gpus, addresses[i]);

		if (!entry) {
			if (words_begin(&w, addresses[i]))
				(void)fputs("there is no GPU at this address", w.f);
			r = -ENODEV;
			continue;
		}
		if (is_free(&c, entry) && !has_company(&c, entry, addresses))
			continue;
		put_against(&w, &c, entry, addresses);
		r = r == 0 ? -EBUSY : r;
	}
	*ret_why = words_close(&w);
	if (!*ret_why)
		return -ENOMEM;
	if (r == 0)
		free(TAKE_PTR(*ret_why));
	return r;
}

/* By count. */

/* A set of cards that can be had as a whole. */
struct candidate {
	size_t set;
	uint32_t size;
	uint32_t node; /* PROTO_NO_NODE: not known, or not one */
};

/* Ascending by lowest address, as the entries are. Owned; NULL when out of memory. */
static struct candidate *find_candidates(const struct choice *c, size_t *ret_n)
{
	struct candidate *list = calloc(c->gpus->n + 1, sizeof(*list));
	size_t n = 0;

	for (size_t i = 0; list && i < c->gpus->n; i++) {
		struct candidate *candidate = &list[n];

		if (c->gpus->entries[i].set != i || spoiler(c, i))
			continue;
		*candidate = (struct candidate){i, 0, c->gpus->entries[i].card.node};
		for (size_t k = i; k < c->gpus->n; k++) {
			if (c->gpus->entries[k].set != i)
				continue;
			candidate->size++;
			if (c->gpus->entries[k].card.node != candidate->node)
				candidate->node = PROTO_NO_NODE;
		}
		n++;
	}
	*ret_n = n;
	return list;
}

static bool on_node(const struct candidate *candidate, const uint32_t *node)
{
	return !node || candidate->node == *node;
}

/*
 * Marks in @ret_taken those with the lowest addresses whose sizes add up to @count, all on @node
 * unless it is NULL. reach[i] has bit k when candidates from the ith on can add up to k.
 */
static bool fit(const struct candidate *list, size_t n, uint32_t count, const uint32_t *node,
		uint32_t *reach, bool *ret_taken)
{
	reach[n] = 1;
	for (size_t i = n; i-- > 0;) {
		reach[i] = reach[i + 1];
		if (on_node(&list[i], node) && list[i].size <= count)
			reach[i] |= reach[i + 1] << list[i].size;
	}
	if (!(reach[0] & UINT32_C(1) << count))
		return false;
	for (size_t i = 0; i < n; i++) {
		ret_taken[i] = on_node(&list[i], node) && list[i].size <= count &&
			       (reach[i + 1] & UINT32_C(1) << (count - list[i].size)) && count > 0;
		if (ret_taken[i])
			count -= list[i].size;
	}
	return true;
}

static uint32_t free_on(const struct candidate *list, size_t n, uint32_t node)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += list[i].node == node ? list[i].size : 0;
	return sum;
}

/* Chooses among the candidates; @scratch and @ret_taken have room for one more than @n. */
static bool choose(const struct candidate *list, size_t n, uint32_t count, uint32_t *scratch,
		   bool *ret_taken)
{
	const uint32_t *best = NULL;
	uint32_t least = UINT32_MAX;

	/* The nodes in the order of their lowest addresses: the first of equals stays. */
	for (size_t i = 0; i < n; i++) {
		uint32_t sum = free_on(list, n, list[i].node);

		if (list[i].node == PROTO_NO_NODE || sum >= least ||
		    !fit(list, n, count, &list[i].node, scratch, ret_taken))
			continue;
		best = &list[i].node;
		least = sum;
	}
	return fit(list, n, count, best, scratch, ret_taken);
}

static void list_chosen(const struct gpus *gpus, const struct candidate *list, const bool *taken,
			size_t n, uint64_t ret_addresses[static PROTO_MAX_GPUS])
{
	memset(ret_addresses, 0, PROTO_MAX_GPUS * sizeof(ret_addresses[0]));
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; taken[i] && k < gpus->n; k++)
			if (gpus->entries[k].set == list[i].set)
				(void)gpus_add_address(ret_addresses, gpus->entries[k].card.gpu);
}

/* Why @count cannot be had. */
static char *explain_count(const struct choice *c, uint32_t count, const struct candidate *list,
			   size_t n)
{
	struct words w;
	uint32_t sum = 0;

	if (words_open(&w) < 0)
		return NULL;
	for (size_t i = 0; i < n; i++)
		sum += list[i].size;
	if (c->gpus->n == 0) {
		(void)fputs("this host has no GPU", w.f);
		return words_close(&w);
	}
	(void)fprintf(w.f, "%u GPU%s wanted, %u of %zu can be had%s: ", count,
		      count == 1 ? " is" : "s are", sum, c->gpus->n,
		      sum >= count ? ", but not just that many" : "");
	for (size_t i = 0; i < c->gpus->n; i++)
		put_against(&w, c, &c->gpus->entries[i], NULL);
	return words_close(&w);
}

int gpus_choose(const struct gpus *gpus, uint32_t count, const struct gpu_claim *claims,
		size_t n_claims, uint64_t ret_addresses[static PROTO_MAX_GPUS], char **ret_why)
{
	const struct choice c = {gpus, claims, n_claims};
	size_t n = 0;
	_cleanup_free_ struct candidate *list = find_candidates(&c, &n);
	_cleanup_free_ uint32_t *scratch = calloc(gpus->n + 1, sizeof(*scratch));
	_cleanup_free_ bool *taken = calloc(gpus->n + 1, sizeof(*taken));

	*ret_why = NULL;
	if (!list || !scratch || !taken)
		return -ENOMEM;
	if (count <= PROTO_MAX_GPUS && choose(list, n, count, scratch, taken)) {
		list_chosen(gpus, list, taken, n, ret_addresses);
		return 0;
	}
	*ret_why = explain_count(&c, count, list, n);
	return *ret_why ? -EBUSY : -ENOMEM;
}
