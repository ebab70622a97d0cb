/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rings of figures, and the records made from them.
 * Trust: runs in vmmon; keeps numbers of the guest.
 */
#include "vmmon/metrics/series.h"

#define KIB_PER_MIB 1024
#define MW_PER_DW   100

/* One record: the datagram of the event. */
struct sample_record {
	struct proto_header header;
	struct metrics_sample_ev body;
};

struct gpu_record {
	struct proto_header header;
	struct metrics_gpu_ev body;
};

_Static_assert(PROTO_SAMPLES_MAX *(sizeof(struct sample_record) +
				   PROTO_MAX_GPUS * sizeof(struct gpu_record)) <= PROTO_METRICS_MAX,
	       "the records of a full series do not fit");
_Static_assert(sizeof(struct series) <= 112 * 1024, "a guest's figures take too much memory");

struct series *series_new(uint64_t now_ms)
{
	struct series *s = calloc(1, sizeof(*s));

	if (s)
		s->first = MIN_OF(MAX_OF(now_ms, (uint64_t)1), PROTO_FIGURE_MAX / 2);
	return s;
}

void series_free(struct series *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < PROTO_MAX_GPUS; i++)
		free(s->gpus[i]);
	free(s);
}

static struct series_gpu small_gpu(const struct lines_gpu *g)
{
	return (struct series_gpu){
		.used_mib = g->used_mib,
		.deciwatts = (uint16_t)MIN_OF(g->milliwatts / MW_PER_DW, (uint32_t)UINT16_MAX),
		.percent = (uint8_t)MIN_OF(g->percent, (uint32_t)UINT8_MAX),
		.celsius = (uint8_t)MIN_OF(g->celsius, (uint32_t)UINT8_MAX),
	};
}

void series_add(struct series *s, const struct series_point *point,
		const struct lines_gpu gpus[static PROTO_MAX_GPUS])
{
	size_t at = (size_t)(s->n % PROTO_SAMPLES_MAX);

	s->points[at] = *point;
	for (size_t i = 0; i < PROTO_MAX_GPUS; i++) {
		if (!(point->gpus & 1u << i))
			continue;
		if (!s->gpus[i])
			s->gpus[i] = calloc(PROTO_SAMPLES_MAX, sizeof(*s->gpus[i]));
		if (!s->gpus[i]) {
			s->points[at].gpus &= (uint16_t) ~(1u << i);
			continue;
		}
		s->gpus[i][at] = small_gpu(&gpus[i]);
		s->gpu_total_mib[i] = gpus[i].total_mib;
	}
	s->n++;
}

uint64_t series_newest(const struct series *s)
{
	return s->first + s->n - 1;
}

static uint32_t widen(uint32_t value, uint32_t unknown, uint32_t unit)
{
	return value == unknown ? PROTO_NO_FIGURE : value * unit;
}

static void put_sample(const struct series_point *p, uint64_t number, uint8_t **at)
{
	const struct sample_record record = {
		.header = {.op = OP_METRICS_SAMPLE,
			   .kind = PROTO_EVENT,
			   .len = sizeof(record.body)},
		.body = {.number = number,
			 .time_ms = p->time_ms,
			 .memory_kib = p->memory_kib,
			 .available_kib = p->available_kib,
			 .network_in = p->network_in,
			 .network_out = p->network_out,
			 .disk_read = p->disk_read,
			 .disk_written = p->disk_written,
			 .root_kib = (uint64_t)p->root_mib * KIB_PER_MIB,
			 .root_used_kib = (uint64_t)p->root_used_mib * KIB_PER_MIB,
			 .qemu_cpu_ms = p->qemu_cpu_ms,
			 .qemu_rss_kib = (uint64_t)p->qemu_rss_mib * KIB_PER_MIB,
			 .cpu_permille = widen(p->cpu_permille, UINT16_MAX, 1),
			 .qemu_known = p->qemu_known,
			 .gpus = (uint32_t)__builtin_popcount(p->gpus),
			 .container = p->container},
	};

	memcpy(*at, &record, sizeof(record));
	*at += sizeof(record);
}

static void put_gpu(const struct series_gpu *g, uint64_t number, uint32_t index, uint32_t total_mib,
		    uint8_t **at)
{
	const struct gpu_record record = {
		.header = {.op = OP_METRICS_GPU, .kind = PROTO_EVENT, .len = sizeof(record.body)},
		.body = {.number = number,
			 .gpu = index,
			 .percent = widen(g->percent, UINT8_MAX, 1),
			 .celsius = widen(g->celsius, UINT8_MAX, 1),
			 .used_mib = g->used_mib,
			 .total_mib = total_mib,
			 .milliwatts = widen(g->deciwatts, UINT16_MAX, MW_PER_DW)},
	};

	memcpy(*at, &record, sizeof(record));
	*at += sizeof(record);
}

static size_t records_size(const struct series *s, uint64_t begin)
{
	size_t size = 0;

	for (uint64_t i = begin; i < s->n; i++)
		size += sizeof(struct sample_record) +
			(size_t)__builtin_popcount(s->points[i % PROTO_SAMPLES_MAX].gpus) *
				sizeof(struct gpu_record);
	return size;
}

int series_records(const struct series *s, uint64_t since, uint32_t max, uint8_t **ret_bytes,
		   size_t *ret_len, uint32_t *ret_samples)
{
	uint64_t kept = MIN_OF(s->n, (uint64_t)MIN_OF(max, (uint32_t)PROTO_SAMPLES_MAX));
	uint64_t asked = since >= s->first ? since - s->first + 1 : 0, begin;
	uint8_t *bytes, *at;
	size_t len;

	begin = MIN_OF(MAX_OF(s->n - kept, asked), s->n);
	len = records_size(s, begin);
	*ret_bytes = NULL;
	*ret_len = len;
	*ret_samples = (uint32_t)(s->n - begin);
	if (len == 0)
		return 0;
	bytes = at = malloc(len);
	if (!bytes)
		return -ENOMEM;
	for (uint64_t i = begin; i < s->n; i++) {
		size_t slot = (size_t)(i % PROTO_SAMPLES_MAX);

		put_sample(&s->points[slot], s->first + i, &at);
		for (uint32_t g = 0; g < PROTO_MAX_GPUS; g++)
			if (s->points[slot].gpus & 1u << g)
				put_gpu(&s->gpus[g][slot], s->first + i, g, s->gpu_total_mib[g],
					&at);
	}
	*ret_bytes = bytes;
	return 0;
}
