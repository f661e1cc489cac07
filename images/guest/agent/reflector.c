/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "reflector.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

#include "clock.h"
#include "datagram.h"
#include "loop.h"
#include "stamp.h"

enum {
    SESSIONS = 512,
    BATCH = 16,        /* packets received per call */
    ROUNDS = 16,       /* batches before other events are served */
    SEND_WAIT_MS = 500 /* how long a refused answer is sent again */
};

struct session {
    union address peer;
    uint16_t ssid;
    uint32_t next_sequence;
};

static struct {
    struct watch watch[2]; /* IPv4, IPv6 */
    struct record_log log;
    struct session sessions[SESSIONS];
    unsigned session_count;
    unsigned last_session;
    uint64_t received, reflected, too_short, truncated, corrupt, too_many_sessions, send_failed;
    int64_t drops_base[2];
    bool paused;
} state;

static uint8_t packets[BATCH][STAMP_MAX_SIZE];
static uint8_t controls[BATCH][DATAGRAM_CONTROL] __attribute__((aligned(8)));

static struct session *find_session(const union address *peer, uint16_t ssid)
{
    struct session *session = &state.sessions[state.last_session];

    if (state.session_count && session->ssid == ssid && address_equal(&session->peer, peer))
        return session;
    for (unsigned i = 0; i < state.session_count; i++) {
        session = &state.sessions[i];
        if (session->ssid == ssid && address_equal(&session->peer, peer)) {
            state.last_session = i;
            return session;
        }
    }
    if (state.session_count == SESSIONS)
        return NULL;
    state.last_session = state.session_count++;
    session = &state.sessions[state.last_session];
    *session = (struct session){.peer = *peer, .ssid = ssid};
    return session;
}

/* The answer's source is the packet's destination address; it has the packet's DSCP. */
static size_t answer_control(uint8_t *buffer, int family, const struct arrival *arrival)
{
    struct msghdr message = {.msg_control = buffer, .msg_controllen = DATAGRAM_CONTROL};
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    bool v6 = family == AF_INET6;
    int traffic_class = arrival->traffic_class & 0xfc;
    size_t used = CMSG_SPACE(sizeof(traffic_class));

    memset(buffer, 0, DATAGRAM_CONTROL);
    control->cmsg_level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
    control->cmsg_type = v6 ? IPV6_TCLASS : IP_TOS;
    control->cmsg_len = CMSG_LEN(sizeof(traffic_class));
    memcpy(CMSG_DATA(control), &traffic_class, sizeof(traffic_class));
    if (!arrival->has_local)
        return used;
    control = CMSG_NXTHDR(&message, control);
    if (v6) {
        struct in6_pktinfo local = arrival->local.v6;

        if (!IN6_IS_ADDR_LINKLOCAL(&local.ipi6_addr))
            local.ipi6_ifindex = 0; /* the routes decide */
        control->cmsg_level = IPPROTO_IPV6;
        control->cmsg_type = IPV6_PKTINFO;
        control->cmsg_len = CMSG_LEN(sizeof(local));
        memcpy(CMSG_DATA(control), &local, sizeof(local));
        return used + CMSG_SPACE(sizeof(local));
    }
    struct in_pktinfo local = {.ipi_spec_dst = arrival->local.v4.ipi_spec_dst};

    control->cmsg_level = IPPROTO_IP;
    control->cmsg_type = IP_PKTINFO;
    control->cmsg_len = CMSG_LEN(sizeof(local));
    memcpy(CMSG_DATA(control), &local, sizeof(local));
    return used + CMSG_SPACE(sizeof(local));
}

/*
 * Fill in T3 and send; a packet that the device refuses is sent again for SEND_WAIT_MS. Returns T3 of the last try.
 * Errors other than lack of buffers are those of earlier packets, by ICMP: clear them and send again.
 */
