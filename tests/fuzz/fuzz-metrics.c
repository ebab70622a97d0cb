/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz harness of a guest's figures, and of what agentd reads of them. The first byte says which;
 * what comes out of lines does not depend on how they were cut.
 * Trust: a test; reads the fuzzer's input.
 */
#include "agentd/lastwords.h"
#include "agentd/metrics.h"
#include "vmmon/metrics/lines.h"
#include "vmmon/metrics/process.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void add(uint64_t *hash, uint64_t value)
{
	*hash = (*hash ^ value) * UINT64_C(0x100000001b3);
}

static void on_look(void *arg, const struct lines_look *look)
{
	assert(look->cpu_busy <= look->cpu_total && look->available_kib <= look->memory_kib);
	assert(look->root_used_kib <= look->root_kib && look->network_in <= PROTO_FIGURE_MAX);
	assert(look->disk_written <= PROTO_FIGURE_MAX);
	add(arg, look->cpu_busy + look->network_out);
}

static void on_gpu(void *arg, uint32_t index, const struct lines_gpu *gpu)
{
	assert(index < PROTO_MAX_GPUS);
	assert(gpu->percent <= 100 || gpu->percent == PROTO_NO_FIGURE);
	assert(gpu->used_mib <= gpu->total_mib || gpu->used_mib == PROTO_NO_FIGURE);
	add(arg, index + gpu->milliwatts);
}

static int feed(const uint8_t *data, size_t size, size_t step, uint64_t *ret_hash)
{
	const struct lines_handler handler = {ret_hash, on_look, on_gpu};
	struct lines l = {0};
	int r = 0;

	*ret_hash = 0;
	for (size_t at = 0; at < size && r == 0; at += step)
		r = lines_feed(&l, data + at, MIN_OF(step, size - at), &handler);
	assert(l.used < LINES_MAX && l.skipped <= LINES_SKIP_MAX + 1);
	return r;
}

static void fuzz_lines(const uint8_t *data, size_t size)
{
	uint64_t whole, pieces;
	int r = feed(data, size, size ? size : 1, &whole);

	assert(feed(data, size, 3, &pieces) == r && whole == pieces);
}

static void fuzz_records(const uint8_t *data, size_t size)
{
	uint32_t n = size > 0 ? data[0] : 0;
	struct metrics_list list;
	json_t *json;

	if (size == 0 || metrics_decode(data + 1, size - 1, n, &list, NULL) < 0)
		return;
	assert(list.n == n);
	json = metrics_json(&list);
	assert(json);
	json_decref(json);
	metrics_done(&list);
}

static void fuzz_words(const char *text, size_t size)
{
	char words[LASTWORDS_SIZE];

	lastwords_text(text, size, words);
	assert(strlen(words) < sizeof(words));
	for (const char *p = words; *p; p++)
		assert(*p >= ' ' && *p <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = NULL;
	uint64_t cpu_ms, rss_kib;

	if (size == 0)
		return 0;
	text = strndup((const char *)data + 1, size - 1);
	switch (data[0] % 4) {
	case 0:
		fuzz_lines(data + 1, size - 1);
		break;
	case 1:
		fuzz_records(data + 1, size - 1);
		break;
	case 2:
		fuzz_words((const char *)data + 1, size - 1);
		break;
	default:
		(void)process_parse(text, &cpu_ms, &rss_kib);
	}
	return 0;
}
