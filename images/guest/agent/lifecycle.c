/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lifecycle.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "flow_queues.h"
#include "loop.h"
#include "netdevice.h"
#include "sysfs.h"

enum { ANSWER_MS = 100, QUEUE_LENGTH = 20000 /* as init sets it */ };

void lifecycle_unbind(struct request *request, struct output *out)
{
    char name[SYSFS_NAME];

    sysfs_unbind(request, out, "virtio", "device", name);
}

void lifecycle_bind(struct request *request, struct output *out)
{
    sysfs_bind(request, "virtio");
}

/* The address and the length of its prefix in ADDRESS/LENGTH. */
static bool parse_network(const char *text, int family, void *address, unsigned *prefix)
{
    char copy[64], *slash, *end;

    snprintf(copy, sizeof(copy), "%s", text);
    slash = strchr(copy, '/');
    if (!slash)
        return false;
    *slash++ = '\0';
    *prefix = (unsigned)strtoul(slash, &end, 10);
    return *slash && !*end && *prefix <= (family == AF_INET ? 32 : 128) && inet_pton(family, copy, address) == 1;
}

static int set_up(const char *device)
{
    struct ifreq name = device_request(device);

    name.ifr_qlen = QUEUE_LENGTH;
    return device_ioctl(AF_INET, SIOCSIFTXQLEN, &name) < 0 ? -1 : device_change_flags(device, IFF_UP, 0);
}

static int add_ipv4(const char *device, struct in_addr address, unsigned prefix)
{
    struct ifreq name = device_request(device);
    struct sockaddr_in *value = (void *)&name.ifr_addr;

    *value = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = address};
    if (device_ioctl(AF_INET, SIOCSIFADDR, &name) < 0)
        return -1;
    value->sin_addr.s_addr = htonl(prefix ? ~0u << (32 - prefix) : 0);
    return device_ioctl(AF_INET, SIOCSIFNETMASK, &name);
}

static int add_ipv6(const char *device, struct in6_addr address, unsigned prefix)
{
    struct { /* struct in6_ifreq of linux/ipv6.h, which cannot be included beside netinet/in.h */
        struct in6_addr address;
        uint32_t prefix;
        int index;
    } change = {address, prefix, (int)if_nametoindex(device)};

    return device_ioctl(AF_INET6, SIOCSIFADDR, &change) < 0 && errno != EEXIST ? -1 : 0;
}

void lifecycle_configure(struct request *request, struct output *out)
{
    const char *device = sysfs_request_name(request, "device");
    const char *ipv4 = request_text(request, "ipv4"), *ipv6 = request_text(request, "ipv6");
    unsigned prefix4, prefix6;
    struct in6_addr address6;
    struct in_addr address4;

    if (!parse_network(ipv4, AF_INET, &address4, &prefix4))
        request_fail(request, "ipv4=%.20s is no address with a prefix", ipv4);
    if (!parse_network(ipv6, AF_INET6, &address6, &prefix6))
        request_fail(request, "ipv6=%.50s is no address with a prefix", ipv6);
    if (*request->error)
        return;
    if (set_up(device) < 0 || add_ipv4(device, address4, prefix4) < 0 ||
        add_ipv6(device, address6, prefix6) < 0)
        request_fail(request, "configure %.16s: %s", device, strerror(errno));
    flow_queues_keep(device);
}

static void reboot_now(void)
{
    reboot(RB_AUTOBOOT);
}

static void power_off_now(void)
{
    reboot(RB_POWER_OFF);
    reboot(RB_AUTOBOOT); /* no ACPI; -no-reboot ends QEMU */
}

/* Returns when the guest is awake again. */
static void suspend_now(void)
{
    sysfs_write("/sys/power/state", "mem");
}

static struct {
    struct watch timer;
    void (*action)(void);
} later;

static void timer_ready(void *self, uint32_t events)
{
    timer_expired(&later.timer);
    later.action();
}

/* Act when the answer has been sent. */
static void do_later(struct request *request, void (*action)(void))
{
    later.timer.ready = timer_ready;
    later.action = action;
    if (getpid() != 1)
        request_fail(request, "not process 1: not in a cprlib guest");
    else if (later.timer.fd <= 0 && timer_open(&later.timer) < 0)
        request_fail(request, "start a timer: %s", strerror(errno));
    else
        timer_set(&later.timer, monotonic_ns() + ANSWER_MS * NS_PER_MS);
}

void lifecycle_reboot(struct request *request, struct output *out)
{
    do_later(request, reboot_now);
}

void lifecycle_suspend(struct request *request, struct output *out)
{
    do_later(request, suspend_now);
}

void lifecycle_power_off(struct request *request, struct output *out)
{
    do_later(request, power_off_now);
}

void lifecycle_set_alarm(struct request *request, struct output *out)
{
    uint64_t seconds = request_number(request, "seconds", 1, 3600, 1);
    char text[16];

    snprintf(text, sizeof(text), "+%u", (unsigned)seconds);
    if (!*request->error && sysfs_write("/sys/class/rtc/rtc0/wakealarm", text) < 0)
        request_fail(request, "set an alarm: %s", strerror(errno));
}
