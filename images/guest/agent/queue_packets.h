/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Packets that each queue of a NIC carried. */
#ifndef QUEUE_PACKETS_H
#define QUEUE_PACKETS_H

#include "json.h"

/* Member "queue_packets" of an open object: "rx0", "tx0", "rx1", ...; empty where the kernel does not count them. */
void queue_packets_report(struct output *out, const char *device);

#endif
