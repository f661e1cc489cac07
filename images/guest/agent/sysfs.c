/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *sysfs_request_name(struct request *request, const char *key)
{
    const char *name = request_text(request, key);

    if (strchr(name, '/'))
        request_fail(request, "%s=%.16s is no name", key, name);
    return name;
}

/* The last part of the path that a link of a network device leads to. Returns 0, or -1 with errno. */
static int link_name(const char *device, const char *path, const char *link, char name[SYSFS_NAME])
{
    char whole[96], target[PATH_MAX];

    snprintf(whole, sizeof(whole), "/sys/class/net/%.15s/%s%s", device, path, link);
    if (!realpath(whole, target))
        return -1;
    snprintf(name, SYSFS_NAME, "%.255s", strrchr(target, '/') + 1);
    return 0;
}

int sysfs_write(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), saved;
    ssize_t written;

    if (fd < 0)
        return -1;
    written = write(fd, text, strlen(text));
    saved = errno;
    close(fd);
    errno = saved;
    return written == (ssize_t)strlen(text) ? 0 : -1;
}

/* Write the name of a device to a file of its driver. Does nothing when the request has failed. */
static void write_driver(struct request *request, const char *bus, const char *driver, const char *file, const char *name)
{
    char path[64 + SYSFS_NAME];

    if (*request->error)
        return;
    snprintf(path, sizeof(path), "/sys/bus/%s/drivers/%.200s/%s", bus, driver, file);
    if (sysfs_write(path, name) < 0)
        request_fail(request, "%s %.32s: %s", file, name, strerror(errno));
}

void sysfs_unbind(struct request *request, struct output *out, const char *bus, const char *path, char name[SYSFS_NAME])
{
    const char *device = sysfs_request_name(request, "device");
    char driver[SYSFS_NAME];

    if (*request->error)
        return;
    if (link_name(device, path, "", name) < 0 || link_name(device, path, "/driver", driver) < 0) {
        request_fail(request, "find the driver of %.16s: %s", device, strerror(errno));
        return;
    }
    json_string(out, "name", name);
    json_string(out, "driver", driver);
    write_driver(request, bus, driver, "unbind", name);
}

void sysfs_bind(struct request *request, const char *bus)
{
    const char *name = sysfs_request_name(request, "name"), *driver = sysfs_request_name(request, "driver");

    write_driver(request, bus, driver, "bind", name);
}
