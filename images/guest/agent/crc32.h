/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CRC-32 as in IEEE 802.3 and zlib: reflected polynomial 0xedb88320. */
#ifndef CRC32_H
#define CRC32_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of bytes and of what was before them, whose CRC is `crc`; 0 for nothing. */
static inline uint32_t crc32(uint32_t crc, const void *data, size_t length)
{
    static uint32_t table[256];
    const uint8_t *bytes = data;

    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t value = i;

            for (int bit = 0; bit < 8; bit++)
                value = value & 1 ? value >> 1 ^ 0xedb88320 : value >> 1;
            table[i] = value;
        }
    crc = ~crc;
    for (size_t i = 0; i < length; i++)
        crc = crc >> 8 ^ table[(crc ^ bytes[i]) & 0xff];
    return ~crc;
}

#endif
