/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SHA-256 (FIPS 180-4). */
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_SIZE = 32, SHA256_BLOCK = 64 };

struct sha256 {
    uint32_t hash[8];
    uint64_t length; /* bytes so far */
    uint8_t block[SHA256_BLOCK];
};

void sha256_begin(struct sha256 *state);
void sha256_add(struct sha256 *state, const void *data, size_t length);
/* The digest of what was added so far; more may be added afterwards. */
void sha256_digest(const struct sha256 *state, uint8_t digest[SHA256_SIZE]);

#endif
