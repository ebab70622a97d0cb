/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The judgement in one line per GPU, for people and for tests.
 * Trust: runs as anyone; prints what was read from sysfs.
 */
#include "vfio-helper/explain/explain.h"

/* A reason's function, or the name of what is none, with nothing in it that would split the line.
 */
static void put_whom(const struct gpu_reason *reason, FILE *out)
{
	char text[PCI_TEXT_SIZE];

	if (!reason->stranger) {
		pci_addr_text(reason->address, text);
		(void)fputs(text, out);
		return;
	}
	for (const char *p = reason->what; *p != '\0'; p++)
		(void)fputc(*p == ',' || *p == ' ' ? '?' : *p, out);
}

/* Two holders of one function are one reason here. */
static bool said_before(const struct gpu *gpu, uint32_t index)
{
	const struct gpu_reason *a = &gpu->reasons[index];

	for (uint32_t i = 0; i < index; i++) {
		const struct gpu_reason *b = &gpu->reasons[i];

		if (a->reason == b->reason && a->address == b->address &&
		    a->stranger == b->stranger && (!a->stranger || STR_EQ(a->what, b->what)))
			return true;
	}
	return false;
}

int gpu_explain(const struct pci_tree *tree, const struct gpu_list *list, FILE *out)
{
	char text[PCI_TEXT_SIZE];

	for (uint32_t i = 0; i < list->n; i++) {
		const struct gpu *gpu = &list->gpus[i];
		const char *comma = "";

		pci_addr_text(tree->funcs[gpu->func].address, text);
		(void)fprintf(out, "%s %s bind=", text, proto_gpu_reason_name(gpu->verdict));
		for (uint32_t k = 0; k < gpu->n_parts; k++) {
			if (!gpu_part_is_bound(&gpu->parts[k]))
				continue;
			pci_addr_text(tree->funcs[gpu->parts[k].func].address, text);
			(void)fprintf(out, "%s%s", comma, text);
			comma = ",";
		}
		(void)fputs(" reasons=", out);
		comma = "";
		for (uint32_t k = 0; k < gpu->n_reasons; k++) {
			if (said_before(gpu, k))
				continue;
			(void)fprintf(out, "%s%s:", comma,
				      proto_gpu_reason_name(gpu->reasons[k].reason));
			put_whom(&gpu->reasons[k], out);
			comma = ",";
		}
		(void)fputc('\n', out);
	}
	return fflush(out) != 0 || ferror(out) ? -EIO : 0;
}
