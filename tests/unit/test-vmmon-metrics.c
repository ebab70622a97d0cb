/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of a guest's figures: lines, the command that prints them, the series, QEMU's process.
 * How streams are made and kept is in test-vmmon-ssh.c, with a real sshd.
 * Trust: a test; reads nothing from outside.
 */
#include "vmmon/metrics/command.h"
#include "vmmon/metrics/lines.h"
#include "vmmon/metrics/process.h"
#include "vmmon/metrics/series.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

#include <cmocka.h>

#define HEAD LINES_HEAD "\n"
#define CPU  "cpu 100 0 50 800 50 0 0 0\n"
#define MEM  "mem 1000 600\n"

struct heard {
	unsigned int looks, gpus;
	uint32_t index;
	struct lines_look look;
	struct lines_gpu gpu;
};

static void on_look(void *arg, const struct lines_look *look)
{
	struct heard *h = arg;

	h->looks++;
	h->look = *look;
}

static void on_gpu(void *arg, uint32_t index, const struct lines_gpu *gpu)
{
	struct heard *h = arg;

	h->gpus++;
	h->index = index;
	h->gpu = *gpu;
}

static int feed_len(const char *text, size_t len, size_t step, struct heard *h)
{
	const struct lines_handler handler = {h, on_look, on_gpu};
	struct lines l = {0};
	int r = 0;

	*h = (struct heard){0};
	for (size_t at = 0; at < len && r == 0; at += step)
		r = lines_feed(&l, text + at, MIN_OF(step, len - at), &handler);
	return r;
}

static int feed(const char *text, struct heard *h)
{
	struct heard pieces;
	int r = feed_len(text, strlen(text), strlen(text) + 1, h);

	/* However it is cut. */
	assert_int_equal(feed_len(text, strlen(text), 1, &pieces), r);
	assert_memory_equal(&pieces, h, sizeof(pieces));
	return r;
}

static void reads_a_look(void **state)
{
	struct heard h;

	(void)state;
	assert_int_equal(feed("Welcome!\nto this machine\n\n" HEAD "fs 2000 500\n" CPU MEM
			      "net 7 8\ndsk 3 4\nend\n",
			      &h),
			 0);
	assert_int_equal(h.looks, 1);
	assert_int_equal(h.look.cpu_total, 1000);
	assert_int_equal(h.look.cpu_busy, 150);
	assert_int_equal(h.look.memory_kib, 1000);
	assert_int_equal(h.look.available_kib, 600);
	assert_int_equal(h.look.network_in, 7);
	assert_int_equal(h.look.network_out, 8);
	assert_int_equal(h.look.disk_read, 3 * 512);
	assert_int_equal(h.look.disk_written, 4 * 512);
	assert_int_equal(h.look.root_kib, 2000);
	assert_int_equal(h.look.root_used_kib, 500);
	/* In another order, and what is told seldom stays. */
	assert_int_equal(feed(HEAD "fs 9 9\n" CPU MEM "end\n" MEM CPU "end\n", &h), 0);
	assert_int_equal(h.looks, 2);
	assert_int_equal(h.look.root_kib, 9);
}

static void refuses_what_is_none(void **state)
{
	static const char *const bad[] = {
		"hello\n",
		"\n",
		"cpu\n",
		"cpu 1 2 3 4 5 6 7\n",
		"cpu 1 2 3 4 5 6 7 8 9\n",
		"cpu 1 2 3 4 5 6 7 8 \n",
		"cpu  1 2 3 4 5 6 7 8\n",
		"cpu -1 2 3 4 5 6 7 8\n",
		"cpu 1 2 3 4 5 6 7 0x8\n",
		"cpu 1 2 3 4 5 6 7 99999999999999999\n",
		"cpu 1 2 3 4 5 6 7 9007199254740992\n",
		CPU CPU,
		"mem 5 6\n",
		"mem  6\n",
		"mem 5\n",
		"fs 5 6\n",
		"dsk 1 17592186044416\n",
		"net 1 2\r\n",
		"end\n",
		CPU "end\n",
		CPU MEM "end \n",
		"END\n",
		"gp 1\n",
		HEAD,
	};
	struct heard h;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char text[512];

		(void)snprintf(text, sizeof(text), HEAD "%s", bad[i]);
		if (feed(text, &h) != -EBADMSG)
			fail_msg("taken: %s", bad[i]);
		assert_int_equal(h.looks, 0);
	}
	assert_int_equal(feed_len(HEAD "en\0d\n", strlen(HEAD) + 5, 99, &h), -EBADMSG);
}

