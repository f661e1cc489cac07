/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The session-reflector: stateful, RFC 8762 section 4.3; a session is identified by the peer's address, port and SSID. */
#ifndef REFLECTOR_H
#define REFLECTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "json.h"
#include "records.h"

/* Open UDP port `port` over IPv4 and, where the kernel has it, IPv6. Returns 0, or -1 with errno. */
int reflector_open(uint16_t port, uint32_t log_capacity);
struct record_log *reflector_log(void);
/* Forget sessions, counters and log: the next packet of a peer starts a new session at sequence 0. */
void reflector_reset(void);
/* Receive no packet until resumed; a receive buffer (bytes, SO_RCVBUF) of 0 leaves it unchanged. Returns 0 or -1. */
int reflector_pause(bool paused, uint32_t receive_buffer);
void reflector_report(struct output *out);

#endif
