/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes the protocol fuzzer's seeds and dictionary from the declarations, so that a new row is
 * fuzzed from its first day. Usage: proto-seeds DIRECTORY | proto-seeds --dict FILE
 * Trust: a build tool; reads no input.
 */
#include "tests/unit/msgtable.h"

#include <sys/stat.h>

static int write_seed(const char *dir, const char *name, const char *what, const uint8_t prefix[4],
		      const uint8_t *msg, size_t len)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[4096];

	(void)snprintf(path, sizeof(path), "%s/%s-%s", dir, name, what);
	f = fopen(path, "we");
	if (!f || fwrite(prefix, 4, 1, f) != 1 || fwrite(msg, len, 1, f) != 1) {
		perror(path);
		return 1;
	}
	return 0;
}

static int write_row(const char *dir, const struct row_info *row)
{
	const uint8_t request[4] = {(uint8_t)row->to, (uint8_t)row->from, (uint8_t)row->states,
				    (uint8_t)row->req_fds};
	const uint8_t reply[4] = {(uint8_t)row->from, (uint8_t)row->to, PROTO_ST_READY,
				  (uint8_t)row->rep_fds};
	const uint8_t failure[4] = {(uint8_t)row->from, (uint8_t)row->to, PROTO_ST_READY, 0};
	const struct proto_header failed = {
		.op = row->number, .kind = PROTO_REPLY, .status = PROTO_FAILED, .request_id = 1};
	uint8_t msg[PROTO_MSG_MAX];
	int r = 0;

	for (int high = 0; high < 2; high++) {
		size_t len = msg_build(row, high, msg);

		r |= write_seed(dir, row->stem, high ? "high" : "low", request, msg, len);
		if (row->is_event)
			continue;
		len = msg_build_reply(row, high, msg);
		r |= write_seed(dir, row->stem, high ? "reply-high" : "reply-low", reply, msg, len);
	}
	if (row->is_event)
		return r;
	return r | write_seed(dir, row->stem, "failed", failure, (const uint8_t *)&failed,
			      sizeof(failed));
}

static void write_word(FILE *f, const void *word, size_t len)
{
	const uint8_t *bytes = word;

	(void)fputc('"', f);
	for (size_t i = 0; i < len; i++)
		(void)fprintf(f, "\\x%02x", bytes[i]);
	(void)fputs("\"\n", f);
}

static int write_dictionary(const char *path)
{
	_cleanup_fclose_ FILE *f = fopen(path, "we");

	if (!f) {
		perror(path);
		return 1;
	}
	for (size_t i = 0; i < row_n_infos; i++)
		write_word(f, &row_infos[i].number, sizeof(row_infos[i].number));
	for (size_t i = 0; i < msg_n_infos; i++) {
		const struct msg_info *msg = &msg_infos[i];
		uint32_t size = (uint32_t)msg->size;

		write_word(f, &size, sizeof(size));
		for (size_t k = 0; k < msg->n_fields; k++) {
			const struct field_info *field = &msg->fields[k];

			if (field->kind == FIELD_U32 || field->kind == FIELD_U64) {
				write_word(f, &field->low, field->size);
				write_word(f, &field->high, field->size);
			}
		}
	}
	return ferror(f) ? 1 : 0;
}

int main(int argc, char *argv[])
{
	int r = 0;

	if (argc == 3 && STR_EQ(argv[1], "--dict"))
		return write_dictionary(argv[2]);
	if (argc != 2) {
		(void)fputs("usage: proto-seeds DIRECTORY | proto-seeds --dict FILE\n", stderr);
		return 2;
	}
	if (mkdir(argv[1], 0755) < 0 && errno != EEXIST) {
		perror(argv[1]);
		return 1;
	}
	for (size_t i = 0; i < row_n_infos; i++)
		r |= write_row(argv[1], &row_infos[i]);
	return r;
}
