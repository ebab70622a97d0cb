/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What GPUs are called.
 * Trust: runs inside agentd; reads a file of the system.
 */
#include "agentd/gpunames.h"

#include "common/log.h"

#include <fcntl.h>

#define KNOWN_MAX 512 /* pairs of ids; no host has that many kinds of GPUs */

void gpu_names_open(struct gpu_names *ret_names, const char *path)
{
	*ret_names = (struct gpu_names){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY)};
	if (ret_names->fd >= 0)
		return;
	log_event(LOG_INFO, "GPUs have no names: the list of PCI ids cannot be opened",
		  LOG_STR("FILE", path), LOG_ERRNO(-errno));
	ret_names->fd = -EBADF;
}

void gpu_names_done(struct gpu_names *names)
{
	names->fd = safe_close(names->fd);
	free(names->known);
	names->known = NULL;
	names->n = 0;
}

const struct pciids_name *gpu_names_get(const struct gpu_names *names, uint32_t vendor,
					uint32_t device)
{
	for (size_t i = 0; i < names->n; i++)
		if (names->known[i].vendor == vendor && names->known[i].device == device)
			return &names->known[i];
	return NULL;
}

/* The whole file; owned by the caller, NULL when it cannot be had. */
static char *read_ids(int fd, size_t *ret_len)
{
	_cleanup_free_ char *text = NULL;
	off_t size = lseek(fd, 0, SEEK_END);
	ssize_t n;

	if (size <= 0 || size > (off_t)PCIIDS_FILE_MAX || lseek(fd, 0, SEEK_SET) < 0)
		return NULL;
	text = malloc((size_t)size + 2);
	if (!text)
		return NULL;
	n = fd_read_text(fd, text, (size_t)size + 2);
	if (n < 0)
		return NULL;
	*ret_len = (size_t)n;
	return TAKE_PTR(text);
}

static void add_pair(struct gpu_names *names, uint32_t vendor, uint32_t device)
{
	struct pciids_name *bigger;

	if (gpu_names_get(names, vendor, device) || names->n == KNOWN_MAX)
		return;
	bigger = reallocarray(names->known, names->n + 1, sizeof(*bigger));
	if (!bigger)
		return;
	names->known = bigger;
	bigger[names->n++] =
		(struct pciids_name){.vendor = (uint16_t)vendor, .device = (uint16_t)device};
}

void gpu_names_learn(struct gpu_names *names, const struct gpus *gpus)
{
	size_t before = names->n, len = 0;
	_cleanup_free_ char *text = NULL;

	for (size_t i = 0; i < gpus->n; i++)
		add_pair(names, gpus->entries[i].card.vendor, gpus->entries[i].card.device);
	if (names->n == before || names->fd < 0)
		return;
	text = read_ids(names->fd, &len);
	if (text)
		pciids_lookup(text, len, names->known + before, names->n - before);
}
