/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What ends a NIC or the guest for a while: unbinding its driver, a reboot; and configuring a NIC that is new. */
#ifndef LIFECYCLE_H
#define LIFECYCLE_H

#include "json.h"
#include "request.h"

/* device=eth0: unbind its driver; the answer has the names that binding needs: name=virtio1 driver=virtio_net. */
void lifecycle_unbind(struct request *request, struct output *out);
/* name=virtio1 driver=virtio_net: bind the driver; the NIC is new then, down and without addresses. */
void lifecycle_bind(struct request *request, struct output *out);
/* device=eth0 ipv4=A/N ipv6=A/N: set the NIC up and give it what it does not have, as init does at boot. */
void lifecycle_configure(struct request *request, struct output *out);
/* Reboot in a moment: the answer has to leave first. */
void lifecycle_reboot(struct request *request, struct output *out);
/* Power the guest off in a moment. */
void lifecycle_power_off(struct request *request, struct output *out);
/* seconds=N: set the alarm of the real-time clock. */
void lifecycle_set_alarm(struct request *request, struct output *out);
/* Suspend the guest to RAM (ACPI S3); it answers again when management has woken it. */
void lifecycle_suspend(struct request *request, struct output *out);

#endif
