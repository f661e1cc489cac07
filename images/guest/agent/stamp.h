/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * STAMP test packets, unauthenticated mode (RFC 8762 sections 4.2.1 and 4.3.1) with the session
 * identifier of RFC 8972. Time stamps are in the NTP 64-bit format (error estimate, Z = 0).
 */
#ifndef STAMP_H
#define STAMP_H

#include <stdint.h>

#include "clock.h"

enum {
    STAMP_PORT = 862,
    STAMP_SIZE = 44, /* bytes; a packet may be longer, never shorter */
    STAMP_MAX_SIZE = 65507,

    /* both packets */
    STAMP_SEQUENCE = 0,
    STAMP_TIME = 4,
    STAMP_ERROR = 12,
    STAMP_SSID = 14,
    /* the reflector's packet */
    STAMP_RECEIVE_TIME = 16,
    STAMP_SENDER_SEQUENCE = 24,
    STAMP_SENDER_TIME = 28,
    STAMP_SENDER_ERROR = 36,
    STAMP_SENDER_TTL = 40,
};

/*
 * Error estimate (RFC 4656 section 4.1.2): S = 0, not synchronised; Z = 0, NTP format;
 * scale 22, multiplier 1: 2^(22 - 32) s, about 1 ms.
 */
#define STAMP_ERROR_ESTIMATE 0x1601
#define STAMP_ERROR_MULTIPLIER 0x00ff /* a multiplier of 0 marks a corrupt packet */

#define NTP_UNIX_OFFSET 2208988800ULL /* seconds from 1900 to 1970 */

static inline void put16(uint8_t *at, uint16_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void put32(uint8_t *at, uint32_t value)
{
    put16(at, (uint16_t)(value >> 16));
    put16(at + 2, (uint16_t)value);
}

static inline uint16_t get16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }
static inline uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }

static inline void put_ntp(uint8_t *at, uint64_t ns)
{
    put32(at, (uint32_t)(ns / NS_PER_S + NTP_UNIX_OFFSET));
    put32(at + 4, (uint32_t)(((ns % NS_PER_S) << 32) / NS_PER_S));
}

/* Nanoseconds since 1970 of an NTP time stamp in era 0 or, below 1970, era 1 (from 2036 on). */
static inline uint64_t get_ntp(const uint8_t *at)
{
    uint64_t seconds = get32(at);

    if (seconds < NTP_UNIX_OFFSET)
        seconds += 1ULL << 32;
    return (seconds - NTP_UNIX_OFFSET) * NS_PER_S + ((get32(at + 4) * NS_PER_S + (1ULL << 31)) >> 32);
}

#endif
