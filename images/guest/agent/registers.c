/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "registers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/io.h>
#include <unistd.h>

enum { LONGEST = 16 };

void registers_write_port(struct request *request, struct output *out)
{
    uint16_t port = (uint16_t)request_number(request, "port", 0, UINT16_MAX, 0);
    uint32_t value = (uint32_t)request_number(request, "value", 0, UINT32_MAX, 0);
    unsigned width = (unsigned)request_number(request, "width", 1, 4, 1);

    if (*request->error)
        return;
    if (iopl(3) < 0)
        request_fail(request, "iopl: %s", strerror(errno));
    else if (width == 1)
        outb((uint8_t)value, port);
    else if (width == 2)
        outw((uint16_t)value, port);
    else
        outl(value, port);
}

void registers_write_file(struct request *request, struct output *out)
{
    const char *path = request_text(request, "path");
    uint64_t offset = request_number(request, "offset", 0, UINT32_MAX, 0);
    uint8_t bytes[LONGEST];
    size_t count = request_bytes(request, "bytes", bytes, LONGEST);
    int fd;

    if (*request->error)
        return;
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, bytes, count, (off_t)offset) != (ssize_t)count)
        request_fail(request, "%.80s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}
