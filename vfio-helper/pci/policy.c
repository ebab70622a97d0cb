/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lists among the gpu_* keys of helper.conf.
 * Trust: runs as root in vfio-bind, and as anyone in vfio-explain; reads a file that is root's.
 */
#include "vfio-helper/config.h"
#include "vfio-helper/pci/pci.h"

struct list {
	const char *key;
	struct err *reterr;
	uint32_t n;
	int (*take)(const char *item, void *ret_item);
	size_t item_size;
	void *items; /* POLICY_LIST_MAX of them */
};

static int take_vendor(const char *item, void *ret_item)
{
	uint16_t *vendor = ret_item;

	if (strlen(item) != 4 || item[strspn(item, "0123456789abcdefABCDEF")] != '\0')
		return -EINVAL;
	*vendor = (uint16_t)strtoul(item, NULL, 16);
	return *vendor == 0 || *vendor == UINT16_MAX ? -EINVAL : 0;
}

static int take_address(const char *item, void *ret_item)
{
	return pci_addr_parse(item, ret_item);
}

static int take_service(const char *item, void *ret_item)
{
	static const char end[] = ".service";
	size_t len = strlen(item);

	/* It becomes an argument of systemctl: a unit's name and nothing else. */
	if (len >= sizeof(((struct gpu_policy *)0)->services[0]) || len < sizeof(end) ||
	    item[0] == '-' || !STR_EQ(item + len - (sizeof(end) - 1), end) ||
	    item[strspn(item,
			"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.@-")] !=
		    '\0')
		return -EINVAL;
	memcpy(ret_item, item, len + 1);
	return 0;
}

/* Cuts @text, which it overwrites, at its commas. Blanks around an item do not count. */
static int split(struct list *list, char *text, const char *form)
{
	char *item, *rest = text;

	if (text[strspn(text, " \t")] == '\0')
		return 0;
	while ((item = strsep(&rest, ","))) {
		char *end;

		item += strspn(item, " \t");
		for (end = item + strlen(item); end > item && strchr(" \t", end[-1]);)
			*--end = '\0';
		if (list->n == POLICY_LIST_MAX)
			return err_set(list->reterr, -E2BIG, "%s: more than %d items", list->key,
				       POLICY_LIST_MAX);
		if (list->take(item, (char *)list->items + list->n * list->item_size) < 0)
			return err_set(list->reterr, -EINVAL, "%s: \"%s\" is not %s", list->key,
				       item, form);
		list->n++;
	}
	return 0;
}

#define LIST(member, taker, form)                                                                  \
	({                                                                                         \
		struct list _list = {.key = "gpu_" #member,                                        \
				     .reterr = reterr,                                             \
				     .take = (taker),                                              \
				     .item_size = sizeof(ret_policy->member[0]),                   \
				     .items = ret_policy->member};                                 \
		char _text[sizeof(keys->member)];                                                  \
		memcpy(_text, keys->member, sizeof(_text));                                        \
		int _r = split(&_list, _text, (form));                                             \
		ret_policy->n_##member = _list.n;                                                  \
		_r;                                                                                \
	})

int gpu_policy_parse(const struct gpu_keys *keys, struct gpu_policy *ret_policy, struct err *reterr)
{
	static const char vendor[] = "a vendor's four hexadecimal digits";
	static const char address[] = "a PCI address like 0000:01:00.0";
	int r;

	*ret_policy = (struct gpu_policy){.allow_boot_display = keys->allow_boot_display,
					  .allow_virtual_functions = keys->allow_virtual_functions,
					  .allow_nouveau = keys->allow_nouveau,
					  .adopt_vfio = keys->adopt_vfio};
	r = LIST(vendors, take_vendor, vendor);
	if (r == 0)
		r = LIST(accelerators, take_vendor, vendor);
	if (r == 0)
		r = LIST(along, take_address, address);
	if (r == 0)
		r = LIST(never, take_address, address);
	if (r == 0)
		r = LIST(services, take_service, "a unit's name that ends in .service");
	return r;
}

bool gpu_policy_has(const pci_addr *list, uint32_t n, pci_addr address)
{
	for (uint32_t i = 0; i < n; i++)
		if (list[i] == address)
			return true;
	return false;
}

bool gpu_policy_may_stop(const struct gpu_policy *policy, const char *service)
{
	for (uint32_t i = 0; i < policy->n_services && service[0] != '\0'; i++)
		if (STR_EQ(policy->services[i], service))
			return true;
	return false;
}
