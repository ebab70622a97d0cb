/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How far a long step is: a bar on a terminal, some lines elsewhere. And the signals that end it.
 *
 * Trust: runs as the operator; prints numbers and constant words.
 */
#include <signal.h>
#include <time.h>

#include "ctl/image/image.h"

#define BAR_WIDTH      24
#define REDRAW_MS      100
#define LINE_EVERY_MS  10000 /* where there is no terminal */
#define LINE_EVERY_PCT 25

static volatile sig_atomic_t was_interrupted;

static void on_signal(_unused_ int signal)
{
	was_interrupted = 1;
}

void interrupt_catch(void)
{
	struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: waits end */

	(void)sigaction(SIGINT, &action, NULL);
	(void)sigaction(SIGTERM, &action, NULL);
	(void)sigaction(SIGHUP, &action, NULL);
}

bool interrupted(void)
{
	return was_interrupted;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void progress_bytes(uint64_t bytes, char ret_text[static 24])
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	size_t unit = 0;

	for (; value >= 1024 && unit + 1 < ARRAY_LEN(units); unit++)
		value /= 1024;
	(void)snprintf(ret_text, 24, unit && value < 100 ? "%.1f %s" : "%.0f %s", value,
		       units[unit]);
}

static int percent(const struct progress *p)
{
	return p->total ? (int)MIN_OF(p->done * 100 / p->total, (uint64_t)100) : -1;
}

static void show(struct progress *p, int64_t now)
{
	char done[24], total[24], rate[24], bar[BAR_WIDTH + 1];
	int pct = percent(p);

	progress_bytes(p->done, done);
	progress_bytes(p->total, total);
	progress_bytes(p->done * 1000 / (uint64_t)MAX_OF(now - p->begun_ms, INT64_C(1)), rate);
	if (!p->tty) {
		if (pct >= 0)
			fprintf(stderr, "%s: %d %% of %s\n", p->what, pct, total);
		else
			fprintf(stderr, "%s: %s\n", p->what, done);
		return;
	}
	for (int i = 0; i < BAR_WIDTH; i++)
		bar[i] = i * 100 < pct * BAR_WIDTH ? '#' : '.';
	bar[BAR_WIDTH] = '\0';
	if (pct >= 0)
		fprintf(stderr, "\r%s [%s] %3d %% of %s, %s/s\033[K", p->what, bar, pct, total,
			rate);
	else
		fprintf(stderr, "\r%s %s, %s/s\033[K", p->what, done, rate);
	p->line_open = true;
}

void progress_begin(struct progress *p, const struct ctl *c, const char *what, uint64_t total)
{
	*p = (struct progress){.what = what,
			       .quiet = c->quiet,
			       .tty = isatty(STDERR_FILENO),
			       .total = total,
			       .begun_ms = now_ms(),
			       .shown_ms = now_ms()};
	if (!p->quiet && !p->tty)
		fprintf(stderr, "%s\n", what);
}

void progress_update(struct progress *p, uint64_t done)
{
	int64_t now = now_ms();
	int pct;

	p->done = done;
	if (p->quiet)
		return;
	pct = percent(p);
	if (p->tty && now - p->shown_ms < REDRAW_MS)
		return;
	if (!p->tty && now - p->shown_ms < LINE_EVERY_MS &&
	    (pct < 0 || pct == 100 || pct / LINE_EVERY_PCT <= p->shown_percent / LINE_EVERY_PCT))
		return;
	show(p, now);
	p->shown_ms = now;
	p->shown_percent = MAX_OF(pct, 0);
}

void progress_remark(struct progress *p, const char *text)
{
	if (p->quiet)
		return;
	progress_end(p);
	fprintf(stderr, "%s: %s\n", p->what, text);
}

void progress_end(struct progress *p)
{
	if (p->line_open)
		fputs("\r\033[K", stderr);
	p->line_open = false;
}