static void bounds_lines_and_greetings(void **state)
{
	static char text[2 * LINES_SKIP_MAX];
	struct heard h;

	(void)state;
	memset(text, 'x', sizeof(text));
	assert_int_equal(feed_len(text, LINES_SKIP_MAX, 7, &h), 0);
	assert_int_equal(feed_len(text, LINES_SKIP_MAX + 1, 7, &h), -EMSGSIZE);
	memset(text, '\n', sizeof(text));
	assert_int_equal(feed_len(text, sizeof(text), 7, &h), -EMSGSIZE);
	memcpy(text, HEAD, strlen(HEAD));
	memset(text + strlen(HEAD), '1', LINES_MAX);
	assert_int_equal(feed_len(text, strlen(HEAD) + LINES_MAX - 1, 7, &h), 0);
	assert_int_equal(feed_len(text, strlen(HEAD) + LINES_MAX, 7, &h), -EMSGSIZE);
}

static void gpu_is(const char *line, uint32_t percent, uint32_t celsius, uint32_t used,
		   uint32_t total, uint32_t milliwatts)
{
	char text[256];
	struct heard h;

	(void)snprintf(text, sizeof(text), HEAD "gpu %s\n", line);
	assert_int_equal(feed(text, &h), 0);
	assert_int_equal(h.gpus, 1);
	assert_int_equal(h.gpu.percent, percent);
	assert_int_equal(h.gpu.celsius, celsius);
	assert_int_equal(h.gpu.used_mib, used);
	assert_int_equal(h.gpu.total_mib, total);
	assert_int_equal(h.gpu.milliwatts, milliwatts);
}

static void reads_gpus(void **state)
{
	static const char *const none[] = {
		"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
		"",
		"1",
		"1, 2, 3, 4, 5",
		"1, 2, 3, 4, 5, 6, 7",
		"x, 2, 3, 4, 5, 6",
		"16, 2, 3, 4, 5, 6",
		"99999999999999999, 2, 3, 4, 5, 6",
		"-1, 2, 3, 4, 5, 6",
	};
	const uint32_t no = PROTO_NO_FIGURE;
	struct heard h;

	(void)state;
	gpu_is("0, 97, 61, 10240, 81920, 350.25", 97, 61, 10240, 81920, 350250);
	gpu_is("15, 0, 30, 0, 81920, 71", 0, 30, 0, 81920, 71000);
	gpu_is("3, [N/A], [Not Supported], 1, 2, [Unknown Error]", no, no, 1, 2, no);
	gpu_is("3, 101, 251, 3, 2, 99999999999", no, no, no, 2, no);
	gpu_is("3, , , , , ", no, no, no, no, no);
	gpu_is("3, 1, 2, 3, 4, 5.6789", 1, 2, 3, 4, 5678);
	gpu_is("3, 1, 2, 3, 4, 5.", 1, 2, 3, 4, 5000);
	gpu_is("3, 1, 2, 3, 4, .5", 1, 2, 3, 4, no);
	gpu_is("3, 1, 2, 3, 4, 5.6.7", 1, 2, 3, 4, no);
	for (size_t i = 0; i < ARRAY_LEN(none); i++) {
		char text[256];

		(void)snprintf(text, sizeof(text), HEAD "gpu %s\n", none[i]);
		assert_int_equal(feed(text, &h), 0);
		assert_int_equal(h.gpus, 0);
	}
}

