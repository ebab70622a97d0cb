/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The format of the audit log: one line is one record, and each carries a hash over itself and the
 * hash before, so that a cut or an edit shows. Pure but for audit_resume() and
 * audit_verify(), which read a descriptor.
 *
 *   SEQ SECONDS EVENT [KEY=VALUE ...] HASH
 *
 * HASH is the SHA-256, in hexadecimal, of the previous record's HASH followed by this line up to
 * and including the space before its own HASH. Before the first record it is 64 zeros. VALUE is
 * printable ASCII without space; every other byte is written \xNN.
 */
#pragma once

#include "common/base.h"
#include "common/log.h"

#define AUDIT_LINE_MAX  1024
#define AUDIT_HASH_SIZE 65
/* The event that says: the line before was cut short by a crash, and is no record. */
#define AUDIT_TORN      "audit-torn"

/* The end of a chain. AUDIT_CHAIN_INIT is that of an empty log. */
struct audit_chain {
	uint64_t seq;
	char hash[AUDIT_HASH_SIZE]; /* empty: unknown, the next record is believed */
};

#define AUDIT_CHAIN_INIT                                                                           \
	((struct audit_chain){                                                                     \
		.hash = "0000000000000000000000000000000000000000000000000000000000000000"})

/*
 * Writes the next record, with its newline and a NUL, into @line and moves @chain on. Returns its
 * length, or -EMSGSIZE when the fields do not fit (@chain is unchanged).
 */
ssize_t audit_format(struct audit_chain *chain, uint64_t seconds, const char *event,
		     const struct log_field *fields, size_t n, char line[static AUDIT_LINE_MAX]);

/*
 * The chain's end in the log @fd of @size bytes, from its last 64 KiB: enough to go on with it, no
 * proof of the whole. @ret_torn is the length of a last line without newline. -EBADMSG when one of
 * the lines does not follow the one before it; @ret_chain is then that of the last one that does.
 */
int audit_resume(int fd, uint64_t size, struct audit_chain *ret_chain, size_t *ret_torn);

/* The hash of the record @line of @len bytes, up to the space before it, after @previous. */
void audit_hash(const char *previous, const char *line, size_t len,
		char ret_hash[static AUDIT_HASH_SIZE]);

/* Is @line the record that says: the line before was cut short? */
bool audit_owns_up(const char *line);

/* Is @line (without newline) the record that follows @chain? Moves @chain on, or -EBADMSG. */
int audit_check(struct audit_chain *chain, const char *line);

struct audit_report {
	struct audit_chain chain; /* after the last good record */
	uint64_t n_records;
	uint64_t n_torn;   /* lines cut short, each recorded as such */
	size_t torn_bytes; /* of a last line without newline */
	uint64_t
		bad_offset; /* of the first line that breaks the chain, when -EBADMSG is returned */
};

/*
 * Verifies the log in @fd, which goes on from @before (AUDIT_CHAIN_INIT: the first file; with an
 * empty hash its first record is believed). Returns 0, -EBADMSG when the chain is broken, another
 * errno when reading fails; @ret_report is always filled.
 */
int audit_verify(int fd, const struct audit_chain *before, struct audit_report *ret_report);
