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

int sysfs_link(const char *device, const char *link, char name[SYSFS_NAME])
{
    char path[96], target[PATH_MAX];

    snprintf(path, sizeof(path), "/sys/class/net/%.15s/%s", device, link);
    if (!realpath(path, target))
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

void sysfs_write_driver(struct request *request, const char *bus, const char *driver, const char *file, const char *name)
{
    char path[64 + SYSFS_NAME];

    if (*request->error)
        return;
    snprintf(path, sizeof(path), "/sys/bus/%s/drivers/%.200s/%s", bus, driver, file);
    if (sysfs_write(path, name) < 0)
        request_fail(request, "%s %.32s: %s", file, name, strerror(errno));
}
