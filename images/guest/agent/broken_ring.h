/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A driver with a fault: it gives the NIC a chain that never ends, so that the device asks for a reset. */
#ifndef BROKEN_RING_H
#define BROKEN_RING_H

#include "json.h"
#include "request.h"

/* device=eth0: take the NIC from its driver, break its first transmit queue, then offer a right chain. The answer has
   the names of the PCI device and its driver. */
void broken_ring_make(struct request *request, struct output *out);
/* Kick that queue: needs_reset, and used, the chains that the device has taken from it. */
void broken_ring_kick(struct request *request, struct output *out);
/* name=0000:00:02.0 driver=virtio-pci: return the NIC to its driver, which resets it. */
void broken_ring_end(struct request *request, struct output *out);

#endif
