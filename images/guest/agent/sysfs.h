/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Devices and their drivers in sysfs. */
#ifndef SYSFS_H
#define SYSFS_H

#include "request.h"

enum { SYSFS_NAME = 256 };

/* A parameter that is the name of a device or driver; the request fails when it has a slash or is missing. */
const char *sysfs_request_name(struct request *request, const char *key);
/* The last part of the path that a link of a network device leads to. Returns 0, or -1 with errno. */
int sysfs_link(const char *device, const char *link, char name[SYSFS_NAME]);
/* Returns 0, or -1 with errno. */
int sysfs_write(const char *path, const char *text);
/* Write the name of a device to a file of its driver: unbind, bind. Does nothing when the request has failed. */
void sysfs_write_driver(struct request *request, const char *bus, const char *driver, const char *file, const char *name);

#endif
