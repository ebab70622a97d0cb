/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz harness without libFuzzer, as an ordinary test: every seed as it is, then COUNT
 * mutations of them, the same ones each time. Usage: fuzz-NAME SEED_DIR|FILE [COUNT]
 * An input that ends the program is left in ./crash-input, to be given as FILE, and as a new seed.
 * Trust: a test; reads the project's own seeds.
 */
#include "common/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#define INPUT_MAX (64 * 1024)
#define SEEDS_MAX 1024

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Of the sanitizers, which end the program without a signal. */
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

struct input {
	uint8_t *bytes;
	size_t len;
};

static struct input seeds[SEEDS_MAX];
static size_t n_seeds;
static struct input current; /* what the harness is looking at */
static uint64_t prng_state = UINT64_C(0x9e3779b97f4a7c15);

/* xorshift64*: all that matters is that it is the same everywhere. */
static uint64_t prng(void)
{
	prng_state ^= prng_state >> 12;
	prng_state ^= prng_state << 25;
	prng_state ^= prng_state >> 27;
	return prng_state * UINT64_C(0x2545f4914f6cdd1d);
}

static size_t below(size_t n)
{
	return n ? (size_t)(prng() % n) : 0;
}

static void save_input(void)
{
	int fd = open("crash-input", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, current.bytes, current.len) < 0)
		return;
	(void)close(fd);
}

static void on_signal(int sig)
{
	save_input();
	(void)signal(sig, SIG_DFL);
	(void)raise(sig);
}

static void run_one(const uint8_t *bytes, size_t len)
{
	/* In a block of its exact size, so that the sanitizers see every byte read too far. */
	current.bytes = malloc(len ? len : 1);
	if (!current.bytes)
		abort();
	memcpy(current.bytes, bytes, len);
	current.len = len;
	(void)LLVMFuzzerTestOneInput(current.bytes, current.len);
	free(TAKE_PTR(current.bytes));
	current.len = 0;
}

static void erase(uint8_t *b, size_t *len)
{
	size_t at = below(*len), n = 1 + below(MIN_OF(*len - at, (size_t)16));

	if (*len == 0 || at + n > *len)
		return;
	memmove(b + at, b + at + n, *len - at - n);
	*len -= n;
}

static void insert(uint8_t *b, size_t *len, const uint8_t *what, size_t n)
{
	size_t at = below(*len + 1);

	n = MIN_OF(n, INPUT_MAX - *len);
	memmove(b + at + n, b + at, *len - at);
	memcpy(b + at, what, n);
	*len += n;
}

/* A piece of some seed: how one input's syntax gets into another's. */
static void add_piece(uint8_t *b, size_t *len)
{
	const struct input *s = &seeds[below(n_seeds)];
	size_t at = below(s->len);
	uint8_t piece[64];
	size_t n = MIN_OF(1 + below(sizeof(piece)), s->len - at);

	memcpy(piece, s->bytes + at, n);
	insert(b, len, piece, n);
}

static void mutate(uint8_t *b, size_t *len)
{
	/* Bytes on which decoders tend to turn. */
	static const uint8_t special[] = "\0\r\n\t :;,%/.=\"{}[]\\0-+9\x7f\x80\xff";
	uint8_t c = special[below(sizeof(special) - 1)];

	switch (below(7)) {
	case 0:
		if (*len)
			b[below(*len)] ^= (uint8_t)(1u << below(8));
		break;
	case 1:
		if (*len)
			b[below(*len)] = (uint8_t)prng();
		break;
	case 2:
		if (*len)
			b[below(*len)] = c;
		break;
	case 3:
		insert(b, len, &c, 1);
		break;
	case 4:
		erase(b, len);
		break;
	case 5:
		*len = *len && below(4) == 0 ? below(*len) : *len;
		break;
	default:
		add_piece(b, len);
	}
}

static void run_mutation(void)
{
	static uint8_t b[INPUT_MAX];
	const struct input *s = &seeds[below(n_seeds)];
	size_t len = s->len, steps = 1 + below(8);

	memcpy(b, s->bytes, len);
	while (steps--)
		mutate(b, &len);
	run_one(b, len);
}

static int load_seed(int dir_fd, const char *name)
{
	_cleanup_close_ int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
	struct input s = {.bytes = malloc(INPUT_MAX)};
	ssize_t n;

	if (fd < 0 || !s.bytes || n_seeds == SEEDS_MAX)
		return -1;
	while ((n = read(fd, s.bytes + s.len, INPUT_MAX - s.len)) > 0)
		s.len += (size_t)n;
	if (n < 0) {
		free(s.bytes);
		return -1;
	}
	seeds[n_seeds++] = s;
	return 0;
}

static int load_seeds(const char *path)
{
	struct dirent **names;
	struct stat st;
	_cleanup_close_ int dir = -EBADF;
	int n, r = 0;

	if (stat(path, &st) < 0)
		return -1;
	if (!S_ISDIR(st.st_mode))
		return load_seed(AT_FDCWD, path);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	n = scandir(path, &names, NULL, alphasort);
	if (dir < 0 || n < 0)
		return -1;
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.')
			r |= load_seed(dir, names[i]->d_name);
		free(names[i]);
	}
	free(names);
	return r;
}

int main(int argc, char *argv[])
{
	unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;

	if (argc < 2 || argc > 3 || load_seeds(argv[1]) < 0 || n_seeds == 0) {
		fprintf(stderr, "usage: %s SEED_DIR|FILE [COUNT] (at least one seed)\n", argv[0]);
		return 2;
	}
	if (__sanitizer_set_death_callback)
		__sanitizer_set_death_callback(save_input);
	else
		(void)signal(SIGSEGV, on_signal);
	(void)signal(SIGABRT, on_signal);
	for (size_t i = 0; i < n_seeds; i++)
		run_one(seeds[i].bytes, seeds[i].len);
	for (unsigned long i = 0; i < count; i++)
		run_mutation();
	printf("%zu seeds, %lu mutations\n", n_seeds, count);
	for (size_t i = 0; i < n_seeds; i++)
		free(seeds[i].bytes);
	return 0;
}
