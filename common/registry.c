/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of registries.
 * Trust: pure; reads text of strangers.
 */
#include "common/registry.h"

#include "common/imageref.h"

#include <arpa/inet.h>
#include <strings.h>

#define DEFAULT_REGISTRY "docker.io"

struct name {
	const char *text;
	size_t len;
};

static bool same(struct name a, const char *text)
{
	return strlen(text) == a.len && strncasecmp(a.text, text, a.len) == 0;
}

/* Takes the next entry off the list, without the blanks around it; false at the end. */
static bool next_entry(const char **list, struct name *ret_entry)
{
	size_t n = strcspn(*list, ",");

	if (**list == '\0')
		return false;
	*ret_entry = (struct name){*list, n};
	*list += n + ((*list)[n] == ',');
	while (ret_entry->len > 0 && *ret_entry->text == ' ') {
		ret_entry->text++;
		ret_entry->len--;
	}
	while (ret_entry->len > 0 && ret_entry->text[ret_entry->len - 1] == ' ')
		ret_entry->len--;
	return true;
}

int registry_list_check(const char *list, struct err *reterr)
{
	struct name entry;

	while (next_entry(&list, &entry)) {
		char reference[REGISTRY_LIST_SIZE + 8];
		struct imageref ref;

		if (same(entry, REGISTRY_ANY))
			continue;
		(void)snprintf(reference, sizeof(reference), "%.*s/image", (int)entry.len,
			       entry.text);
		if (imageref_parse(reference, &ref, NULL) < 0 || ref.host_len != entry.len)
			return err_set(reterr, -EINVAL,
				       "\"%.*s\" is not *, localhost, or host[:port] with a dot or "
				       "a port",
				       (int)MIN_OF(entry.len, (size_t)64), entry.text);
	}
	return 0;
}

static bool is_listed(const char *list, const char *name)
{
	struct name entry;

	while (next_entry(&list, &entry))
		if (same(entry, name))
			return true;
	return false;
}

/* Address ranges that no public host has, by RFC 6890. */
static bool is_closed_address(uint32_t address)
{
	static const struct {
		uint32_t net;
		unsigned int bits;
	} ranges[] = {
		{0x00000000, 8},  {0x0a000000, 8},  {0x64400000, 10}, {0x7f000000, 8},
		{0xa9fe0000, 16}, {0xac100000, 12}, {0xc0000000, 24}, {0xc0a80000, 16},
		{0xc6120000, 15}, {0xe0000000, 3},
	};

	for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
		if ((address ^ ranges[i].net) >> (32 - ranges[i].bits) == 0)
			return true;
	return false;
}

static bool is_closed_domain(const char *label)
{
	static const char *const labels[] = {"localhost", "localdomain", "local",   "internal",
					     "intranet",  "lan",         "home",    "corp",
					     "private",   "arpa",        "invalid", "test"};

	for (size_t i = 0; i < ARRAY_LEN(labels); i++)
		if (strcasecmp(label, labels[i]) == 0)
			return true;
	return false;
}

/* Is @host, without a port, known by its name alone to be of this host or a closed network? */
static bool is_closed(const char *host)
{
	const char *dot = strrchr(host, '.'), *label = dot ? dot + 1 : host;
	struct in_addr address;

	/* Resolvers take 127.1 and 0x7f000001 for addresses, too: only the plain form may pass. */
	if (label[strspn(label, "0123456789")] == '\0' || strncasecmp(label, "0x", 2) == 0)
		return inet_pton(AF_INET, host, &address) != 1 ||
		       is_closed_address(ntohl(address.s_addr));
	return !dot || is_closed_domain(label);
}

int registry_allowed(const char *list, const char *reference, struct err *reterr)
{
	char name[IMAGEREF_MAX + 1] = DEFAULT_REGISTRY, host[IMAGEREF_MAX + 1];
	struct imageref ref;
	int r = imageref_parse(reference, &ref, reterr);

	if (r < 0)
		return r;
	if (ref.host && !same((struct name){ref.host, ref.host_len}, "index." DEFAULT_REGISTRY))
		(void)snprintf(name, sizeof(name), "%.*s", (int)ref.host_len, ref.host);
	if (is_listed(list, name))
		return 0;
	if (!is_listed(list, REGISTRY_ANY))
		return err_set(reterr, -EACCES,
			       "the registry %.100s is not among those that this host allows "
			       "(engine_registries in vmmon.conf)",
			       name);
	(void)snprintf(host, sizeof(host), "%.*s", (int)strcspn(name, ":"), name);
	if (!is_closed(host))
		return 0;
	return err_set(reterr, -EACCES,
		       "the registry %.100s is of this host or of a closed network, and this host "
		       "does not allow it (engine_registries in vmmon.conf)",
		       name);
}
