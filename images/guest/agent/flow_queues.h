/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which queue of a NIC a flow of the guest uses. */
#ifndef FLOW_QUEUES_H
#define FLOW_QUEUES_H

/*
 * Let the hash of a flow alone select its queue. The driver gives each queue to some of the processors
 * (virtnet_set_affinity(), drivers/net/virtio_net.c), again when the number of queue pairs changes: then a flow changes
 * its queue, in both directions, when its sender changes processors, and its packets overtake those that wait in the
 * other queue.
 */
void flow_queues_keep(const char *device);

#endif
