/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every GPU with what belongs to it, as the protocol's records.
 * Trust: runs as root; what it describes goes to agentd.
 */
#include "vfio-helper/bind/act.h"

#include "common/fd.h"

struct list {
	uint8_t *bytes; /* owned; PROTO_GPU_LIST_MAX of them */
	size_t n;
};

static int add(struct list *list, uint32_t op, const void *body, size_t len)
{
	struct proto_header header = {.op = op, .kind = PROTO_EVENT, .len = (uint32_t)len};

	if (list->n + sizeof(header) + len > PROTO_GPU_LIST_MAX)
		return -E2BIG;
	memcpy(list->bytes + list->n, &header, sizeof(header));
	memcpy(list->bytes + list->n + sizeof(header), body, len);
	list->n += sizeof(header) + len;
	return 0;
}

#define SET(field, text) proto_text_set((field), sizeof(field), (text))

static int add_card(struct list *list, const struct view *view, const struct gpu *gpu)
{
	const struct pci_func *f = &view->tree.funcs[gpu->func];
	const struct gpu_lease_ref *lease = gpu_lease_of(&view->state, f->address);
	struct gpu_card_ev ev = {
		.gpu = f->address,
		.bar0 = f->bars[0],
		.bar1 = f->bars[1],
		.bar2 = f->bars[2],
		.bar3 = f->bars[3],
		.bar4 = f->bars[4],
		.bar5 = f->bars[5],
		.vendor = f->vendor,
		.device = f->device,
		.subvendor = f->subvendor,
		.subdevice = f->subdevice,
		.class_code = f->class_code,
		.revision = f->revision,
		.group = f->group,
		.node = f->node,
		.verdict = gpu->verdict,
		.resets = f->resets,
	};

	SET(ev.driver, f->driver);
	SET(ev.vm, lease ? lease->vm : "");
	return add(list, OP_GPU_CARD, &ev, sizeof(ev));
}

static int add_part(struct list *list, const struct view *view, pci_addr gpu,
		    const struct gpu_part *part)
{
	const struct pci_func *f = &view->tree.funcs[part->func];
	struct gpu_part_ev ev = {.gpu = gpu,
				 .address = f->address,
				 .vendor = f->vendor,
				 .device = f->device,
				 .class_code = f->class_code,
				 .group = f->group,
				 .role = part->role};

	SET(ev.driver, f->driver);
	return add(list, OP_GPU_PART, &ev, sizeof(ev));
}

static int add_reason(struct list *list, pci_addr gpu, const struct gpu_reason *reason)
{
	struct gpu_reason_ev ev = {
		.gpu = gpu, .address = reason->address, .reason = reason->reason};

	SET(ev.what, reason->what);
	return add(list, OP_GPU_REASON, &ev, sizeof(ev));
}

static int add_holders(struct list *list, const struct view *view, pci_addr gpu, uint32_t func)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < view->state.n_holders; i++) {
		const struct gpu_holder *h = &view->state.holders[i];
		struct gpu_holder_ev ev = {.gpu = gpu, .pid = h->pid};

		if (h->func != func)
			continue;
		SET(ev.program, h->program);
		SET(ev.node, h->node);
		SET(ev.service, h->service);
		r = add(list, OP_GPU_HOLDER, &ev, sizeof(ev));
	}
	return r;
}

static int add_gpu(struct list *list, int sysfs_fd, const struct view *view, const struct gpu *gpu)
{
	pci_addr address = view->tree.funcs[gpu->func].address;
	_cleanup_close_ int fd = pci_open(sysfs_fd, address);
	int r;

	pci_read_more(fd, &view->tree.funcs[gpu->func]);
	r = add_card(list, view, gpu);

	for (uint32_t i = 0; r == 0 && i < gpu->n_parts; i++)
		r = add_part(list, view, address, &gpu->parts[i]);
	for (uint32_t i = 0; r == 0 && i < gpu->n_reasons; i++)
		r = add_reason(list, address, &gpu->reasons[i]);
	for (uint32_t i = 0; r == 0 && i < gpu->n_parts; i++)
		if (gpu_part_is_bound(&gpu->parts[i]))
			r = add_holders(list, view, address, gpu->parts[i].func);
	return r;
}

enum proto_status act_list(const struct bind_env *env, struct bind_answer *ans, int *ret_fd,
			   struct err *why)
{
	_cleanup_(view_done) struct view view = {0};
	_cleanup_free_ uint8_t *bytes = malloc(PROTO_GPU_LIST_MAX);
	struct list list = {.bytes = bytes};
	int r = bytes ? view_load(env, "", NULL, 0, &view, why) : -ENOMEM;

	if (r == 0)
		r = view_holders(env, &view, why);

	for (uint32_t i = 0; r == 0 && i < view.list.n; i++) {
		/* A Xen guest may have one there, without an IOMMU; the protocol has no word for
		 * it. */
		if (view.tree.funcs[view.list.gpus[i].func].address == 0)
			continue;
		r = add_gpu(&list, env->sysfs_fd, &view, &view.list.gpus[i]);
		ans->done++;
	}
	if (r == 0)
		r = fd_memfd_sealed("gpus", bytes, list.n);
	if (r < 0)
		return act_status(r);
	*ret_fd = r;
	ans->list_bytes = (uint32_t)list.n;
	return PROTO_OK;
}
