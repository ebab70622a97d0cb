/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI addresses as text and as numbers. Pure.
 * Trust: runs as root and in agentd; reads names that the kernel or a request has given.
 */
#include "vfio-helper/pci/pci.h"

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads @min to @max hexadecimal digits; returns what follows them, or NULL. */
static const char *take_hex(const char *text, int min, int max, uint64_t *ret_value)
{
	int n = 0;

	*ret_value = 0;
	while (n < max && hex_digit(text[n]) >= 0)
		*ret_value = *ret_value << 4 | (uint64_t)hex_digit(text[n++]);
	return n >= min ? text + n : NULL;
}

int pci_addr_parse(const char *text, pci_addr *ret_addr)
{
	uint64_t domain, bus, slot, function;
	const char *p = take_hex(text, 4, 8, &domain);

	/* The kernel pads to four digits and no further: a longer one has no leading zero. */
	if (!p || (p - text > 4 && text[0] == '0') || *p++ != ':')
		return -EINVAL;
	p = take_hex(p, 2, 2, &bus);
	if (!p || *p++ != ':')
		return -EINVAL;
	p = take_hex(p, 2, 2, &slot);
	if (!p || slot > 31 || *p++ != '.')
		return -EINVAL;
	p = take_hex(p, 1, 1, &function);
	if (!p || function > 7 || *p != '\0')
		return -EINVAL;
	*ret_addr = domain << 16 | bus << 8 | slot << 3 | function;
	return 0;
}

void pci_addr_text(pci_addr addr, char ret_text[static PCI_TEXT_SIZE])
{
	(void)snprintf(ret_text, PCI_TEXT_SIZE, "%04llx:%02x:%02x.%x",
		       (unsigned long long)(addr >> 16 & 0xffffffff),
		       (unsigned int)(addr >> 8 & 0xff), (unsigned int)(addr >> 3 & 0x1f),
		       (unsigned int)(addr & 7));
}

pci_addr pci_slot_of(pci_addr addr)
{
	return addr & ~UINT64_C(7);
}
