/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The session-reflector: stateful, RFC 8762 section 4.3; a session is identified by the peer's address, port and SSID. */
#ifndef REFLECTOR_H
#define REFLECTOR_H

#include <stdint.h>

#include "json.h"
#include "records.h"
#include "request.h"

/* Open UDP port `port` over IPv4 and, where the kernel has it, IPv6. Returns 0, or -1 with errno. */
int reflector_open(uint16_t port, uint32_t log_capacity);
struct record_log *reflector_log(void);
/* Forget sessions, counters and log: the next packet of a peer starts a new session at sequence 0. */
void reflector_reset(struct request *request, struct output *out);
/* paused=0|1 receive_buffer=N: receive no packet until resumed; a buffer (bytes, SO_RCVBUF) of 0 leaves it unchanged. */
void reflector_pause(struct request *request, struct output *out);
void reflector_report(struct request *request, struct output *out);

#endif
