/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "datagram.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

static int set(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value));
}

/* Above the system's limit with CAP_NET_ADMIN, up to it otherwise. */
static void size_buffer(int fd, int forced, int limited, int bytes)
{
    if (set(fd, SOL_SOCKET, forced, bytes) < 0)
        set(fd, SOL_SOCKET, limited, bytes);
}

void datagram_set_receive_buffer(int fd, int bytes) { size_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, bytes); }

int datagram_open(int family, uint16_t port)
{
    union address local;
    bool v6 = family == AF_INET6;
    int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int saved;

    if (fd < 0)
        return -1;
    memset(&local, 0, sizeof(local));
    local.any.sa_family = (sa_family_t)family;
    if (v6)
        local.v6.sin6_port = htons(port);
    else
        local.v4.sin_port = htons(port);
    size_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, DATAGRAM_BUFFER);
    size_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, DATAGRAM_BUFFER);
    /* RECVERR: without it a packet that the device's queue refuses is dropped silently. */
    if (set(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1) < 0 ||
        (v6 && (set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) < 0 || set(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1) < 0 ||
                set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1) < 0 || set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1) < 0 ||
                set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 255) < 0 || set(fd, IPPROTO_IPV6, IPV6_RECVERR, 1) < 0)) ||
        (!v6 && (set(fd, IPPROTO_IP, IP_RECVTTL, 1) < 0 || set(fd, IPPROTO_IP, IP_RECVTOS, 1) < 0 ||
                 set(fd, IPPROTO_IP, IP_PKTINFO, 1) < 0 || set(fd, IPPROTO_IP, IP_TTL, 255) < 0 ||
                 set(fd, IPPROTO_IP, IP_RECVERR, 1) < 0)) ||
        bind(fd, &local.any, address_length(&local)) < 0) {
        saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

bool address_parse(union address *address, const char *text, uint16_t port)
{
    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, text, &address->v4.sin_addr) == 1) {
        address->v4.sin_family = AF_INET;
        address->v4.sin_port = htons(port);
        return true;
    }
    if (inet_pton(AF_INET6, text, &address->v6.sin6_addr) == 1) {
        address->v6.sin6_family = AF_INET6;
        address->v6.sin6_port = htons(port);
        return true;
    }
    return false;
}

socklen_t address_length(const union address *address)
{
    return address->any.sa_family == AF_INET6 ? sizeof(address->v6) : sizeof(address->v4);
}

uint16_t address_port(const union address *address)
{
    return ntohs(address->any.sa_family == AF_INET6 ? address->v6.sin6_port : address->v4.sin_port);
}

bool address_equal(const union address *one, const union address *other)
{
    if (one->any.sa_family != other->any.sa_family)
        return false;
    if (one->any.sa_family == AF_INET)
        return one->v4.sin_port == other->v4.sin_port && one->v4.sin_addr.s_addr == other->v4.sin_addr.s_addr;
    return one->v6.sin6_port == other->v6.sin6_port && one->v6.sin6_scope_id == other->v6.sin6_scope_id &&
           IN6_ARE_ADDR_EQUAL(&one->v6.sin6_addr, &other->v6.sin6_addr);
}

void address_format(const union address *address, char *text)
{
    const void *bytes = address->any.sa_family == AF_INET6 ? (const void *)&address->v6.sin6_addr
                                                            : (const void *)&address->v4.sin_addr;

    if (!inet_ntop(address->any.sa_family, bytes, text, INET6_ADDRSTRLEN))
        strcpy(text, "?");
}

static int read_int(const struct cmsghdr *control)
{
    int value;

    memcpy(&value, CMSG_DATA(control), sizeof(value));
    return value;
}

void arrival_read(struct arrival *arrival, struct msghdr *message)
{
    memset(arrival, 0, sizeof(*arrival));
    for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
        int level = control->cmsg_level, type = control->cmsg_type;

        if (level == SOL_SOCKET && type == SCM_TIMESTAMPNS) {
            struct timespec stamp;

            memcpy(&stamp, CMSG_DATA(control), sizeof(stamp));
            arrival->time_ns = (uint64_t)stamp.tv_sec * NS_PER_S + (uint64_t)stamp.tv_nsec;
        } else if ((level == IPPROTO_IP && type == IP_TTL) || (level == IPPROTO_IPV6 && type == IPV6_HOPLIMIT)) {
            arrival->ttl = (uint8_t)read_int(control);
        } else if (level == IPPROTO_IP && type == IP_TOS) {
            arrival->traffic_class = *CMSG_DATA(control);
        } else if (level == IPPROTO_IPV6 && type == IPV6_TCLASS) {
            arrival->traffic_class = (uint8_t)read_int(control);
        } else if (level == IPPROTO_IP && type == IP_PKTINFO) {
            memcpy(&arrival->local.v4, CMSG_DATA(control), sizeof(arrival->local.v4));
            arrival->has_local = true;
        } else if (level == IPPROTO_IPV6 && type == IPV6_PKTINFO) {
            memcpy(&arrival->local.v6, CMSG_DATA(control), sizeof(arrival->local.v6));
            arrival->has_local = true;
        }
    }
    if (!arrival->time_ns)
        arrival->time_ns = realtime_ns();
}

unsigned datagram_drain_errors(int fd)
{
    unsigned count = 0;
    char byte, control[DATAGRAM_CONTROL];

    for (;;) {
        struct iovec part = {.iov_base = &byte, .iov_len = 1};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};

        if (recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            return count;
        count++;
    }
}

int64_t datagram_drops(int fd)
{
    uint32_t memory[SK_MEMINFO_VARS] = {0};
    socklen_t length = sizeof(memory);

    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length) < 0 ||
        length < (SK_MEMINFO_DROPS + 1) * sizeof(memory[0]))
        return -1;
    return memory[SK_MEMINFO_DROPS];
}

int datagram_receive_buffer(int fd)
{
    int size = 0;
    socklen_t length = sizeof(size);

    getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, &length);
    return size;
}
