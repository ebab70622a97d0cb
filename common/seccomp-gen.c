/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Build tool: turns a readable allow-list into a seccomp filter as a C array.
 *   seccomp-gen MODE INCLUDE-DIR LIST.allow OUTPUT.h [DEPFILE]      MODE is kill, log or off
 * Listed calls are allowed; calls that the build knows and the list does not name kill the process
 * (or are logged); a listed call whose condition does not hold, and calls newer than the build get
 * ENOSYS, so that libc falls back. In a list with the line "refuse", for processes that run code
 * which is not of this tree, what is not named gets ENOSYS, too. Trust: runs at build time; reads
 * files of this tree.
 */
#include "common/base.h"

#include <linux/filter.h>
#include <seccomp.h>

#define LAST_SYSCALL 1024 /* numbers to ask libseccomp about; x86-64 uses fewer than 500 */

struct generator {
	scmp_filter_ctx ctx;
	bool listed[LAST_SYSCALL];
	bool refuse; /* what is not listed is not fatal */
	const char *dir;
	FILE *deps; /* for ninja: every list that was read; NULL: not wanted */
};

_noreturn_ static void fail(const char *file, unsigned int line, const char *what,
			    const char *detail)
{
	(void)fprintf(stderr, "%s:%u: %s: %s\n", file, line, what, detail);
	exit(1);
}

/* Parses "argN == VALUE" or "argN & MASK == VALUE"; the value lies within the mask. */
static bool parse_condition(const char *text, struct scmp_arg_cmp *ret_cmp)
{
	unsigned long long mask, value;
	unsigned int arg;
	char tail;

	if (sscanf(text, " arg%u & %lli == %lli %c", &arg, (long long *)&mask, (long long *)&value,
		   &tail) == 3 &&
	    arg < 6 && (value & ~mask) == 0) {
		*ret_cmp = SCMP_CMP64(arg, SCMP_CMP_MASKED_EQ, mask, value);
		return true;
	}
	if (sscanf(text, " arg%u == %lli %c", &arg, (long long *)&value, &tail) == 2 && arg < 6) {
		*ret_cmp = SCMP_CMP64(arg, SCMP_CMP_EQ, value);
		return true;
	}
	return false;
}

static void read_list(struct generator *g, const char *path);

static void add_rule(struct generator *g, const char *path, unsigned int line, char *text)
{
	struct scmp_arg_cmp cmp;
	char *rest = text + strcspn(text, " \t");
	int number, r;

	if (*rest)
		*rest++ = '\0';
	rest += strspn(rest, " \t");
	number = seccomp_syscall_resolve_name(text);
	if (number == __NR_SCMP_ERROR)
		fail(path, line, "unknown system call", text);
	if (number < 0 || number >= LAST_SYSCALL)
		return; /* not a call of this architecture */
	if (*rest && !parse_condition(rest, &cmp))
		fail(path, line, "condition not understood", rest);
	r = *rest ? seccomp_rule_add_array(g->ctx, SCMP_ACT_ALLOW, number, 1, &cmp)
		  : seccomp_rule_add(g->ctx, SCMP_ACT_ALLOW, number, 0);
	if (r < 0)
		fail(path, line, "cannot add the rule", text);
	g->listed[number] = true;
}

static void read_line(struct generator *g, const char *path, unsigned int line, char *text)
{
	char included[512];
	char *reason = strchr(text, '#');
	size_t len;

	if (reason) {
		*reason++ = '\0';
		reason += strspn(reason, " \t\n");
	}
	text += strspn(text, " \t\n");
	len = strlen(text);
	while (len > 0 && strchr(" \t\n", text[len - 1]))
		text[--len] = '\0';
	if (len == 0)
		return;
	if (*text == '@') {
		(void)snprintf(included, sizeof(included), "%s/%s.allow", g->dir, text + 1);
		read_list(g, included);
		return;
	}
	if (!reason || strlen(reason) < 3)
		fail(path, line, "no reason given", text);
	if (STR_EQ(text, "refuse"))
		g->refuse = true;
	else
		add_rule(g, path, line, text);
}

static void read_list(struct generator *g, const char *path)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	char text[512];

	if (!f)
		fail(path, 0, "cannot read", strerror(errno));
	if (g->deps)
		(void)fprintf(g->deps, " %s", path);
	for (unsigned int line = 1; fgets(text, sizeof(text), f); line++) {
		if (!strchr(text, '\n') && !feof(f))
			fail(path, line, "the line is too long", text);
		read_line(g, path, line, text);
	}
}

