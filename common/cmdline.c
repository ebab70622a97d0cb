/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Splitting of commands by the quoting rules of POSIX.
 * Trust: pure; reads text of strangers.
 */
#include "common/cmdline.h"

/* Outside of quotes: operators, expansions, patterns. Inside double quotes: expansions. */
#define SHELL_ONLY        "|&;<>()$`*?[\n"
#define SHELL_ONLY_QUOTED "$`"
#define BLANKS            " \t\r"

struct splitter {
	const char *in;
	char *out;    /* where the next byte of a word goes */
	bool in_word; /* quotes alone make a word, too */
	bool quoted;  /* some of the word was quoted: it is no reserved word */
	char **words; /* borrowed */
	size_t n;
	char *begin;
};

static bool is_in(char c, const char *chars)
{
	return c != '\0' && strchr(chars, c);
}

/* Words that begin something, when they stand first and unquoted. */
static bool reserved(const char *word)
{
	static const char *const words[] = {"!",    "{",    "}",     "case", "do",  "done",
					    "elif", "else", "esac",  "fi",   "for", "if",
					    "in",   "then", "until", "while"};

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (STR_EQ(word, words[i]))
			return true;
	return false;
}

/* name=… before the command sets a variable. The name's quoting, if any, would make it none. */
static bool assignment(const char *word)
{
	size_t n = strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");

	return n > 0 && word[n] == '=' && !(word[0] >= '0' && word[0] <= '9');
}

static void word_begin(struct splitter *s)
{
	if (s->in_word)
		return;
	s->in_word = true;
	s->quoted = false;
	s->begin = s->out;
}

static int word_end(struct splitter *s)
{
	if (!s->in_word)
		return 0;
	*s->out++ = '\0';
	s->in_word = false;
	s->words[s->n++] = s->begin;
	if (s->n == 1 && ((!s->quoted && reserved(s->begin)) || assignment(s->begin)))
		return -ENOTSUP;
	return 0;
}

static int take_single(struct splitter *s)
{
	const char *end = strchr(s->in, '\'');

	if (!end)
		return -EINVAL;
	s->out = mempcpy(s->out, s->in, (size_t)(end - s->in));
	s->in = end + 1;
	return 0;
}

static int take_double(struct splitter *s)
{
	while (*s->in != '"') {
		char c = *s->in;

		if (c == '\0')
			return -EINVAL;
		if (is_in(c, SHELL_ONLY_QUOTED))
			return -ENOTSUP;
		if (c == '\\' && is_in(s->in[1], "$`\"\\\n")) {
			c = *++s->in;
			if (c == '\n') { /* the line goes on */
				s->in++;
				continue;
			}
		}
		*s->out++ = c;
		s->in++;
	}
	s->in++;
	return 0;
}

static int take_escape(struct splitter *s)
{
	char c = *s->in;

	if (c == '\0')
		return -EINVAL;
	s->in++;
	if (c == '\n')
		return 0;
	word_begin(s);
	s->quoted = true;
	*s->out++ = c;
	return 0;
}

static int take(struct splitter *s)
{
	char c = *s->in++;

	if (is_in(c, BLANKS))
		return word_end(s);
	if (is_in(c, SHELL_ONLY) || (!s->in_word && is_in(c, "#~")))
		return -ENOTSUP;
	if (c == '\\')
		return take_escape(s);
	word_begin(s);
	if (c == '\'' || c == '"') {
		s->quoted = true;
		return c == '"' ? take_double(s) : take_single(s);
	}
	*s->out++ = c;
	return 0;
}

int cmdline_split(const char *text, char ***ret_words)
{
	size_t len = strlen(text);
	size_t max = len / 2 + 2; /* words, and the NULL */
	_cleanup_free_ char **words = calloc(1, max * sizeof(*words) + len + 1);
	struct splitter s = {.in = text, .words = words};
	int r = 0;

	if (!words)
		return -ENOMEM;
	s.out = (char *)(words + max);
	/* A line's end behind everything is nothing to run. */
	while (len > 0 && is_in(text[len - 1], BLANKS "\n"))
		len--;
	while (r == 0 && s.in < text + len)
		r = take(&s);
	if (r == 0)
		r = word_end(&s);
	if (r < 0)
		return r;
	words[s.n] = NULL;
	*ret_words = TAKE_PTR(words);
	return (int)s.n;
}
