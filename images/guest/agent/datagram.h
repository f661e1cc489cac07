/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UDP sockets for test packets: buffers for a burst, kernel time stamps, TTL, drops. */
#ifndef DATAGRAM_H
#define DATAGRAM_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define DATAGRAM_BUFFER (12 << 20) /* bytes, doubled by the kernel; a small packet takes 832, a large one about 4,000 */
#define DATAGRAM_CONTROL 256       /* bytes, enough for all ancillary data */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* Metadata of a received packet. */
struct arrival {
    uint64_t time_ns; /* CLOCK_REALTIME by the kernel, or of reading where it has no time stamp */
    uint8_t ttl;      /* 0 when unknown */
    uint8_t traffic_class;
    union {
        struct in_pktinfo v4;
        struct in6_pktinfo v6;
    } local; /* the address and interface at which it arrived */
    bool has_local;
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
/* Empty the error queue (IP_RECVERR) of the errors that ICMP reported; returns their number. */
unsigned datagram_drain_errors(int fd);
/* Packets that this socket dropped because its buffer was full, SK_MEMINFO_DROPS; -1 when unknown. */
int64_t datagram_drops(int fd);
int datagram_receive_buffer(int fd);
/* Above the system's limit where permitted. */
void datagram_set_receive_buffer(int fd, int bytes);

#endif