static uint64_t send_answer(int fd, struct msghdr *message, uint16_t *flags)
{
    uint8_t *packet = message->msg_iov->iov_base;
    uint64_t deadline = 0, now, sent;
    int error;

    for (;;) {
        sent = realtime_ns();
        put_ntp(packet + STAMP_TIME, sent);
        if (sendmsg(fd, message, MSG_DONTWAIT) >= 0) {
            state.reflected++;
            return sent;
        }
        error = errno;
        *flags |= RECORD_RETRIED;
        now = monotonic_ns();
        if (!deadline)
            deadline = now + SEND_WAIT_MS * NS_PER_MS;
        if (now >= deadline)
            break;
        if (error == EAGAIN || error == ENOBUFS || error == ENOMEM) {
            struct pollfd room = {.fd = fd, .events = POLLOUT};

            /* POLLOUT does not show that the device's queue is full: wait a millisecond */
            poll(&room, error == EAGAIN ? 1 : 0, error == EAGAIN ? 10 : 1);
        } else if (error != EINTR && !datagram_drain_errors(fd) && error != ECONNREFUSED && error != EHOSTUNREACH) {
            break; /* EINVAL, EPERM ...: permanent */
        }
    }
    state.send_failed++;
    return sent;
}

static void reflect(int fd, struct msghdr *message, uint8_t *packet, size_t size)
{
    const union address *peer = message->msg_name;
    uint8_t control[DATAGRAM_CONTROL] __attribute__((aligned(8)));
    uint8_t sender_part[14];
    struct arrival arrival;
    struct session *session;
    struct record *record;
    uint64_t sender_ns, sent;
    uint32_t sequence;
    uint16_t flags = 0;

    state.received++;
    arrival_read(&arrival, message);
    if (size < STAMP_SIZE) {
        state.too_short++;
        return;
    }
    if (message->msg_flags & MSG_TRUNC) {
        state.truncated++;
        return;
    }
    if (!(get16(packet + STAMP_ERROR) & STAMP_ERROR_MULTIPLIER)) {
        state.corrupt++;
        return;
    }
    session = find_session(peer, get16(packet + STAMP_SSID));
    if (!session) {
        state.too_many_sessions++;
        return;
    }
    sequence = session->next_sequence++;
    sender_ns = get_ntp(packet + STAMP_TIME);

    /* Same size (RFC 8762 section 4.3); bytes after the 44th are returned unchanged. */
    memcpy(sender_part, packet, sizeof(sender_part)); /* sequence, time, error estimate */
    memset(packet + STAMP_RECEIVE_TIME, 0, STAMP_SIZE - STAMP_RECEIVE_TIME);
    memcpy(packet + STAMP_SENDER_SEQUENCE, sender_part, sizeof(sender_part));
    put32(packet + STAMP_SEQUENCE, sequence);
    put16(packet + STAMP_ERROR, STAMP_ERROR_ESTIMATE);
    put_ntp(packet + STAMP_RECEIVE_TIME, arrival.time_ns);
    packet[STAMP_SENDER_TTL] = arrival.ttl;

    struct iovec part = {.iov_base = packet, .iov_len = size};
    struct msghdr answer = {
        .msg_name = message->msg_name,
        .msg_namelen = message->msg_namelen,
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = answer_control(control, peer->any.sa_family, &arrival),
    };
    sent = send_answer(fd, &answer, &flags);

    record = log_next(&state.log);
    if (!record)
        return;
    record->kind = RECORD_REFLECTED;
    record->sender_sequence = get32(sender_part);
    record->reflector_sequence = sequence;
    record->a_ns = arrival.time_ns;
    record->b_ns = sent;
    record->c_ns = sender_ns;
    record->session = (uint16_t)(session - state.sessions);
    record->size = (uint16_t)size;
    record->flags = flags;
}

