/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Settings of a NIC that the driver passes to its device. */
#ifndef INTERFACE_H
#define INTERFACE_H

#include "json.h"
#include "request.h"

/* device=eth0 [mac=...] [up=0|1] [promisc=0|1] [allmulti=0|1]: what is absent is unchanged. */
void interface_set(struct request *request, struct output *out);
/* device=eth0 rx=N tx=N: sizes of the rings in packets, as ethtool -G. */
void interface_set_rings(struct request *request, struct output *out);
/* device=eth0 feature=NAME on=0|1: ethtool -K, by the name that netinfo shows. */
void interface_feature(struct request *request, struct output *out);
/*
 * device=eth0 wait_us=N: after each poll for received packets the driver waits this long, with the device's
 * interrupts off (gro_flush_timeout, napi_defer_hard_irqs). 0: no wait, effective after the current one.
 */
void interface_defer(struct request *request, struct output *out);

#endif
