/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ALL = 1 << 19, FILE_BYTES = 1 << 17, PART = 8, HEAD = 512 };

static char memory[ALL], content[FILE_BYTES];

/* The bytes of a file, at most FILE_BYTES; -errno for one that cannot be read, -EISDIR for a folder. */
static ssize_t read_whole(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t used = 0;
    struct stat status;
    ssize_t count;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
        close(fd);
        return -EISDIR;
    }
    /* the kernel's log has one record for each read; EPIPE: a record was overwritten since */
    while (used < sizeof(content) && ((count = read(fd, content + used, sizeof(content) - used)) > 0 ||
                                      (count < 0 && errno == EPIPE)))
        used += count > 0 ? (size_t)count : 0;
    if (!used && count < 0 && errno != EAGAIN)
        count = -errno;
    else
        count = (ssize_t)used;
    close(fd);
    return count;
}

static void add(struct output *files, const char *path, ssize_t size)
{
    char head[HEAD];
    int length = snprintf(head, sizeof(head), "%.400s\n%zd\n", path, size);

    output_raw(files, head, (size_t)length);
    if (size > 0)
        output_raw(files, content, (size_t)size);
}

/* Adds the bytes of a file at each of the offsets, hexadecimal and separated by ','. Returns their number. */
static uint64_t add_parts(struct output *files, const char *path, const char *offsets)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t number = 0;
    char name[HEAD], *end;

    for (; fd >= 0 && *offsets; offsets = end + (*end == ',')) {
        off_t offset = (off_t)strtoull(offsets, &end, 16);
        ssize_t size = pread(fd, content, PART, offset);

        if (end == offsets)
            break;
        snprintf(name, sizeof(name), "%.380s@%llx", path, (unsigned long long)offset);
        add(files, name, size < 0 ? -errno : size);
        number++;
    }
    if (fd >= 0)
        close(fd);
    return number;
}

/* Adds a file, whole. Returns 0 for a folder, else 1. */
static uint64_t add_whole(struct output *files, const char *path)
{
    ssize_t size = read_whole(path);

    if (size == -EISDIR)
        return 0;
    add(files, path, size);
    return 1;
}

void files_read(struct request *request, struct output *out)
{
    const char *patterns = request_text(request, "of");
    struct output files = {.data = memory, .size = sizeof(memory)};
    uint64_t number = 0;
    char pattern[HEAD], *offsets;
    glob_t found;

    while (*patterns) {
        size_t end = strcspn(patterns, ":");

        snprintf(pattern, sizeof(pattern), "%.*s", (int)end, patterns);
        patterns += end + (patterns[end] == ':');
        if ((offsets = strchr(pattern, '@')) != NULL)
            *offsets = '\0';
        if (glob(pattern, GLOB_BRACE | GLOB_NOSORT, NULL, &found) != 0)
            continue; /* no such file */
        for (size_t i = 0; i < found.gl_pathc; i++) {
            const char *path = found.gl_pathv[i];

            number += offsets ? add_parts(&files, path, offsets + 1) : add_whole(&files, path);
        }
        globfree(&found);
    }
    if (files.overflow)
        request_fail(request, "the files are longer than %d bytes", ALL);
    json_count(out, "files", number);
    request->payload = memory;
    request->payload_length = files.used;
}
