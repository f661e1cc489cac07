/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content of a TCP connection: byte i is byte i % 8, lowest first, of word i / 8; word n is the state seed + n times
 * the golden gamma, mixed as in splitmix64. No two parts are equal, so lost, repeated or moved bytes are detected.
 */
#ifndef CONTENT_H
#define CONTENT_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t content_word(uint64_t seed, uint64_t n)
{
    uint64_t x = seed + (n + 1) * 0x9e3779b97f4a7c15;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static inline void content_fill(uint8_t *buffer, size_t length, uint64_t seed, uint64_t offset)
{
    uint64_t word = 0;

    for (size_t i = 0; i < length; i++) {
        uint64_t at = offset + i;

        if (!i || at % 8 == 0)
            word = content_word(seed, at / 8);
        buffer[i] = (uint8_t)(word >> at % 8 * 8);
    }
}

#endif