static void reflector_ready(void *self, uint32_t events)
{
    const struct watch *watch = self;
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    union address peers[BATCH];

    if (events & EPOLLERR)
        datagram_drain_errors(watch->fd);
    for (int round = 0; round < ROUNDS; round++) {
        int count;

        for (int i = 0; i < BATCH; i++) {
            parts[i] = (struct iovec){.iov_base = packets[i], .iov_len = STAMP_MAX_SIZE};
            messages[i].msg_hdr = (struct msghdr){
                .msg_name = &peers[i],
                .msg_namelen = sizeof(peers[i]),
                .msg_iov = &parts[i],
                .msg_iovlen = 1,
                .msg_control = controls[i],
                .msg_controllen = DATAGRAM_CONTROL,
            };
        }
        count = recvmmsg(watch->fd, messages, BATCH, MSG_DONTWAIT, NULL);
        for (int i = 0; i < count; i++)
            reflect(watch->fd, &messages[i].msg_hdr, packets[i], messages[i].msg_len);
        if (count < BATCH)
            return;
    }
}

int reflector_open(uint16_t port, uint32_t log_capacity)
{
    static const int families[2] = {AF_INET, AF_INET6};

    if (log_open(&state.log, log_capacity) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        struct watch *watch = &state.watch[i];

        *watch = (struct watch){.fd = datagram_open(families[i], port), .ready = reflector_ready, .self = watch, .urgent = true};
        if (watch->fd < 0 && families[i] == AF_INET6 && errno == EAFNOSUPPORT)
            continue; /* a kernel without IPv6 */
        if (watch->fd < 0 || loop_add(watch, EPOLLIN) < 0)
            return -1;
    }
    return 0;
}

struct record_log *reflector_log(void) { return &state.log; }

void reflector_reset(struct request *request, struct output *out)
{
    log_reset(&state.log);
    state.session_count = state.last_session = 0;
    state.received = state.reflected = state.too_short = state.truncated = 0;
    state.corrupt = state.too_many_sessions = state.send_failed = 0;
    for (int i = 0; i < 2; i++)
        state.drops_base[i] = state.watch[i].fd < 0 ? 0 : datagram_drops(state.watch[i].fd);
}

void reflector_pause(struct request *request, struct output *out)
{
    bool paused = request_number(request, "paused", 0, 1, 1);
    uint32_t receive_buffer = (uint32_t)request_number(request, "receive_buffer", 0, INT32_MAX / 2, 0);

    if (*request->error)
        return;
    for (int i = 0; i < 2; i++) {
        struct watch *watch = &state.watch[i];

        if (watch->fd < 0)
            continue;
        if (receive_buffer)
            datagram_set_receive_buffer(watch->fd, (int)receive_buffer);
        if (paused && !state.paused)
            loop_remove(watch);
        else if (!paused && state.paused && loop_add(watch, EPOLLIN) < 0)
            request_fail(request, "watch the reflector's sockets: %s", strerror(errno));
    }
    state.paused = paused;
}

void reflector_report(struct request *request, struct output *out)
{
    int64_t drops = 0;
    bool known = true;

    for (int i = 0; i < 2; i++) {
        int64_t now = state.watch[i].fd < 0 ? 0 : datagram_drops(state.watch[i].fd);

        known = known && now >= 0;
        drops += now - state.drops_base[i];
    }
    json_count(out, "received", state.received);
    json_count(out, "reflected", state.reflected);
    json_count(out, "short", state.too_short);
    json_count(out, "truncated", state.truncated);
    json_count(out, "corrupt", state.corrupt);
    json_count(out, "too_many_sessions", state.too_many_sessions);
    json_count(out, "send_failed", state.send_failed);
    json_number(out, "socket_drops", known ? drops : -1);
    json_number(out, "receive_buffer", datagram_receive_buffer(state.watch[0].fd));
    json_count(out, "log_records", state.log.count);
    json_count(out, "log_overflow", state.log.overflow);
    json_open(out, "sessions", '[');
    for (unsigned i = 0; i < state.session_count; i++) {
        const struct session *session = &state.sessions[i];
        char text[INET6_ADDRSTRLEN];

        address_format(&session->peer, text);
        json_open(out, NULL, '{');
        json_string(out, "address", text);
        json_count(out, "port", address_port(&session->peer));
        json_count(out, "ssid", session->ssid);
        json_count(out, "packets", session->next_sequence);
        json_close(out, '}');
    }
    json_close(out, ']');
}
