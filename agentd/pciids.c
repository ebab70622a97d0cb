/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The format of pci.ids: a vendor's line is "vvvv  Name", its devices' lines are "\tdddd  Name",
 * subsystems have two tabs. From the first line "C cc  Name" on it is about device classes.
 * Trust: runs inside agentd; reads a file of the system. Pure.
 */
#include "agentd/pciids.h"

/* Four lower-case hexadecimal digits, two blanks and a name. */
static bool split_line(const char *line, size_t len, uint16_t *ret_id, const char **ret_name,
		       size_t *ret_len)
{
	unsigned int id = 0;

	if (len < 7 || line[4] != ' ' || line[5] != ' ')
		return false;
	for (size_t i = 0; i < 4; i++) {
		char c = line[i];

		if (c >= '0' && c <= '9')
			id = id << 4 | (unsigned int)(c - '0');
		else if (c >= 'a' && c <= 'f')
			id = id << 4 | (unsigned int)(c - 'a' + 10);
		else
			return false;
	}
	*ret_id = (uint16_t)id;
	*ret_name = line + 6;
	*ret_len = len - 6;
	return true;
}

static void set_name(char name[static PCIIDS_NAME_SIZE], const char *text, size_t len)
{
	if (name[0] != '\0')
		return;
	while (len > 0 && (text[len - 1] == ' ' || text[len - 1] == '\r'))
		len--;
	len = MIN_OF(len, (size_t)PCIIDS_NAME_SIZE - 1);
	for (size_t i = 0; i < len; i++)
		name[i] = (char)(text[i] >= 0x20 && text[i] <= 0x7e ? text[i] : '?');
	name[len] = '\0';
}

struct reader {
	struct pciids_name *names;
	size_t n;
	bool in_vendor;  /* the lines with one tab are @vendor's */
	uint16_t vendor; /* of the last vendor's line */
};

static void take_vendor(struct reader *r, const char *line, size_t len)
{
	const char *name;
	size_t name_len;

	r->in_vendor = split_line(line, len, &r->vendor, &name, &name_len);
	for (size_t i = 0; r->in_vendor && i < r->n; i++)
		if (r->names[i].vendor == r->vendor)
			set_name(r->names[i].vendor_name, name, name_len);
}

static void take_device(const struct reader *r, const char *line, size_t len)
{
	const char *name;
	size_t name_len;
	uint16_t device;

	if (!r->in_vendor || !split_line(line, len, &device, &name, &name_len))
		return;
	for (size_t i = 0; i < r->n; i++)
		if (r->names[i].vendor == r->vendor && r->names[i].device == device)
			set_name(r->names[i].device_name, name, name_len);
}

void pciids_lookup(const char *text, size_t len, struct pciids_name *names, size_t n)
{
	struct reader r = {.names = names, .n = n};

	for (size_t i = 0; i < n; i++) {
		names[i].vendor_name[0] = '\0';
		names[i].device_name[0] = '\0';
	}
	while (len > 0) {
		const char *end = memchr(text, '\n', len);
		size_t line = end ? (size_t)(end - text) : len;

		if (line >= 2 && text[0] == 'C' && text[1] == ' ')
			return;
		if (line >= 2 && text[0] == '\t' && text[1] != '\t')
			take_device(&r, text + 1, line - 1);
		else if (line > 0 && text[0] != '\t' && text[0] != '#')
			take_vendor(&r, text, line);
		text += line + (end != NULL);
		len -= line + (end != NULL);
	}
}
