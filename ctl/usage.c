/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Texts derived from the command table: help, shell completions, the manual page's lists.
 *
 * Trust: prints constant data only.
 */
#include <ctype.h>

#include "ctl/ctl.h"

#define HELP_COLUMN 26
#define HELP_WIDTH  92
#define MDOC_WIDTH  64 /* room for what characters are written as */

static void print_option(FILE *f, const struct ctl_option *o)
{
	char left[96];

	snprintf(left, sizeof(left), "  %c%c%s --%s%s%s", o->letter ? '-' : ' ',
		 o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name, o->arg ? " " : "",
		 o->arg ? o->arg : "");
	if (strlen(left) >= HELP_COLUMN)
		fprintf(f, "%s\n%*s%s\n", left, HELP_COLUMN, "", o->help);
	else
		fprintf(f, "%-*s%s\n", HELP_COLUMN, left, o->help);
}

static void print_wrapped(FILE *f, const char *text)
{
	size_t column = 0;

	while (*text) {
		size_t len = strcspn(text, " ");

		if (column > 0 && column + 1 + len > HELP_WIDTH) {
			fputc('\n', f);
			column = 0;
		}
		if (column > 0)
			fputc(' ', f);
		fwrite(text, 1, len, f);
		column += len + (column > 0);
		text += len;
		text += strspn(text, " ");
	}
	fputc('\n', f);
}

void ctl_usage(FILE *f)
{
	fputs("Usage: qudatactl [OPTIONS] COMMAND [ARGUMENTS]\n\nCommands:\n", f);
	for (size_t i = 0; i < ctl_n_commands; i++)
		if (!ctl_commands[i].hidden)
			fprintf(f, "  %-14s%s\n", ctl_commands[i].name, ctl_commands[i].summary);
	fputs("\nOptions:\n", f);
	for (size_t i = 0; i < ctl_n_global_options; i++)
		print_option(f, &ctl_global_options[i]);
	fputs("\nAn ID may be shortened as long as it is unique, and left out where there is only "
	      "one "
	      "instance.\nExit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 agent not "
	      "reachable, 5 timeout,\n6 not possible in this state, 7 not permitted.\n"
	      "More about a command: qudatactl COMMAND --help\n",
	      f);
}

void ctl_command_help(FILE *f, const struct ctl_command *cmd)
{
	fprintf(f, "Usage: qudatactl %s%s%s%s\n\n", cmd->name, cmd->n_options ? " [OPTIONS]" : "",
		*cmd->args ? " " : "", cmd->args);
	fprintf(f, "%c%s.\n\n", toupper((unsigned char)cmd->summary[0]), cmd->summary + 1);
	print_wrapped(f, cmd->help);
	if (cmd->n_options)
		fputs("\nOptions:\n", f);
	for (size_t i = 0; i < cmd->n_options; i++)
		print_option(f, &cmd->options[i]);
	fputs("\nOptions of every command:\n", f);
	for (size_t i = 0; i < ctl_n_global_options; i++)
		print_option(f, &ctl_global_options[i]);
}

static void bash_option_words(FILE *f, const struct ctl_option *options, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fprintf(f, " --%s", options[i].name);
}

/* @done has a bit for each option that commands share and that was printed for an earlier one. */
static void bash_values(FILE *f, const struct ctl_option *options, size_t n, uint64_t *done)
{
	for (size_t i = 0; i < n; i++) {
		const struct ctl_option *o = &options[i];
		uint64_t bit = UINT64_C(1) << (o->id - OPT_HELP);

		if (!o->arg || (*done & bit))
			continue;
		*done |= bit;
		fprintf(f, "\t--%s)\n", o->name);
		if (o->complete == CTL_COMPLETE_FILE)
			fputs("\t\t_qudatactl_files -f\n", f);
		else if (o->complete == CTL_COMPLETE_DIR)
			fputs("\t\t_qudatactl_files -d\n", f);
		else if (o->complete == CTL_COMPLETE_GPU)
			fputs("\t\tCOMPREPLY=($(compgen -W \"$(_qudatactl_gpus)\" -- \"$cur\"))\n",
			      f);
		else if (o->complete == CTL_COMPLETE_WORDS)
			fprintf(f, "\t\tCOMPREPLY=($(compgen -W '%s' -- \"$cur\"))\n", o->words);
		fputs("\t\treturn ;;\n", f);
	}
}

