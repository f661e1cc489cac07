/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sender.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "datagram.h"
#include "loop.h"
#include "stamp.h"

enum {
    STREAMS = 16,
    CATCH_UP = 32,            /* overdue packets sent before other events are served */
    BEHIND_MS = 100,          /* further behind the schedule: slots are skipped */
    RETRY_MS = 1,             /* after the device refused a packet */
    BATCHES = 64,             /* batches of answers received before other events are served */
};

struct stream_settings {
    union address destination;
    uint16_t source_port; /* 0: any */
    uint16_t ssid;
    uint32_t rate;  /* packets/s */
    uint32_t count; /* packets; 0: until stopped */
    uint32_t size;  /* bytes of UDP payload */
};

struct stream {
    struct watch socket, timer;
    struct stream_settings settings;
    uint64_t start_ns; /* CLOCK_MONOTONIC of slot 0; slots are computed from it, so that rounding errors do not add up */
    uint64_t slot;      /* the next slot of the schedule */
    uint32_t sequence;  /* the next packet's */
    uint64_t answers, foreign;
    uint64_t icmp_errors; /* errors of earlier packets that ICMP reported */
    uint64_t failed;      /* packets not sent, for another reason than lack of buffers */
    bool active;
};

static struct {
    struct record_log log;
    struct stream streams[STREAMS];
    unsigned count;
    uint8_t packet[STAMP_MAX_SIZE];
} state;

int sender_open(uint32_t log_capacity) { return log_open(&state.log, log_capacity); }
struct record_log *sender_log(void) { return &state.log; }

static uint64_t slot_time(const struct stream *stream, uint64_t slot)
{
    uint32_t rate = stream->settings.rate;

    return stream->start_ns + slot / rate * NS_PER_S + slot % rate * NS_PER_S / rate;
}

/* The first slot of the schedule that is not before a time. */
static uint64_t slot_from(const struct stream *stream, uint64_t time_ns)
{
    uint64_t since = time_ns - stream->start_ns, rate = stream->settings.rate;

    return since / NS_PER_S * rate + (since % NS_PER_S * rate + NS_PER_S - 1) / NS_PER_S;
}

static bool finished(const struct stream *stream)
{
    return stream->settings.count && stream->sequence >= stream->settings.count;
}

/* Send the next packet. Returns false when the device has no room: the sequence number is kept. */
static bool send_one(struct stream *stream)
{
    uint8_t *packet = state.packet;
    struct record *record;
    uint64_t now;

    memset(packet, 0, STAMP_SIZE);
    put32(packet + STAMP_SEQUENCE, stream->sequence);
    put16(packet + STAMP_ERROR, STAMP_ERROR_ESTIMATE);
    put16(packet + STAMP_SSID, stream->settings.ssid);
    for (int tries = 0;; tries++) {
        now = realtime_ns();
        put_ntp(packet + STAMP_TIME, now);
        if (send(stream->socket.fd, packet, stream->settings.size, MSG_DONTWAIT) >= 0)
            break;
        if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM)
            return false;
        /* An error of an earlier packet that ICMP reported, or a permanent one. */
        stream->icmp_errors += datagram_drain_errors(stream->socket.fd);
        if (tries == 3) {
            stream->failed++;
            return false;
        }
    }
    record = log_next(&state.log);
    if (record) {
        record->kind = RECORD_SENT;
        record->sender_sequence = stream->sequence;
        record->a_ns = now;
        record->session = (uint16_t)(stream - state.streams);
        record->size = (uint16_t)stream->settings.size;
    }
    stream->sequence++;
    return true;
}

static void timer_ready(void *self, uint32_t events)
{
    struct stream *stream = self;
    uint64_t now = monotonic_ns(), due = slot_time(stream, stream->slot);

    timer_expired(&stream->timer);
    if (!stream->active)
        return;
    if (now > due + BEHIND_MS * NS_PER_MS) { /* not slot by slot: the guest's clock may have jumped by years */
        stream->slot = slot_from(stream, now - BEHIND_MS * NS_PER_MS);
        due = slot_time(stream, stream->slot);
    }
    for (int burst = 0; burst < CATCH_UP && due <= now && !finished(stream); burst++) {
        if (!send_one(stream)) {
            timer_set(&stream->timer, now + RETRY_MS * NS_PER_MS);
            return;
        }
        due = slot_time(stream, ++stream->slot);
    }
    stream->active = !finished(stream);
    timer_set(&stream->timer, stream->active ? due : 0);
}

static void take_answer(struct stream *stream, struct msghdr *message, const uint8_t *packet, size_t size)
{
    struct arrival arrival;
    struct record *record;

    arrival_read(&arrival, message);
    if (size < STAMP_SIZE || get16(packet + STAMP_SSID) != stream->settings.ssid ||
        get32(packet + STAMP_SENDER_SEQUENCE) >= stream->sequence) {
        stream->foreign++;
        return;
    }
    stream->answers++;
    record = log_next(&state.log);
    if (!record)
        return;
    record->kind = RECORD_ANSWER;
    record->sender_sequence = get32(packet + STAMP_SENDER_SEQUENCE);
    record->reflector_sequence = get32(packet + STAMP_SEQUENCE);
    record->a_ns = get_ntp(packet + STAMP_RECEIVE_TIME);
    record->b_ns = get_ntp(packet + STAMP_TIME);
    record->c_ns = arrival.time_ns;
    record->session = (uint16_t)(stream - state.streams);
    record->size = (uint16_t)size;
}

