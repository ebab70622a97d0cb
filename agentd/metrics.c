/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading of METRICS_READ's records, and their JSON.
 * Trust: runs inside agentd; checks what vmmon says, record by record.
 */
#include "agentd/metrics.h"

#include "agentd/sealed.h"
#include "common/log.h"

#define KIB   1024
#define MILLI 1000
#define FULL  (UINT64_C(100) * MILLI) /* 100 % */

void metrics_done(struct metrics_list *list)
{
	free(list->looks);
	free(list->gpus);
	*list = (struct metrics_list){0};
}

static int bad(struct err *reterr, const char *what)
{
	return err_set(reterr, -EBADMSG, "the list of figures breaks its own rules: %s", what);
}

/* The GPUs of a look follow it, so that they are where the look says they begin. */
static int add_record(struct metrics_list *list, uint32_t number, const union proto_body *body,
		      uint32_t max, struct err *reterr)
{
	struct metrics_look *last = list->n > 0 ? &list->looks[list->n - 1] : NULL;
	const struct metrics_gpu_ev *gpu = (const void *)body;
	size_t begun = last ? (size_t)(&list->gpus[list->n_gpus] - last->gpus) : 0;

	if (number == OP_METRICS_SAMPLE) {
		struct metrics_look *look = &list->looks[list->n];

		if (list->n == max || (last && begun != last->sample.gpus))
			return bad(reterr, "it has another number of records than it says");
		look->sample = *(const struct metrics_sample_ev *)(const void *)body;
		look->gpus = &list->gpus[list->n_gpus];
		if (last && look->sample.number <= last->sample.number)
			return bad(reterr, "samples are not in ascending order");
		list->n++;
		return 0;
	}
	if (number != OP_METRICS_GPU)
		return bad(reterr, "a record is none of figures");
	if (!last || begun >= last->sample.gpus || gpu->number != last->sample.number ||
	    (begun > 0 && gpu->gpu <= list->gpus[list->n_gpus - 1].gpu))
		return bad(reterr, "a GPU is not behind its sample");
	list->gpus[list->n_gpus++] = *gpu;
	return 0;
}

static int read_records(const uint8_t *bytes, size_t len, uint32_t n, struct metrics_list *list,
			struct err *reterr)
{
	const struct proto_conn conn = {
		.self = PROTO_AGENTD, .peer = PROTO_VMMON, .state = PROTO_ST_READY};
	const struct metrics_look *last;
	int r = 0;

	for (size_t at = 0; at < len && r == 0;) {
		const struct proto_op *op;
		struct proto_header header;
		union proto_body body;
		size_t size = sizeof(header);

		if (len - at < size)
			return bad(reterr, "it ends in the middle of a record");
		memcpy(&header, bytes + at, sizeof(header));
		if (header.len > len - at - size)
			return bad(reterr, "it ends in the middle of a record");
		size += header.len;
		if (proto_decode_answer(&conn, bytes + at, size, /* n_fds= */ 0, &op, &header,
					&body) < 0 ||
		    !op->is_event)
			return bad(reterr, "a record is malformed");
		r = add_record(list, op->number, &body, n, reterr);
		at += size;
	}
	if (r < 0)
		return r;
	last = list->n > 0 ? &list->looks[list->n - 1] : NULL;
	if (list->n != n || (last && last->gpus + last->sample.gpus != &list->gpus[list->n_gpus]))
		return bad(reterr, "it has another number of records than it says");
	return 0;
}

int metrics_decode(const uint8_t *bytes, size_t len, uint32_t n, struct metrics_list *ret_list,
		   struct err *reterr)
{
	const size_t per_gpu = sizeof(struct proto_header) + sizeof(struct metrics_gpu_ev);
	struct metrics_list list = {
		.looks = calloc((size_t)n + 1, sizeof(*list.looks)),
		.gpus = calloc(len / per_gpu + 1, sizeof(*list.gpus)),
	};
	int r = list.looks && list.gpus ? read_records(bytes, len, n, &list, reterr)
					: err_set(reterr, -ENOMEM, "out of memory");

