/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tcp.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "content.h"
#include "crc32.h"
#include "datagram.h"
#include "loop.h"

enum {
    CONNECTIONS = 8,
    TICK_MS = 5,
    BLOCK = 16384,       /* bytes per send or read */
    BLOCKS = 8,          /* blocks before other events are served */
};

enum state { WAITING, CONNECTING, OPEN, CLOSING, DONE, FAILED };
static const char *const state_names[] = {"waiting", "connecting", "open", "closing", "done", "failed"};

struct connection {
    struct watch socket; /* the listener while waiting; fd -1 when done */
    struct watch timer;
    bool source;
    enum state state;
    uint16_t port;
    uint64_t rate, byte_count, seed;
    uint64_t bytes, start_ns, progress_ns, stall_ns;
    uint32_t crc;
    struct tcp_info info; /* at the end of the connection */
    int error;
};

static struct connection connections[CONNECTIONS];
static unsigned count;

static void read_info(const struct connection *connection, struct tcp_info *info)
{
    socklen_t length = sizeof(*info);

    *info = connection->info;
    if (connection->socket.fd >= 0 && connection->state != WAITING)
        getsockopt(connection->socket.fd, IPPROTO_TCP, TCP_INFO, info, &length);
}

static void end(struct connection *connection, enum state state, int error)
{
    struct tcp_info info;

    read_info(connection, &info);
    connection->info = info;
    connection->state = state;
    connection->error = error;
    if (connection->socket.fd >= 0) {
        loop_remove(&connection->socket);
        close(connection->socket.fd);
        connection->socket.fd = -1;
    }
    timer_set(&connection->timer, 0);
}

static void progress(struct connection *connection, const void *data, size_t length)
{
    uint64_t now = monotonic_ns();

    if (connection->bytes && now - connection->progress_ns > connection->stall_ns)
        connection->stall_ns = now - connection->progress_ns;
    connection->progress_ns = now;
    connection->bytes += length;
    connection->crc = crc32(connection->crc, data, length);
}

static void close_half(struct connection *connection)
{
    if (connection->state != OPEN)
        return;
    connection->state = CLOSING;
    shutdown(connection->socket.fd, SHUT_WR);
}

/* Bytes that may be sent now. */
static uint64_t allowance(const struct connection *connection)
{
    uint64_t allowed = UINT64_MAX, elapsed = monotonic_ns() - connection->start_ns;

    if (connection->rate)
        allowed = elapsed / NS_PER_S * connection->rate + elapsed % NS_PER_S * connection->rate / NS_PER_S;
    if (connection->byte_count && allowed > connection->byte_count)
        allowed = connection->byte_count;
    return allowed > connection->bytes ? allowed - connection->bytes : 0;
}

static void send_some(struct connection *connection)
{
    uint8_t block[BLOCK];

    for (int i = 0; i < BLOCKS; i++) {
        uint64_t left = allowance(connection);
        size_t length = left < sizeof(block) ? left : sizeof(block);
        ssize_t sent;

        if (!length)
            break;
        content_fill(block, length, connection->seed, connection->bytes);
        sent = send(connection->socket.fd, block, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR)
                end(connection, FAILED, errno);
            return;
        }
        progress(connection, block, (size_t)sent);
    }
    if (connection->byte_count && connection->bytes >= connection->byte_count)
        close_half(connection);
}

static void read_some(struct connection *connection)
{
    uint8_t block[BLOCK];

    for (int i = 0; i < BLOCKS; i++) {
        ssize_t length = recv(connection->socket.fd, block, sizeof(block), MSG_DONTWAIT);

        if (length < 0) {
            if (errno != EAGAIN && errno != EINTR)
                end(connection, FAILED, errno);
            return;
        }
        if (!length) { /* the peer has closed: correct for a sink, and for a source that has closed its half */
            bool right = !connection->source || connection->state == CLOSING;

            end(connection, right ? DONE : FAILED, right ? 0 : ECONNABORTED);
            return;
        }
        if (!connection->source)
            progress(connection, block, (size_t)length);
    }
}

static void opened(struct connection *connection)
{
    connection->state = OPEN;
    connection->start_ns = connection->progress_ns = monotonic_ns();
    if (connection->source)
        timer_set(&connection->timer, connection->start_ns);
}

