/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QMP client.
 * Trust: runs in vmmon; reads JSON of a QEMU that its guest may have taken over.
 */
#include "vmmon/qmp.h"

#include "vmmon/stream.h"

#include <jansson.h>

#define LINE_FIRST  1024         /* bytes that a decoder begins with */
#define BYTES_PER_S (256 * 1024) /* QEMU sends a few hundred bytes a minute */

/* Ids of our commands. */
enum command {
	CMD_CAPABILITIES = 1,
	CMD_STATUS,
	CMD_POWERDOWN,
};

static const char *const command_names[] = {
	[CMD_CAPABILITIES] = "qmp_capabilities",
	[CMD_STATUS] = "query-status",
	[CMD_POWERDOWN] = "system_powerdown",
};

struct qmp {
	struct stream stream;
	struct qmp_decoder decoder;
	qmp_note_fn *fn;
	void *arg;
	enum command waiting; /* for the answer to this command; 0: for the greeting */
	bool up;
};

static enum qmp_kind event_kind(const char *name)
{
	static const struct {
		const char *name;
		enum qmp_kind kind;
	} table[] = {
		{"RESET", QMP_RESET}, {"SHUTDOWN", QMP_SHUTDOWN}, {"POWERDOWN", QMP_POWERDOWN},
		{"STOP", QMP_STOP},   {"RESUME", QMP_RESUME},     {"GUEST_PANICKED", QMP_PANICKED},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (STR_EQ(name, table[i].name))
			return table[i].kind;
	return QMP_OTHER;
}

static struct qmp_message read_object(const json_t *object)
{
	const char *event = json_string_value(json_object_get(object, "event"));
	json_int_t id = json_integer_value(json_object_get(object, "id"));
	struct qmp_message msg = {
		.kind = QMP_OTHER,
		.id = id > 0 && id <= CMD_POWERDOWN ? (uint32_t)id : 0,
	};

	if (event)
		msg.kind = event_kind(event);
	else if (json_object_get(object, "return"))
		msg.kind = QMP_RETURN;
	else if (json_object_get(object, "error"))
		msg.kind = QMP_ERROR;
	else if (json_object_get(object, "QMP"))
		msg.kind = QMP_GREETING;
	return msg;
}

static int decode_line(const char *line, size_t len, struct qmp_message *ret_msg)
{
	json_t *object;

	if (len > 0 && line[len - 1] == '\r')
		len--;
	object = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(object)) {
		json_decref(object);
		return -EBADMSG;
	}
	*ret_msg = read_object(object);
	json_decref(object);
	return 0;
}

static int append(struct qmp_decoder *d, const char *data, size_t len)
{
	size_t size = d->size ? d->size : LINE_FIRST;
	char *line;

	if (len > QMP_LINE_MAX - d->used)
		return -EMSGSIZE;
	while (size < d->used + len)
		size *= 2;
	if (size != d->size) {
		line = realloc(d->line, size);
		if (!line)
			return -ENOMEM;
		d->line = line;
		d->size = size;
	}
	memcpy(d->line + d->used, data, len);
	d->used += len;
	return 0;
}

int qmp_decode(struct qmp_decoder *d, const void *data, size_t len,
	       int (*fn)(void *arg, const struct qmp_message *msg), void *arg)
{
	const char *p = data, *end = p + len;

	while (p < end) {
		const char *newline = memchr(p, '\n', (size_t)(end - p));
		struct qmp_message msg;
		int r = append(d, p, (size_t)((newline ? newline : end) - p));

		if (r < 0)
			return r;
		if (!newline)
			return 0;
		p = newline + 1;
		r = decode_line(d->line, d->used, &msg);
		qmp_decoder_done(d); /* between messages nothing is held */
		if (r == 0)
			r = fn(arg, &msg);
		if (r < 0)
			return r;
	}
	return 0;
}

void qmp_decoder_done(struct qmp_decoder *d)
{
	free(d->line);
	*d = (struct qmp_decoder){0};
}

/* A command is far smaller than the socket's buffer: what cannot be sent at once is a dead peer. */
static int send_command(struct qmp *q, enum command command)
{
	char text[128];
	int len = snprintf(text, sizeof(text), "{\"execute\":\"%s\",\"id\":%d}\n",
			   command_names[command], (int)command);
	ssize_t n = stream_write(&q->stream, text, (size_t)len);

	if (n != len)
		return n < 0 ? (int)n : -EPIPE;
	q->waiting = command;
	return 0;
}

static int on_answer(struct qmp *q, const struct qmp_message *msg)
{
	enum command command = q->waiting;

	if (command == 0 || msg->id != command)
		return -EBADMSG;
	q->waiting = 0;
	if (command == CMD_POWERDOWN) {
		q->fn(q->arg, msg->kind == QMP_RETURN ? QMP_NOTE_PRESSED : QMP_NOTE_REFUSED);
		return 0;
	}
	if (msg->kind == QMP_ERROR)
		return -EPROTO;
	if (command == CMD_CAPABILITIES)
		return send_command(q, CMD_STATUS);
	q->up = true;
	q->fn(q->arg, QMP_NOTE_UP);
	return 0;
}

static int on_message(void *arg, const struct qmp_message *msg)
{
	struct qmp *q = arg;

	switch (msg->kind) {
	case QMP_GREETING:
		return q->up || q->waiting != 0 ? -EBADMSG : send_command(q, CMD_CAPABILITIES);
	case QMP_RETURN:
	case QMP_ERROR:
		return on_answer(q, msg);
	case QMP_RESET:
		q->fn(q->arg, QMP_NOTE_RESET);
		return 0;
	case QMP_SHUTDOWN:
		q->fn(q->arg, QMP_NOTE_SHUTDOWN);
		return 0;
	case QMP_POWERDOWN:
		q->fn(q->arg, QMP_NOTE_POWERDOWN);
		return 0;
	case QMP_PANICKED:
		q->fn(q->arg, QMP_NOTE_PANICKED);
		return 0;
	case QMP_OTHER:
	case QMP_STOP:
	case QMP_RESUME:
		return 0;
	}
	return -EBADMSG;
}

static int on_data(void *arg, const uint8_t *data, size_t len)
{
	struct qmp *q = arg;

	return qmp_decode(&q->decoder, data, len, on_message, q);
}

static void on_close(void *arg, int r)
{
	struct qmp *q = arg;

	(void)r;
	q->fn(q->arg, QMP_NOTE_CLOSED);
}

int qmp_open(struct event_base *base, const char *path, qmp_note_fn *fn, void *arg,
	     struct qmp **ret_qmp)
{
	struct qmp *q = calloc(1, sizeof(*q));
	const struct stream_config config = {
		.base = base,
		.bytes_per_s = BYTES_PER_S,
		.arg = q,
		.on_data = on_data,
		.on_close = on_close,
	};
	int r;

	if (!q)
		return -ENOMEM;
	q->stream = STREAM_INIT;
	q->fn = fn;
	q->arg = arg;
	r = stream_open(&q->stream, &config, path);
	if (r < 0) {
		qmp_free(q);
		return r;
	}
	*ret_qmp = q;
	return 0;
}

void qmp_free(struct qmp *q)
{
	if (!q)
		return;
	stream_close(&q->stream);
	qmp_decoder_done(&q->decoder);
	free(q);
}

int qmp_powerdown(struct qmp *q)
{
	if (!q->up)
		return -ENOTCONN;
	if (q->waiting != 0)
		return -EBUSY;
	return send_command(q, CMD_POWERDOWN);
}
