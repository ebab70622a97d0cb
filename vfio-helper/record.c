/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The helper's own records: text files of the configuration's syntax, written whole and durably.
 * Trust: runs as root; reads files that it wrote itself below directories of root, and /proc.
 */
#include "vfio-helper/helper.h"

#include "common/fd.h"

#include <fcntl.h>

#define NUMBER(owner, member)                                                                      \
	{                                                                                          \
		.name = #member, .type = CONF_U32, CONF_MEMBER(struct owner, member),              \
		.high = UINT32_MAX                                                                 \
	}
#define TEXT_OF(owner, member)                                                                     \
	{                                                                                          \
		.name = #member, .type = CONF_TEXT, CONF_MEMBER(struct owner, member)              \
	}

const struct conf_key vm_record_keys[] = {
	{.name = "image", .type = CONF_NAME, CONF_MEMBER(struct vm_record, image)},
	NUMBER(vm_record, slot),
	NUMBER(vm_record, disk_mib),
	NUMBER(vm_record, generation),
	NUMBER(vm_record, exit_kind),
	NUMBER(vm_record, exit_code),
};
const size_t n_vm_record_keys = ARRAY_LEN(vm_record_keys);

const struct conf_key run_record_keys[] = {
	TEXT_OF(run_record, boot_id),    TEXT_OF(run_record, ports_text),
	TEXT_OF(run_record, qemu_start), TEXT_OF(run_record, passt_start),
	NUMBER(run_record, qemu_pid),    NUMBER(run_record, passt_pid),
	NUMBER(run_record, generation),  NUMBER(run_record, accel),
	NUMBER(run_record, cpus),        NUMBER(run_record, memory_mib),
	NUMBER(run_record, started_s),   NUMBER(run_record, limited),
};
const size_t n_run_record_keys = ARRAY_LEN(run_record_keys);

const struct conf_key accel_record_keys[] = {
	TEXT_OF(accel_record, host),           TEXT_OF(accel_record, qemu),
	NUMBER(accel_record, accel),           NUMBER(accel_record, reason),
	NUMBER(accel_record, sign_of_life_ms),
};
const size_t n_accel_record_keys = ARRAY_LEN(accel_record_keys);

int record_save(int dirfd, const char *name, const struct conf_key *keys, size_t n_keys,
		const void *record)
{
	char text[2048];
	size_t len = 0;

	for (size_t i = 0; i < n_keys; i++) {
		const void *member = (const uint8_t *)record + keys[i].offset;
		size_t room = sizeof(text) - len;
		int n;

		if (keys[i].type == CONF_U32)
			n = snprintf(text + len, room, "%s = %u\n", keys[i].name,
				     *(const uint32_t *)member);
		else if (*(const char *)member == '\0')
			continue; /* an empty text is an absent key */
		else
			n = snprintf(text + len, room, "%s = %s\n", keys[i].name,
				     (const char *)member);
		if (n < 0 || (size_t)n >= room)
			return -EMSGSIZE;
		len += (size_t)n;
	}
	return fd_replace_file(dirfd, name, text, len, 0600);
}

int record_load(int dirfd, const char *name, const struct conf_key *keys, size_t n_keys,
		void *ret_record)
{
	char text[2048];
	ssize_t n = fd_read_file(dirfd, name, text, sizeof(text));

	return n < 0 ? (int)n : conf_parse(name, text, keys, n_keys, ret_record, NULL);
}

void ports_to_text(const struct proto_port *ports, char text[static PORTS_TEXT_MAX])
{
	size_t n = proto_ports_count(ports), len = 0;

	text[0] = '\0';
	/* 16 times "65535:65535 " is below PORTS_TEXT_MAX. */
	for (size_t i = 0; i < n; i++)
		len += (size_t)snprintf(text + len, PORTS_TEXT_MAX - len, "%s%u:%u", i ? " " : "",
					ports[i].host, ports[i].guest);
}

int ports_from_text(const char *text, struct proto_port ret_ports[static PROTO_MAX_PORTS])
{
	struct proto_port ports[PROTO_MAX_PORTS] = {0};

	for (size_t i = 0; *text != '\0'; i++) {
		int used = 0;

		if (i == PROTO_MAX_PORTS ||
		    sscanf(text, "%5hu:%5hu%n", &ports[i].host, &ports[i].guest, &used) != 2 ||
		    ports[i].host == 0 || ports[i].guest == 0)
			return -EINVAL;
		text += used;
		if (*text != '\0' && (*text++ != ' ' || *text == '\0'))
			return -EINVAL;
	}
	memcpy(ret_ports, ports, sizeof(ports));
	return 0;
}

int process_identify(pid_t pid, char ret_start[static 24], uid_t *ret_uid)
{
	char path[40], text[4096];
	unsigned int uids[4];
	const char *p;
	ssize_t n;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	n = fd_read_file(AT_FDCWD, path, text, sizeof(text));
	if (n < 0)
		return (int)n;
	p = strrchr(text, ')'); /* the name before may hold anything; field 3 follows it */
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	if (!p || sscanf(p, " %23[0-9]", ret_start) != 1)
		return -EBADMSG;
	(void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
	n = fd_read_file(AT_FDCWD, path, text, sizeof(text));
	if (n < 0)
		return (int)n;
	p = strstr(text, "\nUid:");
	if (!p || sscanf(p, "\nUid: %u %u %u %u", &uids[0], &uids[1], &uids[2], &uids[3]) != 4)
		return -EBADMSG;
	for (size_t i = 1; i < 4; i++)
		if (uids[i] != uids[0])
			return -EBADMSG;
	*ret_uid = uids[0];
	return 0;
}
