/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A console's last lines, fetched and made harmless.
 * Trust: runs inside agentd; makes printable ASCII of what a guest has written.
 */
#include "agentd/lastwords.h"

#include "agentd/agentd.h"
#include "agentd/sealed.h"

#define READ_BYTES 4096
#define TIMEOUT_MS 5000
#define SEPARATOR  " | "
#define ESCAPE     '\033'

struct lastwords {
	struct instance *inst; /* borrowed: it is not freed while a call is in flight */
	uint64_t generation;
	lastwords_fn *fn;
};

/* The length of the control sequence at @at, such as a colour; 1 when it is none. */
static size_t sequence_length(const char *at, size_t len)
{
	size_t n = 2;

	if (len < n || at[1] != '[')
		return 1;
	while (n < len && (at[n] < '@' || at[n] > '~'))
		n++;
	return MIN_OF(n + 1, len);
}

/* Printable characters and single line ends. */
static size_t clean(const char *bytes, size_t len, char out[static READ_BYTES])
{
	size_t n = 0;

	for (size_t i = 0; i < len && n < READ_BYTES;) {
		char c = bytes[i];

		if (c == ESCAPE) {
			i += sequence_length(bytes + i, len - i);
			continue;
		}
		i++;
		if (c == '\n' && (n == 0 || out[n - 1] == '\n'))
			continue;
		if (c == '\r')
			continue;
		out[n++] = (char)(c == '\n' || (c >= ' ' && c <= '~') ? c : '?');
	}
	while (n > 0 && out[n - 1] == '\n')
		n--;
	return n;
}

void lastwords_text(const char *bytes, size_t len, char ret_words[static LASTWORDS_SIZE])
{
	char text[READ_BYTES];
	size_t skip = len > READ_BYTES ? len - READ_BYTES : 0, out = 0;
	size_t n = clean(bytes + skip, len - skip, text), start = n, lines = 1;
	/* As if each line end took the separator's room. */
	size_t room = LASTWORDS_SIZE - 1 - LASTWORDS_LINES * strlen(SEPARATOR);

	while (start > 0 && n - start < room &&
	       !(text[start - 1] == '\n' && ++lines > LASTWORDS_LINES))
		start--;
	for (size_t i = start; i < n; i++) {
		if (text[i] != '\n') {
			ret_words[out++] = text[i];
			continue;
		}
		memcpy(ret_words + out, SEPARATOR, strlen(SEPARATOR));
		out += strlen(SEPARATOR);
	}
	ret_words[out] = '\0';
}

static void read_words(const struct lastwords *ask, const struct console_read_rep *rep,
		       struct fdlist *fds, char words[static LASTWORDS_SIZE])
{
	_cleanup_close_ int fd = fdlist_take(fds);
	_cleanup_free_ char *bytes = NULL;
	size_t len, fresh;

	/* What an earlier run said does not explain this one. */
	if (rep->generation != ask->generation || sealed_read(fd, READ_BYTES, &bytes, &len) < 0)
		return;
	fresh = MIN_OF((size_t)rep->fresh, len);
	lastwords_text(bytes + len - fresh, fresh, words);
}

static void on_console(void *arg, enum proto_status status, const void *rep, struct fdlist *fds)
{
	struct lastwords ask = *(struct lastwords *)arg;
	char words[LASTWORDS_SIZE] = "";

	free(arg);
	ask.inst->in_flight = false;
	if (status == PROTO_OK)
		read_words(&ask, rep, fds, words);
	ask.fn(ask.inst, words);
	agentd_kick(ask.inst->agentd);
}

void lastwords_ask(struct instance *inst, uint64_t generation, lastwords_fn *fn)
{
	struct console_read_req req = {.max_bytes = READ_BYTES};
	struct lastwords *ask = calloc(1, sizeof(*ask));
	int r = ask ? proto_name_set(req.vm, inst->id) : -ENOMEM;

	if (r == 0) {
		*ask = (struct lastwords){inst, generation, fn};
		r = peers_call(inst->agentd->peers, PEER_VMMON, OP_CONSOLE_READ, &req,
			       /* fd= */ -EBADF, TIMEOUT_MS, on_console, ask);
	}
	if (r == 0) {
		inst->in_flight = true;
		return;
	}
	free(ask);
	fn(inst, "");
}