/* First words of the visible commands, each once: the table keeps commands of one word together. */
static void command_words(FILE *f, const char *before, const char *after)
{
	const char *last = "";
	size_t last_len = 0;

	for (size_t i = 0; i < ctl_n_commands; i++) {
		const char *name = ctl_commands[i].name;
		size_t len = strcspn(name, " ");

		if (ctl_commands[i].hidden || (len == last_len && memcmp(name, last, len) == 0))
			continue;
		fprintf(f, "%s%.*s%s", before, (int)len, name, after);
		last = name;
		last_len = len;
	}
}

/* Visits the first words that commands of two words begin with, each once. */
static void each_family(FILE *f, void (*visit)(FILE *f, const char *word, size_t len))
{
	const char *last = "";
	size_t last_len = 0;

	for (size_t i = 0; i < ctl_n_commands; i++) {
		const char *name = ctl_commands[i].name;
		size_t len = strcspn(name, " ");

		if (!name[len] || (len == last_len && memcmp(name, last, len) == 0))
			continue;
		visit(f, name, len);
		last = name;
		last_len = len;
	}
}

static bool in_family(const struct ctl_command *cmd, const char *word, size_t len)
{
	return strncmp(cmd->name, word, len) == 0 && cmd->name[len] == ' ';
}

/* The second words that may follow @word. */
static void second_words(FILE *f, const char *word, size_t len)
{
	for (size_t i = 0; i < ctl_n_commands; i++)
		if (in_family(&ctl_commands[i], word, len))
			fprintf(f, " %s", ctl_commands[i].name + len + 1);
}

/* The command that is just @word, or NULL. */
static const struct ctl_command *head_of(const char *word, size_t len)
{
	for (size_t i = 0; i < ctl_n_commands; i++)
		if (strlen(ctl_commands[i].name) == len &&
		    memcmp(ctl_commands[i].name, word, len) == 0)
			return &ctl_commands[i];
	return NULL;
}

static bool is_head(const struct ctl_command *cmd)
{
	for (size_t i = 0; i < ctl_n_commands; i++)
		if (in_family(&ctl_commands[i], cmd->name, strlen(cmd->name)))
			return true;
	return false;
}

static void bash_command(FILE *f, const struct ctl_command *cmd)
{
	fprintf(f, "\t'%s')\n\t\twords='", cmd->name);
	bash_option_words(f, ctl_global_options, ctl_n_global_options);
	bash_option_words(f, cmd->options, cmd->n_options);
	fputs("'", f);
	if (cmd->complete == CTL_COMPLETE_WORDS)
		fprintf(f, "\n\t\twords+=' %s'", cmd->words);
	if (cmd->complete == CTL_COMPLETE_GPU)
		fputs("\n\t\t[[ $cur == -* ]] || words+=\" $(_qudatactl_gpus)\"", f);
	if (cmd->complete == CTL_COMPLETE_BASE_IMAGE)
		fputs("\n\t\t[[ $cur == -* ]] || words+=\" $(_qudatactl_images)\"", f);
	if (cmd->complete == CTL_COMPLETE_INSTANCE || strstr(cmd->args, "[ID]"))
		fputs("\n\t\t[[ $cur == -* ]] || words+=\" $(_qudatactl_ids)\"", f);
	fprintf(f, "\n\t\tfiles=%s ;;\n", cmd->complete == CTL_COMPLETE_FILE ? "1" : "");
}

static void bash_family_word(FILE *f, const char *word, size_t len)
{
	fprintf(f, "\t\t%.*s) command=\"%.*s ${COMP_WORDS[i+1]}\"; break ;;\n", (int)len, word,
		(int)len, word);
}

