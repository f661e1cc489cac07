/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "interface.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ethtool.h"

enum { MAC = 6 };

/* Set and clear flags of linux/if.h. Returns 0, or -1 with errno. */
static int change_flags(int fd, struct ifreq *name, short on, short off)
{
    if (!(on | off))
        return 0;
    if (ioctl(fd, SIOCGIFFLAGS, name) < 0)
        return -1;
    name->ifr_flags = (short)((name->ifr_flags | on) & ~off);
    return ioctl(fd, SIOCSIFFLAGS, name);
}

static int change_mac(int fd, struct ifreq *name, const uint8_t *mac)
{
    name->ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(name->ifr_hwaddr.sa_data, mac, MAC);
    return ioctl(fd, SIOCSIFHWADDR, name);
}

static void read_flag(struct request *request, const char *key, short flag, short *on, short *off)
{
    if (request_get(request, key))
        *(request_number(request, key, 0, 1, 0) ? on : off) |= flag;
}

void interface_set(struct request *request)
{
    const char *device = request_text(request, "device"), *text = request_get(request, "mac");
    struct ifreq name = {0};
    short on = 0, off = 0;
    uint8_t mac[MAC];
    char rest;
    int fd;

    read_flag(request, "up", IFF_UP, &on, &off);
    read_flag(request, "promisc", IFF_PROMISC, &on, &off);
    read_flag(request, "allmulti", IFF_ALLMULTI, &on, &off);
    if (text && sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &rest) != MAC)
        request_fail(request, "mac=%.20s is no address", text);
    if (*request->error)
        return;
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(name.ifr_name, sizeof(name.ifr_name), "%.15s", device);
    if (fd < 0 || change_flags(fd, &name, on, off) < 0 || (text && change_mac(fd, &name, mac) < 0))
        request_fail(request, "set up %.16s: %s", device, strerror(errno));
    if (fd >= 0)
        close(fd);
}

void interface_feature(struct request *request)
{
    const char *device = request_text(request, "device"), *feature = request_text(request, "feature");
    bool on = request_number(request, "on", 0, 1, 1);

    if (*request->error)
        return;
    if (ethtool_set_feature(device, feature, on) < 0)
        request_fail(request, "switch %.40s of %.16s %s: %s", feature, device, on ? "on" : "off", strerror(errno));
}

/* Returns 0, or -1 with errno. */
static int write_setting(const char *device, const char *setting, uint64_t value)
{
    char path[96], text[24];
    int length = snprintf(text, sizeof(text), "%llu", (unsigned long long)value), fd;
    ssize_t written;

    snprintf(path, sizeof(path), "/sys/class/net/%.15s/%s", device, setting);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    written = write(fd, text, (size_t)length);
    close(fd);
    return written == length ? 0 : -1;
}

void interface_defer(struct request *request)
{
    const char *device = request_text(request, "device");
    uint64_t wait_us = request_number(request, "wait_us", 0, 60000000, 0);

    if (strchr(device, '/'))
        request_fail(request, "device=%.16s is no name", device);
    if (*request->error)
        return;
    if (write_setting(device, "gro_flush_timeout", wait_us * 1000) < 0 ||
        write_setting(device, "napi_defer_hard_irqs", wait_us ? 1 : 0) < 0)
        request_fail(request, "defer interrupts of %.16s: %s", device, strerror(errno));
}
