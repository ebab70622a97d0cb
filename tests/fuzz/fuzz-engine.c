/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz harness of what reads a container engine's bytes, image references, commands and wishes. The
 * first byte says which; what comes out does not depend on how a stream was cut.
 * Trust: a test; reads the fuzzer's input.
 */
#include "common/cmdline.h"
#include "common/imageref.h"
#include "common/registry.h"
#include "vmmon/engine/answers.h"
#include "vmmon/engine/frames.h"
#include "vmmon/engine/http.h"
#include "vmmon/engine/keyfile.h"
#include "vmmon/engine/login.h"
#include "vmmon/engine/wish.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int sum(void *arg, const uint8_t *data, size_t len)
{
	uint64_t *hash = arg;

	for (size_t i = 0; i < len; i++)
		*hash = *hash * 31 + data[i];
	return 0;
}

static int feed_http(const uint8_t *data, size_t size, size_t step, uint64_t *ret_hash)
{
	struct http_response h = {0};
	int r = 0;

	*ret_hash = 0;
	for (size_t at = 0; at < size && r == 0; at += step)
		r = http_response_feed(&h, data + at, MIN_OF(step, size - at), sum, ret_hash);
	assert(h.used < HTTP_LINE_MAX && h.header_bytes <= HTTP_HEADER_MAX + 1);
	return r < 0 ? r : http_response_end(&h);
}

static void fuzz_http(const uint8_t *data, size_t size)
{
	uint64_t whole, pieces;
	int r = feed_http(data, size, size ? size : 1, &whole);

	assert(feed_http(data, size, 3, &pieces) == r);
	assert(r < 0 || whole == pieces);
}

static void fuzz_frames(const uint8_t *data, size_t size)
{
	struct frames f = {.max = 100};
	const char *tail;
	size_t len;

	for (size_t at = 0; at < size; at += 5)
		if (frames_feed(&f, data + at, MIN_OF((size_t)5, size - at)) < 0)
			break;
	assert(f.size <= MAX_OF((size_t)1024, 2 * f.max) && f.used <= f.size);
	tail = frames_tail(&f, 3, &len);
	assert(len <= f.max && (len == 0 || tail >= f.tail));
	frames_done(&f);
}

static void fuzz_answers(const char *text, size_t size)
{
	static struct pull pull;
	struct answer_container c;
	struct answer_info info;
	char id[ANSWER_ID_SIZE], message[ANSWER_TEXT_SIZE];
	unsigned int version, exit_code;
	enum answer_gpus gpus;
	bool has;

	if (answer_version(text, size, &version) == 0)
		assert(version >= ANSWER_API_MIN);
	if (answer_gpus(text, size, &gpus) == 0)
		assert(gpus <= ANSWER_GPUS_CDI);
	(void)answer_has_limits(text, size, &has);
	if (answer_info(text, size, &info) == 0)
		assert(info.cgroup <= 2 && strlen(info.root) < sizeof(info.root));
	if (answer_container(text, size, &c) == 0)
		assert(strlen(c.id) == 64 && c.exit_code <= 255 && c.restarts <= INT32_MAX);
	if (answer_exec(text, size, &exit_code) == 0)
		assert(exit_code <= 255);
	if (answer_created(text, size, id) == 0)
		assert(strlen(id) == 64);
	answer_message(text, size, message);
	assert(strlen(message) < sizeof(message));
	(void)pull_line(&pull, text, size);
	assert(pull.percent <= 100 && pull.n <= PULL_LAYERS_MAX);
	(void)trouble_of(message);
}

/* What a script in the container has printed. */
static void fuzz_login(const char *text, size_t size)
{
	char key[LOGIN_KEY_SIZE] = "";
	_cleanup_free_ char *archive = NULL;
	size_t len;

	if (login_find_key(text, size, key))
		assert(strlen(key) > 0 && strncmp(key, "ssh-ed25519 ", 12) == 0);
	archive = keyfile_archive(text, size, &len);
	assert(archive && len % 512 == 0 && len >= size + 2048);
}

static void fuzz_texts(const char *text)
{
	_cleanup_free_ char **words = NULL;
	struct imageref ref;
	int n = cmdline_split(text, &words);

	assert(n < 0 || (size_t)n <= strlen(text));
	assert(n <= 0 || !words[n]);
	if (imageref_parse(text, &ref, NULL) == 0)
		assert(ref.name_len > 0 && ref.name + ref.name_len <= text + strlen(text));
	if (registry_list_check(text, NULL) == 0)
		(void)registry_allowed(text, "quay.io/a", NULL);
	/* Whatever passes does not end at an address that only this host or its network has. */
	if (registry_allowed(REGISTRY_ANY, text, NULL) == 0)
		assert(strncmp(text, "127.", 4) != 0 || !strchr(text, '/') ||
		       strspn(text, "0123456789.:") < strcspn(text, "/"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_free_ char *text = NULL;
	struct wish wish;

	if (size == 0)
		return 0;
	text = strndup((const char *)data + 1, size - 1);
	switch (data[0] % 7) {
	case 5:
		fuzz_login((const char *)data + 1, size - 1);
		break;
	case 0:
		fuzz_http(data + 1, size - 1);
		break;
	case 1:
		fuzz_frames(data + 1, size - 1);
		break;
	case 2:
		fuzz_answers((const char *)data + 1, size - 1);
		break;
	case 3:
		fuzz_texts(text);
		break;
	default:
		if (wish_parse((const char *)data + 1, size - 1,
			       data[0] % 7 == 4 ? NULL : "0123456789abcdef", &wish, NULL) == 0) {
			assert(strstr(wish.create, wish.hash) && wish.pull);
			assert(!wish.network == (data[0] % 7 == 4));
			wish_done(&wish);
		}
	}
	return 0;
}
