/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of qudatactl share: exit codes, the command table's types, one run's state.
 *
 * Trust: runs as the operator; reads argv, environment and the agent's answers.
 */
#pragma once

#include <jansson.h>

#include "common/base.h"

#define CTL_SOCKET_DEFAULT "/run/qudata/ctl.sock"

/* The exit status is an interface: scripts branch on it, the manual page documents it. */
enum ctl_exit {
	CTL_OK = 0,
	CTL_FAILED = 1,      /* the request was refused, or something broke */
	CTL_USAGE = 2,       /* the command line is wrong */
	CTL_NOT_FOUND = 3,   /* no such instance, key or image */
	CTL_UNREACHABLE = 4, /* the agent does not answer */
	CTL_TIMEOUT = 5,     /* it did not happen in time */
	CTL_CONFLICT = 6,    /* not possible in its present state, or while it is in use */
	CTL_DENIED = 7,      /* no permission: socket mode, secret, or not root */
};

/* What a shell may offer for a word. */
enum ctl_complete {
	CTL_COMPLETE_NONE,
	CTL_COMPLETE_FILE,
	CTL_COMPLETE_DIR,
	CTL_COMPLETE_INSTANCE,
	CTL_COMPLETE_GPU,
	CTL_COMPLETE_BASE_IMAGE,
	CTL_COMPLETE_WORDS, /* those in .words, separated by blanks */
};

/* Option numbers are unique over all commands, so that a parsed option needs no context. */
enum ctl_opt {
	OPT_HELP = 256,
	OPT_VERSION,
	OPT_JSON,
	OPT_QUIET,
	OPT_SOCKET,
	OPT_URL,
	OPT_SECRET_FILE,
	OPT_NAME,
	OPT_CPUS,
	OPT_MEMORY,
	OPT_DISK,
	OPT_PORT,
	OPT_ENV,
	OPT_ENV_FILE,
	OPT_IMAGE,
	OPT_COMMAND,
	OPT_SSH_KEY,
	OPT_WAIT,
	OPT_NO_WAIT,
	OPT_TIMEOUT,
	OPT_YES,
	OPT_FOLLOW,
	OPT_RAW,
	OPT_STATE,
	OPT_IMAGES_DIR,
	OPT_GPUS,
	OPT_TREE,
	OPT_ALL,
	OPT_HELPER_CONFIG,
	OPT_FROM,
	OPT_SHA256,
	OPT_CHECKSUMS,
	OPT_SIGNATURE,
	OPT_KEYRING,
	OPT_CACERT,
	OPT_FORMAT,
	OPT_SIZE,
	OPT_KERNEL,
	OPT_INITRD,
	OPT_APPEND,
	OPT_FORCE,
	OPT_SUITE,
	OPT_ENGINE,
	OPT_INCLUDE,
	OPT_NVIDIA,
	OPT_MKIMAGE,
	OPT_ONCE,
};

struct ctl_option {
	enum ctl_opt id;
	char letter;      /* short form, or 0 */
	const char *name; /* long form without dashes */
	const char *arg;  /* name of its value in help texts; NULL for a flag */
	const char *help; /* one line, no full stop */
	enum ctl_complete complete;
	const char *words; /* with CTL_COMPLETE_WORDS */
};

struct ctl;

struct ctl_command {
	const char *name;    /* one word, or two ("keys add") */
	const char *args;    /* synopsis of the positional arguments, may be "" */
	const char *summary; /* one line, lower case, no full stop */
	const char *help;    /* paragraphs for --help and the manual page */
	const struct ctl_option *options;
	size_t n_options;
	size_t min_args, max_args;
	bool takes_rest;            /* what follows "--" belongs to another program */
	bool hidden;                /* not listed, but works */
	enum ctl_complete complete; /* of positional arguments */
	const char *words;
	enum ctl_exit (*run)(struct ctl *c);
};

extern const struct ctl_option ctl_global_options[];
extern const size_t ctl_n_global_options;
extern const struct ctl_command ctl_commands[];
extern const size_t ctl_n_commands;

