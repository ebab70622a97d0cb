/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line, parsed by the command table.
 *
 * Trust: runs as the operator; reads argv.
 */
#include <getopt.h>

#include "ctl/ctl.h"
#include "ctl/text.h"

#define OPTIONS_MAX 32

/* Does @cmd's name consist of the first @words words of @argv? */
static bool is_named(const struct ctl_command *cmd, char *const argv[], size_t words)
{
	const char *blank = strchr(cmd->name, ' ');
	size_t len = strcspn(cmd->name, " ");

	if ((blank != NULL) != (words == 2) || strlen(argv[0]) != len ||
	    memcmp(argv[0], cmd->name, len) != 0)
		return false;
	return !blank || STR_EQ(argv[1], blank + 1);
}

const struct ctl_command *ctl_find(char *const argv[], size_t n, size_t *ret_words)
{
	/* "gpus recover" before "gpus". */
	for (size_t words = MIN_OF(n, (size_t)2); words > 0; words--)
		for (size_t i = 0; i < ctl_n_commands; i++) {
			if (!is_named(&ctl_commands[i], argv, words))
				continue;
			*ret_words = words;
			return &ctl_commands[i];
		}
	return NULL;
}

const char *ctl_value(const struct ctl *c, enum ctl_opt id)
{
	for (size_t i = c->n_given; i > 0; i--)
		if (c->given[i - 1].id == id)
			return c->given[i - 1].value;
	return NULL;
}

bool ctl_has(const struct ctl *c, enum ctl_opt id)
{
	for (size_t i = 0; i < c->n_given; i++)
		if (c->given[i].id == id)
			return true;
	return false;
}

const char *ctl_arg(const struct ctl *c, size_t i)
{
	return i < c->n_args ? c->args[i] : NULL;
}

/* The tables in getopt_long()'s form. */
struct getopt_tables {
	struct option longs[OPTIONS_MAX + 1];
	char shorts[2 * OPTIONS_MAX + 3];
	size_t n, n_shorts;
};

static void tables_add(struct getopt_tables *t, const struct ctl_option *options, size_t n)
{
	for (size_t i = 0; options && i < n && t->n < OPTIONS_MAX; i++) {
		const struct ctl_option *o = &options[i];

		t->longs[t->n++] =
			(struct option){.name = o->name,
					.has_arg = o->arg ? required_argument : no_argument,
					.val = (int)o->id};
		if (!o->letter)
			continue;
		t->shorts[t->n_shorts++] = o->letter;
		if (o->arg)
			t->shorts[t->n_shorts++] = ':';
	}
}

static const struct ctl_option *find_letter(const struct ctl_option *options, size_t n, int id)
{
	for (size_t i = 0; options && i < n; i++)
		if ((int)options[i].id == id || (options[i].letter && options[i].letter == id))
			return &options[i];
	return NULL;
}

static enum ctl_exit usage_error(struct ctl *c, const char *what, const char *which)
{
	return ctl_fail(c, CTL_USAGE, "%s%s%s%s%s\nTry: qudatactl %s%s--help",
			c->cmd ? c->cmd->name : "", c->cmd ? ": " : "", what, *which ? ": " : "",
			which, c->cmd ? c->cmd->name : "", c->cmd ? " " : "");
}

/* getopt_long() names an unknown letter in optopt; the word that it stood in may not be done yet.
 */
static enum ctl_exit unknown_option(struct ctl *c, const char *word)
{
	const char letter[] = {'-', (char)optopt, 0};
	bool is_letter = optopt > 0 && optopt < OPT_HELP && strncmp(word, "--", 2) != 0;

	return usage_error(c, "unknown or ambiguous option", is_letter ? letter : word);
}

/*
 * Parses options out of @argv ([0] is skipped); with @stop at the first other word, else wherever
 * they stand. @ret_rest is the index of the first word that is no option.
 */
static enum ctl_exit parse_options(struct ctl *c, int argc, char *argv[], bool stop, int *ret_rest)
{
	const struct ctl_option *own = c->cmd ? c->cmd->options : NULL;
	size_t n_own = c->cmd ? c->cmd->n_options : 0;
	struct getopt_tables t = {0};
	int id;

	if (stop)
		t.shorts[t.n_shorts++] = '+';
	t.shorts[t.n_shorts++] = ':';
	tables_add(&t, ctl_global_options, ctl_n_global_options);
	tables_add(&t, own, n_own);
	optind = 0; /* glibc: forget the state of an earlier call */
	opterr = 0;
	while ((id = getopt_long(argc, argv, t.shorts, t.longs, NULL)) != -1) {
		const struct ctl_option *o;

		if (id == '?')
			return unknown_option(c, argv[optind - 1]);
		if (id == ':')
			return usage_error(c, "a value is missing after", argv[optind - 1]);
		o = find_letter(ctl_global_options, ctl_n_global_options, id);
		if (!o)
			o = find_letter(own, n_own, id);
		if (!o)
			return usage_error(c, "unknown option", argv[optind - 1]);
		c->given[c->n_given++] = (struct ctl_given){o->id, o->arg ? optarg : NULL};
	}
	*ret_rest = optind;
	return CTL_OK;
}

static enum ctl_exit parse_arguments(struct ctl *c, int argc, char *argv[])
{
	/* The rest is cut off first: getopt's reordering would hide where it began. */
	int own_argc = argc, first;
	enum ctl_exit r;

	for (int i = 1; c->cmd->takes_rest && i < argc; i++) {
		if (!STR_EQ(argv[i], "--"))
			continue;
		own_argc = i;
		argv[i] = NULL;
		c->rest = &argv[i + 1];
		break;
	}
	r = parse_options(c, own_argc, argv, /* stop= */ false, &first);
	if (r != CTL_OK)
		return r;
	for (int i = first; i < own_argc; i++)
		c->args[c->n_args++] = argv[i];
	if (ctl_has(c, OPT_HELP) || ctl_has(c, OPT_VERSION))
		return CTL_OK;
	if (c->n_args < c->cmd->min_args)
		return usage_error(c, "an argument is missing", c->cmd->args);
	if (c->n_args > c->cmd->max_args)
		return usage_error(c, "unexpected argument", c->args[c->cmd->max_args]);
	return CTL_OK;
}

enum ctl_exit ctl_parse(struct ctl *c, int argc, char *argv[])
{
	size_t words = 0, n_chars = 0;
	int first;
	enum ctl_exit r;

	/* "-jq" is two options in one word: there are never more options than characters. */
	for (int i = 0; i < argc; i++)
		n_chars += strlen(argv[i]);
	c->given = calloc(n_chars + 1, sizeof(*c->given));
	c->args = calloc((size_t)argc + 1, sizeof(*c->args));
	if (!c->given || !c->args)
		return ctl_fail(c, CTL_FAILED, "out of memory");
	r = parse_options(c, argc, argv, /* stop= */ true, &first);
	if (r != CTL_OK)
		return r;
	if (first >= argc)
		return CTL_OK;
	c->cmd = ctl_find(argv + first, (size_t)(argc - first), &words);
	if (!c->cmd)
		return usage_error(c, "unknown command", argv[first]);
	return parse_arguments(c, argc - first - (int)words + 1, argv + first + words - 1);
}

void ctl_done(struct ctl *c)
{
	free(c->given);
	free(c->args);
	c->given = NULL;
	c->args = NULL;
}
