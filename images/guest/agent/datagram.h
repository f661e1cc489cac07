/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UDP sockets for test packets: buffers for a burst, kernel receive stamps, TTL, drops. */
#ifndef DATAGRAM_H
#define DATAGRAM_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define DATAGRAM_BUFFER (32 << 20) /* bytes; a small packet costs 832 of them, a large one some 4,000 */
#define DATAGRAM_CONTROL 256       /* bytes of ancillary data that are enough for all of it */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* What the kernel says of a received packet beside its content. */
struct arrival {
    uint64_t time_ns;     /* CLOCK_REALTIME */
    bool kernel_stamp;    /* false: no stamp came with it, time_ns is now */
    uint8_t ttl;          /* 0 when unknown */
    uint8_t traffic_class;
    uint32_t socket_drops; /* SO_RXQ_OVFL; only valid with has_drops */
    bool has_drops;
    union {
        struct in_pktinfo v4;
        struct in6_pktinfo v6;
    } local; /* the address and interface it came to */
    bool has_local;
};

/* What can go wrong while sending; never silent. */
struct send_counters {
    uint64_t no_buffer;  /* ENOBUFS, EAGAIN, ENOMEM: refused for a while, tried again */
    uint64_t icmp_error; /* errors that ICMP reported about earlier packets, taken from the error queue */
    uint64_t failed;     /* given up */
    int last_errno;
};

/* A non-blocking socket, options set; local port 0: any. Returns the descriptor or -1 with errno. */
int datagram_open(int family, uint16_t port);
/* Parse IPv4 or IPv6 text. Returns false when it is neither. */
bool address_parse(union address *address, const char *text, uint16_t port);
socklen_t address_length(const union address *address);
uint16_t address_port(const union address *address);
bool address_equal(const union address *one, const union address *other);
/* Numeric text of the address, without port; room for INET6_ADDRSTRLEN. */
void address_format(const union address *address, char *text);
void arrival_read(struct arrival *arrival, struct msghdr *message);
/* Empty the error queue (IP_RECVERR); returns the number of errors taken. */
unsigned datagram_drain_errors(int fd);
/* Packets this socket dropped for want of memory, SK_MEMINFO_DROPS; -1 when the kernel will not say. */
int64_t datagram_drops(int fd);
int datagram_receive_buffer(int fd);
/* Above the system's limit where we may; below it anywhere. */
void datagram_set_receive_buffer(int fd, int bytes);

#endif
