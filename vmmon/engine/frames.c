/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taking the engine's log stream apart.
 * Trust: runs in vmmon; reads bytes of a container engine in a guest, and of the tenant's
 * container.
 */
#include "vmmon/engine/frames.h"

#define STREAM_LAST 2 /* 0, 1, 2: standard input, output, error */

/* Makes room for @n more bytes, at most @max; what is too old goes. */
static int make_room(struct frames *f, size_t n)
{
	size_t want = MIN_OF(MAX_OF((f->used + n) * 2, (size_t)1024), 2 * f->max);
	char *grown;

	if (f->size - f->used >= n)
		return 0;
	if (f->size < 2 * f->max) {
		grown = realloc(f->tail, want);
		if (!grown)
			return -ENOMEM;
		f->tail = grown;
		f->size = want;
	}
	if (f->size - f->used < n) {
		size_t keep = MIN_OF(f->max - n, f->used);

		memmove(f->tail, f->tail + f->used - keep, keep);
		f->used = keep;
	}
	return 0;
}

static int add(struct frames *f, const uint8_t *data, size_t len)
{
	int r;

	if (len > f->max) {
		data += len - f->max;
		len = f->max;
	}
	r = make_room(f, len);
	if (r < 0)
		return r;
	memcpy(f->tail + f->used, data, len);
	f->used += len;
	return 0;
}

static int take_head(struct frames *f)
{
	const uint8_t *h = f->head;

	f->head_used = 0;
	if (h[0] > STREAM_LAST || h[1] != 0 || h[2] != 0 || h[3] != 0)
		return -EBADMSG;
	f->left = (uint32_t)h[4] << 24 | (uint32_t)h[5] << 16 | (uint32_t)h[6] << 8 | h[7];
	return 0;
}

int frames_feed(struct frames *f, const uint8_t *data, size_t len)
{
	while (len > 0) {
		size_t n = 1;
		int r = 0;

		if (f->left > 0) {
			n = MIN_OF(len, (size_t)f->left);
			f->left -= (uint32_t)n;
			r = add(f, data, n);
		} else {
			f->head[f->head_used++] = *data;
			if (f->head_used == sizeof(f->head))
				r = take_head(f);
		}
		if (r < 0)
			return r;
		data += n;
		len -= n;
	}
	return 0;
}

const char *frames_tail(const struct frames *f, size_t lines, size_t *ret_len)
{
	size_t floor = f->used > f->max ? f->used - f->max : 0;
	size_t start = f->used, found = 0;

	while (start > floor) {
		if (f->tail[start - 1] == '\n' && start < f->used && ++found == lines)
			break;
		start--;
	}
	*ret_len = f->used - start;
	return f->tail ? f->tail + start : "";
}

void frames_done(struct frames *f)
{
	free(f->tail);
	*f = (struct frames){.max = f->max};
}
