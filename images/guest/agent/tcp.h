/* SPDX-License-Identifier: GPL-2.0-or-later */
/* TCP connections across a live update: predictable content (content.h), with its CRC-32 at both ends. */
#ifndef TCP_H
#define TCP_H

#include "json.h"
#include "request.h"

/*
 * role=source|sink port=N [address=A] [rate=bytes/s] [byte_count=N] [seed=N]: connect, or without an address wait
 * for one connection on the port. A source sends `byte_count` bytes (0: until stopped) and closes its half.
 */
void tcp_start(struct request *request, struct output *out);
/* connection=N: a source stops sending and closes its half. */
void tcp_stop(struct request *request, struct output *out);
void tcp_report(struct request *request, struct output *out);
void tcp_reset(struct request *request, struct output *out);

#endif
