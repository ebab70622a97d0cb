/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-broker: hears agentd and vmmon, decides about VMs, and asks vfio-helper for the little that
 * takes root. Start-up stages, nothing else.
 * Trust: runs as qudata-helper without any capability; reads a sealed struct of vfio-helper's
 * before it is confined, and requests of agentd and vmmon afterwards.
 */
#include "vfio-helper/broker/broker.h"

#include "common/priv.h"
#include "vfio-broker.filter.h"

static struct broker broker = {.monitor.fd = -EBADF};

static int run(struct broker *b, struct err *reterr)
{
	int r;

	stage_enter(STAGE_OPEN);
	r = broker_open(b, reterr);
	if (r == 0)
		r = priv_confine("vfio-broker", 0, filter_vfio_broker, filter_vfio_broker_len,
				 reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_RUN);
	r = broker_begin(b, reterr);
	if (r < 0)
		return r;
	r = loop_run(b);
	return r < 0 ? err_errno(reterr, r, "the event loop ended") : 0;
}

int main(int argc, _unused_ char *argv[])
{
	struct err err = {0};
	int r = priv_sane_start(argc, BROKER_FD_END - BROKER_FD_PAIR, &err);

	stage_enter(STAGE_CONFIG);
	log_open("vfio-broker", LOG_INFO);
	if (r == 0)
		r = run(&broker, &err);
	broker_done(&broker);
	if (r < 0)
		log_event(LOG_ERR, err.text);
	return r < 0 ? 1 : 0;
}
