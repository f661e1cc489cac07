/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "netdevice.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct ifreq device_request(const char *device)
{
    struct ifreq request = {0};

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%.15s", device);
    return request;
}

int device_ioctl(int family, unsigned long number, void *argument)
{
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0), result, saved;

    if (fd < 0)
        return -1;
    result = ioctl(fd, number, argument);
    saved = errno;
    close(fd);
    errno = saved;
    return result;
}

int device_ethtool(const char *device, void *command)
{
    struct ifreq request = device_request(device);

    request.ifr_data = command;
    return device_ioctl(AF_INET, SIOCETHTOOL, &request);
}

int device_change_flags(const char *device, short on, short off)
{
    struct ifreq request = device_request(device);

    if (device_ioctl(AF_INET, SIOCGIFFLAGS, &request) < 0)
        return -1;
    request.ifr_flags = (short)((request.ifr_flags | on) & ~off);
    return device_ioctl(AF_INET, SIOCSIFFLAGS, &request);
}

void parse_mac(struct request *request, const char *text, uint8_t mac[MAC_SIZE])
{
    char rest;

    if (sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5],
               &rest) != MAC_SIZE)
        request_fail(request, "mac=%.20s is no address", text);
}
