/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages, JSON output and the run's API client: what every command does the same way.
 *
 * Trust: runs as the operator; prints text that may come from the agent or a guest.
 */
#include <stdarg.h>

#include "ctl/api.h"
#include "ctl/ctl.h"
#include "ctl/text.h"

static bool wants_color(int fd)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(fd) && !(no && *no) && !(term && STR_EQ(term, "dumb"));
}

void ctl_setup_output(struct ctl *c)
{
	c->color_out = wants_color(STDOUT_FILENO);
	c->color_err = wants_color(STDERR_FILENO);
}

/* Prints @text escaped, line by line: messages of this program may have several. */
static void put_lines(FILE *f, const char *text)
{
	for (;;) {
		size_t len = strcspn(text, "\n");

		text_put(f, text, len);
		fputc('\n', f);
		if (!text[len] || !text[len + 1])
			return;
		text += len + 1;
	}
}

enum ctl_exit ctl_fail(struct ctl *c, enum ctl_exit code, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	json_t *json;
	va_list ap;

	va_start(ap, fmt);
	text = text_vformat(fmt, ap);
	va_end(ap);
	fputs("qudatactl: ", stderr);
	put_lines(stderr, text);
	if (!c->json)
		return code;
	json = json_pack("{s:s, s:i}", "error", text, "exit", (int)code);
	if (json)
		ctl_print_json(json);
	json_decref(json);
	return code;
}

void ctl_note(struct ctl *c, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;

	if (c->quiet)
		return;
	va_start(ap, fmt);
	text = text_vformat(fmt, ap);
	va_end(ap);
	put_lines(stderr, text);
}

void ctl_print_json(const json_t *json)
{
	/* ASCII only: what is escaped can not reach a terminal as a control character. */
	(void)json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_ENCODE_ANY);
	putchar('\n');
}

struct api *ctl_api(struct ctl *c, enum ctl_exit *ret_code)
{
	_cleanup_free_ char *error = NULL;
	struct api_config config = {
		.socket = ctl_value(c, OPT_SOCKET),
		.url = ctl_value(c, OPT_URL),
		.secret_file = ctl_value(c, OPT_SECRET_FILE),
	};
	enum ctl_exit r;

	if (c->api)
		return c->api;
	if (!config.url && !config.socket)
		config.url = getenv("QUDATA_CTL_URL");
	if (config.url && !config.secret_file)
		config.secret_file = getenv("QUDATA_SECRET_FILE");
	if (!config.socket)
		config.socket = getenv("QUDATA_CTL_SOCKET");
	if (!config.socket)
		config.socket = CTL_SOCKET_DEFAULT;
	r = api_open(&config, &c->api, &error);
	if (r != CTL_OK)
		*ret_code = ctl_fail(c, r, "%s", error);
	return c->api;
}
