/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Devices and their drivers in sysfs. */
#ifndef SYSFS_H
#define SYSFS_H

#include "json.h"
#include "request.h"

enum { SYSFS_NAME = 256 };

/* A parameter that is the name of a device or driver; the request fails when it has a slash or is missing. */
const char *sysfs_request_name(struct request *request, const char *key);
/* Returns 0, or -1 with errno. */
int sysfs_write(const char *path, const char *text);
/* device=eth0: unbind the driver of the device that a path below the NIC leads to: "device". The answer has the names
   that binding needs: name=virtio1 driver=virtio_net. Sets name, unless the request fails. */
void sysfs_unbind(struct request *request, struct output *out, const char *bus, const char *path, char name[SYSFS_NAME]);
/* name=virtio1 driver=virtio_net: bind the driver. */
void sysfs_bind(struct request *request, const char *bus);

#endif
