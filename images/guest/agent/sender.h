/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The session-sender: streams of test packets that start in the guest (RFC 8762 section 4.2). */
#ifndef SENDER_H
#define SENDER_H

#include <stdint.h>

#include "json.h"
#include "records.h"
#include "request.h"

/* Open the log. Returns 0, or -1 with errno. */
int sender_open(uint32_t log_capacity);
struct record_log *sender_log(void);
/* destination=A [port=N] [source_port=N] [ssid=N] [rate=packets/s] [count=N] [size=bytes]: the answer has its index,
   "stream". */
void sender_start(struct request *request, struct output *out);
/* stream=N: stop sending; answers are still received. */
void sender_stop(struct request *request, struct output *out);
/* Stop all streams, close them, forget counters and log. */
void sender_reset(struct request *request, struct output *out);
void sender_report(struct request *request, struct output *out);

#endif
