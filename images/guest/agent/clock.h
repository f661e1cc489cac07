/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Clocks in nanoseconds. CLOCK_REALTIME is the clock of the kernel's receive time stamps. */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_S 1000000000ULL
#define NS_PER_MS 1000000ULL

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline uint64_t realtime_ns(void) { return clock_ns(CLOCK_REALTIME); }
static inline uint64_t monotonic_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

#endif
