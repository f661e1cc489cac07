/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "clock.h"

enum { EVENTS = 32 };

static int epoll_fd = -1;
static struct epoll_event events[EVENTS];
static int event_count;

void loop_open(void)
{
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        perror("epoll_create1");
        exit(1);
    }
}

int loop_add(struct watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};

    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, watch->fd, &event);
}

void loop_remove(struct watch *watch)
{
    epoll_ctl(epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    for (int i = 0; i < event_count; i++) /* an event of this round that was not served yet */
        if (events[i].data.ptr == watch)
            events[i].data.ptr = NULL;
}

int timer_open(struct watch *watch)
{
    watch->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (watch->fd >= 0 && loop_add(watch, EPOLLIN) < 0) {
        close(watch->fd);
        watch->fd = -1;
    }
    return watch->fd;
}

void timer_set(const struct watch *watch, uint64_t at)
{
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at / NS_PER_S), .tv_nsec = (long)(at % NS_PER_S)}};

    timerfd_settime(watch->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

void timer_expired(const struct watch *watch)
{
    uint64_t times;

    while (read(watch->fd, &times, sizeof(times)) < 0 && errno == EINTR)
        ;
}

static void serve(bool urgent)
{
    for (int i = 0; i < event_count; i++) {
        struct watch *watch = events[i].data.ptr;

        if (watch && watch->urgent == urgent)
            watch->ready(watch->self, events[i].events);
    }
}

void loop_run(void)
{
    for (;;) {
        event_count = epoll_wait(epoll_fd, events, EVENTS, -1);
        if (event_count < 0) {
            if (errno == EINTR)
                continue;
            perror("epoll_wait");
            exit(1);
        }
        serve(true);
        serve(false);
        event_count = 0;
    }
}