struct ctl_given {
	enum ctl_opt id;
	const char *value; /* borrowed from argv; NULL for a flag */
};

/* One run of the program. Everything is borrowed from argv unless marked. */
struct ctl {
	const struct ctl_command *cmd;
	struct ctl_given *given; /* owned */
	size_t n_given;
	char **args; /* owned array */
	size_t n_args;
	char **rest;     /* NULL-terminated: what followed "--" for takes_rest commands, or NULL */
	struct api *api; /* owned; made by ctl_api() on first use */
	bool json, quiet;
	bool color_out, color_err;
};

/* The value of option @id given last, or NULL. */
const char *ctl_value(const struct ctl *c, enum ctl_opt id);
bool ctl_has(const struct ctl *c, enum ctl_opt id);
/* Positional argument @i, or NULL. */
const char *ctl_arg(const struct ctl *c, size_t i);

/*
 * Reports a failure: one message on stderr and, with --json, {"error":…,"exit":…} on stdout.
 * Returns @code so that callers can `return ctl_fail(…)`. @fmt needs no newline; text that came
 * from outside is escaped here.
 */
enum ctl_exit ctl_fail(struct ctl *c, enum ctl_exit code, const char *fmt, ...) _printf_(3, 4);
/* A remark on stderr, unless --quiet. */
void ctl_note(struct ctl *c, const char *fmt, ...) _printf_(2, 3);
/* Finds out where colours may be used: terminals, unless NO_COLOR or TERM=dumb say otherwise. */
void ctl_setup_output(struct ctl *c);
/* Prints @json (borrowed) on stdout, with a newline. */
void ctl_print_json(const json_t *json);

/* Finds a command by its one or two words; @ret_words says how many of @argv name it. */
const struct ctl_command *ctl_find(char *const argv[], size_t n, size_t *ret_words);
/*
 * Parses @argv, [0] being the program's name, into @c. CTL_OK, or CTL_USAGE with the message
 * printed.
 * @c->cmd stays NULL when no command was given.
 */
enum ctl_exit ctl_parse(struct ctl *c, int argc, char *argv[]);
void ctl_done(struct ctl *c);

/* Texts derived from the table. */
void ctl_usage(FILE *f);
void ctl_command_help(FILE *f, const struct ctl_command *cmd);
void ctl_completion_bash(FILE *f);
void ctl_completion_zsh(FILE *f);
void ctl_mdoc(FILE *f);

enum ctl_exit cmd_check(struct ctl *c);
enum ctl_exit cmd_create(struct ctl *c);
enum ctl_exit cmd_list(struct ctl *c);
enum ctl_exit cmd_status(struct ctl *c);
enum ctl_exit cmd_start(struct ctl *c);
enum ctl_exit cmd_stop(struct ctl *c);
enum ctl_exit cmd_restart(struct ctl *c);
enum ctl_exit cmd_delete(struct ctl *c);
enum ctl_exit cmd_wait(struct ctl *c);
enum ctl_exit cmd_ssh(struct ctl *c);
enum ctl_exit cmd_console(struct ctl *c);
enum ctl_exit cmd_logs(struct ctl *c);
enum ctl_exit cmd_top(struct ctl *c);
enum ctl_exit cmd_keys_list(struct ctl *c);
enum ctl_exit cmd_keys_add(struct ctl *c);
enum ctl_exit cmd_keys_remove(struct ctl *c);
enum ctl_exit cmd_gpus(struct ctl *c);
enum ctl_exit cmd_gpus_recover(struct ctl *c);
enum ctl_exit cmd_tunnels(struct ctl *c);
enum ctl_exit cmd_image_create(struct ctl *c);
enum ctl_exit cmd_image_import(struct ctl *c);
enum ctl_exit cmd_image_list(struct ctl *c);
enum ctl_exit cmd_image_remove(struct ctl *c);
enum ctl_exit cmd_image_verify(struct ctl *c);
enum ctl_exit cmd_host(struct ctl *c);
enum ctl_exit cmd_version(struct ctl *c);
enum ctl_exit cmd_audit_verify(struct ctl *c);
enum ctl_exit cmd_completion(struct ctl *c);
