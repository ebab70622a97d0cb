/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What guests' figures cost vmmon: CPU and memory of sessions to an sshd of this machine that run
 * the real command.
 *   bench-metrics SSH_PORT KEY_FILE HOST_KEY [GUESTS [SECONDS]]
 * Trust: a test.
 */
#include "common/rpc.h"
#include "vmmon/metrics/metrics.h"

#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/resource.h>

static struct event_base *base;
static unsigned int healthy;

static int start_session(void *ctx, const struct session_handler *handler,
			 struct session **ret_session)
{
	char **words = ctx;
	struct session_target target = {
		.base = base,
		.port = (uint16_t)strtoul(words[0], NULL, 10),
		.user = "root",
		.host_key = words[2],
	};

	if (ssh_pki_import_privkey_file(words[1], NULL, NULL, NULL, &target.management_key) !=
	    SSH_OK)
		return -EINVAL;
	return session_start(&target, handler, ret_session);
}

static void on_health(void *ctx, enum proto_health health, const char *words)
{
	(void)ctx;
	(void)words;
	healthy += health == PROTO_HEALTH_GOOD;
}

static void run_for(uint32_t ms)
{
	for (uint64_t end = rpc_now_ms() + ms; rpc_now_ms() < end;) {
		const struct timeval tv = {.tv_usec = 100000};

		(void)event_base_loopexit(base, &tv);
		(void)event_base_dispatch(base);
	}
}

static double cpu_s(void)
{
	struct rusage use;

	(void)getrusage(RUSAGE_SELF, &use);
	return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
	       (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

/* Private and dirty: what this process and no other takes. */
static long private_kib(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "re");
	char line[128];
	long kib = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Private_Dirty: %ld", &kib) == 1)
			break;
	if (f)
		(void)fclose(f);
	return kib;
}

int main(int argc, char *argv[])
{
	const size_t n = argc > 4 ? strtoul(argv[4], NULL, 10) : 16;
	const uint32_t seconds = argc > 5 ? (uint32_t)strtoul(argv[5], NULL, 10) : 30;
	const struct metrics_config config = {
		.base = base = event_base_new(),
		.pace = {.interval_ms = 500, .silent_ms = 60000, METRICS_PACE_DEFAULT},
		.vm = "bench",
		.ctx = argv + 1,
		.start = start_session,
		.on_health = on_health,
	};
	struct metrics **guests;
	uint64_t samples = 0;
	double begun;
	long before;

	if (argc < 4 || n == 0 || n > 1000)
		return 2;
	/* As in vmmon's main(). */
	(void)signal(SIGPIPE, SIG_IGN);
	(void)mallopt(M_ARENA_MAX, 1);
	(void)mallopt(M_TRIM_THRESHOLD, 64 * 1024);
	(void)mallopt(M_MMAP_THRESHOLD, 64 * 1024);
	guests = calloc(n + 1, sizeof(struct metrics *));
	/* The first pays for what libraries keep. */
	for (size_t i = 0; i <= n; i++) {
		guests[i] = metrics_new(&config);
		metrics_set_up(guests[i], true);
		run_for(i == 0 ? 5000 : 300);
		if (i == 0)
			before = private_kib();
	}
	while (healthy <= n)
		run_for(200);
	run_for(2000);
	for (size_t i = 0; i <= n; i++)
		samples -= metrics_series(guests[i])->n;
	begun = cpu_s();
	run_for(seconds * 1000);
	begun = cpu_s() - begun;
	for (size_t i = 0; i <= n; i++)
		samples += metrics_series(guests[i])->n;
	(void)printf(
		"(h) figures of %zu guests: %.2f samples a second each, %.3f %% of a core each "
		"(aim <= 0.3)\n",
		n + 1, (double)samples / seconds / (double)(n + 1),
		begun / seconds * 100 / (double)(n + 1));
	(void)printf("(h) memory: %ld KiB each with a session and few samples; a full series takes "
		     "%zu KiB and %zu for each GPU (aim <= 300 in all)\n",
		     (private_kib() - before) / (long)n, sizeof(struct series) / 1024,
		     PROTO_SAMPLES_MAX * sizeof(struct series_gpu) / 1024);
	for (size_t i = 0; i <= n; i++)
		metrics_free(guests[i]);
	free(guests);
	event_base_free(base);
	return 0;
}