/* The real command on this machine: Linux, with some /bin/sh. */
static void command_prints_looks(void **state)
{
	char command[COMMAND_MAX], text[4096] = "";
	size_t used = 0;
	struct heard h;
	int pipes[2];
	pid_t pid;

	(void)state;
	command_make(100, command);
	assert_non_null(strstr(command, "sleep 0.100 "));
	assert_true(strlen(command) < COMMAND_MAX - 1);
	assert_int_equal(pipe(pipes), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)dup2(pipes[1], STDOUT_FILENO);
		(void)close(pipes[0]);
		(void)close(pipes[1]);
		(void)execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	(void)close(pipes[1]);
	do {
		ssize_t n = read(pipes[0], text + used, sizeof(text) - 1 - used);

		assert_true(n > 0);
		used += (size_t)n;
		text[used] = '\0';
		assert_int_equal(feed_len(text, used, used, &h), 0);
	} while (h.looks < 3);
	assert_true(h.look.cpu_total > 0 && h.look.cpu_busy <= h.look.cpu_total);
	assert_true(h.look.memory_kib > 0 && h.look.available_kib <= h.look.memory_kib);
	assert_true(h.look.root_kib > 0);
	/* Nobody reads any more: it ends by itself. */
	(void)close(pipes[0]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	command_make(60000, command);
	assert_non_null(strstr(command, "sleep 60.000 "));
}

static struct series_point point_of(uint64_t n)
{
	return (struct series_point){
		.time_ms = 1000 * n, .memory_kib = n, .cpu_permille = UINT16_MAX, .root_mib = 3};
}

struct records {
	uint32_t samples, gpus;
	uint64_t first, last;
	struct metrics_sample_ev sample;
	struct metrics_gpu_ev gpu;
};

static void read_records(const struct series *s, uint64_t since, uint32_t max, struct records *ret)
{
	const struct proto_conn conn = {
		.self = PROTO_AGENTD, .peer = PROTO_VMMON, .state = PROTO_ST_READY};
	_cleanup_free_ uint8_t *bytes = NULL;
	uint32_t n;
	size_t len;

	*ret = (struct records){0};
	assert_int_equal(series_records(s, since, max, &bytes, &len, &n), 0);
	for (size_t at = 0; at < len;) {
		const struct proto_op *op;
		struct proto_header header;
		union proto_body body;

		memcpy(&header, bytes + at, sizeof(header));
		assert_int_equal(proto_decode_answer(&conn, bytes + at, sizeof(header) + header.len,
						     0, &op, &header, &body),
				 0);
		at += sizeof(header) + header.len;
		if (op->number == OP_METRICS_SAMPLE) {
			memcpy(&ret->sample, &body, sizeof(ret->sample));
			ret->first = ret->samples++ == 0 ? ret->sample.number : ret->first;
			ret->last = ret->sample.number;
		} else {
			assert_int_equal(op->number, OP_METRICS_GPU);
			memcpy(&ret->gpu, &body, sizeof(ret->gpu));
			assert_int_equal(ret->gpu.number, ret->last);
			ret->gpus++;
		}
	}
	assert_int_equal(ret->samples, n);
}

static void series_forgets_the_oldest(void **state)
{
	struct lines_gpu gpus[PROTO_MAX_GPUS] = {0};
	struct series *s = series_new(5000);
	struct records r;

	(void)state;
	assert_int_equal(series_newest(s), 4999);
	read_records(s, 0, PROTO_SAMPLES_MAX, &r);
	assert_int_equal(r.samples, 0);
	for (uint64_t i = 0; i < 3 * PROTO_SAMPLES_MAX; i++) {
		struct series_point point = point_of(i);

		series_add(s, &point, gpus);
		assert_int_equal(series_newest(s), 5000 + i);
	}
	read_records(s, 0, PROTO_SAMPLES_MAX, &r);
	assert_int_equal(r.samples, PROTO_SAMPLES_MAX);
	assert_int_equal(r.last, series_newest(s));
	assert_int_equal(r.last - r.first + 1, PROTO_SAMPLES_MAX);
	assert_int_equal(r.sample.memory_kib, 3 * PROTO_SAMPLES_MAX - 1);
	assert_int_equal(r.sample.cpu_permille, PROTO_NO_FIGURE);
	assert_int_equal(r.sample.root_kib, 3 * 1024);
	read_records(s, 0, 5, &r);
	assert_int_equal(r.samples, 5);
	assert_int_equal(r.last, series_newest(s));
	read_records(s, series_newest(s) - 3, 100, &r);
	assert_int_equal(r.samples, 3);
	assert_int_equal(r.first, series_newest(s) - 2);
	read_records(s, series_newest(s) - 3, 2, &r);
	assert_int_equal(r.samples, 2);
	assert_int_equal(r.last, series_newest(s));
	read_records(s, series_newest(s), 100, &r);
	assert_int_equal(r.samples, 0);
	read_records(s, PROTO_FIGURE_MAX, 100, &r);
	assert_int_equal(r.samples, 0);
	series_free(s);
}

static void series_keeps_gpus(void **state)
{
	struct lines_gpu gpus[PROTO_MAX_GPUS] = {
		[2] = {.percent = 97,
		       .celsius = 61,
		       .used_mib = 10,
		       .total_mib = 20,
		       .milliwatts = 350250},
		[15] = {PROTO_NO_FIGURE, PROTO_NO_FIGURE, PROTO_NO_FIGURE, PROTO_NO_FIGURE,
			PROTO_NO_FIGURE},
	};
	struct series_point point = point_of(1);
	struct series *s = series_new(1);
	struct records r;

	(void)state;
	series_add(s, &point, gpus);
	point.gpus = 1u << 2;
	series_add(s, &point, gpus);
	read_records(s, 0, 10, &r);
	assert_int_equal(r.gpus, 1);
	assert_int_equal(r.gpu.gpu, 2);
	assert_int_equal(r.gpu.percent, 97);
	assert_int_equal(r.gpu.celsius, 61);
	assert_int_equal(r.gpu.used_mib, 10);
	assert_int_equal(r.gpu.total_mib, 20);
	assert_int_equal(r.gpu.milliwatts, 350200);
	point.gpus = 1u << 15;
	series_add(s, &point, gpus);
	read_records(s, 0, 10, &r);
	assert_int_equal(r.gpus, 2);
	assert_int_equal(r.sample.gpus, 1);
	assert_int_equal(r.gpu.gpu, 15);
	assert_int_equal(r.gpu.percent, PROTO_NO_FIGURE);
	assert_int_equal(r.gpu.celsius, PROTO_NO_FIGURE);
	assert_int_equal(r.gpu.used_mib, PROTO_NO_FIGURE);
	assert_int_equal(r.gpu.total_mib, PROTO_NO_FIGURE);
	assert_int_equal(r.gpu.milliwatts, PROTO_NO_FIGURE);
	/* All there can be fit into the memfd. */
	point.gpus = UINT16_MAX;
	for (size_t i = 0; i < PROTO_SAMPLES_MAX; i++)
		series_add(s, &point, gpus);
	read_records(s, 0, PROTO_SAMPLES_MAX, &r);
	assert_int_equal(r.gpus, PROTO_SAMPLES_MAX * PROTO_MAX_GPUS);
	series_free(s);
}

static void reads_processes(void **state)
{
	uint64_t cpu_ms, rss_kib;

	(void)state;
	assert_int_equal(
		process_parse("77 (qemu-system-x86) S 1 77 77 0 -1 4194560 7 0 0 0 250 150 0 0 20 "
			      "0 4 0 9001 1234567 2000 18446744073709551615 1 1\n",
			      &cpu_ms, &rss_kib),
		0);
	assert_int_equal(cpu_ms, 400 * 1000 / (uint64_t)sysconf(_SC_CLK_TCK));
	assert_int_equal(rss_kib, 2000 * (uint64_t)sysconf(_SC_PAGESIZE) / 1024);
	/* A name may look like the fields behind it. */
	assert_int_equal(process_parse("7 (x) R (qemu-system-) S 1 7\n", &cpu_ms, &rss_kib),
			 -EBADMSG);
	assert_int_equal(process_parse("7 (vfio-broker) S 1 77 77 0 -1 4194560 7 0 0 0 250 150 0 0 "
				       "20 0 4 0 9001 1234567 2000 1\n",
				       &cpu_ms, &rss_kib),
			 -EBADMSG);
	assert_int_equal(process_parse("7 (qemu-system-x86) S 1 77\n", &cpu_ms, &rss_kib),
			 -EBADMSG);
	assert_int_equal(process_parse("", &cpu_ms, &rss_kib), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_a_look),
		cmocka_unit_test(refuses_what_is_none),
		cmocka_unit_test(bounds_lines_and_greetings),
		cmocka_unit_test(reads_gpus),
		cmocka_unit_test(command_prints_looks),
		cmocka_unit_test(series_forgets_the_oldest),
		cmocka_unit_test(series_keeps_gpus),
		cmocka_unit_test(reads_processes),
	};

	(void)signal(SIGPIPE, SIG_DFL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
