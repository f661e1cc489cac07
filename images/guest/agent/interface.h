/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Settings of a NIC that a driver hands on to its device. */
#ifndef INTERFACE_H
#define INTERFACE_H

#include "request.h"

/* device=eth0 [mac=...] [promisc=0|1] [allmulti=0|1]: what is not named stays as it is. */
void interface_set(struct request *request);
/* device=eth0 feature=NAME on=0|1: ethtool -K, by the name that netinfo shows. */
void interface_feature(struct request *request);
/*
 * device=eth0 wait_us=N: once the driver has taken what was received, it looks again only so much later, and the
 * device's interrupts are off meanwhile (gro_flush_timeout, napi_defer_hard_irqs). 0: as ever, after the wait under way.
 */
void interface_defer(struct request *request);

#endif