static void accept_one(struct connection *connection)
{
    int fd = accept4(connection->socket.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return;
    loop_remove(&connection->socket);
    close(connection->socket.fd);
    connection->socket.fd = fd;
    if (loop_add(&connection->socket, EPOLLIN) < 0)
        end(connection, FAILED, errno);
    else
        opened(connection);
}

static void socket_ready(void *self, uint32_t events)
{
    struct connection *connection = self;
    int error = 0;
    socklen_t length = sizeof(error);

    if (connection->state == WAITING) {
        accept_one(connection);
        return;
    }
    if (connection->state == CONNECTING) {
        getsockopt(connection->socket.fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) {
            end(connection, FAILED, error);
            return;
        }
        if (!(events & EPOLLOUT))
            return;
        loop_remove(&connection->socket);
        loop_add(&connection->socket, EPOLLIN);
        opened(connection);
        return;
    }
    read_some(connection);
}

static void timer_ready(void *self, uint32_t events)
{
    struct connection *connection = self;

    timer_expired(&connection->timer);
    if (connection->state == OPEN)
        send_some(connection);
    if (connection->state == OPEN)
        timer_set(&connection->timer, monotonic_ns() + TICK_MS * NS_PER_MS);
}

/* A socket that connects, or listens on the port. Returns 0, or -1 with errno. */
static int open_socket(struct connection *connection, const union address *target)
{
    union address local = {.v6 = {.sin6_family = AF_INET6, .sin6_port = htons(connection->port)}};
    int one = 1, result, saved;

    connection->socket = (struct watch){.ready = socket_ready, .self = connection};
    connection->socket.fd =
        socket(target ? target->any.sa_family : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->socket.fd < 0)
        return -1;
    if (target) {
        connection->state = CONNECTING;
        result = connect(connection->socket.fd, &target->any, address_length(target));
        if (result < 0 && errno == EINPROGRESS)
            result = 0;
    } else {
        connection->state = WAITING; /* IPv6, and IPv4 as mapped addresses */
        setsockopt(connection->socket.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        result = bind(connection->socket.fd, &local.any, sizeof(local.v6));
        if (result == 0)
            result = listen(connection->socket.fd, 1);
    }
    if (result == 0)
        result = loop_add(&connection->socket, target ? EPOLLOUT : EPOLLIN);
    if (result < 0) {
        saved = errno;
        close(connection->socket.fd);
        errno = saved;
    }
    return result;
}

void tcp_start(struct request *request, struct output *out)
{
    struct connection *connection = &connections[count];
    const char *role = request_text(request, "role"), *address = request_get(request, "address");
    union address target;

    if (count == CONNECTIONS) {
        request_fail(request, "too many connections; reset them first");
        return;
    }
    *connection = (struct connection){
        .source = !strcmp(role, "source"),
        .port = (uint16_t)request_number(request, "port", 1, 65535, 0),
        .rate = request_number(request, "rate", 0, 10000000000, 0),
        .byte_count = request_number(request, "byte_count", 0, UINT64_MAX, 0),
        .seed = request_number(request, "seed", 0, UINT64_MAX, 1),
    };
    if (!connection->source && strcmp(role, "sink") != 0)
        request_fail(request, "role=%.20s is neither source nor sink", role);
    if (!connection->port)
        request_fail(request, "port= is missing");
    if (address && !address_parse(&target, address, connection->port))
        request_fail(request, "no address: %.64s", address);
    if (*request->error)
        return;
    connection->timer = (struct watch){.ready = timer_ready, .self = connection};
    if (timer_open(&connection->timer) < 0) {
        request_fail(request, "make a timer: %s", strerror(errno));
        return;
    }
    if (open_socket(connection, address ? &target : NULL) < 0) {
        request_fail(request, "open a connection: %s", strerror(errno));
        loop_remove(&connection->timer);
        close(connection->timer.fd);
        return;
    }
    json_count(out, "connection", count++);
}

void tcp_stop(struct request *request, struct output *out)
{
    uint64_t index = request_number(request, "connection", 0, CONNECTIONS - 1, 0);

    if (index >= count || !connections[index].source)
        request_fail(request, "no such source");
    else
        close_half(&connections[index]);
}

void tcp_report(struct request *request, struct output *out)
{
    json_open(out, "connections", '[');
    for (unsigned i = 0; i < count; i++) {
        const struct connection *connection = &connections[i];
        struct tcp_info info;

        read_info(connection, &info);
        json_open(out, NULL, '{');
        json_string(out, "role", connection->source ? "source" : "sink");
        json_string(out, "state", state_names[connection->state]);
        json_count(out, "byte_count", connection->bytes);
        json_count(out, "crc32", connection->crc);
        json_count(out, "longest_stall_ns", connection->stall_ns);
        json_count(out, "retransmissions", info.tcpi_total_retrans);
        json_number(out, "error", connection->error);
        json_close(out, '}');
    }
    json_close(out, ']');
}

void tcp_reset(struct request *request, struct output *out)
{
    for (unsigned i = 0; i < count; i++) {
        end(&connections[i], DONE, 0);
        loop_remove(&connections[i].timer);
        close(connections[i].timer.fd);
    }
    count = 0;
}