static void socket_ready(void *self, uint32_t events)
{
    struct stream *stream = self;
    uint8_t packet[STAMP_SIZE], control[DATAGRAM_CONTROL] __attribute__((aligned(8)));

    if (events & EPOLLERR)
        stream->icmp_errors += datagram_drain_errors(stream->socket.fd);
    for (int i = 0; i < BATCHES; i++) {
        struct iovec part = {.iov_base = packet, .iov_len = sizeof(packet)};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        ssize_t size = recvmsg(stream->socket.fd, &message, MSG_DONTWAIT | MSG_TRUNC);

        if (size < 0)
            return;
        take_answer(stream, &message, packet, (size_t)size);
    }
}

static int open_socket(struct stream *stream)
{
    const struct stream_settings *settings = &stream->settings;

    stream->socket = (struct watch){
        .fd = datagram_open(settings->destination.any.sa_family, settings->source_port),
        .ready = socket_ready,
        .self = stream,
        .urgent = true,
    };
    if (stream->socket.fd < 0)
        return -1;
    if (connect(stream->socket.fd, &settings->destination.any, address_length(&settings->destination)) < 0 ||
        loop_add(&stream->socket, EPOLLIN) < 0) {
        close(stream->socket.fd);
        return -1;
    }
    return 0;
}

void sender_start(struct request *request, struct output *out)
{
    struct stream_settings settings = {
        .source_port = (uint16_t)request_number(request, "source_port", 0, 65535, 0),
        .ssid = (uint16_t)request_number(request, "ssid", 0, 65535, 0),
        .rate = (uint32_t)request_number(request, "rate", 1, 100000, 100),
        .count = (uint32_t)request_number(request, "count", 0, UINT32_MAX, 0),
        .size = (uint32_t)request_number(request, "size", STAMP_SIZE, STAMP_MAX_SIZE, STAMP_SIZE),
    };
    uint16_t port = (uint16_t)request_number(request, "port", 1, 65535, STAMP_PORT);
    const char *destination = request_text(request, "destination");
    struct stream *stream = &state.streams[state.count];

    if (!address_parse(&settings.destination, destination, port))
        request_fail(request, "no address: %.64s", destination);
    if (state.count == STREAMS)
        request_fail(request, "too many streams; reset the sender first");
    if (*request->error)
        return;
    *stream = (struct stream){.settings = settings, .active = true};
    if (open_socket(stream) < 0) {
        request_fail(request, "start a stream to %.64s: %s", destination, strerror(errno));
        return;
    }
    stream->timer = (struct watch){.ready = timer_ready, .self = stream, .urgent = true};
    if (timer_open(&stream->timer) < 0) {
        request_fail(request, "start a timer: %s", strerror(errno));
        loop_remove(&stream->socket);
        close(stream->socket.fd);
        return;
    }
    stream->start_ns = monotonic_ns() + NS_PER_MS;
    timer_set(&stream->timer, stream->start_ns);
    json_count(out, "stream", state.count++);
}

void sender_stop(struct request *request, struct output *out)
{
    uint64_t index = request_number(request, "stream", 0, STREAMS - 1, 0);

    if (index >= state.count)
        request_fail(request, "no such stream");
    if (*request->error)
        return;
    state.streams[index].active = false;
    timer_set(&state.streams[index].timer, 0);
}

void sender_reset(struct request *request, struct output *out)
{
    for (unsigned i = 0; i < state.count; i++) {
        struct stream *stream = &state.streams[i];

        loop_remove(&stream->socket);
        loop_remove(&stream->timer);
        close(stream->socket.fd);
        close(stream->timer.fd);
    }
    state.count = 0;
    log_reset(&state.log);
}

void sender_report(struct request *request, struct output *out)
{
    json_open(out, "streams", '[');
    for (unsigned i = 0; i < state.count; i++) {
        const struct stream *stream = &state.streams[i];
        union address local = {0};
        socklen_t length = sizeof(local);

        getsockname(stream->socket.fd, &local.any, &length);
        json_open(out, NULL, '{');
        json_bool(out, "active", stream->active);
        json_count(out, "source_port", address_port(&local));
        json_count(out, "sent", stream->sequence);
        json_count(out, "answers", stream->answers);
        json_count(out, "foreign", stream->foreign);
        json_count(out, "send_icmp_errors", stream->icmp_errors);
        json_count(out, "send_failed", stream->failed);
        json_number(out, "socket_drops", datagram_drops(stream->socket.fd));
        json_close(out, '}');
    }
    json_close(out, ']');
}
