/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A network device by its name: ioctls, flags, link-layer addresses. */
#ifndef NETDEVICE_H
#define NETDEVICE_H

#include <net/if.h>
#include <stdint.h>

#include "request.h"

enum { MAC_SIZE = 6 };

/* An argument of ioctls that names the device. */
struct ifreq device_request(const char *device);
/* An ioctl on a temporary socket of this family. Returns its result, or -1 with errno. */
int device_ioctl(int family, unsigned long number, void *argument);
/* A command of linux/ethtool.h. Returns the ioctl's result, or -1 with errno. */
int device_ethtool(const char *device, void *command);
/* Set and clear flags of linux/if.h. Returns 0, or -1 with errno. */
int device_change_flags(const char *device, short on, short off);
/* Six bytes as 52:54:00:12:34:56; the request fails with another text. */
void parse_mac(struct request *request, const char *text, uint8_t mac[MAC_SIZE]);

#endif
