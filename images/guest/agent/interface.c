/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "interface.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "ethtool.h"
#include "netdevice.h"
#include "sysfs.h"

static void read_flag(struct request *request, const char *key, short flag, short *on, short *off)
{
    if (request_get(request, key))
        *(request_number(request, key, 0, 1, 0) ? on : off) |= flag;
}

void interface_set(struct request *request, struct output *out)
{
    const char *device = request_text(request, "device"), *text = request_get(request, "mac");
    struct ifreq name = device_request(device);
    uint8_t mac[MAC_SIZE];
    short on = 0, off = 0;
    int result = 0;

    read_flag(request, "up", IFF_UP, &on, &off);
    read_flag(request, "promisc", IFF_PROMISC, &on, &off);
    read_flag(request, "allmulti", IFF_ALLMULTI, &on, &off);
    if (text)
        parse_mac(request, text, mac);
    if (*request->error)
        return;
    if (on | off)
        result = device_change_flags(device, on, off);
    if (text && result == 0) {
        name.ifr_hwaddr.sa_family = ARPHRD_ETHER;
        memcpy(name.ifr_hwaddr.sa_data, mac, MAC_SIZE);
        result = device_ioctl(AF_INET, SIOCSIFHWADDR, &name);
    }
    if (result < 0)
        request_fail(request, "set up %.16s: %s", device, strerror(errno));
}

void interface_set_rings(struct request *request, struct output *out)
{
    struct ethtool_ringparam ring = {.cmd = ETHTOOL_GRINGPARAM};
    const char *device = request_text(request, "device");
    uint32_t rx = (uint32_t)request_number(request, "rx", 1, 65535, 0);
    uint32_t tx = (uint32_t)request_number(request, "tx", 1, 65535, 0);
    int result;

    if (*request->error)
        return;
    result = device_ethtool(device, &ring);
    ring.cmd = ETHTOOL_SRINGPARAM;
    ring.rx_pending = rx;
    ring.tx_pending = tx;
    if (result < 0 || device_ethtool(device, &ring) < 0)
        request_fail(request, "set the rings of %.16s to %u and %u: %s", device, rx, tx, strerror(errno));
}

void interface_feature(struct request *request, struct output *out)
{
    const char *device = request_text(request, "device"), *feature = request_text(request, "feature");
    bool on = request_number(request, "on", 0, 1, 1);

    if (!*request->error && ethtool_set_feature(device, feature, on) < 0)
        request_fail(request, "switch %.40s of %.16s %s: %s", feature, device, on ? "on" : "off", strerror(errno));
}

static int write_setting(const char *device, const char *setting, uint64_t value)
{
    char path[96], text[24];

    snprintf(path, sizeof(path), "/sys/class/net/%.15s/%s", device, setting);
    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    return sysfs_write(path, text);
}

void interface_defer(struct request *request, struct output *out)
{
    const char *device = sysfs_request_name(request, "device");
    uint64_t wait_us = request_number(request, "wait_us", 0, 60000000, 0);

    if (*request->error)
        return;
    if (write_setting(device, "gro_flush_timeout", wait_us * 1000) < 0 ||
        write_setting(device, "napi_defer_hard_irqs", wait_us ? 1 : 0) < 0)
        request_fail(request, "defer interrupts of %.16s: %s", device, strerror(errno));
}
