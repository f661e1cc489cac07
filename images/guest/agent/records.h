/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A log of test packets in memory: fixed records, bounded, overflow counted. */
#ifndef RECORDS_H
#define RECORDS_H

#include <stdint.h>

enum record_kind {
    RECORD_REFLECTED = 1, /* a = T2 received, b = T3 sent, c = T1 as the sender wrote it */
    RECORD_SENT = 2,      /* a = T1 sent */
    RECORD_ANSWER = 3,    /* a = T2, b = T3 as the reflector wrote them, c = T4 received */
};

enum record_flags {
    RECORD_RETRIED = 1, /* the first send was refused */
};

/* 40 bytes, little endian; cprlib/guest/packet_log.py has the same layout. */
struct record {
    uint32_t sender_sequence;
    uint32_t reflector_sequence;
    uint64_t a_ns;
    uint64_t b_ns;
    uint64_t c_ns;
    uint16_t session; /* reflector: index of the session; sender: index of the stream */
    uint16_t size;    /* bytes of UDP payload */
    uint16_t flags;
    uint16_t kind;
};
_Static_assert(sizeof(struct record) == 40, "cprlib/guest/packet_log.py reads this layout");

struct record_log {
    struct record *records;
    uint32_t capacity;
    uint32_t count;
    uint64_t overflow; /* records for which there was no room */
};

/* Memory is allocated on use. Returns 0, or -1 with errno. */
int log_open(struct record_log *log, uint32_t capacity);
void log_reset(struct record_log *log);
/* The next record, zeroed, to be filled in; NULL when the log is full, which is counted. */
struct record *log_next(struct record_log *log);

#endif
