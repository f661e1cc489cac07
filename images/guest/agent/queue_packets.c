/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets per queue by generic netlink's family "netdev" (Documentation/netlink/specs/netdev.yaml, qstats-get).
 * Since Linux 6.10 virtio_net reports them there and no longer in ethtool's statistics. The numbers are defined here
 * because the C library's kernel headers may be older than the guest's kernel.
 */
#include "queue_packets.h"

#include <linux/genetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { QSTATS_GET = 12 };                                                       /* netdev_cmd */
enum { IFINDEX = 1, QUEUE_TYPE = 2, QUEUE_ID = 3, SCOPE = 4, RX_PACKETS = 8, TX_PACKETS = 10 }; /* netdev_a_qstats */
enum { SCOPE_QUEUE = 1 };
enum { ANSWER = 32768, ATTRIBUTES = 16 };

struct question {
    struct nlmsghdr header;
    struct genlmsghdr generic;
    char attributes[64];
};

static void add(struct question *question, uint16_t type, const void *value, size_t size)
{
    struct nlattr *attribute = (void *)((char *)question + NLMSG_ALIGN(question->header.nlmsg_len));

    attribute->nla_type = type;
    attribute->nla_len = NLA_HDRLEN + size;
    memcpy((char *)attribute + NLA_HDRLEN, value, size);
    question->header.nlmsg_len = NLMSG_ALIGN(question->header.nlmsg_len) + NLA_ALIGN(attribute->nla_len);
}

static void begin(struct question *question, uint16_t family, uint16_t flags, uint8_t command)
{
    memset(question, 0, sizeof(*question));
    question->header.nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
    question->header.nlmsg_type = family;
    question->header.nlmsg_flags = NLM_F_REQUEST | flags;
    question->generic.cmd = command;
    question->generic.version = 1;
}

/* The attributes of a message by their type; false when there are none. */
static bool attributes_of(const struct nlmsghdr *message, const struct nlattr **found)
{
    const char *at = (const char *)NLMSG_DATA(message) + GENL_HDRLEN;
    const char *end = (const char *)message + message->nlmsg_len;

    memset(found, 0, ATTRIBUTES * sizeof(*found));
    while (end - at >= NLA_HDRLEN) {
        const struct nlattr *attribute = (const void *)at;
        unsigned type = attribute->nla_type & NLA_TYPE_MASK;

        if (attribute->nla_len < NLA_HDRLEN || attribute->nla_len > end - at)
            return false;
        if (type < ATTRIBUTES)
            found[type] = attribute;
        at += NLA_ALIGN(attribute->nla_len);
    }
    return true;
}

/* A number of two, four or eight bytes: netlink's "uint" has variable length. */
static uint64_t number(const struct nlattr *attribute)
{
    size_t size = attribute->nla_len - NLA_HDRLEN;
    uint64_t value = 0;

    if (size <= sizeof(value))
        memcpy(&value, (const char *)attribute + NLA_HDRLEN, size); /* the guest is little-endian */
    return value;
}

static uint16_t family_id(int fd)
{
    static const char name[] = "netdev";
    const struct nlattr *found[ATTRIBUTES];
    struct question question;
    union {
        struct nlmsghdr header;
        char data[ANSWER];
    } answer;
    ssize_t got;

    begin(&question, GENL_ID_CTRL, 0, CTRL_CMD_GETFAMILY);
    add(&question, CTRL_ATTR_FAMILY_NAME, name, sizeof(name));
    if (send(fd, &question, question.header.nlmsg_len, 0) < 0)
        return 0;
    got = recv(fd, &answer, sizeof(answer), 0);
    if (got < (ssize_t)NLMSG_LENGTH(GENL_HDRLEN) || !NLMSG_OK(&answer.header, (size_t)got) ||
        answer.header.nlmsg_type != GENL_ID_CTRL || !attributes_of(&answer.header, found) || !found[CTRL_ATTR_FAMILY_ID])
        return 0;
    return number(found[CTRL_ATTR_FAMILY_ID]);
}

static void report_queue(struct output *out, const struct nlmsghdr *message)
{
    const struct nlattr *found[ATTRIBUTES];
    const struct nlattr *packets;
    char name[32];
    bool sends;

    if (!attributes_of(message, found) || !found[QUEUE_TYPE] || !found[QUEUE_ID])
        return;
    sends = number(found[QUEUE_TYPE]) != 0;
    packets = found[sends ? TX_PACKETS : RX_PACKETS];
    if (!packets)
        return;
    snprintf(name, sizeof(name), "%s%u", sends ? "tx" : "rx", (unsigned)number(found[QUEUE_ID]));
    json_count(out, name, number(packets));
}

/* One datagram of the answer; true when it was the last. */
static bool report_answer(struct output *out, const void *data, size_t left)
{
    for (const struct nlmsghdr *message = data; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
        if (message->nlmsg_type == NLMSG_DONE || message->nlmsg_type == NLMSG_ERROR)
            return true;
        report_queue(out, message);
    }
    return false;
}

void queue_packets_report(struct output *out, const char *device)
{
    static union {
        struct nlmsghdr header;
        char data[ANSWER];
    } answer;
    struct timeval patience = {.tv_sec = 1};
    uint32_t index = if_nametoindex(device), scope = SCOPE_QUEUE;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
    struct question question;
    uint16_t family;

    json_open(out, "queue_packets", '{');
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0 &&
        (family = family_id(fd)) != 0) {
        begin(&question, family, NLM_F_DUMP, QSTATS_GET);
        add(&question, IFINDEX, &index, sizeof(index));
        add(&question, SCOPE, &scope, sizeof(scope));
        if (send(fd, &question, question.header.nlmsg_len, 0) > 0) {
            ssize_t got;

            do
                got = recv(fd, &answer, sizeof(answer), 0);
            while (got > 0 && !report_answer(out, &answer, (size_t)got));
        }
    }
    json_close(out, '}');
    if (fd >= 0)
        close(fd);
}