/* What may follow a first word that is not one of the known pairs yet. */
static void bash_family(FILE *f, const char *word, size_t len)
{
	const struct ctl_command *head = head_of(word, len);

	fprintf(f, "\t'%.*s '*)\n\t\twords='", (int)len, word);
	second_words(f, word, len);
	if (head) {
		bash_option_words(f, ctl_global_options, ctl_n_global_options);
		bash_option_words(f, head->options, head->n_options);
	}
	fputs("' ;;\n", f);
}

void ctl_completion_bash(FILE *f)
{
	uint64_t done = 0;

	fputs("# bash completion for qudatactl, made from its command table\n\n"
	      "_qudatactl_ids()\n{\n"
	      "\tqudatactl list --quiet 2>/dev/null | awk 'NR > 1 { print $1 }'\n}\n\n"
	      "_qudatactl_gpus()\n{\n"
	      "\tqudatactl gpus 2>/dev/null | awk 'NR > 1 { if (NF == 0) exit; print $1 }'\n}\n\n"
	      "_qudatactl_images()\n{\n"
	      "\tqudatactl image list --quiet 2>/dev/null | awk 'NR > 1 { print $1 }'\n}\n\n"
	      "_qudatactl_files()\n{\n"
	      "\tcompopt -o filenames 2>/dev/null\n"
	      "\tmapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen \"$1\" -- \"$cur\")\n}\n\n"
	      "_qudatactl()\n{\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
	      "\tlocal i skip= command= words files=\n"
	      "\tCOMPREPLY=()\n"
	      "\tcase $prev in\n",
	      f);
	bash_values(f, ctl_global_options, ctl_n_global_options, &done);
	for (size_t i = 0; i < ctl_n_commands; i++)
		bash_values(f, ctl_commands[i].options, ctl_commands[i].n_options, &done);
	fputs("\tesac\n"
	      "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
	      "\t\tif [[ -n $skip ]]; then skip=; continue; fi\n"
	      "\t\tcase ${COMP_WORDS[i]} in\n",
	      f);
	for (size_t i = 0; i < ctl_n_global_options; i++)
		if (ctl_global_options[i].arg)
			fprintf(f, "\t\t--%s) skip=1 ;;\n", ctl_global_options[i].name);
	fputs("\t\t-*) ;;\n", f);
	each_family(f, bash_family_word);
	fputs("\t\t*) command=${COMP_WORDS[i]}; break ;;\n"
	      "\t\tesac\n\tdone\n"
	      "\tcase $command in\n",
	      f);
	for (size_t i = 0; i < ctl_n_commands; i++)
		if (!is_head(&ctl_commands[i]))
			bash_command(f, &ctl_commands[i]);
	each_family(f, bash_family);
	fputs("\t*)\n\t\twords='", f);
	command_words(f, " ", "");
	bash_option_words(f, ctl_global_options, ctl_n_global_options);
	fputs("' ;;\n\tesac\n"
	      "\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
	      "\t[[ -z $files ]] || _qudatactl_files -f\n}\n"
	      "complete -F _qudatactl qudatactl\n",
	      f);
}

/* Text inside '...[...]' of an _arguments specification. */
static void zsh_text(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '\'')
			fputs("'\\'", f);
		else if (strchr("[]:\\", *s))
			fputc('\\', f);
		fputc(*s, f);
	}
}

static void zsh_options(FILE *f, const struct ctl_option *options, size_t n, const char *indent)
{
	for (size_t i = 0; i < n; i++) {
		const struct ctl_option *o = &options[i];

		fprintf(f, "%s'*--%s[", indent, o->name);
		zsh_text(f, o->help);
		fputc(']', f);
		if (o->arg) {
			fputc(':', f);
			zsh_text(f, o->name);
			fputc(':', f);
		}
		if (o->complete == CTL_COMPLETE_FILE)
			fputs("_files", f);
		else if (o->complete == CTL_COMPLETE_DIR)
			fputs("_files -/", f);
		else if (o->complete == CTL_COMPLETE_GPU)
			fputs("_qudatactl_gpus", f);
		else if (o->complete == CTL_COMPLETE_WORDS)
			fprintf(f, "(%s)", o->words);
		fputs("' \\\n", f);
	}
}

