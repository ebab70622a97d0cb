/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a request exactly as bind.h says? Pure.
 * Trust: runs as root; the request comes from vfio-broker, which reads strangers' messages.
 */
#include "vfio-helper/bind/act.h"

/* Ascending from the first, each in range, the rest zero. */
static bool gpus_ok(const uint64_t gpus[static PROTO_MAX_GPUS], size_t min, size_t max)
{
	size_t n = proto_gpus_count(gpus);

	if (n < min || n > max)
		return false;
	for (size_t i = 0; i < PROTO_MAX_GPUS; i++)
		if (i < n ? gpus[i] > PROTO_PCI_MAX || (i > 0 && gpus[i] <= gpus[i - 1])
			  : gpus[i] != 0)
			return false;
	return true;
}

int request_check(const struct bind_request *req, uint32_t max_vms)
{
	bool of_vm = req->act == BIND_TAKE || req->act == BIND_GRANT || req->act == BIND_REVOKE ||
		     req->act == BIND_RELEASE;

	if (req->version != BIND_VERSION || req->reserved != 0)
		return -EPROTO;
	if (req->act < BIND_LIST || req->act > BIND_ACT_MAX ||
	    (req->act == BIND_GRANT ? req->slot >= max_vms : req->slot != 0) ||
	    (of_vm ? !proto_name_ok(req->vm) : !proto_all_zero(req->vm, sizeof(req->vm))))
		return -EINVAL;
	if (req->act == BIND_TAKE)
		return gpus_ok(req->gpus, 1, PROTO_MAX_GPUS) ? 0 : -EINVAL;
	return gpus_ok(req->gpus, 0, req->act == BIND_RECOVER ? 1 : 0) ? 0 : -EINVAL;
}
