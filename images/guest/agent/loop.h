/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The event loop: one thread; the reflector first, everything else in bounded steps. */
#ifndef LOOP_H
#define LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct watch {
    int fd;
    void (*ready)(void *self, uint32_t events);
    void *self;
    bool urgent; /* served before those that are not */
};

void loop_open(void);
/* Watch a descriptor; the structure must remain valid meanwhile. events as in epoll_ctl(2). Returns 0 or -1. */
int loop_add(struct watch *watch, uint32_t events);
void loop_remove(struct watch *watch);
/* A timer on CLOCK_MONOTONIC; returns its descriptor or -1. Its callback must call timer_expired. */
int timer_open(struct watch *watch);
void timer_set(const struct watch *watch, uint64_t monotonic_ns); /* 0 disarms */
void timer_expired(const struct watch *watch);
void loop_run(void) __attribute__((noreturn));

#endif