static void zsh_command(FILE *f, const struct ctl_command *cmd)
{
	fprintf(f, "\t'%s')\n\t\t_arguments $global \\\n", cmd->name);
	zsh_options(f, cmd->options, cmd->n_options, "\t\t\t");
	if (cmd->complete == CTL_COMPLETE_WORDS)
		fprintf(f, "\t\t\t'1:what:(%s)' ;;\n", cmd->words);
	else if (cmd->complete == CTL_COMPLETE_INSTANCE)
		fputs("\t\t\t'1:instance:_qudatactl_ids' ;;\n", f);
	else if (cmd->complete == CTL_COMPLETE_GPU)
		fputs("\t\t\t'1:GPU:_qudatactl_gpus' ;;\n", f);
	else if (cmd->complete == CTL_COMPLETE_BASE_IMAGE)
		fputs("\t\t\t'1:image:_qudatactl_images' ;;\n", f);
	else if (cmd->complete == CTL_COMPLETE_FILE)
		fputs("\t\t\t'*:file:_files' ;;\n", f);
	else
		fputs("\t\t\t&& return ;;\n", f);
}

/* A first word that is no command by itself is described by what may follow it. */
static void zsh_describe_family(FILE *f, const char *word, size_t len)
{
	if (head_of(word, len))
		return;
	fprintf(f, "\t\t'%.*s:", (int)len, word);
	second_words(f, word, len);
	fputs("'\n", f);
}

static void zsh_family(FILE *f, const char *word, size_t len)
{
	const char *known = head_of(word, len) ? "" : "return; ";

	fprintf(f, "\tif [[ $name == %.*s ]]; then\n\t\tif (( CURRENT == 2 )); then compadd",
		(int)len, word);
	second_words(f, word, len);
	fprintf(f, "; %sfi\n\t\tif (( CURRENT > 2 )) && [[ \" ", known);
	second_words(f, word, len);
	fprintf(f,
		" \" == *\" $words[2] \"* ]]; then\n"
		"\t\t\tname=\"%.*s $words[2]\"\n\t\t\tshift words\n\t\t\t(( CURRENT-- ))\n"
		"\t\tfi\n\tfi\n",
		(int)len, word);
}

void ctl_completion_zsh(FILE *f)
{
	fputs("#compdef qudatactl\n# zsh completion for qudatactl, made from its command table\n\n"
	      "_qudatactl_ids()\n{\n"
	      "\tcompadd -- $(qudatactl list --quiet 2>/dev/null | awk 'NR > 1 { print $1 "
	      "}')\n}\n\n"
	      "_qudatactl_gpus()\n{\n"
	      "\tcompadd -- $(qudatactl gpus 2>/dev/null | awk 'NR > 1 { if (NF == 0) exit; print "
	      "$1 }')\n}\n\n"
	      "_qudatactl_images()\n{\n"
	      "\tcompadd -- $(qudatactl image list --quiet 2>/dev/null | awk 'NR > 1 { print $1 "
	      "}')\n}\n\n"
	      "_qudatactl()\n{\n"
	      "\tlocal -a global commands\n"
	      "\tlocal context state line\n"
	      "\ttypeset -A opt_args\n"
	      "\tglobal=(\n",
	      f);
	for (size_t i = 0; i < ctl_n_global_options; i++) {
		const struct ctl_option *o = &ctl_global_options[i];

		fprintf(f, "\t\t'*--%s[", o->name);
		zsh_text(f, o->help);
		fprintf(f, "]%s%s%s'\n", o->arg ? ":" : "", o->arg ? o->name : "",
			!o->arg                            ? ""
			: o->complete == CTL_COMPLETE_FILE ? ":_files"
							   : ":");
	}
	fputs("\t)\n\tcommands=(\n", f);
	for (size_t i = 0; i < ctl_n_commands; i++) {
		const struct ctl_command *cmd = &ctl_commands[i];

		if (cmd->hidden || strchr(cmd->name, ' '))
			continue;
		fprintf(f, "\t\t'%s:", cmd->name);
		zsh_text(f, cmd->summary);
		fputs("'\n", f);
	}
	each_family(f, zsh_describe_family);
	fputs("\t)\n"
	      "\t_arguments -C $global '1:command:->command' '*::argument:->argument'\n"
	      "\tif [[ $state == command ]]; then\n\t\t_describe command "
	      "commands\n\t\treturn\n\tfi\n"
	      "\tlocal name=$line[1]\n",
	      f);
	each_family(f, zsh_family);
	fputs("\tcase $name in\n", f);
	for (size_t i = 0; i < ctl_n_commands; i++)
		zsh_command(f, &ctl_commands[i]);
	fputs("\tesac\n}\n\n_qudatactl \"$@\"\n", f);
}

