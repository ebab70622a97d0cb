/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz harness of vmmon's QMP framing: what comes out does not depend on how the stream was cut,
 * and memory stays bounded.
 * Trust: a test; reads the fuzzer's input.
 */
#include "vmmon/qmp.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct log {
	uint64_t hash;
	size_t n;
};

static int note(void *arg, const struct qmp_message *msg)
{
	struct log *log = arg;

	assert(msg->kind <= QMP_PANICKED && msg->id <= 3);
	log->hash = log->hash * 31 + (uint64_t)msg->kind * 8 + msg->id;
	log->n++;
	return 0;
}

static int feed(const uint8_t *data, size_t size, size_t step, struct log *ret_log)
{
	struct qmp_decoder d = {0};
	int r = 0;

	*ret_log = (struct log){0};
	for (size_t at = 0; at < size && r == 0; at += step) {
		r = qmp_decode(&d, data + at, MIN_OF(step, size - at), note, ret_log);
		assert(d.size <= QMP_LINE_MAX && d.used <= d.size);
	}
	qmp_decoder_done(&d);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct log whole, pieces;

	assert(feed(data, size, size ? size : 1, &whole) == feed(data, size, 7, &pieces));
	assert(whole.n == pieces.n && whole.hash == pieces.hash);
	return 0;
}