/* Everything that libseccomp can name on this architecture and the list did not. */
static void refuse_known(struct generator *g, uint32_t action)
{
	for (int number = 0; number < LAST_SYSCALL; number++) {
		_cleanup_free_ char *name = NULL;

		if (g->listed[number])
			continue;
		name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number);
		if (name && seccomp_rule_add(g->ctx, action, number, 0) < 0)
			fail("known calls", (unsigned int)number, "cannot refuse", name);
	}
}

/* Writes what comes before and after the instructions; @id is the process as a C identifier. */
static void write_head(FILE *f, const char *id)
{
	(void)fprintf(f,
		      "/* Made by seccomp-gen; do not edit. */\n#pragma once\n\n"
		      "#include <linux/filter.h>\n#include <stddef.h>\n\n"
		      "static const struct sock_filter filter_%s[] = {\n",
		      id);
}

static void write_tail(FILE *f, const char *id, size_t n)
{
	(void)fprintf(f, "};\nstatic const size_t filter_%s_len = %zu;\n", id, n);
}

static void write_array(const struct generator *g, const char *id, FILE *f)
{
	_cleanup_fclose_ FILE *bpf = tmpfile();
	struct sock_filter insn;
	size_t n = 0;

	if (!bpf || seccomp_export_bpf(g->ctx, fileno(bpf)) < 0)
		fail(id, 0, "cannot export the filter", strerror(errno));
	rewind(bpf);
	write_head(f, id);
	for (; fread(&insn, sizeof(insn), 1, bpf) == 1; n++)
		(void)fprintf(f, "\t{ 0x%02x, %u, %u, 0x%08x },\n", insn.code, insn.jt, insn.jf,
			      insn.k);
	write_tail(f, id, n);
}

/* An array of one instruction and length 0: nothing is loaded. */
static void write_empty(const char *id, FILE *f)
{
	write_head(f, id);
	(void)fputs("\t{ 0 },\n", f);
	write_tail(f, id, 0);
}

/* "dir/vfio-helper.allow" becomes "vfio_helper". */
static void identifier(char out[static 128], const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *stem = slash ? slash + 1 : path;
	size_t n = 0;

	for (; stem[n] && stem[n] != '.' && n < 127; n++)
		out[n] = stem[n] == '-' ? '_' : stem[n];
	out[n] = '\0';
}

static void generate(bool log, const char *dir, const char *list, const char *id, FILE *f,
		     FILE *deps)
{
	struct generator g = {
		.dir = dir,
		.deps = deps,
		.ctx = seccomp_init(log ? SCMP_ACT_LOG : SCMP_ACT_ERRNO(ENOSYS)),
	};

	if (!g.ctx)
		fail(list, 0, "libseccomp", "cannot start");
	(void)seccomp_attr_set(g.ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	(void)seccomp_attr_set(g.ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a search tree */
	read_list(&g, list);
	if (!log && !g.refuse)
		refuse_known(&g, SCMP_ACT_KILL_PROCESS);
	write_array(&g, id, f);
	seccomp_release(g.ctx);
}

int main(int argc, char *argv[])
{
	_cleanup_fclose_ FILE *f = NULL, *deps = NULL;
	char id[128];

	if (argc < 5 || argc > 6 ||
	    (!STR_EQ(argv[1], "kill") && !STR_EQ(argv[1], "log") && !STR_EQ(argv[1], "off"))) {
		(void)fputs("usage: seccomp-gen kill|log|off INCLUDE-DIR LIST.allow OUTPUT.h "
			    "[DEPFILE]\n",
			    stderr);
		return 2;
	}
	f = fopen(argv[4], "we");
	if (!f)
		fail(argv[4], 0, "cannot write", strerror(errno));
	if (argc == 6) {
		deps = fopen(argv[5], "we");
		if (!deps)
			fail(argv[5], 0, "cannot write", strerror(errno));
		(void)fprintf(deps, "%s:", argv[4]);
	}
	identifier(id, argv[3]);
	if (STR_EQ(argv[1], "off"))
		write_empty(id, f);
	else
		generate(STR_EQ(argv[1], "log"), argv[2], argv[3], id, f, deps);
	return 0;
}