/* Text in mdoc: no bare backslash, no two hyphens (they would become a dash). */
static void mdoc_text(FILE *f, const char *s)
{
	for (; *s; s++) {
		if (*s == '\\')
			fputs("\\e", f);
		else if (*s == '"')
			fputs("\\(dq", f);
		else if (*s == '~')
			fputs("\\(ti", f);
		else if (*s == '-')
			fputs("\\-", f);
		else
			fputc(*s, f);
	}
}

/* One sentence a line, and lines that are not too long, as manual pages are written. */
static void mdoc_sentences(FILE *f, const char *s)
{
	size_t column = 0;

	while (*s) {
		_cleanup_free_ char *word = strndup(s, strcspn(s, " "));
		size_t len = word ? strlen(word) : 0;

		if (!word)
			return;
		if (column > 0 && column + 1 + len > MDOC_WIDTH) {
			fputc('\n', f);
			column = 0;
		}
		if (column > 0)
			fputc(' ', f);
		mdoc_text(f, word);
		column += len + (column > 0);
		if (len > 0 && word[len - 1] == '.') {
			fputc('\n', f);
			column = 0;
		}
		s += len;
		s += strspn(s, " ");
	}
	if (column > 0)
		fputc('\n', f);
}

/* A synopsis such as "[ID] FILE": brackets become optional arguments. */
static void mdoc_args(FILE *f, const char *args)
{
	while (*args) {
		bool optional = *args == '[';
		size_t len = strcspn(args + optional, optional ? "]" : " ");

		_cleanup_free_ char *arg = strndup(args + optional, len);

		fputs(optional ? " Oo Ar " : " Ar ", f);
		mdoc_text(f, arg ? arg : "");
		fputs(optional ? " Oc" : "", f);
		args += len + (optional ? 2 : 0);
		args += strspn(args, " ");
	}
}

static void mdoc_options(FILE *f, const struct ctl_option *options, size_t n)
{
	if (n == 0)
		return;
	fputs(".Bl -tag -width Ds\n", f);
	for (size_t i = 0; i < n; i++) {
		fputs(".It", f);
		if (options[i].letter)
			fprintf(f, " Fl %c ,", options[i].letter);
		fprintf(f, " Fl \\-%s", options[i].name);
		if (options[i].arg)
			fprintf(f, " Ar %s", options[i].arg);
		fputc('\n', f);
		mdoc_text(f, options[i].help);
		fputs(".\n", f);
	}
	fputs(".El\n", f);
}

void ctl_mdoc(FILE *f)
{
	fputs(".Ss Options of every command\n", f);
	mdoc_options(f, ctl_global_options, ctl_n_global_options);
	fputs(".Ss Commands\n.Bl -tag -width Ds\n", f);
	for (size_t i = 0; i < ctl_n_commands; i++) {
		const struct ctl_command *cmd = &ctl_commands[i];

		if (cmd->hidden)
			continue;
		fprintf(f, ".It Cm %s", cmd->name);
		if (cmd->n_options)
			fputs(" Oo Ar options Oc", f);
		mdoc_args(f, cmd->args);
		fprintf(f, "\n%c", toupper((unsigned char)cmd->summary[0]));
		mdoc_text(f, cmd->summary + 1);
		fputs(".\n", f);
		mdoc_sentences(f, cmd->help);
		mdoc_options(f, cmd->options, cmd->n_options);
	}
	fputs(".El\n", f);
}