	if (r < 0)
		metrics_done(&list);
	*ret_list = list;
	return r;
}

int metrics_receive(const struct metrics_read_rep *rep, struct fdlist *fds,
		    struct metrics_list *ret_list, struct err *reterr)
{
	_cleanup_close_ int fd = fdlist_take(fds);
	_cleanup_free_ char *bytes = NULL;
	size_t len;
	int r;

	*ret_list = (struct metrics_list){.newest = rep->newest, .interval_ms = rep->interval_ms};
	if (rep->samples == 0 &&
	    rep->bytes == 0) /* an empty memfd is no list, and none is needed */
		return 0;
	r = sealed_read(fd, PROTO_METRICS_MAX, &bytes, &len);
	if (r < 0)
		return err_errno(reterr, r, "the list of figures cannot be read");
	if (len != rep->bytes)
		return bad(reterr, "it has another size than was said");
	r = metrics_decode((const uint8_t *)bytes, len, rep->samples, ret_list, reterr);
	ret_list->newest = rep->newest;
	ret_list->interval_ms = rep->interval_ms;
	return r;
}

static int fake_gpus(struct metrics_list *list)
{
	struct metrics_gpu_ev *gpus = calloc(list->n, sizeof(*gpus));

	if (!gpus)
		return -ENOMEM;
	for (size_t i = 0; i < list->n; i++) {
		gpus[i] = (struct metrics_gpu_ev){.number = list->looks[i].sample.number,
						  .percent = METRICS_FAKE_PERCENT,
						  .celsius = METRICS_FAKE_CELSIUS,
						  .used_mib = METRICS_FAKE_USED,
						  .total_mib = METRICS_FAKE_TOTAL,
						  .milliwatts = METRICS_FAKE_WATTS * MILLI};
		list->looks[i].gpus = &gpus[i];
		list->looks[i].sample.gpus = 1;
	}
	free(list->gpus);
	list->gpus = gpus;
	list->n_gpus = list->n;
	return 0;
}

bool metrics_add_fakes(bool debug, struct metrics_list *list)
{
	static bool told;

	if (!debug || list->n == 0 || list->n_gpus > 0 || fake_gpus(list) < 0)
		return false;
	if (!told)
		log_event(LOG_WARNING, "figures of GPUs are made up: debug is on");
	told = true;
	return true;
}

void metrics_sum_gpus(const struct metrics_list *list, uint32_t *ret_percent, uint32_t *ret_celsius,
		      uint32_t *ret_memory_percent)
{
	const struct metrics_look *look = list->n > 0 ? &list->looks[list->n - 1] : NULL;
	uint64_t percent = 0, n_percent = 0, celsius = 0, used = 0, total = 0;
	bool has_celsius = false;

	for (uint32_t i = 0; look && i < look->sample.gpus; i++) {
		const struct metrics_gpu_ev *g = &look->gpus[i];

		if (g->percent != PROTO_NO_FIGURE) {
			percent += g->percent;
			n_percent++;
		}
		if (g->celsius != PROTO_NO_FIGURE) {
			celsius = MAX_OF(celsius, (uint64_t)g->celsius);
			has_celsius = true;
		}
		if (g->used_mib != PROTO_NO_FIGURE && g->total_mib != PROTO_NO_FIGURE) {
			used += g->used_mib;
			total += g->total_mib;
		}
	}
	*ret_percent =
		n_percent ? (uint32_t)MIN_OF(percent * MILLI / n_percent, FULL) : PROTO_NO_FIGURE;
	*ret_celsius = has_celsius ? (uint32_t)MIN_OF(celsius * MILLI, FULL * 10) : PROTO_NO_FIGURE;
	*ret_memory_percent = total ? (uint32_t)MIN_OF(used * FULL / total, FULL) : PROTO_NO_FIGURE;
}

