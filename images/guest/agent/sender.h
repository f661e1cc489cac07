/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The session-sender: streams of test packets that start in the guest (RFC 8762 section 4.2). */
#ifndef SENDER_H
#define SENDER_H

#include <stdint.h>

#include "datagram.h"
#include "json.h"
#include "records.h"

struct stream_settings {
    union address destination;
    uint16_t source_port; /* 0: any */
    uint16_t ssid;
    uint32_t rate;  /* packets/s, 1 to 100000 */
    uint32_t count; /* packets; 0: until stopped */
    uint32_t size;  /* bytes of UDP payload, 44 to 65507 */
    uint8_t dscp;   /* 0 to 63 */
};

/* Open the log. Returns 0, or -1 with errno. */
int sender_open(uint32_t log_capacity);
/* Start a stream. Returns its index, or -1 with a reason. */
int sender_start(const struct stream_settings *settings, const char **reason);
/* Stop sending; answers are still received. Returns false when there is no such stream. */
bool sender_stop(unsigned stream);
/* Stop all streams, close them, forget counters and log. */
void sender_reset(void);
struct record_log *sender_log(void);
void sender_report(struct output *out);

#endif
