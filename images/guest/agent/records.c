/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "records.h"

#include <string.h>
#include <sys/mman.h>

int log_open(struct record_log *log, uint32_t capacity)
{
    void *memory = mmap(NULL, (size_t)capacity * sizeof(struct record), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        return -1;
    *log = (struct record_log){.records = memory, .capacity = capacity};
    return 0;
}

void log_reset(struct record_log *log)
{
    log->count = 0;
    log->overflow = 0;
}

struct record *log_next(struct record_log *log)
{
    struct record *record;

    if (log->count == log->capacity) {
        log->overflow++;
        return NULL;
    }
    record = &log->records[log->count++];
    memset(record, 0, sizeof(*record));
    return record;
}