void metrics_guest_use(const struct metrics_list *list, uint32_t *ret_cpu, uint32_t *ret_memory)
{
	const struct metrics_sample_ev *s = list->n > 0 ? &list->looks[list->n - 1].sample : NULL;

	*ret_cpu = *ret_memory = PROTO_NO_FIGURE;
	if (s && s->cpu_permille != PROTO_NO_FIGURE)
		*ret_cpu = (uint32_t)MIN_OF((uint64_t)s->cpu_permille * 100, FULL);
	if (s && s->memory_kib > 0 && s->available_kib <= s->memory_kib)
		*ret_memory = (uint32_t)((double)(s->memory_kib - s->available_kib) /
					 (double)s->memory_kib * (double)FULL);
}

/* ---- JSON ---- */

static json_t *figure(uint32_t value)
{
	return value == PROTO_NO_FIGURE ? json_null() : json_integer(value);
}

/* In tenths or finer: @value / @unit. */
static json_t *fraction(uint32_t value, double unit)
{
	return value == PROTO_NO_FIGURE ? json_null() : json_real(value / unit);
}

static json_t *mib_in_bytes(uint32_t mib)
{
	return mib == PROTO_NO_FIGURE ? json_null() : json_integer((json_int_t)mib * KIB * KIB);
}

static json_t *gpus_json(const struct metrics_look *look)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < look->sample.gpus; i++) {
		const struct metrics_gpu_ev *g = &look->gpus[i];

		(void)json_array_append_new(array,
					    json_pack("{s:i, s:o, s:o, s:o, s:o, s:o}", "index",
						      (int)g->gpu, "percent", figure(g->percent),
						      "celsius", figure(g->celsius), "memory_used",
						      mib_in_bytes(g->used_mib), "memory_total",
						      mib_in_bytes(g->total_mib), "watts",
						      fraction(g->milliwatts, 1000)));
	}
	return array;
}

static json_t *qemu_json(const struct metrics_sample_ev *s)
{
	if (!s->qemu_known)
		return json_null();
	return json_pack("{s:I, s:I}", "cpu_ms", (json_int_t)s->qemu_cpu_ms, "rss",
			 (json_int_t)(s->qemu_rss_kib * KIB));
}

static const char *container_word(uint32_t state)
{
	static const char *const words[] = {
		[PROTO_CONTAINER_NONE] = "none",       [PROTO_CONTAINER_WAITING] = "waiting",
		[PROTO_CONTAINER_PULLING] = "pulling", [PROTO_CONTAINER_STARTING] = "starting",
		[PROTO_CONTAINER_RUNNING] = "running", [PROTO_CONTAINER_EXITED] = "exited",
		[PROTO_CONTAINER_FAILED] = "failed",
	};

	return state < ARRAY_LEN(words) ? words[state] : "none";
}

static json_t *bytes_or_null(uint64_t kib, bool known)
{
	return known ? json_integer((json_int_t)(kib * KIB)) : json_null();
}

static json_t *look_json(const struct metrics_look *look)
{
	const struct metrics_sample_ev *s = &look->sample;
	bool root = s->root_kib > 0;

	return json_pack(
		"{s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:s}", "seq",
		(json_int_t)s->number, "time_ms", (json_int_t)s->time_ms, "cpu_percent",
		fraction(s->cpu_permille, 10), "memory_total", (json_int_t)(s->memory_kib * KIB),
		"memory_available", (json_int_t)(s->available_kib * KIB), "network_in",
		(json_int_t)s->network_in, "network_out", (json_int_t)s->network_out, "disk_read",
		(json_int_t)s->disk_read, "disk_written", (json_int_t)s->disk_written, "root_total",
		bytes_or_null(s->root_kib, root), "root_used",
		bytes_or_null(s->root_used_kib, root), "gpus", gpus_json(look), "qemu",
		qemu_json(s), "container", container_word(s->container));
}

json_t *metrics_json(const struct metrics_list *list)
{
	json_t *samples = json_array();

	for (size_t i = 0; i < list->n; i++)
		(void)json_array_append_new(samples, look_json(&list->looks[i]));
	return json_pack("{s:I, s:I, s:o}", "newest", (json_int_t)list->newest, "interval_ms",
			 (json_int_t)list->interval_ms, "samples", samples);
}
