/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of PCI vendors and devices, from the file pci.ids that distributions ship.
 * Trust: runs inside agentd; reads a file of the system. Pure.
 */
#pragma once

#include "common/base.h"

#define PCIIDS_FILE_MAX  (8u * 1024 * 1024) /* bytes; the real one has about 1.5 million */
#define PCIIDS_NAME_SIZE 96

/* One pair of ids, and what they are called: "" when the file does not say. */
struct pciids_name {
	uint16_t vendor, device;
	char vendor_name[PCIIDS_NAME_SIZE]; /* printable ASCII, cut to fit, as the other */
	char device_name[PCIIDS_NAME_SIZE];
};

/*
 * Looks @n pairs up in one pass over the @len bytes of @text. Lines that are none of the format are
 * skipped; of a pair that is there twice the first one counts.
 */
void pciids_lookup(const char *text, size_t len, struct pciids_name *names, size_t n);
