/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of guests' figures in agentd, made by vmmon's own code: what is read, what is refused,
 * what becomes of it as JSON and for the control plane.
 * Trust: a test; reads nothing from outside.
 */
#include "agentd/metrics.h"
#include "vmmon/metrics/series.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct series *series;

static void add(uint16_t gpu_mask)
{
	const struct lines_gpu gpus[PROTO_MAX_GPUS] = {
		[0] = {.percent = 90,
		       .celsius = 70,
		       .used_mib = 10240,
		       .total_mib = 81920,
		       .milliwatts = 350200},
		[1] = {.percent = 31,
		       .celsius = 40,
		       .used_mib = 30720,
		       .total_mib = 81920,
		       .milliwatts = 100000},
		[2] = {PROTO_NO_FIGURE, PROTO_NO_FIGURE, PROTO_NO_FIGURE, PROTO_NO_FIGURE,
		       PROTO_NO_FIGURE},
	};
	const struct series_point point = {
		.time_ms = 1763740000000,
		.memory_kib = 1000,
		.available_kib = 400,
		.network_in = 1,
		.network_out = 2,
		.disk_read = 3,
		.disk_written = 4,
		.root_mib = 10,
		.root_used_mib = 5,
		.qemu_cpu_ms = 77,
		.qemu_rss_mib = 6,
		.qemu_known = gpu_mask != 0,
		.cpu_permille = gpu_mask ? 375 : UINT16_MAX,
		.gpus = gpu_mask,
		.container = PROTO_CONTAINER_RUNNING,
	};

	series_add(series, &point, gpus);
}

static int setup(void **state)
{
	(void)state;
	series = series_new(100);
	return series ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	series_free(series);
	return 0;
}

/* What vmmon answers, on its way to agentd. */
static int receive(struct metrics_list *list, uint32_t lie_samples, uint32_t lie_bytes)
{
	_cleanup_(fdlist_done) struct fdlist fds = {0};
	_cleanup_free_ uint8_t *bytes = NULL;
	struct metrics_read_rep rep = {.newest = series_newest(series), .interval_ms = 500};
	size_t len;

	assert_int_equal(series_records(series, 0, 10, &bytes, &len, &rep.samples), 0);
	rep.bytes = (uint32_t)len + lie_bytes;
	rep.samples += lie_samples;
	assert_int_equal(fdlist_add(&fds, fd_memfd_sealed("metrics", bytes, len)), 0);
	return metrics_receive(&rep, &fds, list, NULL);
}

static char *dump(const struct metrics_list *list)
{
	json_t *json = metrics_json(list);
	char *text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(10));

	json_decref(json);
	return text;
}

static void becomes_json(void **state)
{
	_cleanup_(metrics_done) struct metrics_list list = {0};
	_cleanup_free_ char *text = NULL;

	(void)state;
	add(0);
	add(1u << 0 | 1u << 2);
	assert_int_equal(receive(&list, 0, 0), 0);
	assert_int_equal(list.n, 2);
	assert_int_equal(list.newest, 101);
	text = dump(&list);
	assert_string_equal(
		text,
		"{\"newest\":101,\"interval_ms\":500,\"samples\":[{\"seq\":100,\"time_ms\":"
		"1763740000000,\"cpu_percent\":null,\"memory_total\":1024000,\"memory_available\":"
		"409600,\"network_in\":1,\"network_out\":2,\"disk_read\":3,\"disk_written\":4,"
		"\"root_total\":10485760,\"root_used\":5242880,\"gpus\":[],\"qemu\":null,"
		"\"container\":\"running\"},{\"seq\":101,\"time_ms\":1763740000000,\"cpu_percent\":"
		"37.5,\"memory_total\":1024000,\"memory_available\":409600,\"network_in\":1,"
		"\"network_out\":2,\"disk_read\":3,\"disk_written\":4,\"root_total\":10485760,"
		"\"root_used\":5242880,\"gpus\":[{\"index\":0,\"percent\":90,\"celsius\":70,"
		"\"memory_used\":10737418240,\"memory_total\":85899345920,\"watts\":350.2},{"
		"\"index\":2,\"percent\":null,\"celsius\":null,\"memory_used\":null,"
		"\"memory_total\":null,\"watts\":null}],\"qemu\":{\"cpu_ms\":77,\"rss\":6291456},"
		"\"container\":\"running\"}]}");
}

static void may_be_empty(void **state)
{
	_cleanup_(metrics_done) struct metrics_list list = {0};
	_cleanup_free_ char *text = NULL;

	(void)state;
	assert_int_equal(receive(&list, 0, 0), 0);
	assert_int_equal(list.n, 0);
	text = dump(&list);
	assert_string_equal(text, "{\"newest\":99,\"interval_ms\":500,\"samples\":[]}");
	assert_false(metrics_add_fakes(true, &list));
}

