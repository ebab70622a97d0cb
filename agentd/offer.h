/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tunnels' server as the control plane has named it last, kept on disk: tunnels go on when
 * agentd starts again while the control plane is away.
 * Trust: runs inside agentd; reads back its own file, which may have been damaged.
 */
#pragma once

#include "agentd/control/control.h"
#include "common/base.h"

/* Keeps what @init says of tunnels, durably, as a word of the control plane at @url. */
int offer_save(int data_fd, const char *url, const struct control_init *init);

/*
 * Reads it back; all else in @ret_init is 0. Returns 0 or a negative errno: -ENOENT when there is
 * none, or none of the control plane at @url; -EBADMSG when it is damaged.
 */
int offer_load(int data_fd, const char *url, struct control_init *ret_init);
