/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Receive filters of a NIC: VLAN ids and link-layer addresses, which virtio-net sends to its device. */
#ifndef FILTER_H
#define FILTER_H

#include "json.h"
#include "request.h"

/* action=add|remove device=eth0 vlan=1..4094: a VLAN device <device>.<vlan>, up. */
void filter_vlan(struct request *request, struct output *out);
/* action=add|remove device=eth0 mac=...: a multicast or a further unicast address to be received. */
void filter_address(struct request *request, struct output *out);

#endif