static void refuses_lies(void **state)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	struct metrics_list list;
	uint32_t n;
	size_t len;

	(void)state;
	add(3);
	add(3);
	assert_int_equal(receive(&list, 1, 0), -EBADMSG);
	assert_int_equal(receive(&list, 0, 1), -EBADMSG);
	assert_int_equal(series_records(series, 0, 10, &bytes, &len, &n), 0);
	assert_int_equal(metrics_decode(bytes, len, n, &list, NULL), 0);
	metrics_done(&list);
	/* Cut anywhere. */
	for (size_t cut = 1; cut < len; cut++) {
		assert_int_equal(metrics_decode(bytes, len - cut, n, &list, NULL), -EBADMSG);
		assert_null(list.looks);
	}
	assert_int_equal(metrics_decode(bytes, len, n - 1, &list, NULL), -EBADMSG);
	assert_int_equal(metrics_decode(bytes, len, n + 1, &list, NULL), -EBADMSG);
	/* Begins with a GPU; a sample twice. */
	const size_t sample = sizeof(struct proto_header) + sizeof(struct metrics_sample_ev);
	assert_int_equal(metrics_decode(bytes + sample, len - sample, n, &list, NULL), -EBADMSG);
	memcpy(bytes + len / 2, bytes, len / 2);
	assert_int_equal(metrics_decode(bytes, len, n, &list, NULL), -EBADMSG);
}

static void sums_gpus(void **state)
{
	_cleanup_(metrics_done) struct metrics_list two = {0}, none = {0}, unknown = {0};
	uint32_t percent, celsius, memory;

	(void)state;
	add(0);
	assert_int_equal(receive(&none, 0, 0), 0);
	metrics_sum_gpus(&none, &percent, &celsius, &memory);
	assert_int_equal(percent, PROTO_NO_FIGURE);
	assert_int_equal(celsius, PROTO_NO_FIGURE);
	assert_int_equal(memory, PROTO_NO_FIGURE);
	/* Made up where that was asked for, and only where there are none. */
	assert_false(metrics_add_fakes(false, &none));
	assert_true(metrics_add_fakes(true, &none));
	assert_false(metrics_add_fakes(true, &none));
	metrics_sum_gpus(&none, &percent, &celsius, &memory);
	assert_int_equal(percent, 42000);
	assert_int_equal(celsius, 55000);
	assert_int_equal(memory, 37500);
	add(7);
	assert_int_equal(receive(&two, 0, 0), 0);
	assert_false(metrics_add_fakes(true, &two));
	metrics_sum_gpus(&two, &percent, &celsius, &memory);
	assert_int_equal(percent, 60500);
	assert_int_equal(celsius, 70000);
	assert_int_equal(memory, 25000);
	add(4);
	assert_int_equal(receive(&unknown, 0, 0), 0);
	metrics_sum_gpus(&unknown, &percent, &celsius, &memory);
	assert_int_equal(percent, PROTO_NO_FIGURE);
	assert_int_equal(memory, PROTO_NO_FIGURE);
}

static void tells_use_of_the_guest(void **state)
{
	_cleanup_(metrics_done) struct metrics_list none = {0};
	struct metrics_look look = {
		.sample = {.cpu_permille = 423, .memory_kib = 1000, .available_kib = 250}};
	const struct metrics_list one = {.looks = &look, .n = 1};
	uint32_t cpu, memory;

	(void)state;
	metrics_guest_use(&none, &cpu, &memory);
	assert_int_equal(cpu, PROTO_NO_FIGURE);
	assert_int_equal(memory, PROTO_NO_FIGURE);
	metrics_guest_use(&one, &cpu, &memory);
	assert_int_equal(cpu, 42300);
	assert_int_equal(memory, 75000);
	/* What a guest may say, too. */
	look.sample = (struct metrics_sample_ev){.cpu_permille = UINT32_MAX - 1,
						 .memory_kib = PROTO_FIGURE_MAX};
	metrics_guest_use(&one, &cpu, &memory);
	assert_int_equal(cpu, 100000);
	assert_int_equal(memory, 100000);
	look.sample = (struct metrics_sample_ev){
		.cpu_permille = PROTO_NO_FIGURE, .memory_kib = 1, .available_kib = 2};
	metrics_guest_use(&one, &cpu, &memory);
	assert_int_equal(cpu, PROTO_NO_FIGURE);
	assert_int_equal(memory, PROTO_NO_FIGURE);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(becomes_json),
		CASE(may_be_empty),
		CASE(refuses_lies),
		CASE(sums_gpus),
		cmocka_unit_test(tells_use_of_the_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
